//! `orpo-train score` against what runs say of themselves.

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use candle_core::Device;
use serde_json::{Value, json};
use support::{read_json, write_tokenizer};

struct Setting {
    dir: tempfile::TempDir,
}

const BASE: &str = "output_dir = \"base\"\n[model]\ntokenizer = \"tokenizer\"\n[model.init]\nhidden_size = 16\n\
                    intermediate_size = 32\nnum_hidden_layers = 1\nnum_attention_heads = 2\nnum_key_value_heads = 1\n\
                    max_position_embeddings = 64\n[data]\ntrain = \"train.jsonl\"\ncolumns = { prompt = \"q\" }\n\
                    max_length = 48\n[training]\nmax_steps = 1\n";

/// A recipe that reads its data in its own way, and evaluates.
fn recipe(output_dir: &str, training: &str) -> String {
    format!(
        "output_dir = \"{output_dir}\"\n[model]\npath = \"base/model\"\n[data]\ntrain = \"train.jsonl\"\n\
         validation = \"validation.jsonl\"\ncolumns = {{ prompt = \"q\" }}\nmax_length = 24\nboundary = \"trl\"\n\
         truncation = \"keep_end\"\nmax_prompt_length = 8\n[training]\nmax_steps = 3\nlearning_rate = 1e-2\n\
         batch_size = 2\nbeta = 0.7\n{training}"
    )
}

