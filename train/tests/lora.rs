//! Adapters through the real program: trained, interrupted, gone on from, merged, exported.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use orpo_model::adapter::{ADAPTER_FILE, LoraSetup};
use orpo_model::{Decoder, ModelConfig, PackedRows, Trained, WeightFiles};
use serde_json::{Value, json};
use support::{read_json, write_tokenizer};

/// A base model, pairs, and recipes on them.
struct Setting {
    dir: tempfile::TempDir,
}

impl Setting {
    fn new() -> Self {
        let setting = Self { dir: tempfile::tempdir().unwrap() };
        write_tokenizer(&setting.path("tokenizer"));
        let pair =
            |i: usize| json!({"prompt": format!("Say {i}: "), "chosen": "sun ".repeat(1 + i % 3), "rejected": "Rain"});
        let rows: String = (0..12).map(|i| format!("{}\n", pair(i))).collect();
        fs::write(setting.path("train.jsonl"), rows).unwrap();
        setting.recipe(
            "base",
            "tokenizer = \"tokenizer\"\n[model.init]\nhidden_size = 64\nintermediate_size = 128\nnum_hidden_layers = 2\n\
             num_attention_heads = 4\nnum_key_value_heads = 2\nmax_position_embeddings = 128\ninitializer_range = 0.1\n",
            "[training]\nmax_steps = 1\nbatch_size = 4\n",
        );
        setting.succeeds(&["run", "base.toml"]);
        setting
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn recipe(&self, name: &str, model: &str, rest: &str) {
        let text = format!("output_dir = \"{name}\"\n[model]\n{model}\n[data]\ntrain = \"train.jsonl\"\n{rest}");
        fs::write(self.path(&format!("{name}.toml")), text).unwrap();
    }

    fn orpo_train(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_orpo-train")).args(args).current_dir(self.dir.path()).output().unwrap()
    }

    #[track_caller]
    fn succeeds(&self, args: &[&str]) {
        let output = self.orpo_train(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    #[track_caller]
    fn fails(&self, args: &[&str], expected: &str) {
        let output = self.orpo_train(args);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(expected), "{message}");
    }
}

const LORA: &str = "[lora]\nr = 4\nlora_alpha = 8\nlora_dropout = 0.2\ntarget_modules = [\"q_proj\", \"up_proj\"]\n\
                    [training]\nmax_steps = 9\nbatch_size = 4\nlearning_rate = 1e-2\nsave_steps = 3\nsave_total_limit = 9\n";

fn logits(model: &Path, adapter: Option<&Path>) -> Vec<f32> {
    let (config, _) = ModelConfig::from_dir(model).unwrap();
    let setup = adapter.map(|dir| LoraSetup::from_dir(dir).unwrap());
    let trained = setup.as_ref().map_or(Trained::Nothing, Trained::Adapter);
    let decoder = Decoder::load(&config, &WeightFiles::open(model).unwrap(), trained).unwrap();
    decoder.logits(&PackedRows::single((60..90).collect())).unwrap().into_values()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn an_adapter_is_trained_resumed_merged_and_exported() {
    let setting = Setting::new();
    let base = setting.path("base/model");
    setting.recipe("lora", "path = \"base/model\"", LORA);
    setting.succeeds(&["run", "lora.toml"]);

    let adapter = setting.path("lora/model");
    let config = read_json(&adapter.join("adapter_config.json"));
    assert_eq!(config["target_modules"], json!(["q_proj", "up_proj"]));
    assert_eq!((config["r"].as_u64(), config["peft_type"].as_str()), (Some(4), Some("LORA")));
    assert!(!adapter.join("model.safetensors").exists() && adapter.join("tokenizer.json").exists());
    let tensors = candle_core::safetensors::load(adapter.join(ADAPTER_FILE), &candle_core::Device::Cpu).unwrap();
    assert_eq!(tensors.len(), 8);
    let b = &tensors["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"];
    assert_eq!(b.dims(), [128, 4]);
    assert!(b.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() > 0.0, "it was not trained");

    // From a checkpoint in the middle, dropout and all, to the same bytes.
    setting.recipe("again", "path = \"base/model\"", LORA);
    fs::create_dir_all(setting.path("again/checkpoints")).unwrap();
    let places = [setting.path("lora/checkpoints/step-000003"), setting.path("again/checkpoints")];
    assert!(Command::new("cp").arg("-r").args(places).status().unwrap().success());
    setting.succeeds(&["run", "again.toml", "--resume"]);
    let bytes = |run: &str| fs::read(setting.path(run).join("model").join(ADAPTER_FILE)).unwrap();
    assert_eq!(bytes("lora"), bytes("again"));

    // Merged, whole and in shards, it computes the same.
    setting.succeeds(&["export", "lora", "--out", "merged", "--merge"]);
    let with_adapter = logits(&base, Some(&adapter));
    assert!(largest_difference(&with_adapter, &logits(&setting.path("merged"), None)) < 1e-4);
    assert!(largest_difference(&with_adapter, &logits(&base, None)) > 1e-2);
    let shards = ["export", "lora", "--out", "shards", "--merge", "--dtype", "bf16", "--max-shard-size", "40000"];
    setting.succeeds(&shards);
    assert!(largest_difference(&with_adapter, &logits(&setting.path("shards"), None)) < 0.2);
    let index = read_json(&setting.path("shards/model.safetensors.index.json"));
    assert!(index["weight_map"].as_object().unwrap().len() == 20 && !setting.path("shards/model.safetensors").exists());
    assert_eq!(read_json(&setting.path("shards/config.json"))["torch_dtype"], "bfloat16");
    setting.succeeds(&["export", "lora", "--out", "adapter"]);
    assert_eq!(fs::read(setting.path("adapter").join(ADAPTER_FILE)).unwrap(), bytes("lora"));

    // The recipe can ask for the whole model, and another run can go on from the adapter.
    setting.recipe(
        "more",
        "path = \"base/model\"",
        "[lora]\nadapter = \"lora/model\"\n[training]\nmax_steps = 2\nbatch_size = 4\nlearning_rate = 1e-9\n[export]\nmerge = true\n",
    );
    setting.succeeds(&["run", "more.toml"]);
    assert!(largest_difference(&with_adapter, &logits(&setting.path("more/model"), None)) < 1e-3);
}

#[test]
fn adapters_of_other_programs() {
    let setting = Setting::new();
    setting.recipe("lora", "path = \"base/model\"", LORA);
    setting.succeeds(&["run", "lora.toml"]);
    let with_adapter = logits(&setting.path("base/model"), Some(&setting.path("lora/model")));
    let foreign = setting.path("foreign");
    fs::create_dir(&foreign).unwrap();
    let mut config = read_json(&setting.path("lora/model/adapter_config.json"));
    fs::copy(setting.path("lora/model").join(ADAPTER_FILE), foreign.join(ADAPTER_FILE)).unwrap();
    let mut write = |targets: Value| {
        config["target_modules"] = targets;
        fs::write(foreign.join("adapter_config.json"), config.to_string()).unwrap();
    };
    // PEFT writes a pattern as it was given, whole names where there are few, and no tokenizer.
    let whole = ["q_proj", "up_proj"].map(|name| {
        let part = if name == "q_proj" { "self_attn" } else { "mlp" };
        [0, 1].map(|layer| format!("model.layers.{layer}.{part}.{name}"))
    });
    for (out, targets) in [("by_pattern", json!(r".*\.(q|up)_proj")), ("by_name", json!(whole.concat()))] {
        write(targets);
        setting.succeeds(&["export", "foreign", "--out", out, "--merge"]);
        assert!(largest_difference(&with_adapter, &logits(&setting.path(out), None)) < 1e-4, "{out}");
        assert!(setting.path(out).join("tokenizer.json").exists());
    }

    // What is not used must not be lost in silence.
    let mut tensors = candle_core::safetensors::load(foreign.join(ADAPTER_FILE), &candle_core::Device::Cpu).unwrap();
    for (side, shape) in [("A", [4, 64]), ("B", [259, 4])] {
        let matrix = candle_core::Tensor::zeros(&shape, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
        tensors.insert(format!("base_model.model.lm_head.lora_{side}.weight"), matrix);
    }
    candle_core::safetensors::save(&tensors, foreign.join(ADAPTER_FILE)).unwrap();
    setting.fails(&["export", "foreign", "--out", "x", "--merge"], "`lm_head`: it is not among `target_modules`");
    write(json!(["q_proj", "up_proj", "lm_head"]));
    setting
        .fails(&["export", "foreign", "--out", "x", "--merge"], "the adapter has a layer `lm_head`; this model takes");
}

#[test]
fn a_quantised_base_trains() {
    let setting = Setting::new();
    setting.recipe("q", "path = \"base/model\"", &LORA.replace("[lora]\n", "[lora]\nbase = \"q8_0\"\n"));
    setting.succeeds(&["run", "q.toml"]);
    setting.succeeds(&["export", "q", "--out", "merged", "--merge"]);
    // Rows of 64 numbers are no block of 256.
    setting.recipe("q4", "path = \"base/model\"", &LORA.replace("[lora]\n", "[lora]\nbase = \"q4_k\"\n"));
    setting.fails(&["run", "q4.toml"], "no multiple of 256");
}

#[test]
fn what_cannot_be_is_refused() {
    let setting = Setting::new();
    setting.fails(&["export", "base", "--out", "x", "--merge"], "no adapter to merge");
    setting.fails(&["export", "base", "--out", "base"], "exists already");
    setting.fails(&["export", "nothing", "--out", "x"], "config.json");
    setting.recipe("wrong", "path = \"base/model\"", &LORA.replace("\"q_proj\", \"up_proj\"", "\"fc1\""));
    setting.fails(&["run", "wrong.toml"], "called fc1");
    setting.recipe("both", "path = \"base/model\"", "[lora]\nadapter = \"base/model\"\nr = 3\n");
    setting.fails(&["run", "both.toml"], "`lora.r`");
    fs::create_dir(setting.path("moved")).unwrap();
    setting.recipe("lora", "path = \"base/model\"", LORA);
    setting.succeeds(&["run", "lora.toml"]);
    fs::rename(setting.path("base"), setting.path("moved/base")).unwrap();
    setting.fails(&["export", "lora", "--out", "x", "--merge"], "--base");
    setting.succeeds(&["export", "lora", "--out", "x", "--merge", "--base", "moved/base/model"]);
}
