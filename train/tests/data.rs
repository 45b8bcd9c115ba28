//! Every layout of the shared data gives the canonical pairs, and every file found in the wild loads, with the rows that
//! cannot be used counted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use orpo_chat::Message;
use orpo_train::data::{Dropped, FileRows, Preference, Selection, Text, read_preferences};
use serde_json::Value;

fn shared(path: &str) -> Option<PathBuf> {
    let root = std::env::var("ORPO_SHARED").unwrap_or_else(|_| "../../shared".into());
    let path = Path::new(&root).join("data/preference").join(path);
    if !path.exists() {
        eprintln!("skipped: no `{}`", path.display());
        return None;
    }
    Some(path)
}

fn read(path: &Path) -> FileRows<Preference> {
    read_preferences(path, &Selection::default()).unwrap()
}

/// The canonical pairs of these kinds.
fn canonical(dir: &Path, kinds: &[&str]) -> Vec<Preference> {
    let text = std::fs::read_to_string(dir.join("canonical.jsonl")).unwrap();
    let turns = |value: &Value| Text::Chat(serde_json::from_value::<Vec<Message>>(value.clone()).unwrap());
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|row| kinds.contains(&row["kind"].as_str().unwrap()))
        .map(|row| Preference::new(turns(&row["prompt"]), turns(&row["chosen"]), turns(&row["rejected"])))
        .collect()
}

/// The text of the last turn.
fn last(text: &Text) -> &str {
    let Text::Chat(turns) = text else { panic!("{text:?}") };
    &turns.last().unwrap().content
}

const ALL: &[&str] = &["single", "system", "multi"];

#[test]
fn conversational_layouts_give_the_canonical_pairs() {
    let Some(dir) = shared("formats") else { return };
    for (file, layout, kinds) in [
        ("trl_conversational_explicit.jsonl", "trl_conversational_explicit", ALL),
        ("trl_conversational_explicit.snappy.parquet", "trl_conversational_explicit", ALL),
        ("trl_conversational_implicit.jsonl", "trl_conversational_implicit", ALL),
        ("ultrafeedback_binarized.jsonl", "ultrafeedback_binarized", ALL),
        ("ultrafeedback_binarized.zstd.parquet", "ultrafeedback_binarized", ALL),
        ("sharegpt_ranking.json", "sharegpt_ranking", ALL),
        ("openai_preference.jsonl", "openai_preference", ALL),
        ("alpaca_ranking.json", "alpaca_ranking", &["single", "system"]),
        ("orca_dpo_pairs.jsonl", "orca_dpo_pairs", &["single", "system"]),
        ("hh_transcript.jsonl", "hh_transcript", &["single", "multi"]),
        ("hh_transcript.jsonl.gz", "hh_transcript", &["single", "multi"]),
    ] {
        let rows = read(&dir.join(file));
        assert_eq!(rows.layout, layout, "{file}");
        assert!(rows.dropped().is_empty(), "{file}");
        let expected = canonical(&dir, kinds);
        let pairs: Vec<Preference> = rows.used().map(|(_, pair)| pair.clone()).collect();
        assert_eq!(pairs.len(), expected.len(), "{file}");
        for (index, (pair, expected)) in pairs.iter().zip(&expected).enumerate() {
            assert_eq!(pair, expected, "{file} pair {index}");
        }
    }
}

#[test]
fn standard_layouts_give_the_canonical_texts() {
    let Some(dir) = shared("formats") else { return };
    let expected = canonical(&dir, &["single"]);
    for (file, layout) in [
        ("trl_standard_explicit.jsonl", "trl_standard_explicit"),
        ("trl_standard_explicit.plain.parquet", "trl_standard_explicit"),
    ] {
        let rows = read(&dir.join(file));
        assert_eq!((rows.layout, rows.rows.len()), (layout, expected.len()), "{file}");
        for ((_, pair), expected) in rows.used().zip(&expected) {
            let plain = |text: &Text| Text::Plain(last(text).into());
            assert_eq!(pair.prompt, plain(&expected.prompt), "{file}");
            assert_eq!(
                (&pair.chosen, &pair.rejected),
                (&plain(&expected.chosen), &plain(&expected.rejected)),
                "{file}"
            );
        }
    }
    // The prompt is not marked: it is the common beginning, which may reach into the responses.
    let rows = read(&dir.join("trl_standard_implicit.jsonl"));
    assert_eq!((rows.layout, rows.used().count()), ("trl_standard_implicit", expected.len()));
    for ((_, pair), expected) in rows.used().zip(&expected) {
        let (Text::Plain(prompt), Text::Plain(chosen), Text::Plain(rejected)) =
            (&pair.prompt, &pair.chosen, &pair.rejected)
        else {
            panic!("{pair:?}")
        };
        let written = format!("{}\n", last(&expected.prompt));
        assert!(prompt.starts_with(&written), "{prompt}");
        assert_eq!(format!("{prompt}{chosen}"), format!("{written}{}", last(&expected.chosen)));
        assert_eq!(format!("{prompt}{rejected}"), format!("{written}{}", last(&expected.rejected)));
        assert_ne!(chosen.chars().find(|c| *c != ' '), rejected.chars().find(|c| *c != ' '));
    }
}

