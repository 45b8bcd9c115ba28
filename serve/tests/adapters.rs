//! Adapters merged into a base, and models chosen by their names.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Double, Server, says};
use half::{bf16, f16};
use orpo_model::adapter::Adapter;
use orpo_serve::checkpoint::Checkpoint;
use orpo_serve::load::merge;
use orpo_serve::served::Served;
use serde_json::{Value, json};

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f64>)>;

/// A safetensors file in double precision.
fn tensors(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let read = |(name, tensor): (&String, &Value)| {
        let at = |index: usize| tensor["data_offsets"][index].as_u64().unwrap() as usize + 8 + length;
        let bytes = &bytes[at(0)..at(1)];
        let halves = bytes.chunks(2).map(|pair| [pair[0], pair[1]]);
        let values = match tensor["dtype"].as_str().unwrap() {
            "F32" => bytes.chunks(4).map(|four| f64::from(f32::from_le_bytes(four.try_into().unwrap()))).collect(),
            "F16" => halves.map(|pair| f16::from_le_bytes(pair).to_f64()).collect(),
            _ => halves.map(|pair| bf16::from_le_bytes(pair).to_f64()).collect(),
        };
        let shape = tensor["shape"].as_array().unwrap().iter().map(|axis| axis.as_u64().unwrap() as usize).collect();
        (name.clone(), (shape, values))
    };
    header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__").map(read).collect()
}

fn write_tensors(path: &Path, dtype: &str, tensors: &[(&str, [usize; 2], Vec<f32>)]) {
    let (mut header, mut data) = (json!({}), Vec::new());
    for (name, shape, values) in tensors {
        let start = data.len();
        for value in values {
            match dtype {
                "F16" => data.extend(f16::from_f32(*value).to_le_bytes()),
                "BF16" => data.extend(bf16::from_f32(*value).to_le_bytes()),
                _ => data.extend(value.to_le_bytes()),
            }
        }
        header[name] = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
    }
    let header = header.to_string();
    std::fs::write(path, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()).unwrap();
}

