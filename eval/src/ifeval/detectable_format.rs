//! `detectable_format`: bullets, highlights, sections, titles, JSON, fixed answers.

use std::sync::LazyLock;

use regex::Regex;

use super::instruction::{ArgumentError, Arguments, Check, Instruction, Limit, Verdict, ensure};
use super::pattern::{Flags, Pattern};
use super::{json, text};

pub(super) const INSTRUCTIONS: &[Instruction] = &[
    Instruction {
        id: "detectable_format:constrained_response",
        arguments: &[],
        build: |_| Ok(Check::new(constrained_response)),
    },
    Instruction { id: "detectable_format:json_format", arguments: &[], build: |_| Ok(Check::new(json_format)) },
    Instruction {
        id: "detectable_format:multiple_sections",
        arguments: &["section_spliter", "num_sections"],
        build: multiple_sections,
    },
    Instruction {
        id: "detectable_format:number_bullet_lists",
        arguments: &["num_bullets"],
        build: number_bullet_lists,
    },
    Instruction {
        id: "detectable_format:number_highlighted_sections",
        arguments: &["num_highlights"],
        build: number_highlighted_sections,
    },
    Instruction { id: "detectable_format:title", arguments: &[], build: |_| Ok(Check::new(title)) },
];

const CONSTRAINED_ANSWERS: [&str; 3] = ["My answer is yes.", "My answer is no.", "My answer is maybe."];

fn pattern(source: &str) -> Regex {
    Regex::new(&source.replace(r"\s", &format!("[{}]", text::SPACE))).expect("a valid pattern")
}

/// An asterisk that another does not follow. What follows it may be a newline, which then joins two lines.
static STAR_BULLET: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?m)^\s*\*[^*].*$"));
/// A hyphen at the beginning of a line, a rule of hyphens included.
static DASH_BULLET: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?m)^\s*-.*$"));
static HIGHLIGHT: LazyLock<Regex> = LazyLock::new(|| pattern(r"\*[^\n*]*\*"));
static DOUBLE_HIGHLIGHT: LazyLock<Regex> = LazyLock::new(|| pattern(r"\*\*[^\n*]*\*\*"));
static TITLE: LazyLock<Regex> = LazyLock::new(|| pattern(r"<<[^\n]+>>"));

fn constrained_response(response: &str) -> Verdict {
    let answered = CONSTRAINED_ANSWERS.iter().any(|answer| response.contains(answer));
    ensure(answered, || format!("found none of the answers `{}`", CONSTRAINED_ANSWERS.join("`, `")))
}

/// JSON as Python's `json.loads` accepts it, with or without a Markdown code fence around it.
fn json_format(response: &str) -> Verdict {
    let mut value = text::strip(response);
    for prefix in ["```json", "```Json", "```JSON", "```"] {
        value = value.strip_prefix(prefix).unwrap_or(value);
    }
    value = value.strip_suffix("```").unwrap_or(value);
    json::check(text::strip(value)).map_err(|problem| format!("the response is not JSON: {problem}"))
}

/// Section titles with a number, such as `Section 1`, counted as the places where the response would be split.
fn multiple_sections(arguments: &Arguments<'_>) -> Result<Check, ArgumentError> {
    let splitter = text::strip(arguments.text("section_spliter")?).to_owned();
    let limit = Limit::AtLeast(arguments.count("num_sections")?);
    let divider = Pattern::new(&format!(r"\s?{splitter}\s?\d+\s?"), Flags::default())
        .map_err(|error| ArgumentError::Pattern { name: "section_spliter", error })?;
    Ok(Check::new(move |response| limit.verdict(divider.count(response), &format!("`{splitter} N` section"))))
}

fn number_bullet_lists(arguments: &Arguments<'_>) -> Result<Check, ArgumentError> {
    let limit = Limit::Exactly(arguments.count("num_bullets")?);
    Ok(Check::new(move |response| {
        let bullets = STAR_BULLET.find_iter(response).count() + DASH_BULLET.find_iter(response).count();
        limit.verdict(bullets, "bullet")
    }))
}

