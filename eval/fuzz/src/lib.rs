//! What the fuzz targets have in common: arguments and texts out of bytes, and what must hold for every verdict.

use std::io::Write;

use orpo_eval::ifeval::data::Dataset;
use orpo_eval::ifeval::responses::Responses;
use orpo_eval::ifeval::{Example, ids};
use serde_json::{Map, Value, json};

/// Bytes that are used up from the front; where they end, zeros follow.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&first, rest)) => {
                self.0 = rest;
                first
            }
            None => 0,
        }
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[usize::from(self.next()) % choices.len()]
    }

    /// A short text, which may hold anything.
    fn text(&mut self) -> String {
        let length = usize::from(self.next() % 12).min(self.0.len());
        let (text, rest) = self.0.split_at(length);
        self.0 = rest;
        String::from_utf8_lossy(text).into_owned()
    }
}

/// Arguments of an instruction; some of them wrong, which the checker has to refuse rather than to stumble over.
fn arguments(id: &str, bytes: &mut Bytes<'_>) -> Value {
    let relation = bytes.pick(&["at least", "less than", "at least", "less than", "around"]);
    let count = bytes.next() % 8;
    match id {
        "change_case:capital_word_frequency" => json!({"capital_relation": relation, "capital_frequency": count}),
        "combination:repeat_prompt" => json!({"prompt_to_repeat": bytes.text()}),
        "detectable_content:number_placeholders" => json!({"num_placeholders": count}),
        "detectable_content:postscript" => {
            json!({"postscript_marker": if count < 6 { bytes.pick(&["P.S.", "P.P.S"]).into() } else { bytes.text() }})
        }
        "detectable_format:multiple_sections" => json!({"section_spliter": bytes.text(), "num_sections": count}),
        "detectable_format:number_bullet_lists" => json!({"num_bullets": count}),
        "detectable_format:number_highlighted_sections" => json!({"num_highlights": count}),
        "keywords:existence" => json!({"keywords": [bytes.text(), bytes.text()]}),
        "keywords:forbidden_words" => json!({"forbidden_words": [bytes.text(), bytes.text()]}),
        "keywords:frequency" => json!({"relation": relation, "keyword": bytes.text(), "frequency": count}),
        "keywords:letter_frequency" => {
            json!({"let_relation": relation, "letter": bytes.text(), "let_frequency": count})
        }
        "language:response_language" => json!({"language": bytes.pick(&["en", "de", "fr", "ja", "zh", "xx"])}),
        "length_constraints:nth_paragraph_first_word" => {
            json!({"num_paragraphs": count, "nth_paragraph": bytes.next() % 8, "first_word": bytes.text()})
        }
        "length_constraints:number_paragraphs" => json!({"num_paragraphs": count}),
        "length_constraints:number_sentences" => json!({"relation": relation, "num_sentences": count}),
        "length_constraints:number_words" => json!({"relation": relation, "num_words": count}),
        "startend:end_checker" => json!({"end_phrase": bytes.text()}),
        _ => json!({}),
    }
}

/// Scores a text by one instruction of a family, both out of the bytes.
///
/// # Panics
/// When a verdict depends on anything but its input, or what holds strictly does not hold loosely.
pub fn check_family(family: &str, data: &[u8]) {
    let mut bytes = Bytes(data);
    let of_family: Vec<&str> = ids().filter(|id| id.split(':').next() == Some(family)).collect();
    let id = bytes.pick(&of_family);
    let Value::Object(kwargs) = arguments(id, &mut bytes) else { unreachable!("arguments are an object") };
    let example = |kwargs: Map<String, Value>| Example {
        key: 1.into(),
        prompt: String::new(),
        instruction_id_list: vec![id.to_owned()],
        kwargs: vec![kwargs],
    };
    let Ok(scorer) = example(kwargs).scorer() else { return };
    let text = String::from_utf8_lossy(bytes.0);
    let score = scorer.score(&text);
    assert_eq!(score, scorer.score(&text), "{id}: two verdicts on {text:?}");
    assert!(!score.strict[0] || score.loose[0], "{id}: strict without loose on {text:?}");
    assert_eq!(score.strict[0], score.reasons[0].is_none(), "{id}: a reason exactly where it fails, on {text:?}");
}

/// A file with these bytes.
fn file(data: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("the temporary directory takes files");
    file.write_all(data).expect("the temporary directory takes files");
    file
}

/// Reads a data set; what is accepted can be scored.
///
/// # Panics
/// When the reader does, or an error does not name the file.
pub fn read_data(data: &[u8]) {
    let file = file(data);
    match Dataset::read(file.path()) {
        Ok(dataset) => {
            for (example, scorer) in &dataset.examples {
                assert_eq!(scorer.score("a").strict.len(), example.instruction_id_list.len());
            }
        }
        Err(error) => assert!(error.to_string().contains(&*file.path().to_string_lossy()), "{error}"),
    }
}

/// Reads responses to a small data set, or to the one that they bring.
///
/// # Panics
/// When the reader does, or an error does not name the file.
pub fn read_responses(data: &[u8]) {
    let file = file(data);
    let read = || {
        let responses = Responses::read(file.path())?;
        let dataset = responses.dataset()?.unwrap_or_else(Dataset::embedded);
        let outcomes = responses.outcomes(&dataset)?;
        assert_eq!(outcomes.len(), dataset.examples.len());
        Ok::<_, orpo_eval::jsonl::InputError>(())
    };
    if let Err(error) = read() {
        assert!(error.to_string().contains(&*file.path().to_string_lossy()), "{error}");
    }
}