#[test]
fn files_found_in_the_wild_load() {
    let Some(dir) = shared("wild") else { return };
    use Dropped::{EmptySide, EqualSides, PromptsDiffer};
    let none: &[(Dropped, &[usize])] = &[];
    for (file, layout, unit, used, with_tools, dropped) in [
        ("llama-factory/dpo_en_demo.json", "sharegpt_ranking", "row", 300, 0, none),
        ("llama-factory/dpo_zh_demo.json", "sharegpt_ranking", "row", 300, 0, none),
        ("llama-factory/v1_dpo_demo.jsonl", "llama_factory_v1", "line", 10, 0, none),
        (
            "hh-rlhf/harmless-base-test.jsonl.gz",
            "hh_transcript",
            "line",
            2303,
            0,
            &[(EmptySide, &[87, 517, 926, 1104]), (PromptsDiffer, &[1255, 1689, 1951, 1953, 2037])],
        ),
        (
            "ultrafeedback/train_clean.jsonl",
            "trl_standard_explicit",
            "line",
            994,
            0,
            &[(EqualSides, &[307, 656, 911, 998]), (EmptySide, &[479, 834])],
        ),
        ("ultrafeedback/eval_clean.jsonl", "trl_standard_explicit", "line", 199, 0, &[(EqualSides, &[44])]),
        ("torchtune/hh_rlhf_tiny.json", "trl_conversational_implicit", "row", 1, 0, none),
        ("torchtune/stack_exchange_paired_tiny.json", "stack_exchange_paired", "row", 25, 0, none),
        ("medicalgpt/toolcall_dpo_zh_demo.jsonl", "sharegpt_ranking", "line", 11, 11, none),
        ("alignment-mini-lab/dpo_train.jsonl", "trl_standard_explicit", "line", 242, 0, none),
        ("alignment-mini-lab/dpo_eval.jsonl", "trl_standard_explicit", "line", 30, 0, none),
    ] {
        let rows = read(&dir.join(file));
        assert_eq!((rows.layout, rows.unit, rows.noticed.with_tools), (layout, unit, with_tools), "{file}");
        let dropped = dropped.iter().map(|(reason, rows)| (*reason, rows.to_vec())).collect::<BTreeMap<_, _>>();
        assert_eq!(rows.dropped(), dropped, "{file}");
        assert_eq!(rows.used().count(), used, "{file}");
    }
}

/// Files in layouts of other objectives give the pairs that are in them, or are refused with what they are.
#[test]
fn files_of_other_objectives_load_or_are_refused_in_words() {
    let root = std::env::var("ORPO_SHARED").unwrap_or_else(|_| "../../shared".into());
    let dir = Path::new(&root).join("train/golden/data");
    if !dir.exists() {
        eprintln!("skipped: no `{}`", dir.display());
        return;
    }
    for (file, layout, used) in [
        ("margin.jsonl", "trl_standard_explicit", 5),
        ("margin_and_scores.jsonl", "trl_standard_explicit", 5),
        ("scored_ultrafeedback_binarized.jsonl", "ultrafeedback_binarized", 5),
        ("scored_ratings.jsonl", "ultrafeedback_binarized", 4),
        ("scored_underscore_ratings.jsonl", "trl_standard_explicit", 4),
    ] {
        let rows = read(&dir.join(file));
        assert_eq!((rows.layout, rows.used().count()), (layout, used), "{file}");
        assert!(!rows.noticed.unused.is_empty(), "{file}");
    }
    for (file, words) in [
        ("kto_standard.jsonl", "unpaired feedback"),
        ("kto_conversational.jsonl", "unpaired feedback"),
        ("kto_messages.jsonl", "unpaired feedback"),
        ("kto_bad.jsonl", "unpaired feedback"),
        ("ultrafeedback_raw.jsonl", "several responses per prompt, in `completions`"),
        ("ultrainteract_pair.jsonl", "`trajectory` looks like a part of the prompt"),
        ("alma_r.jsonl", "its layout is not known (its fields are `translation`)"),
        ("cola.jsonl", "its layout is not known (its fields are `sentence`, `label`, `idx`)"),
        ("cola.tsv", "its layout is not known"),
        ("mnli.jsonl", "its layout is not known"),
    ] {
        let error = read_preferences(&dir.join(file), &Selection::default()).unwrap_err().to_string();
        assert!(error.contains(words), "{file}: {error}");
    }
}

#[test]
fn turns_of_tools_keep_their_roles() {
    let Some(path) = shared("wild/medicalgpt/toolcall_dpo_zh_demo.jsonl") else { return };
    let rows = read(&path);
    let roles = |text: &Text| -> Vec<String> {
        let Text::Chat(turns) = text else { panic!("{text:?}") };
        turns.iter().map(|turn| turn.role.clone()).collect()
    };
    let (_, pair) = rows.used().nth(1).unwrap();
    assert_eq!(roles(&pair.prompt), ["user", "assistant", "tool"]);
    assert_eq!(roles(&pair.chosen), ["assistant"]);
    // Its functions come as JSON text and are given to the template as a server is given them.
    assert!(rows.used().all(|(_, pair)| pair.tools[0]["function"]["name"].is_string()));
}

#[test]
fn unpaired_feedback_is_refused_with_an_explanation() {
    let Some(path) = shared("wild/llama-factory/kto_en_demo.json") else { return };
    let error = read_preferences(&path, &Selection::default()).unwrap_err().to_string();
    for part in ["kto_en_demo.json", "unpaired", "KTO", "`prompt`, `chosen` and `rejected`"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn damaged_parquet_is_an_error_and_no_panic() {
    let Some(path) = shared("formats/ultrafeedback_binarized.zstd.parquet") else { return };
    let good = std::fs::read(path).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let step = good.len() / 97;
    for at in (4..good.len()).step_by(step) {
        std::fs::write(file.path(), &good[..at]).unwrap();
        let error = read_preferences(file.path(), &Selection::default()).unwrap_err().to_string();
        assert!(error.contains("parquet"), "{error}");
        let mut flipped = good.clone();
        flipped[at] ^= 0x55;
        std::fs::write(file.path(), &flipped).unwrap();
        // A bit of a text may go unnoticed.
        let _ = read_preferences(file.path(), &Selection::default());
    }
}
