//! What a resumed run must have in common with the one it continues.

use std::collections::BTreeMap;
use std::path::Path;

use orpo_files::{DataLineage, Difference, differences};
use serde_json::{Map, Value, json};

use crate::error::TrainError;
use crate::recipe::Recipe;

/// Keys of the recipe that may change: where things are, how often they are written, what is chosen at the end, and how
/// long the run is.
const FREE: [(&str, &[&str]); 4] = [
    ("", &["output_dir"]),
    ("model", &["path", "tokenizer"]),
    ("data", &["train", "validation", "format", "chat_template"]),
    (
        "training",
        &[
            "logging_steps",
            "tensorboard",
            "eval_steps",
            "sample_prompts",
            "sample_max_new_tokens",
            "save_steps",
            "save_total_limit",
            "load_best_model_at_end",
            "epochs",
            "max_steps",
        ],
    ),
];

fn remove_free_keys(recipe: &mut Value) {
    for (section, keys) in FREE {
        let section = if section.is_empty() { Some(&mut *recipe) } else { recipe.get_mut(section) };
        if let Some(Value::Object(section)) = section {
            section.retain(|key, _| !keys.contains(&key.as_str()));
        }
    }
}

/// The recipe without its free keys, the SHA-256 of the base model's files, and what the data files are.
pub fn fingerprint(recipe: &Recipe, base: &BTreeMap<String, String>, data: &[DataLineage]) -> Value {
    let recipe_data = &recipe.data;
    let mut recipe = serde_json::to_value(recipe).expect("plain data");
    remove_free_keys(&mut recipe);
    // In the order of the recipe, and not by their names: files may be moved.
    let mut files = Map::new();
    for (split, sources) in [("train", Some(&recipe_data.train)), ("validation", recipe_data.validation.as_ref())] {
        let files_of_split = data.iter().filter(|file| file.split == split);
        let content: Vec<Value> = files_of_split
            .map(|file| json!({"sha256": file.sha256, "layout": file.layout, "weight": file.weight}))
            .collect();
        // Without `field`, which older checkpoints do not have, it is the columns alone.
        let columns: Vec<Value> = (sources.iter().flat_map(|s| &s.0))
            .map(|source| match &source.field {
                None => json!(source.columns),
                field => json!([source.columns, field]),
            })
            .collect();
        files.insert(split.into(), json!([content, columns]));
    }
    json!({"recipe": recipe, "base": base, "data": files})
}

/// Checks that the checkpoint `dir` with the fingerprint `saved` can be continued by a run with the fingerprint `now`.
///
/// # Errors
/// With the first key that differs.
pub fn check(dir: &Path, saved: &Value, now: &Value) -> Result<(), TrainError> {
    // An older version may have kept keys that have become free.
    let mut saved = saved.clone();
    remove_free_keys(&mut saved["recipe"]);
    let differences = differences(&saved, now);
    let Some(Difference { path, before, after }) = differences.first() else { return Ok(()) };
    let reason = match path.as_slice() {
        ["recipe", key @ ..] => {
            let shown = |value: &Value| if value.is_null() { "not set".to_string() } else { value.to_string() };
            let key = key.join(".");
            format!("another recipe: `{key}` was {} and is now {}", shown(before), shown(after))
        }
        ["base", file @ ..] => format!("another base model: `{}` has changed", file.join(".")),
        ["data", split, ..] => format!("other data: the content, layout or weight of `data.{split}` has changed"),
        _ => "another version of this program".into(),
    };
    Err(TrainError::invalid(dir, format!("it was trained with {reason}; set it back, or use another `output_dir`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(training: &str) -> Recipe {
        let text = format!("output_dir = \"o\"\n[model]\npath = \"m\"\n[data]\ntrain = \"t\"\n[training]\n{training}");
        toml::from_str(&text).unwrap()
    }

    fn data(sha256: &str) -> Vec<DataLineage> {
        let sha256 = sha256.to_string();
        vec![DataLineage {
            split: "train".into(),
            path: "t".into(),
            sha256,
            layout: "l".into(),
            weight: 1.0,
            rows_used: 1,
            rows_dropped: BTreeMap::new(),
        }]
    }

    fn difference(recipe_now: &Recipe, base_now: &str, data_now: &str) -> Option<String> {
        let base = |sha: &str| BTreeMap::from([("model.safetensors".to_string(), sha.to_string())]);
        let saved = fingerprint(&recipe("beta = 0.1"), &base("b"), &data("d"));
        let now = fingerprint(recipe_now, &base(base_now), &data(data_now));
        check(Path::new("dir"), &saved, &now).err().map(|error| error.to_string())
    }

    #[test]
    fn the_first_difference_is_named() {
        let says = |now: &str, expected: &str| {
            let error = difference(&recipe(now), "b", "d").unwrap();
            assert!(error.contains(expected) && error.contains("output_dir"), "{error}");
        };
        says("beta = 0.3", "`training.beta` was 0.1 and is now 0.3");
        says("beta = 0.1\nwarmup_ratio = 0.5", "`training.warmup_ratio` was not set and is now 0.5");
        assert!(difference(&recipe(""), "other", "d").unwrap().contains("base model: `model.safetensors`"));
        assert!(difference(&recipe(""), "b", "other").unwrap().contains("of `data.train` has changed"));
    }

    #[test]
    fn where_how_often_and_how_long_is_free() {
        let mut moved = recipe("logging_steps = 7\nsave_steps = \"epoch\"\ntensorboard = false");
        (moved.training.max_steps, moved.training.epochs) = (Some(7), 3);
        moved.output_dir = "elsewhere".into();
        moved.data.train = Path::new("moved.jsonl").into();
        assert_eq!(difference(&moved, "b", "d"), None);
    }
}
