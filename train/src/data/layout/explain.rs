//! What is wrong with rows that no layout fits.

use serde_json::Value;

use super::fields::{described, get, has, is_list, is_string, is_turn, list_of};
use super::{LAYOUTS, Spec};
use crate::data::read::Row;

/// Why the layout of these rows, the first of a file, is not known, and what to do.
pub(super) fn unknown(first: &[Row]) -> String {
    let Some(row) = first.first() else { return "it holds no rows".into() };
    if first.iter().any(is_unpaired) {
        return "it holds unpaired feedback: one response a row with a true or false label, as KTO uses it. ORPO compares \
                two responses to one prompt: join a row labelled true and a row labelled false of the same prompt into one \
                with `prompt`, `chosen` and `rejected`"
            .into();
    }
    if let Some(name) = ["responses", "completions", "answers"].into_iter().find(|name| is_list(row, name)) {
        return format!(
            "it holds several responses per prompt, in `{name}`. ORPO compares two: put the better one of each row into \
             `chosen` and the worse one into `rejected`, beside `prompt`"
        );
    }
    let is_rows = |value: &Value| {
        value
            .as_array()
            .is_some_and(|items| items.iter().all(|item| item.is_object() && !is_turn(item)) && !items.is_empty())
    };
    if let Some((name, _)) = row.iter().find(|(_, value)| is_rows(value)).filter(|_| first.len() == 1) {
        return format!(
            "its layout is not known ({}); if the rows are under `{name}`, say so: {{ source = \"...\", field = \"{name}\" }}",
            list_of(row)
        );
    }
    wrong_type(row).unwrap_or_else(|| missing(row))
}

/// One response with a label, in any of the ways in which true and false are written.
fn is_unpaired(row: &Row) -> bool {
    let is_truth = |value: &Value| match value {
        Value::Bool(_) => true,
        Value::Number(number) => matches!(number.as_f64(), Some(0.0 | 1.0 | -1.0)),
        Value::String(text) => {
            let names = ["true", "false", "1", "0", "yes", "no", "good", "bad", "desirable", "undesirable"];
            names.contains(&text.trim().to_ascii_lowercase().as_str())
        }
        _ => false,
    };
    let is_labelled = ["label", "kto_tag", "labels"].iter().any(|name| get(row, name).is_some_and(is_truth));
    let has_response = ["completion", "response", "messages", "conversations", "output", "answer", "chosen"];
    is_labelled && !has(row, "rejected") && has_response.iter().any(|name| has(row, name))
}

/// A pair has the right columns, but one of them holds something else.
fn wrong_type(row: &Row) -> Option<String> {
    let names = ["prompt", "chosen", "rejected"].into_iter().filter(|name| has(row, name));
    if !has(row, "chosen") || !has(row, "rejected") {
        return None;
    }
    let is_side = |name: &&str| is_string(row, name) || is_list(row, name) || is_turn(&row[*name]);
    if let Some(name) = names.clone().find(|name| !is_side(name)) {
        let what = described(&row[name]);
        return Some(format!("`{name}` is {what}, but must be a string or a list of turns (`role` and `content`)"));
    }
    let kinds: Vec<String> = names.map(|name| format!("`{name}` is {}", described(&row[name]))).collect();
    Some(format!("{}: no layout has them like this; make all of them strings or lists of turns", kinds.join(", ")))
}

/// The layout of which the fewest columns are missing.
fn missing(row: &Row) -> String {
    let lacks = |spec: &Spec| spec.required.iter().filter(|name| !has(row, name)).copied().collect::<Vec<_>>();
    let explicit = LAYOUTS.iter().filter(|spec| spec.required.len() > 2);
    let nearest = explicit.min_by_key(|spec| {
        (lacks(spec).len(), !spec.required.contains(&"chosen"), spec.name != "trl_standard_explicit")
    });
    let nearest = nearest.expect("there are layouts");
    let shown = |name: &&str| format!("`{name}`{}", if row.contains_key(*name) { " (null)" } else { "" });
    let lacking: Vec<String> = lacks(nearest).iter().map(shown).collect();
    let example = lacks(nearest).first().copied().unwrap_or("prompt");
    format!(
        "its layout is not known ({}). The nearest is `{}` ({}), of which it lacks {}. If a column has another name, say \
         which: data.columns = {{ {example} = \"its name\" }}. The README lists all layouts under \"Data layouts\"",
        list_of(row),
        nearest.name,
        nearest.fields,
        lacking.join(", "),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn why(row: Value) -> String {
        unknown(&[row.as_object().unwrap().clone()])
    }

    #[test]
    fn unpaired_feedback_is_known_by_any_label() {
        for label in [json!(true), json!(0), json!(1.0), json!("True"), json!("false"), json!("1")] {
            for response in ["completion", "messages", "response"] {
                let error = why(json!({"prompt": "q", response: "a", "label": label}));
                assert!(error.contains("KTO") && error.contains("`rejected`"), "{error}");
            }
        }
        // Labels of classes are no feedback.
        assert!(!why(json!({"sentence": "a", "label": 1})).contains("KTO"));
    }

    #[test]
    fn what_is_not_known_is_explained_in_a_few_words() {
        for (row, parts) in [
            (json!({"a": 1, "b": null}), &["`a`, `b`", "`trl_standard_explicit`", "columns = { prompt = "][..]),
            (
                json!({"question": "q", "better": "a", "worse": "b"}),
                &["lacks `chosen`, `rejected`", "columns = { chosen = "],
            ),
            (json!({"prompt": "q", "responses": ["a", "b"], "ratings": [5, 1]}), &["several responses per prompt"]),
            (json!({"version": 1, "pairs": [{"prompt": "q"}]}), &["`version`, `pairs`", "field = \"pairs\""]),
            (
                json!({"prompt": "q", "chosen": {"answer": "a", "score": 1}, "rejected": {"answer": "b"}}),
                &["`chosen` is an object with `answer`, `score`, but must be a string or a list of turns"],
            ),
            (json!({"prompt": "q", "chosen": "a", "rejected": null}), &["lacks `rejected` (null)"]),
            (json!({"prompt": 3, "chosen": "a", "rejected": "b"}), &["`prompt` is a number"]),
            (json!({"prompt": "q", "chosen": "a", "rejected": []}), &["`chosen` is a string, `rejected` is a list"]),
        ] {
            let error = why(row);
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
            assert!(error.len() < 420, "{error}");
        }
    }
}
