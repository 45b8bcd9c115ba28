//! What is wrong in a recipe's TOML, in the words of a recipe and not of a parser.

use std::path::Path;

use super::keys::{Key, keys};
use crate::error::TrainError;

/// The error of a recipe that was read from the text of `path`; without a text from a table, in which overrides are.
pub(super) fn of_recipe(path: &Path, text: Option<&str>, error: &toml::de::Error) -> TrainError {
    let reason = sentence(error.message());
    if let (Some(text), Some(span)) = (text, error.span()) {
        let line = 1 + text[..span.start.min(text.len())].matches('\n').count();
        return TrainError::row(path, "line", line, reason);
    }
    // Of a table the error knows the key, but says it in its text alone.
    match error.to_string().split_once("\nin `") {
        Some((_, key)) => TrainError::invalid(path, format!("in `{}: {reason}", key.trim_end())),
        None => TrainError::invalid(path, reason),
    }
}

fn sentence(message: &str) -> String {
    let message = message.trim_end();
    if let Some((name, names)) = message.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`')) {
        return format!("there is no key `{name}`{}", key_suggestion(name, names));
    }
    if let Some((name, names)) = message.strip_prefix("unknown variant `").and_then(|rest| rest.split_once('`')) {
        return format!("there is no choice \"{name}\"; {}", suggestion(name, names));
    }
    if let Some(name) = message.strip_prefix("missing field ") {
        return format!("the key {name} is missing");
    }
    let wrong = ["invalid type: ", "invalid value: "].into_iter().find_map(|start| message.strip_prefix(start));
    if let Some((got, expected)) = wrong.and_then(|rest| rest.rsplit_once(", expected ")) {
        return format!("expected {}, got {got}", in_plain_words(expected));
    }
    message.replace('\n', ", ")
}

/// The key that was meant: one of this section that ends in it, the same name in another section, TRL's name of one, or
/// one that is spelt nearly so.
fn key_suggestion(name: &str, names: &str) -> String {
    let keys = keys();
    // `alpha` among the keys of an adapter is `lora_alpha`, whatever other sections have.
    if let Some(known) = names.split('`').skip(1).step_by(2).find(|known| known.ends_with(&format!("_{name}"))) {
        return format!("; did you mean `{known}`?");
    }
    let elsewhere: Vec<String> =
        keys.iter().filter(|key| key.name == name && !key.section.ends_with("[]")).map(Key::place).collect();
    if let Some(place) = elsewhere.first() {
        return format!(" here; it belongs {place}");
    }
    if let Some(key) = keys.iter().find(|key| key.trl.iter().any(|trl| trl == name)) {
        return format!("; what TRL calls that is `{}` {}", key.name, key.place());
    }
    format!("; {}", suggestion(name, names))
}

/// The name that was meant, or all there are if they are few. They are in backticks in `names`.
fn suggestion(name: &str, names: &str) -> String {
    const FEW: usize = 20;
    let names: Vec<&str> = names.split('`').skip(1).step_by(2).collect();
    let closest = names.iter().map(|known| (distance(name, known), known)).min();
    match closest {
        Some((distance, known)) if 3 * distance <= name.len().max(3) => format!("did you mean `{known}`?"),
        _ if names.len() <= FEW => format!("there are {}", names.join(", ")),
        _ => "`orpo train keys` lists all keys".into(),
    }
}

fn in_plain_words(expected: &str) -> &str {
    match expected {
        "f64" => "a number",
        "usize" | "u64" => "a whole number of at least 0",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "a section",
        _ if expected.starts_with("struct ") => "a section",
        _ => expected,
    }
}

/// Characters to insert, remove or replace to make one name of the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.chars().count()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_nearly_right_are_found() {
        assert_eq!(distance("learning_rat", "learning_rate"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(
            sentence("unknown field `epoch`, expected `epochs` or `beta`"),
            "there is no key `epoch`; did you mean `epochs`?"
        );
        assert_eq!(
            sentence("unknown field `x`, expected `epochs` or `beta`"),
            "there is no key `x`; there are epochs, beta"
        );
        let many: Vec<String> = (0..30).map(|i| format!("`key_number_{i}`")).collect();
        let error = sentence(&format!("unknown field `x`, expected one of {}", many.join(", ")));
        assert_eq!(error, "there is no key `x`; `orpo train keys` lists all keys");
        assert_eq!(
            sentence("unknown variant `cosin`, expected one of `linear`, `cosine`"),
            "there is no choice \"cosin\"; did you mean `cosine`?"
        );
    }

    #[test]
    fn names_of_trl_and_of_other_sections_lead_to_ours() {
        for (name, expected) in [
            ("num_train_epochs", "there is no key `num_train_epochs`; what TRL calls that is `epochs` in [training]"),
            (
                "per_device_train_batch_size",
                "there is no key `per_device_train_batch_size`; what TRL calls that is `batch_size` in [training]",
            ),
            ("lora_r", "there is no key `lora_r`; what TRL calls that is `r` in [lora]"),
            ("model_name_or_path", "there is no key `model_name_or_path`; what TRL calls that is `path` in [model]"),
            ("learning_rate", "there is no key `learning_rate` here; it belongs in [training]"),
            ("max_prompt_length", "there is no key `max_prompt_length` here; it belongs in [data]"),
            ("output_dir", "there is no key `output_dir` here; it belongs before the first section"),
        ] {
            assert_eq!(sentence(&format!("unknown field `{name}`, expected `x` or `y`")), expected);
        }
        assert_eq!(
            sentence("unknown field `alpha`, expected `r` or `lora_alpha`"),
            "there is no key `alpha`; did you mean `lora_alpha`?"
        );
    }

    #[test]
    fn types_have_plain_names() {
        assert_eq!(sentence("invalid type: string \"x\", expected f64"), "expected a number, got string \"x\"");
        assert_eq!(
            sentence("invalid value: integer `-1`, expected usize"),
            "expected a whole number of at least 0, got integer `-1`"
        );
        assert_eq!(
            sentence("invalid type: integer `1`, expected struct TrainingSection"),
            "expected a section, got integer `1`"
        );
        assert_eq!(sentence("missing field `train`"), "the key `train` is missing");
    }
}
