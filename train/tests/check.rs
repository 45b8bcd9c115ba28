//! `orpo-train check` against what the runs that it looks at then do.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use orpo_chat::ChatTokenizer;
use orpo_model::adapter::{BaseStorage, LoraConfig, LoraSetup};
use orpo_model::{Decoder, ModelConfig, Param, Trained, WeightFiles};
use orpo_train::checkpoint::{ModelFiles, WeightFormat, write_model};
use serde_json::{Value, json};
use support::{each_family, write_tokenizer};

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
        let files = ModelFiles { config: config.clone(), tokenizer_dir, chat, base_name: Default::default() };
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
        let mut command = Command::new(env!("CARGO_BIN_EXE_orpo-train"));
        // With it a tensor operation's error ends in addresses.
        command.env_remove("RUST_BACKTRACE");
        command.args(args).current_dir(self.dir.path()).output().unwrap()
    }

    #[track_caller]
    fn succeeds(&self, args: &[&str]) -> String {
        let output = self.orpo_train(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Returns the error's message.
    #[track_caller]
    fn refuses(&self, args: &[&str], expected: &str) -> String {
        let output = self.orpo_train(args);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(expected), "{message}");
        assert!(output.stdout.is_empty());
        message[message.find("error: ").unwrap()..].to_string()
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

/// Predicted and measured peak of a run of `model`.
fn peaks(setting: &Setting, name: &str, model: &str, rest: &str) -> (f64, f64) {
    let recipe = format!("{name}.toml");
    let text = format!("output_dir = \"{name}\"\n[model]\npath = \"{model}\"\n[data]\ntrain = \"pairs.jsonl\"\n{rest}");
    setting.write(&recipe, &text);
    let report = setting.check(&recipe);
    assert!(!setting.path(name).exists(), "a check writes nothing");
    setting.succeeds(&["run", &recipe]);
    let line = last_line(&setting.path(name));
    let predicted = ["weights", "gradients", "moments", "activations", "logits", "other"]
        .map(|part| report["memory"][part].as_f64().unwrap());
    (predicted.iter().sum(), line["peak_rss_bytes"].as_f64().unwrap())
}

#[test]
fn memory_is_predicted() {
    let setting = Setting::new();
    setting.model("llama", &llama(384, 5, 8192));
    let opt = json!({"model_type": "opt", "hidden_size": 320, "ffn_dim": 1280, "num_hidden_layers": 5,
                     "num_attention_heads": 5, "vocab_size": 8192, "max_position_embeddings": 512});
    setting.model("opt", &opt);
    setting.pairs("pairs.jsonl", &[(128, 192, 192); 8]);
    let training = "[training]\nbatch_size = 2\nmax_steps = 2\ntensorboard = false\n";
    let checkpointing = format!("{training}gradient_checkpointing = true\n");
    let lora = format!("[lora]\nr = 8\n{training}");
    let qlora = format!("[lora]\nr = 8\nbase = \"q8_0\"\n{checkpointing}");
    let mut wrong = Vec::new();
    for (name, model, rest) in [
        ("full", "llama", training),
        ("checkpointing", "llama", &checkpointing),
        ("lora", "llama", &lora),
        ("qlora", "llama", &qlora),
        ("other", "opt", training),
    ] {
        let (predicted, measured) = peaks(&setting, name, model, rest);
        let ratio = predicted / measured;
        println!("{name}: {:.0} MB predicted, {:.0} MB measured: {ratio:.3}", predicted / 1e6, measured / 1e6);
        if !(0.85..=1.15).contains(&ratio) {
            wrong.push(format!("{name}: {ratio:.3}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn a_check_says_what_the_run_would_do() {
    let setting = Setting::new();
    setting.model("model", &llama(128, 2, 300));
    let pair = |prompt: &str, chosen: &str, rejected: &str| {
        format!("{}\n", json!({"prompt": prompt, "chosen": chosen, "rejected": rejected}))
    };
    let long = "x".repeat(40);
    let rows = [pair("ab", "c", "de"), pair("a", "b", "b"), pair("a", &long, "c"), pair(&long, "a", "b")].concat();
    setting.write("train.jsonl", &rows);
    setting.write(
        "recipe.toml",
        "output_dir = \"out\"\n[model]\npath = \"model\"\n[data]\ntrain = \"train.jsonl\"\nmax_length = 20\n\
         [training]\nbatch_size = 1\nepochs = 3\n",
    );
    let report = setting.check("recipe.toml");
    assert_eq!(report["data"][0]["rows_used"], 2);
    let dropped = json!({"chosen equals rejected": 1, "no response token within max_length": 1});
    assert_eq!(report["data"][0]["rows_dropped"], dropped);
    // With BOS and EOS the long response's sequence has 43 tokens.
    assert_eq!(report["truncation"], json!({"rows_cut": 1, "tokens_cut": 23, "rows_lost": 1}));
    assert_eq!(report["lengths"]["prompt"]["max"], 3);
    assert_eq!((&report["lengths"]["chosen"]["p50"], &report["lengths"]["chosen"]["max"]), (&json!(2), &json!(18)));
    assert_eq!((&report["steps"]["total"], &report["steps"]["epochs"]), (&json!(6), &json!(3.0)));
    assert_eq!(report["steps"]["tokens_per_epoch"], 5 + 6 + 20 + 4);
    assert_eq!(report["steps"]["largest_micro_batch"], 2 + 18 - 1 + 2 - 1);
    let matrices = 300 * 128 + 2 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 352);
    assert_eq!(report["parameters"], json!({"trained": matrices + 5 * 128, "frozen": 0}));
    assert!(report["time"]["seconds"].as_f64().unwrap() > 0.0);

    let text = setting.succeeds(&["check", "recipe.toml", "--preview", "1", "--set", "training.nll=response_tokens"]);
    for expected in [
        "train.jsonl: 4 rows, layout trl_standard_explicit",
        "train.jsonl: 1 dropped, chosen equals rejected: line 2",
        "tokens        p50    p90    p95    p99    max",
        "truncation  1 row cut by 23 tokens, 1 row lost",
        "steps       6 of 1 x 1 example: 3.00 epochs of 35 tokens (26 with shared prompts once)",
        "at the peak: weights",
        "time        about ",
        "train.jsonl` line 1\n  prompt   | <s>·a·b\n  chosen   | [c]·[</s> = EOS]\n  rejected | [d]·[e]·[</s> = EOS]\n",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    assert!(!setting.path("out").exists(), "a check writes nothing");
    setting.succeeds(&["run", "recipe.toml"]);
    assert!(setting.succeeds(&["check", "recipe.toml"]).contains("--resume"));
}

#[test]
fn what_should_be_known_about_data_and_template_is_said() {
    let setting = Setting::new();
    setting.model("model", &llama(128, 2, 300));
    let turns = |role: &str, text: &str| json!([{"role": role, "content": text}]);
    let pair = |prompt: &str, chosen: &str, rejected: &str| {
        let row = json!({"prompt": turns("user", prompt), "chosen": turns("assistant", chosen),
                         "rejected": turns("assistant", rejected), "source": "web"});
        format!("{row}\n")
    };
    let same = format!("{}once", "long ".repeat(20));
    let rows =
        [pair("a", "b", "c"), pair("d", "e", "f"), pair("a", "b", "c"), pair("g", &same, &(same.clone() + " more"))];
    setting.write("train.jsonl", &rows.concat());
    setting.write("eval.jsonl", &[pair("a", "b", "c"), pair("d", "x", "y"), pair("z", "e", "f")].concat());
    let recipe = "output_dir = \"out\"\n[model]\npath = \"model\"\n[data]\ntrain = \"train.jsonl\"\n\
                  validation = \"eval.jsonl\"\nchat_template = \"t.jinja\"\nmax_length = 40\n";
    setting.write("recipe.toml", recipe);
    setting.write("t.jinja", "{% for m in messages %}<{{ m.role }}>{{ m.content }}.{% endfor %}<assistant>");
    let text = setting.succeeds(&["check", "recipe.toml"]);
    for expected in [
        "train.jsonl: 4 rows, layout trl_conversational_explicit\n",
        "train.jsonl: 1 dropped, chosen equals rejected after truncation to max_length: line 4\n",
        "train.jsonl: columns that are not used: `source`\n",
        "warning: the chat template opens the assistant's turn at the end of every conversation",
        "duplicates in the training data: 1 row with the prompt and the responses of an earlier one\n",
        "warning: 2 of 3 evaluation prompts also occur in the training data, 1 of them with the same responses\n",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    assert_eq!(setting.check("recipe.toml")["truncation"]["rows_lost"], 1);
    setting.write("t.jinja", "{% for m in messages %}<{{ m.role }}>{{ m.content }}.{% endfor %}");
    let text = setting.succeeds(&["check", "recipe.toml"]);
    assert!(text.contains("warning: the chat template does not open the assistant's turn"), "{text}");
    setting.write(
        "splits.json",
        &json!({"train": [{"prompt": "a", "chosen": "b", "rejected": "c"}], "test": [{}]}).to_string(),
    );
    let expected = "it has rows under `train` and `test`";
    setting.refuses(&["check", "recipe.toml", "--set", "data.train=splits.json"], expected);
    let source = "data.train={ source = \"splits.json\", field = \"train\" }";
    let text = setting.succeeds(&["check", "recipe.toml", "--set", source, "--set", "data.apply_chat_template=true"]);
    assert!(text.contains("splits.json: 1 row, layout trl_standard_explicit\n"), "{text}");
    assert!(!text.contains("without the chat template"), "{text}");
}

#[test]
fn what_a_run_would_refuse_is_refused_in_the_same_words() {
    let setting = Setting::new();
    let config = llama(128, 2, 300);
    setting.model("model", &config);
    setting.pairs("pairs.jsonl", &[(8, 8, 8); 4]);
    let changed = |name: &str, field: &str, value: Value| {
        fs::create_dir(setting.path(name)).unwrap();
        for file in ["model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
            fs::copy(setting.path("model").join(file), setting.path(name).join(file)).unwrap();
        }
        let mut config = config.clone();
        config[field] = value;
        fs::write(setting.path(name).join("config.json"), config.to_string()).unwrap();
    };
    changed("missing", "num_hidden_layers", json!(3));
    changed("unused", "num_hidden_layers", json!(1));
    changed("wide", "intermediate_size", json!(384));
    changed("unknown", "model_type", json!("bert"));
    changed("few", "vocab_size", json!(5));
    for (model, rest, expected) in [
        ("missing", "", "no tensor `model.layers.2."),
        ("unused", "", "unused`: the weights have a tensor `model.layers.1.input_layernorm.weight`, for which"),
        ("wide", "", "the configuration asks for [384, 128]"),
        ("unknown", "", "`model_type` is `bert`"),
        ("few", "", "the configuration asks for [5, 128]"),
        ("nowhere", "", "nowhere"),
        ("model", "[lora]\ntarget_modules = [\"fc1\"]\n", "called fc1"),
        ("model", "[lora]\nbase = \"q4_k\"\n", "no multiple of 256"),
        ("model", "[training]\nmax_tokens_per_batch = 5\n", "max_tokens_per_batch = 5"),
        ("model", "[training]\nmetric_for_best_model = \"bleu\"\n", "eval_bleu"),
        ("model", "[training]\nbeta = -1\n", "training.beta"),
    ] {
        let text =
            format!("output_dir = \"out\"\n[model]\npath = \"{model}\"\n[data]\ntrain = \"pairs.jsonl\"\n{rest}");
        setting.write("recipe.toml", &text);
        let message = setting.refuses(&["check", "recipe.toml"], expected);
        assert_eq!(message, setting.refuses(&["run", "recipe.toml"], expected));
        assert!(!setting.path("out").exists());
    }
}

#[test]
fn an_outline_is_the_model_without_its_values() {
    each_family(|_, dir| {
        let model = dir.join("model");
        let (config, _) = ModelConfig::from_dir(&model).unwrap();
        let files = WeightFiles::open(&model).unwrap();
        let targets = LoraConfig {
            r: 4,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            target_modules: vec!["all-linear".into()],
            use_rslora: false,
        };
        let adapter = |base| LoraSetup { config: targets.clone(), base, seed: 1, initial: None };
        let (plain, quantised) = (adapter(BaseStorage::Source), adapter(BaseStorage::Q8_0));
        for trained in [Trained::Everything, Trained::Nothing, Trained::Adapter(&plain), Trained::Adapter(&quantised)] {
            let sizes = |decoder: &Decoder| -> Vec<(String, Vec<usize>, usize, bool)> {
                let params = decoder.params().iter().cloned().chain(decoder.adapter_params());
                let size = |p: Arc<Param>| (p.name().into(), p.shape().to_vec(), p.stored_bytes(), p.is_trainable());
                params.map(size).collect()
            };
            match (Decoder::outline(&config, Some(&files), trained), Decoder::load(&config, &files, trained)) {
                (Ok(outline), Ok(decoder)) => assert_eq!(sizes(&outline), sizes(&decoder)),
                (outline, decoder) => assert_eq!(outline.unwrap_err().to_string(), decoder.unwrap_err().to_string()),
            }
        }
    });
}

/// `orpo-train check r.toml | head`: whoever reads has seen enough.
#[test]
fn a_reader_that_goes_away_is_not_an_error() {
    let setting = Setting::new();
    setting.model("m", &llama(128, 1, 512));
    setting.pairs("pairs.jsonl", &[(4, 5, 6), (4, 5, 6)]);
    setting.write("r.toml", "output_dir = \"r\"\n[model]\npath = \"m\"\n[data]\ntrain = \"pairs.jsonl\"\n");
    for args in [
        &["check", "r.toml"][..],
        &["check", "r.toml", "--json"],
        &["keys"],
        &["keys", "--markdown"],
        &["score", "--model", "m", "--data", "pairs.jsonl"],
        &["--help"],
        &["run", "r.toml"],
    ] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_orpo-train"))
            .args(args)
            .current_dir(setting.dir.path())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        drop((child.stdout.take(), child.stderr.take()));
        assert_eq!(child.wait().unwrap().code(), Some(0), "{args:?}");
    }
}

#[test]
fn keys_are_listed_and_wrong_ones_lead_to_them() {
    let setting = Setting::new();
    let all = setting.succeeds(&["keys"]);
    for words in
        ["[training]\n", "  beta  (number at least 0; default 0.1; TRL: beta)", "  r  (whole number at least 1;"]
    {
        assert!(all.contains(words), "no `{words}` in\n{all}");
    }
    let section = setting.succeeds(&["keys", "lora"]);
    assert!(section.starts_with("[lora]") && !section.contains("[training]"), "{section}");
    let markdown = setting.succeeds(&["keys", "--markdown"]);
    assert!(markdown.contains("### `[model.init]`") && markdown.contains("| `max_length` | "), "{markdown}");
    setting.refuses(&["keys", "nosuch"], "`nosuch`");
    let recipe = "output_dir = \"r\"\n[model]\npath = \"m\"\n[data]\ntrain = \"t\"\n[training]\n";
    for (line, expected) in [
        (
            "num_train_epochs = 3",
            "line 7: there is no key `num_train_epochs`; what TRL calls that is `epochs` in [training]",
        ),
        ("max_prompt_length = 3", "it belongs in [data]"),
        ("learning_rate = 0.0", "`training.learning_rate` = 0.0 must be above 0"),
        ("learning_rate = 1e-400", "`training.learning_rate` = 0.0 must be above 0"),
        ("optim = \"adamw_torch\"", "there is no key `optim`; `orpo train keys` lists all keys"),
    ] {
        setting.write("wrong.toml", &format!("{recipe}{line}\n"));
        let message = setting.refuses(&["check", "wrong.toml"], expected);
        assert!(message.len() < 200, "{message}");
    }
}

#[test]
fn a_missing_template_leads_to_the_key_that_gives_one() {
    let setting = Setting::new();
    setting.model("m", &llama(128, 1, 512));
    let turn = |role: &str, content: &str| json!([{"role": role, "content": content}]);
    let pair =
        json!({"prompt": turn("user", "a"), "chosen": turn("assistant", "b"), "rejected": turn("assistant", "c")});
    setting.write("pairs.jsonl", &format!("{pair}\n"));
    setting.write("r.toml", "output_dir = \"r\"\n[model]\npath = \"m\"\n[data]\ntrain = \"pairs.jsonl\"\n");
    for command in ["check", "run"] {
        let message = setting.refuses(&[command, "r.toml"], "`data.chat_template`");
        assert!(message.contains("no chat template"), "{message}");
    }
}

#[test]
fn a_model_that_may_be_meant_of_the_hub_is_told_how_to_write_it() {
    let setting = Setting::new();
    setting.write("r.toml", "output_dir = \"r\"\n[model]\npath = \"acme/tiny\"\n[data]\ntrain = \"pairs.jsonl\"\n");
    setting.refuses(
        &["check", "r.toml"],
        "`acme/tiny`: no such directory; write a model of the Hugging Face hub as `hub:",
    );
}

/// An adapter's line says how much of the model it trains.
#[test]
fn a_run_says_how_many_parameters_it_trains() {
    let setting = Setting::new();
    setting.model("m", &llama(128, 1, 512));
    setting.pairs("pairs.jsonl", &[(4, 5, 6)]);
    let recipe =
        "output_dir = \"r\"\n[model]\npath = \"m\"\n[data]\ntrain = \"pairs.jsonl\"\n[training]\nbatch_size = 1\n";
    setting.write("r.toml", &format!("{recipe}[lora]\nr = 2\ntarget_modules = [\"q_proj\"]\n"));
    let output = setting.orpo_train(&["run", "r.toml"]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("512 of ") && stderr.contains(" parameters trained, 1 example, "), "{stderr}");
    assert!(stderr.contains(" 1 step of 1 x 1 example"), "{stderr}");
}
