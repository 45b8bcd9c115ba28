//! Token ids, labels and cuts against what TRL 1.16 made of the same pairs, and the ORPO authors' way to score them.

mod support;

use std::path::{Path, PathBuf};

use orpo_chat::{ChatTokenizer, Message};
use orpo_model::Trained;
use orpo_train::data::{
    Boundary, Dropped, Example, Preference, Selection, Sequence, Text, TokeniseOptions, Tokeniser, collate,
    read_preferences,
};
use orpo_train::loss::NllTarget;
use orpo_train::step::{Objective, forward};
use serde_json::{Value, json};
use support::{batches, close, each_family, ids, load, read_json, shared};

/// Of a 32-bit forward pass, as the reference data states it.
const LOSS_TOLERANCE: f64 = 2e-5;

fn labels(sequence: &Sequence) -> Vec<i64> {
    let label = |(i, id): (usize, &u32)| if i < sequence.prompt_len { -100 } else { i64::from(*id) };
    sequence.ids.iter().enumerate().map(label).collect()
}

fn compare(chat: &ChatTokenizer, pairs: &Path, max_length: usize, rows: &Value) {
    let options = TokeniseOptions { max_length, boundary: Boundary::Trl, ..Default::default() };
    let tokeniser = Tokeniser::new(chat, options);
    let pairs = read_preferences(pairs, &Selection::default()).unwrap();
    assert!(pairs.dropped().is_empty());
    let pairs: Vec<_> = pairs.used().collect();
    let rows = rows.as_array().unwrap();
    assert!(!rows.is_empty() && rows.len() <= pairs.len());
    for (row, (line, pair)) in rows.iter().zip(pairs) {
        let empty = |side: &str| ids(&row[side]).iter().all(|label| *label == -100);
        match tokeniser.pair(line, pair).unwrap() {
            Ok(example) => {
                let sides = [("chosen", &example.chosen), ("rejected", example.rejected.as_ref().unwrap())];
                for (side, sequence) in sides {
                    let input: Vec<i64> = sequence.ids.iter().map(|id| i64::from(*id)).collect();
                    assert_eq!(input, ids(&row[format!("{side}_input_ids")]), "{side} of line {line}");
                    assert_eq!(labels(sequence), ids(&row[format!("{side}_labels")]), "{side} of line {line}");
                }
            }
            // The reference trains on pairs of which truncation leaves the same, from which nothing can be learnt.
            Err(Dropped::EqualWithinLength) => {
                assert_eq!(row["chosen_input_ids"], row["rejected_input_ids"], "line {line} was dropped");
            }
            // It goes on with an empty response, whose mean is 0/0.
            Err(_) => assert!(empty("chosen_labels") || empty("rejected_labels"), "line {line} was dropped"),
        }
    }
}

#[test]
fn rows_and_truncated_rows_of_every_family() {
    each_family(|family, dir| {
        let reference = read_json(&dir.join("tokenization.json"));
        let chat = ChatTokenizer::from_dir(&dir.join("model")).unwrap();
        compare(&chat, &dir.join("pairs.jsonl"), usize::MAX, &reference["rows"]);
        let replaced = (family == "qwen2").then(|| with_qwen2_pre_tokenizer(&dir.join("model")));
        let chat = replaced.as_ref().map_or(&chat, |(_, chat)| chat);
        for (max_length, rows) in reference["truncated"].as_object().unwrap() {
            compare(chat, &dir.join("pairs.jsonl"), max_length.parse().unwrap(), rows);
        }
    });
}

/// The tokenizer with which the reference made the truncated rows of qwen2. They were made from the directory, and
/// transformers 5 takes `AutoTokenizer` of a `model_type` qwen2 for its `Qwen2Tokenizer`, which puts that family's
/// normaliser and pre-tokeniser (one token per digit) in the place of those of `tokenizer.json`; the rows that are not
/// truncated were made with the file's own. So "17" is `Ġ 1 7` in the former and `Ġ1 7` in the latter.
fn with_qwen2_pre_tokenizer(model: &Path) -> (tempfile::TempDir, ChatTokenizer) {
    let dir = tempfile::tempdir().unwrap();
    for file in ["tokenizer_config.json", "special_tokens_map.json"] {
        std::fs::copy(model.join(file), dir.path().join(file)).unwrap();
    }
    let mut tokenizer = read_json(&model.join("tokenizer.json"));
    let words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    tokenizer["normalizer"] = json!({"type": "NFC"});
    tokenizer["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": words}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
    ]});
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let chat = ChatTokenizer::from_dir(dir.path()).unwrap();
    (dir, chat)
}

