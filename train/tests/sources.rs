//! A run on several weighted sources: how many steps it makes, what it says about its data, and what a resumed run must
//! have in common with it.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use orpo_train::recipe::Recipe;
use orpo_train::run::{DROPPED_FILE, MODEL_DIR, Outcome, run};
use serde_json::{Value, json};

const RECIPE: &str = r#"
output_dir = "run"
[model]
tokenizer = "tokenizer"
[model.init]
hidden_size = 8
intermediate_size = 16
num_hidden_layers = 1
num_attention_heads = 2
num_key_value_heads = 1
max_position_embeddings = 32
[data]
validation = "eval.json"
[[data.train]]
source = "many-*.jsonl"
weight = 0.5
[[data.train]]
source = "few.jsonl"
weight = 2.0
columns = { prompt = "q" }
[training]
batch_size = 2
save_steps = 2
max_steps = 4
learning_rate = 1e-3
"#;

fn write(dir: &Path) {
    fs::create_dir(dir.join("tokenizer")).unwrap();
    let words = ["<unk>", "</s>", "question", "good", "bad"];
    let vocab: serde_json::Map<String, Value> =
        words.iter().zip(0..).map(|(word, id)| (word.to_string(), json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}
    });
    fs::write(dir.join("tokenizer/tokenizer.json"), tokenizer.to_string()).unwrap();
    let config = json!({"eos_token": "</s>", "chat_template": "{% for m in messages %}{{ m.content }} {% endfor %}"});
    fs::write(dir.join("tokenizer/tokenizer_config.json"), config.to_string()).unwrap();
    let pair = |prompt: &str, rejected: &str| json!({prompt: "question", "chosen": "good", "rejected": rejected});
    let lines = |rows: &[Value]| rows.iter().map(|row| format!("{row}\n")).collect::<String>();
    fs::write(dir.join("many-1.jsonl"), lines(&vec![pair("prompt", " bad"); 4])).unwrap();
    fs::write(
        dir.join("many-2.jsonl"),
        lines(&[pair("prompt", " bad"), pair("prompt", "good"), pair("prompt", " bad")]),
    )
    .unwrap();
    fs::write(dir.join("few.jsonl"), lines(&[pair("q", " bad")])).unwrap();
    fs::write(dir.join("eval.json"), json!([pair("prompt", ""), pair("prompt", " bad")]).to_string()).unwrap();
    fs::write(dir.join("recipe.toml"), RECIPE).unwrap();
}

#[test]
fn weights_lineage_and_dropped_rows_of_a_run() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    let go = |resume: bool, overrides: &[&str]| {
        let overrides: Vec<String> = overrides.iter().map(|entry| entry.to_string()).collect();
        let recipe = Recipe::load(&dir.path().join("recipe.toml"), &overrides).unwrap();
        run(&recipe, resume, &AtomicBool::new(false)).map_err(|error| error.to_string())
    };
    let stopped = AtomicBool::new(true);
    let recipe = Recipe::load(&dir.path().join("recipe.toml"), &[]).unwrap();
    assert_eq!(run(&recipe, false, &stopped).unwrap(), Outcome::Interrupted { step: 1 });

    let weights = RECIPE.replace("weight = 2.0", "weight = 3.0");
    fs::write(dir.path().join("recipe.toml"), &weights).unwrap();
    assert!(go(true, &[]).unwrap_err().contains("weight of `data.train` has changed"));
    fs::write(dir.path().join("recipe.toml"), RECIPE).unwrap();
    assert_eq!(go(true, &[]).unwrap(), Outcome::Finished(dir.path().join("run").join(MODEL_DIR)));

    // An epoch has 2 + 1 of the first source's files and twice the only row of the second: three steps of two.
    let metrics = fs::read_to_string(dir.path().join("run/metrics.jsonl")).unwrap();
    let steps: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let third = steps.iter().find(|line| line["step"] == 3 && line.get("epoch").is_some()).unwrap();
    assert_eq!(third["epoch"], 1.0);

    let manifest = fs::read_to_string(dir.path().join("run/model/orpo_manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let data = manifest["data"].as_array().unwrap();
    let summary: Vec<Value> = data
        .iter()
        .map(|file| json!([file["split"], file["weight"], file["rows_used"], file["rows_dropped"]]))
        .collect();
    assert_eq!(
        summary,
        [
            json!(["train", 0.5, 4, {}]),
            json!(["train", 0.5, 2, {"chosen equals rejected": 1}]),
            json!(["train", 2.0, 1, {}]),
            json!(["validation", 1.0, 1, {"an empty response": 1}]),
        ]
    );
    assert!(data.iter().all(|file| file["sha256"].as_str().unwrap().len() == 64));
    let dropped = fs::read_to_string(dir.path().join("run").join(DROPPED_FILE)).unwrap();
    let dropped: Vec<Value> = dropped.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let named = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    assert_eq!(
        dropped,
        [
            json!({"source": named("many-2.jsonl"), "row": 2, "reason": "chosen equals rejected"}),
            json!({"source": named("eval.json"), "row": 1, "reason": "an empty response"}),
        ]
    );
}
