//! `orpo-train check` against what the runs that it looks at then do.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use orpo_chat::ChatTokenizer;
use orpo_train::checkpoint::{ModelFiles, WeightFormat, write_model};
use orpo_train::model::{Decoder, ModelConfig};
use serde_json::{Value, json};
use support::write_tokenizer;

/// A directory with models, pairs and recipes.
struct Setting {
    dir: tempfile::TempDir,
}

impl Setting {
    fn new() -> Self {
        let setting = Self { dir: tempfile::tempdir().unwrap() };
        write_tokenizer(&setting.path("tokenizer"));
        setting
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// A model with random weights; its vocabulary may be larger than the tokenizer's.
    fn model(&self, name: &str, config: &Value) {
        let decoder = Decoder::random(&ModelConfig::from_json(config).unwrap(), 1).unwrap();
        let tokenizer_dir = self.path("tokenizer");
        let chat = ChatTokenizer::from_dir(&tokenizer_dir).unwrap();
        let files = ModelFiles { config: config.clone(), tokenizer_dir, chat, base_name: String::new() };
        fs::create_dir(self.path(name)).unwrap();
        write_model(&self.path(name), &decoder, &files, WeightFormat::default()).unwrap();
    }

    /// Pairs of token ids, each of so many prompt, chosen and rejected tokens.
    fn pairs(&self, name: &str, lengths: &[(usize, usize, usize)]) {
        let ids = |count: usize, seed: usize| (0..count).map(|i| (seed + i * 7919) % 250).collect::<Vec<_>>();
        let row = |(i, (prompt, chosen, rejected)): (usize, &(usize, usize, usize))| {
            let pair = json!({"prompt_input_ids": ids(*prompt, i), "chosen_input_ids": ids(chosen - 1, i + 1),
                              "rejected_input_ids": ids(rejected - 1, i + 2)});
            format!("{pair}\n")
        };
        self.write(name, &lengths.iter().enumerate().map(row).collect::<String>());
    }

    fn orpo_train(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_orpo-train")).args(args).current_dir(self.dir.path()).output().unwrap()
    }

    #[track_caller]
    fn succeeds(&self, args: &[&str]) -> String {
        let output = self.orpo_train(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn refuses(&self, args: &[&str], expected: &str) {
        let output = self.orpo_train(args);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.starts_with("error: ") && message.contains(expected), "{message}");
        assert!(output.stdout.is_empty());
    }

    fn check(&self, recipe: &str) -> Value {
        serde_json::from_str(&self.succeeds(&["check", recipe, "--json"])).unwrap()
    }
}

fn last_line(run: &Path) -> Value {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

fn llama(hidden: usize, layers: usize, vocab: usize) -> Value {
    json!({"model_type": "llama", "hidden_size": hidden, "intermediate_size": hidden * 11 / 4 / 32 * 32,
           "num_hidden_layers": layers, "num_attention_heads": hidden / 64, "num_key_value_heads": hidden / 128,
           "vocab_size": vocab, "max_position_embeddings": 2048, "tie_word_embeddings": true})
}

/// Predicted and measured peak, as the run and the check see them.
fn peaks(setting: &Setting, name: &str, model: &str, rest: &str) -> (Value, f64, f64) {
    let recipe = format!("{name}.toml");
    let text = format!("output_dir = \"{name}\"\n[model]\npath = \"{model}\"\n[data]\ntrain = \"pairs.jsonl\"\n{rest}");
    setting.write(&recipe, &text);
    let report = setting.check(&recipe);
    assert!(!setting.path(name).exists(), "a check writes nothing");
    setting.succeeds(&["run", &recipe]);
    let line = last_line(&setting.path(name));
    let predicted = ["weights", "gradients", "moments", "activations", "logits", "other"]
        .map(|part| report["memory"][part].as_f64().unwrap());
    (report, predicted.iter().sum(), line["peak_rss_bytes"].as_f64().unwrap())
}

#[test]
fn memory_is_predicted() {
    let setting = Setting::new();
    setting.model("llama", &llama(512, 6, 8192));
    setting.pairs("pairs.jsonl", &[(128, 192, 192); 8]);
    let training = "[training]\nbatch_size = 2\nmax_steps = 3\ntensorboard = false\n";
    let checkpointing = format!("{training}gradient_checkpointing = true\n");
    let lora = format!("[lora]\nr = 8\n{training}");
    let qlora = format!("[lora]\nr = 8\nbase = \"q8_0\"\n{checkpointing}");
    let mut wrong = Vec::new();
    for (name, rest) in [("full", training), ("checkpointing", &checkpointing), ("lora", &lora), ("qlora", &qlora)] {
        let (report, predicted, measured) = peaks(&setting, name, "llama", rest);
        let ratio = predicted / measured;
        println!(
            "{name}: {:.0} MB predicted, {:.0} measured, {ratio:.3}: {} {}",
            predicted / 1e6,
            measured / 1e6,
            report["memory"],
            report["time"]
        );
        if !(0.85..=1.15).contains(&ratio) {
            wrong.push(format!("{name}: {ratio:.3}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
