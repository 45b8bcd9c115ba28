//! Texts of a megabyte that make careless matching quadratic, each scored by all 25 types of instruction, strictly and
//! loosely.
//!
//!     cargo bench --workspace --bench ifeval_adversarial

#![allow(missing_docs, reason = "criterion's macro makes an undocumented function")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use orpo_eval::ifeval::Example;

/// What is repeated to fill a megabyte.
const PARTS: [(&str, &str); 20] = [
    ("opening brackets", "["),
    ("angle brackets", "<<"),
    ("braces", "{\"a\":["),
    ("asterisks", "*"),
    ("asterisks apart", "* "),
    ("dividers", "*** "),
    ("newlines", "\n"),
    ("blank lines", "\n \n"),
    ("digits", "7"),
    ("section titles", "Section 1 "),
    ("spaces", " "),
    ("hyphens", "-\n"),
    ("dots", "."),
    ("dots and brackets", ".)"),
    ("quotes", "\""),
    ("apostrophes", "'"),
    ("initials", "A.B. "),
    ("one long word", "a"),
    ("capitals", "NASA "),
    ("addresses", "a@b.c http://"),
];

/// An example with every type of instruction.
fn everything() -> Example {
    serde_json::from_str(
        r#"{"key": 1, "prompt": "p",
            "instruction_id_list": [
                "change_case:capital_word_frequency", "change_case:english_capital", "change_case:english_lowercase",
                "combination:repeat_prompt", "combination:two_responses",
                "detectable_content:number_placeholders", "detectable_content:postscript",
                "detectable_format:constrained_response", "detectable_format:json_format",
                "detectable_format:multiple_sections", "detectable_format:number_bullet_lists",
                "detectable_format:number_highlighted_sections", "detectable_format:title",
                "keywords:existence", "keywords:forbidden_words", "keywords:frequency", "keywords:letter_frequency",
                "language:response_language", "length_constraints:nth_paragraph_first_word",
                "length_constraints:number_paragraphs", "length_constraints:number_sentences",
                "length_constraints:number_words", "punctuation:no_comma", "startend:end_checker", "startend:quotation"
            ],
            "kwargs": [
                {"capital_relation": "at least", "capital_frequency": 1}, {}, {}, {"prompt_to_repeat": "p"}, {},
                {"num_placeholders": 1}, {"postscript_marker": "P.P.S"}, {}, {},
                {"section_spliter": "Section", "num_sections": 1}, {"num_bullets": 1}, {"num_highlights": 1}, {},
                {"keywords": ["aaab", "x"]}, {"forbidden_words": ["aaab", "x"]},
                {"relation": "at least", "keyword": "aaab", "frequency": 1},
                {"let_relation": "at least", "letter": "q", "let_frequency": 1}, {"language": "en"},
                {"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "x"}, {"num_paragraphs": 1},
                {"relation": "at least", "num_sentences": 1}, {"relation": "at least", "num_words": 1}, {},
                {"end_phrase": "x"}, {}
            ]}"#,
    )
    .expect("a valid example")
}

fn adversarial(criterion: &mut Criterion) {
    let example = everything();
    assert_eq!(example.instruction_id_list.len(), orpo_eval::ifeval::ids().count());
    let scorer = example.scorer().expect("valid instructions");
    let mut group = criterion.benchmark_group("ifeval, all instructions, 1 MB");
    group.sample_size(10).warm_up_time(Duration::from_millis(1)).measurement_time(Duration::from_millis(1));
    group.throughput(Throughput::Bytes(1_000_000));
    for (name, part) in PARTS {
        let text = part.repeat(1_000_000 / part.len());
        group.bench_function(name, |bencher| bencher.iter(|| scorer.score(black_box(&text))));
    }
    group.finish();
}

criterion_group!(benches, adversarial);
criterion_main!(benches);