/// `*text*` and `**text**`. The two patterns are counted on their own, so one double highlight can count twice.
fn number_highlighted_sections(arguments: &Arguments<'_>) -> Result<Check, ArgumentError> {
    let limit = Limit::AtLeast(arguments.count("num_highlights")?);
    Ok(Check::new(move |response| {
        let not_blank = |found: &regex::Match<'_>| !text::is_blank(found.as_str().trim_matches('*'));
        let single = HIGHLIGHT.find_iter(response).filter(not_blank).count();
        let double = DOUBLE_HIGHLIGHT.find_iter(response).filter(not_blank).count();
        limit.verdict(single + double, "highlighted section")
    }))
}

/// `<<text>>` on one line.
fn title(response: &str) -> Verdict {
    let not_blank = |title: &str| !text::is_blank(title.trim_start_matches('<').trim_end_matches('>'));
    let titled = TITLE.find_iter(response).any(|found| not_blank(found.as_str()));
    ensure(titled, || "found no title in double angular brackets, such as `<<title>>`".into())
}

#[cfg(test)]
mod tests {
    use crate::ifeval::instruction::tests::{assert_verdicts, verdict};
    use serde_json::json;

    #[test]
    fn constrained_response() {
        let followed = ["My answer is yes.", "So: My answer is maybe. Really."];
        let violated = ["My answer is yes", "my answer is no.", "yes"];
        assert_verdicts("detectable_format:constrained_response", &json!({}), &followed, &violated);
    }

    #[test]
    fn json_format() {
        let followed = ["{\"a\": [1, NaN]}", "```json\n{}\n```", " ```Json 1```", "``````json\n2", "\"a\""];
        let violated = ["{a: 1}", "Here: {}", "```JSON5 {}```", "{\"a\": 1,}", "", "```\n```"];
        assert_verdicts("detectable_format:json_format", &json!({}), &["{\"a\": [1, NaN]}"], &violated);
        for text in followed {
            let expected = text != "``````json\n2";
            assert_eq!(verdict("detectable_format:json_format", &json!({}), text).is_ok(), expected, "{text}");
        }
    }

    #[test]
    fn multiple_sections() {
        let id = "detectable_format:multiple_sections";
        let kwargs = json!({"section_spliter": " Section ", "num_sections": 2});
        assert_verdicts(
            id,
            &kwargs,
            &["Section 1\na\nSection 2\nb", "Section1Section٢"],
            &["Section 1", "SECTION 1 SECTION 2"],
        );
        assert_verdicts(id, &kwargs, &[], &["Section A Section B", "Section  1 Section  2"]);
        let reason = verdict(id, &kwargs, "Section 1").unwrap_err();
        assert_eq!(reason, "found 1 `Section N` section, at least 2 required");
    }

    #[test]
    fn number_bullet_lists() {
        let id = "detectable_format:number_bullet_lists";
        let kwargs = json!({"num_bullets": 2});
        let followed = ["* a\n* b", "- a\n  - b", "* a\n---", "-\n-", "a\n* b\n\n- c"];
        let violated = ["* a", "** a\n* b", "+ a\n+ b", "• a\n• b", "* a\n* b\n* c", "*\n* b"];
        assert_verdicts(id, &kwargs, &followed, &violated);
    }

    #[test]
    fn number_highlighted_sections() {
        let id = "detectable_format:number_highlighted_sections";
        let kwargs = json!({"num_highlights": 2});
        assert_verdicts(
            id,
            &kwargs,
            &["*a* *b*", "**a** **b**", "*a* **b**"],
            &["*a*", "**a**", "*a\nb* **", "* * * *"],
        );
    }

    #[test]
    fn title() {
        let followed = ["<<a>>", "x <<<a>>> y", "<<a>> <<>>"];
        let violated = ["<a>", "<<>>", "<< >>", "<<a\n>>", "<<<>>>"];
        assert_verdicts("detectable_format:title", &json!({}), &followed, &violated);
    }
}
