//! Verdicts in the official layout, `annotations.json`.

use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::comparison::{Comparison, Problem};
use crate::jsonl::{self, InputError};
use crate::results::DataSource;

/// An object of `annotations.json`. The names of the last fields had no `preference_` in files before version 0.6.6.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Annotation {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dataset: Option<String>,
    instruction: String,
    output_1: String,
    generator_1: Option<String>,
    output_2: String,
    generator_2: Option<String>,
    annotator: Option<String>,
    #[serde(deserialize_with = "present")]
    preference: Option<f64>,
    #[serde(default, alias = "price_per_example")]
    preference_price_per_example: Option<f64>,
    #[serde(default)]
    preference_version: Option<String>,
    #[serde(default, alias = "raw_completion")]
    preference_raw_completion: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    glm_preference: Option<f64>,
}

/// Null is a value here, absence an error.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    Option::deserialize(deserializer)
}

/// Who was compared by whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// The baseline, if that is known.
    pub baseline: Option<String>,
    /// The model, if that is known.
    pub model: Option<String>,
    /// The annotator, if that is known.
    pub annotator: Option<String>,
}

/// Reads annotations: a list or lines, compressed or not. A null preference, or the -1 that the official cache has for
/// what could not be parsed, is no preference; 0 is a tie.
///
/// # Errors
/// When the file cannot be read, a row is not of that form, a preference is out of range, or rows are of different
/// models, baselines or annotators.
pub fn read(path: &Path) -> Result<(Vec<Comparison>, Names, DataSource), InputError> {
    let bytes = jsonl::read(path)?;
    let mut names = Names::default();
    let mut comparisons = Vec::new();
    for (line, row) in jsonl::rows::<Annotation>(path, &bytes)? {
        let failed = |problem| InputError::Line { path: path.to_owned(), line, problem };
        let preference = match row.preference {
            None | Some(-1.0) => None,
            Some(0.0) => Some(1.5),
            Some(preference @ 1.0..=2.0) => Some(preference),
            Some(other) => return Err(failed(format!("the preference {other} is not between 1 and 2"))),
        };
        for (field, name, known) in [
            ("generator_1", row.generator_1, &mut names.baseline),
            ("generator_2", row.generator_2, &mut names.model),
            ("annotator", row.annotator, &mut names.annotator),
        ] {
            let name = name.unwrap_or_default();
            let known = known.get_or_insert_with(|| name.clone());
            if *known != name {
                return Err(failed(format!("{field} is `{name}`, but `{known}` in the rows before; a file holds one")));
            }
        }
        comparisons.push(Comparison {
            dataset: row.dataset,
            instruction: row.instruction,
            reference: row.output_1,
            response: Some(row.output_2),
            preference,
            raw_completion: row.preference_raw_completion,
            price: row.preference_price_per_example,
            problem: preference.is_none().then(|| Problem::Unparsed("the file has no preference".into())),
            ..Comparison::default()
        });
    }
    if comparisons.is_empty() {
        return Err(InputError::File { path: path.to_owned(), problem: "it holds no annotations".into() });
    }
    for name in [&mut names.baseline, &mut names.model, &mut names.annotator] {
        *name = name.take().filter(|name| !name.is_empty());
    }
    let source = DataSource { source: path.display().to_string(), sha256: orpo_files::sha256(&bytes) };
    Ok((comparisons, names, source))
}

/// The file of some comparisons. Those without an answer are not in it, as officially.
pub fn write(comparisons: &[Comparison], names: &Names) -> String {
    let annotation = |comparison: &Comparison| {
        Some(Annotation {
            dataset: comparison.dataset.clone(),
            instruction: comparison.instruction.clone(),
            output_1: comparison.reference.clone(),
            generator_1: names.baseline.clone(),
            output_2: comparison.response.clone()?,
            generator_2: names.model.clone(),
            annotator: names.annotator.clone(),
            preference: comparison.preference,
            preference_price_per_example: comparison.price,
            preference_version: comparison
                .raw_completion
                .is_some()
                .then(|| format!("orpo-eval=={}", env!("CARGO_PKG_VERSION"))),
            preference_raw_completion: comparison.raw_completion.clone(),
            glm_preference: comparison.glm_preference,
        })
    };
    let annotations: Vec<Annotation> = comparisons.iter().filter_map(annotation).collect();
    serde_json::to_string_pretty(&annotations).expect("annotations have string keys") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read_text(text: &str) -> Result<(Vec<Comparison>, Names), String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path()).map(|(rows, names, _)| (rows, names)).map_err(|error| error.to_string())
    }

    fn row(preference: &Value) -> Value {
        json!({"instruction": "i", "output_1": "a", "generator_1": "b", "output_2": "c", "generator_2": "m",
            "annotator": "j", "preference": preference, "raw_completion": "m", "time_per_example": 0.5})
    }

    #[test]
    fn official_rows_are_read_and_written() {
        let rows = json!([row(&json!(1.25)), row(&json!(null)), row(&json!(-1)), row(&json!(0)), row(&json!(2))]);
        let (comparisons, names) = read_text(&rows.to_string()).unwrap();
        let preferences: Vec<_> = comparisons.iter().map(|comparison| comparison.preference).collect();
        assert_eq!(preferences, [Some(1.25), None, None, Some(1.5), Some(2.0)]);
        assert_eq!(names.model.as_deref(), Some("m"));
        assert!(comparisons[1].problem.is_some() && comparisons[0].problem.is_none());
        let written = write(&comparisons, &names);
        assert!(written.contains("\"preference_raw_completion\": \"m\""), "{written}");
        let (again, names_again) = read_text(&written).unwrap();
        assert_eq!((again, names_again), (comparisons, names));
    }

    #[test]
    fn what_is_not_of_one_comparison_is_refused() {
        let mut other = row(&json!(1));
        other["generator_2"] = "n".into();
        let mut nameless = row(&json!(1));
        nameless["annotator"].take();
        let mut blank = row(&json!(1));
        blank.as_object_mut().unwrap().remove("preference");
        for (rows, problem) in [
            (json!([row(&json!(1)), other]), "generator_2 is `n`, but `m` in the rows before"),
            (json!([row(&json!(1)), nameless]), "annotator is ``, but `j` in the rows before"),
            (json!([blank]), "missing field `preference`"),
            (json!([row(&json!(2.5))]), "the preference 2.5 is not between 1 and 2"),
            (json!([]), "it holds no annotations"),
        ] {
            let message = read_text(&rows.to_string()).unwrap_err();
            assert!(message.contains(problem), "{message}");
        }
    }
}
