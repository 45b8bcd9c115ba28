//! `data.chat_template_kwargs`: what the chat template is given in training is what the exported model does by itself.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use orpo_chat::{ChatTokenizer, Message};
use serde_json::{Value, json};
use support::{read_json, write_tokenizer};

const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}\
    {% if add_generation_prompt %}assistant: {% if enable_thinking is defined and not enable_thinking %}<no>{% endif %}\
    {% endif %}";
const RECIPE: &str = "output_dir = \"run\"\n[model]\ntokenizer = \"tokenizer\"\n[model.init]\nhidden_size = 16\n\
                      intermediate_size = 16\nnum_hidden_layers = 1\nnum_attention_heads = 2\nnum_key_value_heads = 1\n\
                      max_position_embeddings = 128\n[training]\nmax_steps = 2\nsave_steps = 1\n[data]\n\
                      train = \"train.jsonl\"\nvalidation = \"train.jsonl\"\nmax_length = 128\n\
                      chat_template = \"chat.jinja\"\n";

struct Setting {
    dir: tempfile::TempDir,
}

impl Setting {
    fn new(template: &str) -> Self {
        let setting = Self { dir: tempfile::tempdir().unwrap() };
        write_tokenizer(&setting.path("tokenizer"));
        let turn = |role: &str, content: &str| json!([{"role": role, "content": content}]);
        let row =
            json!({"prompt": turn("user", "a"), "chosen": turn("assistant", "b"), "rejected": turn("assistant", "c")});
        fs::write(setting.path("train.jsonl"), format!("{row}\n")).unwrap();
        fs::write(setting.path("chat.jinja"), template).unwrap();
        setting.write_recipe("chat_template_kwargs = { enable_thinking = false }\n");
        setting
    }

    fn write_recipe(&self, more: &str) {
        fs::write(self.path("recipe.toml"), format!("{RECIPE}{more}")).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn orpo_train(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_orpo-train")).args(args).current_dir(self.dir.path()).output().unwrap()
    }

    /// What the command says on stdout and on stderr.
    #[track_caller]
    fn succeeds(&self, args: &[&str]) -> (String, String) {
        let output = self.orpo_train(args);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        (text(output.stdout), text(output.stderr))
    }
}

/// The ids of the prompt of the first pair, as `check` shows them.
fn trained_prompt(report: &str) -> Vec<u32> {
    let report: Value = serde_json::from_str(report).unwrap();
    let prompt = report["preview"][0]["prompt"].as_array().unwrap();
    prompt.iter().map(|token| token["id"].as_u64().unwrap() as u32).collect()
}

fn served_prompt(model: &Path) -> Vec<u32> {
    ChatTokenizer::from_dir(model).unwrap().encode_prompt(&[Message::user("a")]).unwrap()
}

#[test]
fn the_exported_model_renders_as_it_was_trained() {
    // The response's own turn has the mark too, as with Qwen3.
    let template = TEMPLATE.replace("{{ m.content }}", "{{ '<no>' if m.role == 'assistant' }}{{ m.content }}");
    let setting = Setting::new(&template);
    let (report, _) = setting.succeeds(&["check", "recipe.toml", "--preview", "1", "--json"]);
    let prompt = trained_prompt(&report);
    assert!(prompt.ends_with(&"assistant: <no>".bytes().map(|byte| byte_id(&setting, byte)).collect::<Vec<_>>()));

    let (_, said) = setting.succeeds(&["run", "recipe.toml"]);
    assert!(said.contains("the exported one sets enable_thinking = false"), "{said}");
    let model = setting.path("run/model");
    assert_eq!(served_prompt(&model), prompt);
    let manifest = read_json(&model.join("orpo_manifest.json"));
    assert_eq!(manifest["recipe"]["data"]["chat_template_kwargs"], json!({"enable_thinking": false}));

    // The run's own score, by the manifest, is that of the recipe; without the variable it is another.
    let score = |args: &[&str]| setting.succeeds(&[&["score", "--model", "run"], args].concat()).0;
    let own = score(&[]);
    assert_eq!(own, score(&["--recipe", "recipe.toml"]));
    assert_ne!(own, score(&["--recipe", "recipe.toml", "--set", "data.chat_template_kwargs.enable_thinking=true"]));

    // A second export changes nothing.
    setting.succeeds(&["export", "run", "--out", "again"]);
    let template = |dir: &str| read_json(&setting.path(dir).join("tokenizer_config.json"))["chat_template"].clone();
    assert_eq!(template("again"), template("run/model"));
}

fn byte_id(setting: &Setting, byte: u8) -> u32 {
    let tokenizer = ChatTokenizer::from_dir(&setting.path("tokenizer")).unwrap();
    tokenizer.encode(&char::from(byte).to_string()).unwrap()[0]
}

#[test]
fn a_resumed_run_has_the_same_variables() {
    let setting = Setting::new(TEMPLATE);
    setting.succeeds(&["run", "recipe.toml", "--set", "training.max_steps=1"]);
    let set = "data.chat_template_kwargs.enable_thinking=true";
    let output = setting.orpo_train(&["run", "recipe.toml", "--resume", "--set", set]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("`data.chat_template_kwargs.enable_thinking` was false and is now true"), "{said}");
    setting.succeeds(&["run", "recipe.toml", "--resume"]);
}

#[test]
fn a_variable_without_effect_is_said() {
    let setting = Setting::new(TEMPLATE);
    let (_, said) = setting.succeeds(&["check", "recipe.toml"]);
    assert!(!said.contains("chat_template_kwargs"), "{said}");
    setting.write_recipe("chat_template_kwargs = { enable_thinking = false, thinking = true }\n");
    let (told, said) = setting.succeeds(&["check", "recipe.toml"]);
    let words = "data.chat_template_kwargs: the chat template does not name `thinking`; it changes nothing";
    assert!((told + &said).contains(words), "{said}");
    fs::write(setting.path("train.jsonl"), "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n").unwrap();
    let (told, said) = setting.succeeds(&["check", "recipe.toml"]);
    assert!((told + &said).contains("no training data is rendered by the chat template"), "{said}");
}
