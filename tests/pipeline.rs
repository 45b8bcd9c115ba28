//! The real program end to end on a tiny setting: real processes, real sockets, real files.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A directory with a byte-level tokenizer, pairs, documents, prompts, a base recipe and a pipeline.
struct Setting {
    dir: tempfile::TempDir,
}

const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content + eos_token }}\
                        {% else %}{{ '[' + m.content + ']' }}{% endif %}{% endfor %}";

impl Setting {
    fn new() -> Self {
        let setting = Self { dir: tempfile::tempdir().unwrap() };
        setting.write_tokenizer();
        let words = ["sun", "rain", "snow", "wind", "fog", "hail", "heat", "frost"];
        let pair = |word: &str| {
            let turn = |role: &str, content: String| json!([{"role": role, "content": content}]);
            json!({
                "prompt": turn("user", format!("Tell me of {word} in lowercase")),
                "chosen": turn("assistant", format!("the {word} is here")),
                "rejected": turn("assistant", format!("The {word}, is here")),
            })
        };
        let lines = |rows: Vec<Value>| rows.iter().map(|row| format!("{row}\n")).collect::<String>();
        setting.write("pairs.jsonl", &lines(words.iter().map(|word| pair(word)).collect()));
        setting.write("test.jsonl", &lines(vec![pair("cloud"), pair("storm")]));
        let document = |word: &&str| json!({"messages": [{"role": "user", "content": format!("What is {word}")}, {"role": "assistant", "content": format!("The {word}, is here")}]});
        setting.write("documents.jsonl", &lines(words.iter().map(document).collect()));
        let prompt = |(key, word): (usize, &&str)| json!({"key": key, "prompt": format!("Tell me of {word} in lowercase"), "instruction_id_list": ["change_case:english_lowercase"], "kwargs": [{}]});
        setting.write("prompts.jsonl", &lines(["cloud", "storm", "ice"].iter().enumerate().map(prompt).collect()));
        setting.write(
            "base.toml",
            "output_dir = \"base\"\n[model]\ntokenizer = \"tokenizer\"\n[model.init]\nhidden_size = 32\n\
             intermediate_size = 64\nnum_hidden_layers = 2\nnum_attention_heads = 4\nnum_key_value_heads = 2\n\
             max_position_embeddings = 128\n[data]\ntrain = \"documents.jsonl\"\n[training]\nobjective = \"sft\"\n\
             batch_size = 4\nmax_steps = 4\nlearning_rate = 1e-3\n",
        );
        setting.write("pipeline.toml", &Self::pipeline(6));
        setting
    }

