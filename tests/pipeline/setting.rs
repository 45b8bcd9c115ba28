//! What all tests have: a directory with everything that a tiny pipeline needs, and the program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// A directory with a byte-level tokenizer, pairs, documents, prompts, a base recipe and a pipeline.
pub struct Setting {
    pub dir: tempfile::TempDir,
}

const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content + eos_token }}\
                        {% else %}{{ '[' + m.content + ']' }}{% endif %}{% endfor %}";

/// How long anything that a test waits for may take.
const PATIENCE: Duration = Duration::from_secs(120);

impl Setting {
    pub fn new() -> Self {
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
        let document = |word: &&str| {
            let turns = json!([{"role": "user", "content": format!("What is {word}")},
                               {"role": "assistant", "content": format!("The {word}, is here")}]);
            json!({"messages": turns})
        };
        setting.write("documents.jsonl", &lines(words.iter().map(document).collect()));
        setting.write_prompts(&["cloud", "storm", "ice"].map(String::from));
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

    /// With a base model in `base/model`.
    pub fn with_base() -> Self {
        let setting = Self::new();
        setting.succeed(&["train", "run", "base.toml"]);
        setting
    }

    /// One variant, scored on pairs and by IFEval.
    pub fn pipeline(steps: usize) -> String {
        format!(
            "out = \"run\"\n[base]\nmodel = \"base/model\"\n[data]\ntrain = \"pairs.jsonl\"\ntest = \"test.jsonl\"\n\
             max_length = 128\n[training]\nbeta = 0.5\nbatch_size = 4\nmax_steps = {steps}\nlearning_rate = 1e-3\n\
             save_steps = 2\n[ifeval]\ndata = \"prompts.jsonl\"\nmax_tokens = 8\n"
        )
    }

    /// Two variants, compared by checklist.
    pub fn two_variants() -> String {
        Self::pipeline(6)
            + "[variants.orpo]\n[variants.sft.training]\nbeta = 0.0\n[compare]\n[report]\ntitle = \"Two variants\"\n"
    }

    pub fn write_prompts(&self, words: &[String]) {
        let prompt = |(key, word): (usize, &String)| {
            json!({"key": key, "prompt": format!("Tell me of {word} in lowercase"),
                   "instruction_id_list": ["change_case:english_lowercase"], "kwargs": [{}]})
        };
        let lines: String = words.iter().enumerate().map(prompt).map(|row| format!("{row}\n")).collect();
        self.write("prompts.jsonl", &lines);
    }

    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    pub fn path(&self, name: &str) -> PathBuf {
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

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orpo"));
        for key in ["OPENAI_API_KEY", "ORPO_EVAL_API_KEY", "ORPO_JUDGE_API_KEY"] {
            command.env_remove(key);
        }
        command.args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    /// Starts the command with its stderr in the file `stderr.log`.
    pub fn spawn(&self, args: &[&str]) -> Child {
        let log = fs::File::create(self.path("stderr.log")).unwrap();
        self.command(args).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    pub fn orpo(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    pub fn succeed(&self, args: &[&str]) -> Output {
        let output = self.orpo(args);
        assert!(output.status.success(), "orpo {args:?}:\n{}", stderr(&output));
        output
    }

    /// The command must end with exit code 2 and one message that has all `words`.
    pub fn refuse(&self, args: &[&str], words: &[&str]) {
        let output = self.orpo(args);
        let stderr = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "orpo {args:?}:\n{stderr}");
        assert_eq!(stderr.matches("error:").count(), 1, "one message is enough:\n{stderr}");
        for word in words {
            assert!(stderr.contains(word), "orpo {args:?} does not say `{word}`:\n{stderr}");
        }
    }

    /// What a successful `orpo run` says of each stage: `(name, what)`; nothing of one that runs for the first time.
    pub fn stages_of(&self, args: &[&str]) -> Vec<(String, String)> {
        let said = stderr(&self.succeed(args));
        let lines = said.lines().filter_map(|line| line.strip_prefix("==> "));
        let stages = lines.map(|line| line.split_once(": ").unwrap_or((line, ""))).filter(|(name, _)| *name != "serve");
        stages.map(|(name, what)| (name.to_owned(), what.to_owned())).collect()
    }

    pub fn json(&self, name: &str) -> Value {
        let path = self.path(name);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_str(&text).unwrap()
    }

    /// How many lines a file has; none where it is not there.
    pub fn lines(&self, name: &str) -> usize {
        fs::read_to_string(self.path(name)).unwrap_or_default().lines().count()
    }

    /// Waits until a file has so many lines.
    pub fn wait_for_lines(&self, name: &str, lines: usize, child: &mut Child) {
        let deadline = Instant::now() + PATIENCE;
        while self.lines(name) < lines {
            let log = || fs::read_to_string(self.path("stderr.log")).unwrap_or_default();
            if let Some(status) = child.try_wait().unwrap() {
                panic!("{status} before `{name}` had {lines} lines:\n{}", log());
            }
            assert!(Instant::now() < deadline, "`{name}` has no {lines} lines:\n{}", log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

pub fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