impl Setting {
    fn new() -> Self {
        let setting = Self { dir: tempfile::tempdir().unwrap() };
        write_tokenizer(&setting.path("tokenizer"));
        let pair = |i: usize| {
            let (chosen, rejected) = ("sun ".repeat(1 + i % 7), "Rain ".repeat(1 + i % 5));
            format!("{}\n", json!({"q": format!("Say {i} words: "), "chosen": chosen, "rejected": rejected}))
        };
        setting.write("train.jsonl", &(0..9).map(pair).collect::<String>());
        setting.write("validation.jsonl", &(9..14).map(pair).collect::<String>());
        setting.write("base.toml", BASE);
        setting.succeeds(&["run", "base.toml"]);
        setting
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn orpo_train(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orpo-train"));
        command.env_remove("RUST_BACKTRACE");
        command.args(args).current_dir(self.dir.path()).output().unwrap()
    }

    #[track_caller]
    fn succeeds(&self, args: &[&str]) -> String {
        let output = self.orpo_train(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn scores(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.succeeds(&[&["score"], args].concat())).unwrap()
    }

    /// Nothing is printed but an error with all `words`.
    #[track_caller]
    fn refuses(&self, args: &[&str], words: &[&str]) {
        let output = self.orpo_train(&[&["score"], args].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(output.stdout.is_empty());
        let error = &stderr[stderr.find("error: ").unwrap()..];
        assert_eq!(error.trim_end().lines().count(), 1, "{error}");
        for word in words {
            assert!(error.contains(word), "no `{word}` in {error}");
        }
    }

    /// The last evaluation of a run.
    fn evaluation(&self, run: &str) -> Value {
        let text = fs::read_to_string(self.path(run).join("metrics.jsonl")).unwrap();
        let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.rfind(|line| line.get("eval_loss").is_some()).unwrap()
    }

    /// Every metric of the run's last evaluation is that of the score.
    #[track_caller]
    fn same_as_the_run(&self, scores: &Value, run: &str, tolerance: f64) {
        let mut compared = 0;
        for (name, value) in self.evaluation(run).as_object().unwrap() {
            if let Some(name) = name.strip_prefix("eval_") {
                let (got, want) = (scores[name].as_f64().unwrap(), value.as_f64().unwrap());
                assert!((got - want).abs() <= tolerance, "{run}: {name} is {got}, and was {want}");
                compared += 1;
            }
        }
        assert!(compared >= 2, "{run}");
    }
}

#[test]
fn a_run_is_scored_with_its_own_loss() {
    let setting = Setting::new();
    for (name, training) in [
        ("orpo", "nll = \"response_tokens\"\n"),
        ("dpo", "objective = \"dpo\"\nloss_type = \"ipo\"\n"),
        ("simpo", "objective = \"simpo\"\nsimpo_gamma = 0.3\n"),
        ("lora", "[lora]\nr = 4\nlora_alpha = 64\n[export]\ndtype = \"f32\"\n"),
    ] {
        let file = format!("{name}.toml");
        setting.write(&file, &recipe(name, training));
        setting.succeeds(&["run", &file]);
        // From the model's manifest, and from the recipe for any directory.
        let scores = setting.scores(&["--model", name]);
        // A reference's log-probabilities are computed in batches, and here in others than in the run.
        setting.same_as_the_run(&scores, name, if name == "dpo" { 1e-4 } else { 0.0 });
        assert_eq!(scores["n"], 5, "{scores}");
        let model = format!("{name}/model");
        let with_recipe = ["--model", &model, "--recipe", &file, "--data", "validation.jsonl"];
        assert_eq!(setting.scores(&with_recipe), scores);
    }
    // Only the loss is another; pairs are compared by ORPO's whatever the model was trained with.
    let compared = setting.scores(&["--model", "dpo", "--objective", "orpo", "--set", "training.nll=response_tokens"]);
    assert_eq!(compared["objective"], "orpo");
    let base = setting.scores(&["--model", "base", "--recipe", "orpo.toml"]);
    assert!(base["log_odds_chosen"].is_f64() && compared["log_odds_chosen"].is_f64());
    assert_ne!(base["loss"], compared["loss"]);
    // Flags and overrides win.
    let beta = setting.scores(&["--model", "orpo", "--beta", "0.0"]);
    assert_eq!(beta["loss"], beta["nll_loss"]);
    let one = setting.scores(&["--model", "orpo", "--set", "training.batch_size=1", "--nll", "full"]);
    assert_ne!(one["nll_loss"], beta["nll_loss"]);
}

#[test]
fn an_adapter_is_scored_on_its_base() {
    let setting = Setting::new();
    setting.write("lora.toml", &recipe("lora", "[lora]\nr = 4\n"));
    setting.succeeds(&["run", "lora.toml"]);
    fs::rename(setting.path("base/model"), setting.path("elsewhere")).unwrap();
    setting.refuses(&["--model", "lora"], &["base model", "--base"]);
    let scores = setting.scores(&["--model", "lora", "--base", "elsewhere"]);
    setting.same_as_the_run(&scores, "lora", 0.0);

    // In 16 bits it is another file of the same adapter, half as long.
    setting.succeeds(&["export", "lora", "--out", "half", "--base", "elsewhere", "--dtype", "bf16"]);
    let tensors = |dir: &str| {
        candle_core::safetensors::load(setting.path(dir).join("adapter_model.safetensors"), &Device::Cpu).unwrap()
    };
    assert!(tensors("half").values().all(|tensor| tensor.dtype() == candle_core::DType::BF16));
    assert!(tensors("lora/model").values().all(|tensor| tensor.dtype() == candle_core::DType::F32));
    let half = setting.scores(&["--model", "half", "--base", "elsewhere"]);
    let (loss, exact) = (half["loss"].as_f64().unwrap(), scores["loss"].as_f64().unwrap());
    assert!((loss - exact).abs() < 1e-2 && loss != exact, "{loss} {exact}");
}

#[test]
fn documents_and_pairs_are_told_apart() {
    let setting = Setting::new();
    let documents = "{\"text\": \"sun sun\"}\n{\"text\": \"rain\"}\n";
    setting.write("documents.jsonl", documents);
    let sft = recipe("sft", "objective = \"sft\"\n").replace("\"train.jsonl\"", "\"documents.jsonl\"");
    let sft = sft.replace("\"validation.jsonl\"", "\"documents.jsonl\"").replace("columns = { prompt = \"q\" }\n", "");
    setting.write("sft.toml", &sft);
    setting.succeeds(&["run", "sft.toml"]);
    setting.same_as_the_run(&setting.scores(&["--model", "sft"]), "sft", 0.0);
    setting.write("pairs.jsonl", "{\"prompt\": \"q\", \"chosen\": \"a\", \"rejected\": \"b\"}\n");
    setting.refuses(&["--model", "sft", "--data", "pairs.jsonl"], &["pairs.jsonl", "--objective orpo"]);
    let pairs = setting.scores(&["--model", "sft", "--data", "pairs.jsonl", "--objective", "orpo"]);
    assert!(pairs["rewards/accuracies"].is_f64(), "{pairs}");
}

#[test]
fn a_model_that_is_not_finite_or_no_data_is_an_error() {
    let setting = Setting::new();
    let file = setting.path("base/model/model.safetensors");
    let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    let name = "model.layers.0.mlp.up_proj.weight";
    let mut values = tensors[name].to_vec2::<f32>().unwrap();
    values[3][5] = f32::NAN;
    tensors.insert(name.into(), candle_core::Tensor::new(values, &Device::Cpu).unwrap());
    fs::create_dir(setting.path("nan")).unwrap();
    for entry in fs::read_dir(setting.path("base/model")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), setting.path("nan").join(entry.file_name())).unwrap();
    }
    candle_core::safetensors::save(&tensors, setting.path("nan/model.safetensors")).unwrap();
    setting.refuses(&["--model", "nan", "--data", "validation.jsonl"], &["nan`", name, "not finite"]);
    setting.refuses(&["--model", "base"], &["no data to score", "--data", "data.validation"]);
    setting.write("empty.jsonl", "");
    setting.refuses(&["--model", "base", "--data", "empty.jsonl"], &["empty.jsonl", "no rows"]);
    setting.write("equal.jsonl", "{\"q\": \"q\", \"chosen\": \"a\", \"rejected\": \"a\"}\n");
    setting.refuses(&["--model", "base", "--data", "equal.jsonl"], &["no row can be used", "chosen equals rejected"]);
    for flag in ["--nll", "--objective"] {
        let output = setting.orpo_train(&["score", "--model", "base", "--data", "validation.jsonl", flag, "all"]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && stderr.contains(&format!("'all' for '{flag}")), "{stderr}");
    }
    setting.refuses(&["--model", "base", "--data", "validation.jsonl", "--beta", "-1"], &["training.beta"]);
    setting.refuses(&["--model", "nowhere", "--data", "validation.jsonl"], &["nowhere"]);
    assert_eq!(read_json(&setting.path("base/model/orpo_manifest.json"))["step"], 1);
}

#[test]
fn a_token_beyond_the_embedding_is_named_with_its_row() {
    let setting = Setting::new();
    // The tokenizer gets a token that the model has no row for.
    let path = setting.path("base/model/tokenizer.json");
    let mut tokenizer = read_json(&path);
    let mut token = tokenizer["added_tokens"][1].clone();
    (token["id"], token["content"]) = (json!(258), json!("<tool>"));
    tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
    fs::write(&path, tokenizer.to_string()).unwrap();
    let rows = fs::read_to_string(setting.path("train.jsonl")).unwrap();
    setting.write("train.jsonl", &(rows + "{\"q\": \"q\", \"chosen\": \"<tool>\", \"rejected\": \"b\"}\n"));
    setting.write("r.toml", &recipe("r", ""));
    for command in ["check", "run"] {
        let output = setting.orpo_train(&[command, "r.toml"]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{command}: {stderr}");
        // Where the tokenizer as a whole is refused, it is so for the same reason.
        assert!(stderr.contains("258"), "{command}: {stderr}");
    }
}
