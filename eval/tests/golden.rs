//! Every verdict against those of the official Python checkers.
//!
//! The reference data is not part of the repository: `$ORPO_SHARED`, by default `../../shared`, says where it lies. Without
//! it these tests print that they are skipped.

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use orpo_eval::ifeval::{Example, language};
use serde::Deserialize;
use serde_json::Value;
use support::{reference, unpack};

#[derive(Deserialize)]
struct Row {
    id: Option<String>,
    key: Option<u64>,
    instruction_id_list: Option<Vec<String>>,
    kwargs: Option<Vec<serde_json::Map<String, Value>>>,
    response: String,
    strict: Vec<bool>,
    loose: Vec<bool>,
}

fn official_examples(directory: &Path) -> BTreeMap<u64, Example> {
    let text = std::fs::read_to_string(directory.join("input_data.jsonl")).unwrap();
    let examples = text.lines().map(|line| serde_json::from_str::<Example>(line).unwrap());
    examples.map(|example| (example.key.as_u64().unwrap(), example)).collect()
}

/// What comparing some rows has found.
#[derive(Default)]
struct Tally {
    verdicts: usize,
    wrong: Vec<String>,
}

impl Tally {
    /// Compares the verdicts on a row.
    fn compare(&mut self, name: &str, row: &Row, examples: &BTreeMap<u64, Example>) {
        let (instruction_id_list, kwargs) = match (&row.instruction_id_list, &row.kwargs, row.key) {
            (Some(list), Some(kwargs), _) => (list.clone(), kwargs.clone()),
            (_, _, key) => {
                let example = &examples[&key.unwrap()];
                (example.instruction_id_list.clone(), example.kwargs.clone())
            }
        };
        let example = Example { key: 0.into(), prompt: String::new(), instruction_id_list, kwargs };
        let score = example.score(&row.response).unwrap_or_else(|error| panic!("{name}: {error}"));
        for (metric, ours, official) in [("strict", &score.strict, &row.strict), ("loose", &score.loose, &row.loose)] {
            self.verdicts += official.len();
            if ours != official {
                let list = &example.instruction_id_list;
                self.wrong.push(format!("{name} {list:?} {metric}: {ours:?} here, {official:?} officially"));
            }
        }
    }

    fn report(&self, what: &str) {
        println!("{what}: {} verdicts compared", self.verdicts);
        assert!(self.wrong.is_empty(), "{what}: {} wrong verdicts\n{}", self.wrong.len(), self.wrong.join("\n"));
    }
}

#[test]
fn verdicts_on_the_responses_of_models() {
    let Some(directory) = reference("ifeval") else { return };
    let examples = official_examples(&directory);
    let mut paths: Vec<_> =
        std::fs::read_dir(directory.join("model_responses")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert_eq!(paths.len(), 8);
    for path in paths {
        let mut tally = Tally::default();
        let model = path.file_name().unwrap().to_string_lossy().into_owned();
        for row in unpack::<Row>(&path) {
            tally.compare(&row.key.unwrap().to_string(), &row, &examples);
        }
        assert_eq!(tally.verdicts, 2 * 834);
        tally.report(&model);
    }
}

#[test]
fn verdicts_on_adversarial_cases() {
    let Some(directory) = reference("ifeval") else { return };
    let examples = official_examples(&directory);
    let mut tally = Tally::default();
    let rows: Vec<Row> = unpack(&directory.join("adversarial_cases.jsonl.gz"));
    assert_eq!(rows.len(), 6848);
    for row in rows {
        tally.compare(row.id.as_deref().unwrap(), &row, &examples);
    }
    tally.report("adversarial cases");
}

#[test]
fn word_counts() {
    #[derive(Deserialize)]
    struct Case {
        text: String,
        n: usize,
    }
    let Some(directory) = reference("ifeval") else { return };
    let cases: Vec<Case> = unpack(&directory.join("components/word_count.jsonl.gz"));
    println!("{} texts", cases.len());
    for Case { text, n } in cases.iter().filter(|case| !case.text.trim().is_empty()) {
        let limits = [("at least", *n), ("less than", n + 1)];
        let kwargs = limits.map(|(relation, words)| {
            let kwargs = serde_json::json!({"relation": relation, "num_words": words});
            kwargs.as_object().unwrap().clone()
        });
        let example = Example {
            key: 0.into(),
            prompt: String::new(),
            instruction_id_list: vec!["length_constraints:number_words".into(); 2],
            kwargs: kwargs.to_vec(),
        };
        // A text that Python takes for blank has no verdict beyond that.
        let score = example.score(text).unwrap();
        let blank = score.reasons.iter().flatten().any(|reason| reason == "the response is empty");
        assert!(blank || score.strict == [true, true], "{n} words in {text:?}: {:?}", score.reasons);
    }
}

/// Answers and probabilities of langdetect, to the last bit, with every seed.
#[test]
fn languages() {
    #[derive(Deserialize)]
    struct Case {
        text: String,
        detect: Option<String>,
        seed0: Option<Vec<(String, f64)>>,
        by_seed: Option<Vec<String>>,
    }
    let Some(directory) = reference("ifeval") else { return };
    let cases: Vec<Case> = unpack(&directory.join("components/langdetect.jsonl.gz"));
    assert_eq!(cases.len(), 909);
    let mut wrong = Vec::new();
    let mut sensitive = 0;
    for Case { text, detect, seed0, by_seed } in &cases {
        sensitive += usize::from(by_seed.is_some());
        let found = language::candidates(text, language::SEED).map(|candidates| {
            candidates.into_iter().map(|found| (found.language.to_owned(), found.probability)).collect::<Vec<_>>()
        });
        if found != *seed0 || language::detect(text) != detect.as_deref() {
            wrong.push(format!("{text:?}: {found:?} here, {seed0:?} officially"));
        }
        // Where the official answer is the same with every seed, so is ours.
        for seed in 0..9 {
            let expected = by_seed.as_ref().map(|by_seed| by_seed[seed].as_str()).or(detect.as_deref());
            let candidates = language::candidates(text, seed as u64);
            let found =
                candidates.map(|candidates| candidates.first().map_or(language::UNKNOWN, |first| first.language));
            if found != expected {
                wrong.push(format!("{text:?} with seed {seed}: {found:?} here, {expected:?} officially"));
            }
        }
    }
    println!("{} texts, {sensitive} with answers that depend on the seed", cases.len());
    assert!(wrong.is_empty(), "{} wrong answers\n{}", wrong.len(), wrong.join("\n"));
}
