//! A model's directory written again: what stands beside the weights.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use support::{read_json, write_tokenizer};

const RECIPE: &str = "output_dir = \"run\"\n[model]\ntokenizer = \"tokenizer\"\n[model.init]\nhidden_size = 16\n\
                      intermediate_size = 16\nnum_hidden_layers = 1\nnum_attention_heads = 2\nnum_key_value_heads = 1\n\
                      max_position_embeddings = 32\n[data]\ntrain = \"train.jsonl\"\n[training]\nmax_steps = 1\n";

fn orpo_train(dir: &Path, args: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_orpo-train")).args(args).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn generation_ends_where_replies_did_and_no_file_of_the_tokenizer_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    write_tokenizer(&path("tokenizer"));
    fs::write(path("tokenizer/tokenizer.model"), "a vocabulary").unwrap();
    fs::write(path("train.jsonl"), "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n").unwrap();
    fs::write(path("recipe.toml"), RECIPE).unwrap();
    orpo_train(dir.path(), &["run", "recipe.toml"]);
    let model = path("run/model");
    assert_eq!(read_json(&model.join("generation_config.json")), json!({"bos_token_id": 256, "eos_token_id": 257}));

    // A base that never ends, and one that ends in something else, as transformers writes them.
    let mut config = read_json(&model.join("config.json"));
    config["eos_token_id"] = Value::Null;
    fs::write(model.join("config.json"), config.to_string()).unwrap();
    for (i, (stated, ends)) in [
        (json!({"use_cache": true}), json!(257)),
        (json!({"eos_token_id": null}), json!(257)),
        (json!({"eos_token_id": 9}), json!([9, 257])),
        (json!({"eos_token_id": [257, 9]}), json!([257, 9])),
    ]
    .into_iter()
    .enumerate()
    {
        fs::write(model.join("generation_config.json"), stated.to_string()).unwrap();
        let out = format!("out{i}");
        orpo_train(dir.path(), &["export", "run", "--out", &out]);
        let written = read_json(&path(&out).join("generation_config.json"));
        assert_eq!((&written["eos_token_id"], &written["use_cache"]), (&ends, &stated["use_cache"]), "{stated}");
        assert_eq!(read_json(&path(&out).join("config.json"))["eos_token_id"], 257);
        assert_eq!(fs::read_to_string(path(&out).join("tokenizer.model")).unwrap(), "a vocabulary");
    }
}
