//! Sentences and words against those of NLTK 3.9.1 in Python 3.11.
//!
//! The reference data is not part of the repository: `$ORPO_SHARED`, by default `../../shared`, says where it lies. Without
//! it these tests print that they are skipped.

use std::io::Read;
use std::path::Path;

use orpo_eval::ifeval::{sentences, words};
use serde::Deserialize;

/// The rows of a file; none, with a message, if there is no reference data.
fn rows<T: for<'de> Deserialize<'de>>(name: &str) -> Vec<T> {
    let shared = std::env::var("ORPO_SHARED").unwrap_or_else(|_| "../../shared".into());
    let directory = Path::new(&shared).join("eval/ifeval/components");
    if !directory.is_dir() {
        println!("skipped: no {}", directory.display());
        return Vec::new();
    }
    let mut text = String::new();
    let file = std::fs::File::open(directory.join(name)).unwrap();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    let rows: Vec<T> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(!rows.is_empty(), "{name} is empty");
    println!("{name}: {} texts", rows.len());
    rows
}

#[test]
fn sentences_of_nltk() {
    #[derive(Deserialize)]
    struct Row {
        text: String,
        n: usize,
        sentences: Vec<String>,
    }
    for row in rows::<Row>("punkt_sentences.jsonl.gz") {
        assert_eq!(sentences::split(&row.text), row.sentences, "{:?}", row.text);
        assert_eq!(sentences::count(&row.text), row.n, "{:?}", row.text);
    }
}

#[test]
fn words_of_nltk() {
    #[derive(Deserialize)]
    struct Row {
        text: String,
        tokens: Vec<String>,
    }
    for row in rows::<Row>("word_tokenize.jsonl.gz") {
        assert_eq!(words::tokenize(&row.text), row.tokens, "{:?}", row.text);
    }
}
