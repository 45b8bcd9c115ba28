//! What is seen first: the result in a sentence, when it was measured, and how the models were trained.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::report::collect::{Collected, Manifest};
use crate::report::view::{Block, fixed};
use crate::stats::Metric;
use crate::table::count;

use super::summary::{COLUMNS, Column, Numbers};

/// The blocks.
pub fn blocks(collected: &Collected, numbers: &Numbers<'_>) -> Vec<Block> {
    let mut blocks: Vec<Block> =
        sentence(&collected.names, numbers).into_iter().map(|text| Block::Text { text }).collect();
    let mut items = Vec::new();
    items.extend(dates(collected).map(|dates| ("Measured".to_owned(), dates)));
    items.extend(collected.models.iter().map(|manifest| (format!("Model {}", manifest.name), settings(manifest))));
    if !items.is_empty() {
        blocks.push(Block::Terms { items });
    }
    blocks
}

/// The change from the first model to the one that matters: the one called `orpo`, else the last one. Of a single model its
/// numbers.
fn sentence(names: &[String], numbers: &Numbers<'_>) -> Option<String> {
    let of = |name: &str, column: &Column| {
        let metric = numbers.get(&(name, column.key.to_owned()))?;
        Some((metric.value?, metric.ci95?, *metric))
    };
    let percent = |column: &Column| if column.name.ends_with('%') { " %" } else { "" };
    let name = |column: &Column| column.name.split(", ").next().unwrap_or_default();
    let show =
        |column: &Column, value: f64| format!("{}{}", fixed(column.factor * value, column.decimals), percent(column));
    let task = |column: &Column| column.key.split('/').next();
    // The first column of each task stands for it.
    let columns = || {
        (0..COLUMNS.len()).filter(|&at| at == 0 || task(&COLUMNS[at]) != task(&COLUMNS[at - 1])).map(|at| &COLUMNS[at])
    };
    let measured = |name: &String| columns().any(|column| of(name, column).is_some());
    let names: Vec<&String> = names.iter().filter(|name| measured(name)).collect();
    let tuned = names.iter().find(|name| **name == "orpo").or(names.last())?;
    let base = *names.first()?;
    let mut parts = Vec::new();
    for column in columns().filter(|_| base != *tuned) {
        let (Some((before, [low, high], _)), Some((after, [least, most], _))) = (of(base, column), of(tuned, column))
        else {
            continue;
        };
        let doubt = if least <= high && low <= most { " (the 95 % intervals overlap)" } else { "" };
        parts.push(format!("{} from {} to {}{doubt}", name(column), show(column, before), show(column, after)));
    }
    if !parts.is_empty() {
        return Some(format!("Compared with {base}, {tuned} changes {}.", listed(&parts)));
    }
    let own = |column: &Column| {
        let (value, [low, high], Metric { n, .. }) = of(tuned, column)?;
        let interval = [low, high].map(|end| fixed(column.factor * end, column.decimals)).join(" to ");
        Some(format!("{} in {} (95 % interval {interval}, n = {n})", show(column, value), name(column)))
    };
    let parts: Vec<String> = columns().filter_map(own).collect();
    (!parts.is_empty()).then(|| format!("{tuned} reaches {}.", listed(&parts)))
}

/// `a`, `a and b`, `a, b and c`.
fn listed(parts: &[String]) -> String {
    match parts {
        [rest @ .., last] if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => parts.concat(),
    }
}

/// The days of the evaluations.
fn dates(collected: &Collected) -> Option<String> {
    let began = collected.evaluations.iter().map(|subject| subject.evaluation.common.started_at.as_str());
    let days: BTreeSet<&str> = began.filter_map(|time| time.get(..10)).collect();
    match (days.first()?, days.last()?) {
        (first, last) if first == last => Some((*first).to_owned()),
        (first, last) => Some(format!("{first} to {last}")),
    }
}