    fn pipeline(steps: usize) -> String {
        format!(
            "out = \"run\"\n[base]\nmodel = \"base/model\"\n[data]\ntrain = \"pairs.jsonl\"\ntest = \"test.jsonl\"\n\
             max_length = 128\n[training]\nbeta = 0.5\nbatch_size = 4\nmax_steps = {steps}\nlearning_rate = 1e-3\n\
             save_steps = 2\n[ifeval]\ndata = \"prompts.jsonl\"\nmax_tokens = 8\n"
        )
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write_tokenizer(&self) {
        let mut alphabet: Vec<char> =
            tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
        alphabet.sort_unstable();
        let vocab: serde_json::Map<String, Value> =
            alphabet.iter().enumerate().map(|(id, c)| (c.to_string(), json!(id))).collect();
        let special = |id: usize, content: &str| {
            json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false})
        };
        let byte_level =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
            "added_tokens": [special(256, "<s>"), special(257, "</s>")],
            "pre_tokenizer": byte_level, "decoder": byte_level,
            "model": {"type": "BPE", "vocab": vocab, "merges": []}
        });
        fs::create_dir(self.path("tokenizer")).unwrap();
        self.write("tokenizer/tokenizer.json", &tokenizer.to_string());
        let config = json!({"bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE,
                            "tokenizer_class": "PreTrainedTokenizerFast"});
        self.write("tokenizer/tokenizer_config.json", &config.to_string());
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orpo"));
        command.args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    fn orpo(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn succeed(&self, args: &[&str]) -> Output {
        let output = self.orpo(args);
        assert!(output.status.success(), "orpo {args:?}:\n{}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// The command must end with exit code 2 and one message that has all `words`.
    fn refuse(&self, args: &[&str], words: &[&str]) {
        let output = self.orpo(args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "orpo {args:?}:\n{stderr}");
        assert_eq!(stderr.matches("error:").count(), 1, "one message is enough:\n{stderr}");
        for word in words {
            assert!(stderr.contains(word), "orpo {args:?} does not say `{word}`:\n{stderr}");
        }
    }

    fn json(&self, name: &str) -> Value {
        let path = self.path(name);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_str(&text).unwrap()
    }

    fn metrics(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("run/orpo/metrics.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[test]
fn train_serve_evaluate_and_resume() {
    let setting = Setting::new();
    setting.succeed(&["train", "run", "base.toml"]);
    let output = setting.succeed(&["run", "pipeline.toml"]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.contains("IFEval instruction-level strict") && stdout.contains("preference accuracy"), "{stdout}");

    // Training: every step is logged, and the model directory has its lineage.
    let steps: Vec<u64> = setting.metrics().iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6]);
    let manifest = setting.json("run/orpo/model/orpo_manifest.json");
    assert_eq!(manifest["step"], 6);
    let recorded = manifest["files"].as_object().unwrap();
    for (name, hash) in recorded {
        let path = setting.path("run/orpo/model").join(name);
        assert_eq!(orpo_train::checkpoint::sha256_file(&path).unwrap(), hash.as_str().unwrap(), "{name}");
    }
    for name in
        ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
    {
        assert!(recorded.contains_key(name), "no {name}");
    }

    // Evaluation: both models answered every prompt.
    for model in ["base", "orpo"] {
        let results = setting.json(&format!("run/eval/{model}/results.json"));
        assert_eq!((&results["counts"]["total"], &results["counts"]["errors"]), (&json!(3), &json!(0)), "{results}");
        assert!(results["metrics"]["inst_strict"]["value"].is_f64());
        let samples = fs::read_to_string(setting.path(&format!("run/eval/{model}/samples.jsonl"))).unwrap();
        assert_eq!(samples.lines().count(), 3);
    }
    let summary = setting.json("run/summary.json");
    assert!(summary["orpo"]["pairs"]["mean_log_odds"].as_f64() > summary["base"]["pairs"]["mean_log_odds"].as_f64());

    // A second run is refused without --resume, and with it computes nothing again.
    setting.refuse(&["run", "pipeline.toml"], &["holds a run already", "--resume"]);
    let weights = fs::metadata(setting.path("run/orpo/model/model.safetensors")).unwrap().modified().unwrap();
    setting.succeed(&["run", "pipeline.toml", "--resume"]);
    let again = fs::metadata(setting.path("run/orpo/model/model.safetensors")).unwrap().modified().unwrap();
    assert_eq!(weights, again);
}

#[test]
fn a_stopped_run_goes_on_to_the_same_weights() {
    let setting = Setting::new();
    setting.succeed(&["train", "run", "base.toml"]);
    let recipe = "output_dir = \"OUT\"\n[model]\npath = \"base/model\"\n[data]\ntrain = \"pairs.jsonl\"\nmax_length = 128\n\
                  [training]\nbatch_size = 4\nmax_steps = 400\nlearning_rate = 1e-3\nsave_steps = 0\n";
    for name in ["whole", "stopped"] {
        setting.write(&format!("{name}.toml"), &recipe.replace("OUT", name));
    }
    setting.succeed(&["train", "run", "whole.toml"]);

    let mut child = setting.command(&["train", "run", "stopped.toml"]).stderr(Stdio::null()).spawn().unwrap();
    let log = setting.path("stopped/metrics.jsonl");
    let deadline = Instant::now() + Duration::from_secs(60);
    while fs::read_to_string(&log).unwrap_or_default().lines().count() < 20 {
        assert!(Instant::now() < deadline, "no step was made");
        std::thread::sleep(Duration::from_millis(5));
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!setting.path("stopped/model").exists());
    setting.refuse(&["train", "run", "stopped.toml"], &["--resume"]);
    setting.refuse(
        &["train", "run", "stopped.toml", "--resume", "--set", "training.beta=0.3"],
        &["another recipe", "output_dir"],
    );
    setting.succeed(&["train", "run", "stopped.toml", "--resume"]);
    let weights = |name: &str| fs::read(setting.path(name).join("model/model.safetensors")).unwrap();
    assert!(weights("whole") == weights("stopped"), "a resumed run ends in the same bits");
}

#[test]
fn interrupting_the_pipeline_ends_its_children_and_can_go_on() {
    let setting = Setting::new();
    setting.succeed(&["train", "run", "base.toml"]);
    setting.write("pipeline.toml", &Setting::pipeline(100_000));
    let mut child = setting.command(&["run", "pipeline.toml"]).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !setting.path("run/orpo/metrics.jsonl").exists() {
        assert!(Instant::now() < deadline, "training did not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    // The trainer has ended: the log does not grow any more, and its last state is saved.
    let length = || fs::metadata(setting.path("run/orpo/metrics.jsonl")).unwrap().len();
    let before = length();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(before, length());
    assert_eq!(fs::read_dir(setting.path("run/orpo/checkpoints")).unwrap().count(), 1);
}

#[test]
fn bad_input_gets_one_clear_message() {
    let setting = Setting::new();
    setting.succeed(&["train", "run", "base.toml"]);
    let recipe = |name: &str, model: &str, data: &str, more: &str| {
        let text =
            format!("output_dir = \"out-{name}\"\n[model]\npath = \"{model}\"\n[data]\ntrain = \"{data}\"\n{more}");
        setting.write(name, &text);
    };
    let untouched = |name: &str| assert!(!setting.path(&format!("out-{name}")).exists(), "{name} left something");

    recipe("no-model.toml", "nowhere", "pairs.jsonl", "");
    setting.refuse(&["train", "run", "no-model.toml"], &["nowhere", "config.json"]);
    untouched("no-model.toml");
    setting.refuse(&["serve", "--model", "nowhere"], &["nowhere"]);

    recipe("typo.toml", "base/model", "pairs.jsonl", "[training]\nlearning_rat = 1.0\n");
    setting.refuse(&["train", "run", "typo.toml"], &["typo.toml", "learning_rat", "line 7"]);
    untouched("typo.toml");
    setting.write("typo-pipeline.toml", &Setting::pipeline(1).replace("max_tokens", "max_token"));
    setting.refuse(&["run", "typo-pipeline.toml"], &["typo-pipeline.toml", "max_token"]);

    setting.write(
        "bad.jsonl",
        "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n{\"prompt\": \"a\", \"chosen\": \"b\"}\n",
    );
    recipe("row.toml", "base/model", "bad.jsonl", "");
    setting.refuse(&["train", "run", "row.toml"], &["bad.jsonl", "line 2", "rejected"]);
    untouched("row.toml");

    let corrupt = setting.path("corrupt");
    copy_dir(&setting.path("base/model"), &corrupt);
    let weights = corrupt.join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    recipe("corrupt.toml", "corrupt", "pairs.jsonl", "");
    setting.refuse(&["train", "run", "corrupt.toml"], &["corrupt/model.safetensors"]);
    untouched("corrupt.toml");
    setting.refuse(&["serve", "--model", "corrupt"], &["corrupt/model.safetensors"]);

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    setting.refuse(&["serve", "--model", "base/model", "--port", &port], &[&port, "in use"]);
    drop(taken);
    let down = format!("http://127.0.0.1:{port}");
    setting.refuse(&["eval", "ifeval", "--endpoint", &down, "--out", "evaluation", "--retries", "0"], &[&port]);
    assert!(!setting.path("evaluation").join("results.json").exists());
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