/// A base of two shards with one layer each, `model.a` and `model.b`, and an adapter of rank 1 on `model.a`.
fn write_pair(dir: &Path, dtype: &str) -> (PathBuf, PathBuf) {
    let (base, adapter) = (dir.join("base"), dir.join("adapter"));
    for dir in [&base, &adapter] {
        std::fs::create_dir(dir).unwrap();
    }
    std::fs::write(base.join("config.json"), r#"{"tie_word_embeddings": false}"#).unwrap();
    std::fs::write(base.join("tokenizer.json"), r#"{"of": "base"}"#).unwrap();
    write_tensors(&base.join("1.safetensors"), dtype, &[("model.a.weight", [2, 3], vec![1., 2., 3., 4., 5., 6.])]);
    write_tensors(&base.join("2.safetensors"), dtype, &[("model.b.weight", [1, 2], vec![7., 8.])]);
    let index = json!({"weight_map": {"model.a.weight": "1.safetensors", "model.b.weight": "2.safetensors"}});
    std::fs::write(base.join("model.safetensors.index.json"), index.to_string()).unwrap();
    let config = json!({"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["a", "b", "c"]});
    std::fs::write(adapter.join("adapter_config.json"), config.to_string()).unwrap();
    write_adapter(&adapter, "model.a", [2, 3]);
    (base, adapter)
}

fn write_adapter(dir: &Path, layer: &str, [outputs, inputs]: [usize; 2]) {
    let name = |side: char| format!("base_model.model.{layer}.lora_{side}.weight");
    let a = (1..=inputs).map(|column| column as f32).collect();
    let b = (1..=outputs).map(|row| row as f32 * 10.0).collect();
    let tensors = [(&*name('A'), [1, inputs], a), (&*name('B'), [outputs, 1], b)];
    write_tensors(&dir.join("adapter_model.safetensors"), "F32", &tensors);
}

fn merged(base: &Path, adapter: &Path, into: &Path) -> Result<Checkpoint, String> {
    let adapter = Adapter::open(adapter).map_err(|error| error.to_string())?;
    merge(&Checkpoint::open(base).unwrap(), &adapter, into).map_err(|error| error.to_string())
}

#[test]
fn every_type_of_the_base_stays_and_only_the_shard_that_changes_is_written() {
    for dtype in ["F32", "F16", "BF16"] {
        let dir = tempfile::tempdir().unwrap();
        let (base, adapter) = write_pair(dir.path(), dtype);
        let checkpoint = merged(&base, &adapter, &dir.path().join("merged")).unwrap();
        // 2/1 * [10, 20]' [1, 2, 3] on top of 1..6
        let expected = vec![21., 42., 63., 44., 85., 126.];
        assert_eq!(tensors(&checkpoint.weights[0])["model.a.weight"], (vec![2, 3], expected), "{dtype}");
        let header = String::from_utf8_lossy(&std::fs::read(&checkpoint.weights[0]).unwrap()).into_owned();
        assert!(header.contains(&format!("\"{dtype}\"")));
        assert_eq!(checkpoint.weights[1].canonicalize().unwrap(), base.join("2.safetensors").canonicalize().unwrap());
        let tokenizer = || std::fs::read_to_string(checkpoint.dir.join("tokenizer.json")).unwrap();
        assert!(tokenizer().contains("base"));
    }
}

#[test]
fn the_tokenizer_is_the_adapter_s_where_it_has_one() {
    let dir = tempfile::tempdir().unwrap();
    let (base, adapter) = write_pair(dir.path(), "F32");
    std::fs::write(base.join("chat_template.jinja"), "base").unwrap();
    std::fs::write(adapter.join("tokenizer.json"), r#"{"of": "adapter"}"#).unwrap();
    let checkpoint = merged(&base, &adapter, &dir.path().join("merged")).unwrap();
    assert!(std::fs::read_to_string(checkpoint.dir.join("tokenizer.json")).unwrap().contains("adapter"));
    assert!(!checkpoint.dir.join("chat_template.jinja").exists());
}

#[test]
fn an_adapter_of_another_model_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (base, adapter) = write_pair(dir.path(), "F32");
    for (layer, shape, words) in [
        ("model.c", [2, 3], "no weight of a layer `model.c`"),
        ("model.a", [2, 4], "made for a weight of shape (2, 4)"),
        ("model.d", [2, 3], "not among `target_modules`"),
    ] {
        write_adapter(&adapter, layer, shape);
        let refused = merged(&base, &adapter, &dir.path().join("merged")).unwrap_err();
        assert!(refused.contains(words) && refused.contains("adapter`"), "{refused}");
        assert!(!dir.path().join("merged").exists());
    }
    std::fs::remove_file(adapter.join("adapter_model.safetensors")).unwrap();
    let refused = merged(&base, &adapter, &dir.path().join("merged")).unwrap_err();
    assert!(refused.contains("adapter_model.safetensors`: the file is missing"), "{refused}");
}

/// Adapters that PEFT wrote, against `W + alpha / r * B A` in double precision.
#[test]
fn peft_s_adapters_are_merged_to_single_precision() {
    let shared = std::env::var_os("ORPO_SHARED").map_or_else(|| PathBuf::from("../../shared"), PathBuf::from);
    let golden = shared.join("train/golden");
    if !golden.is_dir() {
        println!("skipped: no `{}`", golden.display());
        return;
    }
    for (model, which) in [
        ("llama", "adapter"),
        ("llama", "after_50_steps"),
        ("mistral", "adapter"),
        ("qwen2", "adapter"),
        ("phi", "adapter"),
        ("opt350", "adapter"),
    ] {
        let (base, adapter) = (golden.join(model).join("model"), golden.join(model).join("lora").join(which));
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = merged(&base, &adapter, &dir.path().join("merged")).unwrap();
        let config: Value =
            serde_json::from_slice(&std::fs::read(adapter.join("adapter_config.json")).unwrap()).unwrap();
        let scale = config["lora_alpha"].as_f64().unwrap() / config["r"].as_f64().unwrap();
        let mut expected = tensors(&base.join("model.safetensors"));
        let lora = tensors(&adapter.join("adapter_model.safetensors"));
        for (name, (a_shape, a)) in lora.iter().filter(|(name, _)| name.ends_with("lora_A.weight")) {
            let (b_shape, b) = &lora[&name.replace("lora_A", "lora_B")];
            let module = name.trim_start_matches("base_model.model.").trim_end_matches(".lora_A.weight");
            let (_, weight) = expected.get_mut(&format!("{module}.weight")).unwrap();
            let (rank, inputs) = (a_shape[0], a_shape[1]);
            for (row, column) in (0..b_shape[0]).flat_map(|row| (0..inputs).map(move |column| (row, column))) {
                let product: f64 = (0..rank).map(|k| b[row * rank + k] * a[k * inputs + column]).sum();
                weight[row * inputs + column] += scale * product;
            }
        }
        let found = tensors(&checkpoint.weights[0]);
        assert!(found.keys().eq(expected.keys()));
        let mut worst = 0.0_f64;
        for (name, (shape, values)) in &found {
            assert_eq!(shape, &expected[name].0);
            let pairs = values.iter().zip(&expected[name].1);
            worst = pairs.map(|(found, expected)| (found - expected).abs()).fold(worst, f64::max);
        }
        println!("{model}/{which}: largest difference {worst:.1e}");
        assert!(worst < 1e-6, "{model}/{which}: {worst}");
    }
}

#[tokio::test]
async fn models_are_chosen_and_listed_by_their_names() {
    let served = |name: &str, reply: &str| Served::new(name, Arc::new(Double::new(says(reply))), common::tokenizer());
    let mut base = served("base", "from the base");
    base.aliases.push("house-model".into());
    let mut tuned = served("tuned", "from the adapter");
    tuned.parent = Some("base".into());
    let (server, state) = Server::empty(common::limits()).await;
    state.serve_all(vec![base, tuned]);

    let models: Value =
        server.client.get(format!("{}/v1/models", server.url)).send().await.unwrap().json().await.unwrap();
    let cards = models["data"].as_array().unwrap().iter();
    let cards: Vec<Value> = cards.map(|card| json!([card["id"], card["root"], card["parent"]])).collect();
    assert_eq!(
        cards,
        [json!(["base", "base", null]), json!(["house-model", "base", null]), json!(["tuned", "base", "base"])]
    );
    for (asked, answers, text) in [
        ("base", "base", "from the base"),
        ("house-model", "base", "from the base"),
        ("tuned", "tuned", "from the adapter"),
    ] {
        let (status, reply) = server.chat(json!({ "model": asked })).await;
        assert_eq!(status, 200);
        assert_eq!(reply["model"], answers);
        assert_eq!(reply["choices"][0]["message"]["content"], text);
    }
    let (status, reply) = server.chat(json!({"model": "other"})).await;
    assert_eq!((status, &reply["error"]["code"]), (404, &json!("model_not_found")));
    let message = reply["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("`base`") && message.contains("`house-model`") && message.contains("`tuned`"),
        "{message}"
    );
}