/// A model's size, and what decides on its training.
fn settings(Manifest { json, parameters, .. }: &Manifest) -> String {
    let recipe = &json["recipe"];
    let training = &recipe["training"];
    let mut parts = Vec::new();
    let is_adapter = !recipe["lora"].is_null();
    let what = if is_adapter { "adapter parameter" } else { "parameter" };
    parts.extend(parameters.map(|number| with_commas(&count(number as usize, what))));
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut add = |name: &str, value: &Value| {
        if !value.is_null() {
            parts.push(format!("{name} {}", text(value)));
        }
    };
    add("base", &recipe["model"]["path"]);
    add("objective", &training["objective"]);
    add("beta", &training["beta"]);
    add("learning rate", &training["learning_rate"]);
    if is_adapter {
        add("LoRA rank", &recipe["lora"]["r"]);
    }
    if let (Some(size), Some(accumulated)) =
        (training["batch_size"].as_u64(), training["gradient_accumulation_steps"].as_u64())
    {
        parts.push(format!("batches of {size} x {accumulated}"));
    }
    parts.extend(json["step"].as_u64().map(|steps| count(steps as usize, "step")));
    let of_training = json["data"].as_array().into_iter().flatten().filter(|data| data["split"] == "train");
    let rows: u64 = of_training.filter_map(|data| data["rows_used"].as_u64()).sum();
    if rows > 0 {
        parts.push(format!("{} of data", count(rows as usize, "row")));
    }
    parts.join(", ")
}

/// A number at the front of a text with its thousands set apart.
fn with_commas(text: &str) -> String {
    let (digits, rest) = text.split_once(' ').unwrap_or((text, ""));
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{grouped} {rest}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(models: &[(&str, &str, f64, [f64; 2])]) -> Option<String> {
        let names: Vec<String> = ["base", "orpo", "sft"].map(String::from).to_vec();
        let numbers = models
            .iter()
            .map(|&(name, key, value, ci95)| ((name, key.to_owned()), Metric::new(value, 0.1, ci95, 30)))
            .collect();
        sentence(&names, &numbers)
    }

    #[test]
    fn the_result_is_a_sentence() {
        let strict = "ifeval/prompt_strict";
        let base = ("base", strict, 0.25, [0.125, 0.375]);
        assert_eq!(
            said(&[base, ("orpo", strict, 0.75, [0.5, 0.875]), ("sft", strict, 0.5, [0.25, 0.75])]).unwrap(),
            "Compared with base, orpo changes IFEval prompt strict from 25.0 % to 75.0 %."
        );
        let two = [base, ("base", "mt-bench/average", 5.0, [4.0, 6.0])];
        let after = [("orpo", strict, 0.5, [0.25, 0.75]), ("orpo", "mt-bench/average", 6.125, [5.5, 7.0])];
        assert_eq!(
            said(&[two, after].concat()).unwrap(),
            "Compared with base, orpo changes IFEval prompt strict from 25.0 % to 50.0 % (the 95 % intervals overlap) and \
             MT-Bench from 5.00 to 6.12 (the 95 % intervals overlap)."
        );
        assert_eq!(
            said(&[base]).unwrap(),
            "base reaches 25.0 % in IFEval prompt strict (95 % interval 12.5 to 37.5, n = 30)."
        );
        assert_eq!(said(&[]), None);
    }

    #[test]
    fn the_settings_of_a_model_fit_a_line() {
        let manifest = Manifest {
            path: "m".into(),
            name: "orpo".into(),
            parameters: Some(918_656),
            json: json!({
                "recipe": {"model": {"path": "runs/base"}, "training": {"objective": "orpo", "beta": 0.1,
                    "learning_rate": 5e-6, "batch_size": 8, "gradient_accumulation_steps": 4}},
                "step": 1, "data": [{"split": "train", "rows_used": 2400}, {"split": "validation", "rows_used": 7}]
            }),
        };
        assert_eq!(
            settings(&manifest),
            "918,656 parameters, base runs/base, objective orpo, beta 0.1, learning rate 5e-6, batches of 8 x 4, 1 step, \
             2400 rows of data"
        );
    }
}
