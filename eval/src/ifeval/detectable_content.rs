//! `detectable_content`: placeholders and postscripts.

use std::sync::LazyLock;

use regex::Regex;

use super::instruction::{ArgumentError, Arguments, Check, Instruction, Limit, ensure};
use super::pattern::{Flags, Pattern};
use super::text;

pub(super) const INSTRUCTIONS: &[Instruction] = &[
    Instruction {
        id: "detectable_content:number_placeholders",
        arguments: &["num_placeholders"],
        build: number_placeholders,
    },
    Instruction { id: "detectable_content:postscript", arguments: &["postscript_marker"], build: postscript },
];

/// Square brackets on one line; empty ones count.
static PLACEHOLDER: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\[.*?\]").expect("a valid pattern"));

fn number_placeholders(arguments: &Arguments<'_>) -> Result<Check, ArgumentError> {
    let limit = Limit::AtLeast(arguments.count("num_placeholders")?);
    Ok(Check::new(move |response| limit.verdict(PLACEHOLDER.find_iter(response).count(), "placeholder")))
}

/// The marker anywhere in the lower-cased response: it need not begin a line or a word. The two usual markers may have a
/// space between their letters; any other is a pattern.
fn postscript(arguments: &Arguments<'_>) -> Result<Check, ArgumentError> {
    let marker = text::strip(arguments.text("postscript_marker")?).to_owned();
    let source = match marker.as_str() {
        "P.P.S" => r"\s*p\.\s?p\.\s?s.*$".to_owned(),
        "P.S." => r"\s*p\.\s?s\..*$".to_owned(),
        other => format!(r"\s*{}.*$", text::lower(other)),
    };
    let pattern = Pattern::new(&source, Flags { multiline: true, ..Flags::default() })
        .map_err(|error| ArgumentError::Pattern { name: "postscript_marker", error })?;
    Ok(Check::new(move |response| {
        ensure(pattern.is_match(&text::lower(response)), || format!("found no postscript marked `{marker}`"))
    }))
}

#[cfg(test)]
mod tests {
    use crate::ifeval::instruction::tests::{assert_verdicts, verdict};
    use serde_json::json;

    #[test]
    fn number_placeholders() {
        let id = "detectable_content:number_placeholders";
        let kwargs = json!({"num_placeholders": 2});
        assert_verdicts(id, &kwargs, &["[a] [b]", "[][]", "[[a]] [b]", "[a] [b] [c]"], &["[a]", "[a\n] [b]", "a] [b"]);
        let reason = verdict(id, &json!({"num_placeholders": 5}), "[a] [b] [c]").unwrap_err();
        assert_eq!(reason, "found 3 placeholders, at least 5 required");
    }

    #[test]
    fn postscript() {
        let id = "detectable_content:postscript";
        let kwargs = json!({"postscript_marker": " P.S. "});
        assert_verdicts(id, &kwargs, &["Bye.\nP.S. hi", "p. s. hi", "ship.s."], &["PS hi", "P.S hi", "P.P.S", ""]);
        let kwargs = json!({"postscript_marker": "P.P.S"});
        assert_verdicts(id, &kwargs, &["P.P.S. hi", "p.\np. s"], &["P.S. hi", "PPS"]);
        let kwargs = json!({"postscript_marker": "Note:"});
        assert_verdicts(id, &kwargs, &["a NOTE: b"], &["note b"]);
    }
}