/// Whatever the tokenizer merges at the boundary, the trained prompt is the one that a server sends.
#[test]
fn the_trained_prompt_is_the_served_prompt_with_every_tokenizer() {
    let mut dirs: Vec<PathBuf> = Vec::new();
    for name in ["data/tokenizers", "data/models"] {
        let Some(root) = shared(name) else { return };
        let entries = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
        dirs.extend(entries.filter(|dir| dir.join("tokenizer.json").exists()));
    }
    dirs.sort();
    assert!(dirs.len() > 3, "{dirs:?}");
    let mut wrong = Vec::new();
    for dir in &dirs {
        for (header, end) in
            [("assistant: ", "\n"), ("Bot:", "\n"), ("<|assistant|>\n", "<|end|>\n"), ("### Response:\n\n", "\n\n")]
        {
            let template = format!(
                "{{% for m in messages %}}{{{{ {header:?} if m.role == 'assistant' else 'user: ' }}}}{{{{ m.content }}}}{{{{ {end:?} }}}}\
                 {{% endfor %}}{{% if add_generation_prompt %}}{{{{ {header:?} }}}}{{% endif %}}"
            );
            let chat = ChatTokenizer::from_dir(dir).unwrap().with_template(template).unwrap();
            let tokeniser = Tokeniser::new(&chat, TokeniseOptions::default());
            for reply in ["It rains.", " It rains.", "\nIt rains.", "é", "12", "<b>"] {
                let prompt = vec![Message::user("Weather in Oslo?")];
                let turn = |text: &str| Text::Chat(vec![Message::assistant(text)]);
                let pair = Preference::new(Text::Chat(prompt.clone()), turn(reply), turn("I do not know."));
                let example = tokeniser.pair(1, &pair).unwrap().unwrap();
                let trained = &example.chosen.ids[..example.chosen.prompt_len];
                if trained != chat.encode_prompt(&prompt).unwrap() {
                    wrong.push(format!("{}: {header:?} before {reply:?}", dir.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_authors_convention_of_every_family() {
    each_family(|_, dir| {
        let decoder = load(dir, Trained::Nothing);
        let chat = ChatTokenizer::from_dir(&dir.join("model")).unwrap();
        let forward_json = read_json(&dir.join("forward.json"));
        let reference = &forward_json["official_repository_convention"];
        let number = |name: &str, i: usize| reference[name][i].as_f64().unwrap();
        let examples: Vec<Example> = batches(dir)[0]
            .clone()
            .into_iter()
            .map(|example| example.in_authors_convention(chat.eos_id().unwrap(), usize::MAX))
            .collect();
        let score = |examples: &[Example], nll| {
            let batch = collate(&examples.iter().collect::<Vec<_>>());
            forward(&decoder, &batch, &Objective::Orpo { beta: 0.1, nll }).unwrap()
        };
        for (i, example) in examples.iter().enumerate() {
            let metrics = score(std::slice::from_ref(example), NllTarget::Authors);
            close("avg_logps_chosen", metrics.logps_chosen, number("avg_logps_chosen", i), LOSS_TOLERANCE);
            close("avg_logps_rejected", metrics.logps_rejected, number("avg_logps_rejected", i), LOSS_TOLERANCE);
            close("log_odds", metrics.log_odds_chosen, number("log_odds", i), LOSS_TOLERANCE);
        }
        for (nll, name) in [
            (NllTarget::Authors, "nll_prompt_and_response_without_eos"),
            (NllTarget::AuthorsResponse, "nll_response_without_eos"),
        ] {
            let metrics = score(&examples, nll);
            close(name, metrics.nll_loss, reference[name].as_f64().unwrap(), LOSS_TOLERANCE);
            close("or_loss", -metrics.log_odds_ratio, reference["or_loss"].as_f64().unwrap(), LOSS_TOLERANCE);
        }
    });
}
