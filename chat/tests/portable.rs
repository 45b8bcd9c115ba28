//! The prompt that is trained is the prompt that is served: exported templates give every prompt's trained tokens.

use std::fs;
use std::path::{Path, PathBuf};

use orpo_chat::{ChatTokenizer, Message, RenderOptions};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// Writes no BOS.
const HEADERS: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}\
    {% if add_generation_prompt %}assistant:{% endif %}";
/// Begins with what the user says.
const BARE: &str = "{% for m in messages %}{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}> {% endif %}";

/// Characters, a few merges and special tokens, with a space put in front by `part` (a normaliser or pre-tokeniser).
fn tokenizer_json(part: &Value) -> Value {
    let mut vocab = Map::new();
    for token in ["<unk>", "<s>", "</s>"].into_iter().map(String::from).chain((0..=255).map(|b| format!("<0x{b:02X}>")))
    {
        vocab.insert(token, json!(vocab.len()));
    }
    for token in
        "▁abcdefghijklmnopqrstuvwxyz:>".chars().map(String::from).chain(["us", "er", "user", "▁user"].map(String::from))
    {
        vocab.insert(token, json!(vocab.len()));
    }
    let special = |id: usize, content: &str| {
        json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false})
    };
    let mut tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
                  "merges": ["u s", "e r", "us er", "▁ user"]},
    });
    for (key, value) in part.as_object().unwrap() {
        tokenizer[key] = value.clone();
    }
    tokenizer
}

fn metaspace(scheme: &str) -> Value {
    json!({"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false}})
}

fn prepend() -> Value {
    json!({"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}})
}

fn write_dir(tokenizer: &Value, config: &Value) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    dir
}

fn config(class: &str, template: &str) -> Value {
    json!({"tokenizer_class": class, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
           "chat_template": template})
}

fn load(dir: &Path) -> ChatTokenizer {
    ChatTokenizer::from_dir(dir).unwrap()
}

/// Prompts of several kinds, none of which is among those that the export compares.
fn prompts() -> Vec<Vec<Message>> {
    let (user, assistant) = (Message::user, Message::assistant);
    vec![
        vec![user("user")],
        vec![user(" user  user")],
        vec![user("hi"), assistant("\n user "), user("Ünïcode 🚀 <s> text")],
        vec![Message::new("system", "user"), user("a\n\nb"), assistant(""), user("c")],
    ]
}

/// What was trained is what the exported directory gives, with BOS by our rule and, unless there was a warning, without.
fn assert_portable(name: &str, trained: &ChatTokenizer, tokenizer: &Value, config: &Value) -> Option<String> {
    let portable = trained.portable_templates().unwrap().unwrap();
    let mut config = config.clone();
    config["chat_template"] = portable.chat_template;
    let dir = write_dir(tokenizer, &config);
    let served = load(dir.path());
    for messages in prompts() {
        let Ok(expected) = trained.encode_prompt(&messages) else { continue };
        assert_eq!(served.encode_prompt(&messages).unwrap(), expected, "{name}: {messages:?}");
        if portable.warnings.is_empty() {
            let text = served.render(&messages, true).unwrap();
            assert_eq!(served.encode(&text).unwrap(), expected, "{name}, without our BOS: {messages:?}");
        }
    }
    portable.warnings.first().cloned()
}

#[test]
fn a_space_before_the_text_stays_behind_bos() {
    let cases = [
        ("first", metaspace("first"), "PreTrainedTokenizerFast", 291),
        ("always", metaspace("always"), "PreTrainedTokenizerFast", 291),
        ("never", metaspace("never"), "PreTrainedTokenizerFast", 290),
        ("prepend", prepend(), "PreTrainedTokenizerFast", 291),
        ("llama", prepend(), "LlamaTokenizer", 291),
    ];
    for (name, part, class, header) in cases {
        let (tokenizer, config) = (tokenizer_json(&part), config(class, HEADERS));
        let dir = write_dir(&tokenizer, &config);
        let trained = load(dir.path());
        assert_eq!(assert_portable(name, &trained, &tokenizer, &config), None, "{name}");
        let ids = trained.encode_prompt(&[Message::user("a")]).unwrap();
        assert_eq!(ids[..2], [1, header], "{name}");
    }
}

#[test]
fn where_no_template_can_write_bos_it_stays_and_a_warning_says_so() {
    let (tokenizer, config) = (tokenizer_json(&metaspace("first")), config("PreTrainedTokenizerFast", BARE));
    let dir = write_dir(&tokenizer, &config);
    let trained = load(dir.path());
    assert_eq!(trained.portable_templates().unwrap().unwrap().chat_template, BARE);
    let warning = assert_portable("bare", &trained, &tokenizer, &config).unwrap();
    assert!(warning.contains("`<s>`"), "{warning}");
}

#[test]
fn a_template_that_writes_bos_or_needs_none_stays_as_it_is() {
    for (template, bos) in [(format!("{{{{ bos_token }}}}{HEADERS}"), json!("<s>")), (HEADERS.into(), json!(null))] {
        let mut config = config("PreTrainedTokenizerFast", &template);
        config["bos_token"] = bos;
        let dir = write_dir(&tokenizer_json(&metaspace("first")), &config);
        let portable = load(dir.path()).portable_templates().unwrap().unwrap();
        assert_eq!((portable.chat_template, portable.warnings), (json!(template), vec![]));
    }
}

#[test]
fn indentation_before_the_first_block_is_not_written() {
    let template = "  {% for m in messages %}\n{{ m.content + eos_token }}{% endfor %}";
    let mut tokenizer = tokenizer_json(&metaspace("never"));
    tokenizer["pre_tokenizer"] = json!(null);
    let dir = write_dir(&tokenizer, &config("PreTrainedTokenizerFast", template));
    let portable = load(dir.path()).portable_templates().unwrap().unwrap();
    assert_eq!(portable.chat_template, json!(format!("{{{{ bos_token }}}}{}", template.trim_start())));
}

#[test]
fn both_templates_of_a_list_are_written() {
    let tool_use = "[tools]{{ tools | length }}{{ messages[0].content }}";
    let list = json!([{"name": "default", "template": HEADERS}, {"name": "tool_use", "template": tool_use},
                      {"name": "rag", "template": "{% other %}"}]);
    let mut config = config("PreTrainedTokenizerFast", "");
    config["chat_template"] = list;
    let tokenizer = tokenizer_json(&metaspace("never"));
    let dir = write_dir(&tokenizer, &config);
    let trained = load(dir.path());
    assert_eq!(assert_portable("list", &trained, &tokenizer, &config), None);
    let portable = trained.portable_templates().unwrap().unwrap().chat_template;
    assert_eq!(
        portable,
        json!([{"name": "default", "template": format!("{{{{ bos_token }}}}{HEADERS}")},
               {"name": "rag", "template": "{% other %}"},
               {"name": "tool_use", "template": format!("{{{{ bos_token }}}}{tool_use}")}])
    );
}

#[test]
fn with_tools_the_template_for_tools_is_used_wherever_it_lies() {
    let tools = [json!({"type": "function", "function": {"name": "f"}})];
    let with_tools = RenderOptions { tools: &tools, ..Default::default() };
    let tokenizer = tokenizer_json(&metaspace("never"));
    let tool_use = "with {{ tools[0].function.name }}";
    let in_config = write_dir(
        &tokenizer,
        &json!({"chat_template": [{"name": "default", "template": "without"},
                                                                    {"name": "tool_use", "template": tool_use}]}),
    );
    let in_files = write_dir(&tokenizer, &json!({"chat_template": "in the configuration"}));
    fs::create_dir(in_files.path().join("additional_chat_templates")).unwrap();
    fs::write(in_files.path().join("additional_chat_templates/tool_use.jinja"), tool_use).unwrap();
    fs::write(in_files.path().join("chat_template.jinja"), "without").unwrap();
    for dir in [in_config, in_files] {
        let tokenizer = load(dir.path());
        assert_eq!(tokenizer.render(&[], true).unwrap(), "without");
        assert_eq!(tokenizer.render_with(&[], with_tools).unwrap(), "with f");
    }
}

#[test]
fn the_template_of_a_processor_is_the_last_resort() {
    let dir = write_dir(&tokenizer_json(&metaspace("never")), &json!({}));
    fs::write(dir.path().join("chat_template.json"), r#"{"chat_template": "of the processor"}"#).unwrap();
    assert_eq!(load(dir.path()).render(&[], true).unwrap(), "of the processor");
}

#[test]
fn a_model_s_type_decides_whether_llama_s_class_counts() {
    let mut config = config("LlamaTokenizer", HEADERS);
    config["legacy"] = json!(false);
    let dir = write_dir(&tokenizer_json(&prepend()), &config);
    let ids = |dir: &Path| load(dir).encode("</s>user").unwrap();
    assert_eq!((ids(dir.path()), load(dir.path()).disregards_llama_class()), (vec![2, 290], false));
    fs::write(dir.path().join("config.json"), r#"{"model_type": "mistral"}"#).unwrap();
    assert_eq!((ids(dir.path()), load(dir.path()).disregards_llama_class()), (vec![2, 291], true));
}

fn variables(value: &Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

/// Opens the assistant's turn with a mark, and shows what else it was given.
const STYLED: &str = "\n{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}\
    {% if add_generation_prompt %}assistant:{% if enable_thinking is defined and not enable_thinking %} (at once){% endif %}\
    {% if style %} {{ style.tone | join(',') }} {{ style.name }}{% endif %}{% endif %}";

#[test]
fn variables_become_the_exported_template_s_defaults() {
    let tokenizer = tokenizer_json(&metaspace("never"));
    let config = config("PreTrainedTokenizerFast", STYLED);
    let dir = write_dir(&tokenizer, &config);
    let given = json!({"enable_thinking": false, "style": {"tone": ["warm", "\"%}\\\n"], "name": "é"}, "unnamed": 1});
    let trained = load(dir.path()).with_variables(variables(&given));
    assert_eq!(trained.unused_variables(), ["unnamed"]);
    let text = trained.render(&[Message::user("a")], true).unwrap();
    assert_eq!(text, "\nuser: a</s>\nassistant: (at once) warm,\"%}\\\n é");
    assert_eq!(assert_portable("styled", &trained, &tokenizer, &config), None);
    let portable = trained.portable_templates().unwrap().unwrap();
    assert_eq!(portable.defaults, ["enable_thinking", "style"]);

    // A request still decides, and a second export changes nothing.
    let mut config = config;
    config["chat_template"] = portable.chat_template.clone();
    let dir = write_dir(&tokenizer, &config);
    let served = load(dir.path());
    let asked = variables(&json!({"enable_thinking": true, "style": null}));
    let options = RenderOptions { add_generation_prompt: true, variables: Some(&asked), tools: &[] };
    assert_eq!(served.render_with(&[Message::user("a")], options).unwrap(), "<s>\nuser: a</s>\nassistant:");
    for again in [served.clone(), served.with_variables(variables(&given))] {
        assert_eq!(again.portable_templates().unwrap().unwrap().chat_template, portable.chat_template);
    }
}

#[test]
fn a_variable_that_the_template_cannot_set_is_said() {
    let config = config("PreTrainedTokenizerFast", HEADERS);
    let dir = write_dir(&tokenizer_json(&metaspace("never")), &config);
    let trained = load(dir.path()).with_variables(variables(&json!({"eos_token": "."})));
    let portable = trained.portable_templates().unwrap().unwrap();
    assert_eq!((portable.chat_template, portable.defaults), (json!(HEADERS), vec![]));
    assert!(portable.warnings[0].contains(r#"{"eos_token":"."}"#), "{:?}", portable.warnings);
}

#[test]
fn qwen_3_is_served_without_thinking_as_it_was_trained() {
    let shared = PathBuf::from(std::env::var("ORPO_SHARED").unwrap_or_else(|_| "../../shared".into()));
    let Ok(goldens) = fs::read_to_string(shared.join("data/chat_templates/goldens.jsonl")) else {
        assert!(std::env::var_os("ORPO_SHARED").is_none(), "no templates in ORPO_SHARED");
        println!("skipped: no shared templates");
        return;
    };
    let cases = goldens.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let case = cases.into_iter().find(|case| case["name"] == "Qwen/Qwen3-0.6B").unwrap();
    let dir = shared.join("data/tokenizers/qwen2.5-0.5b-instruct");
    let read = |name: &str| serde_json::from_slice::<Value>(&fs::read(dir.join(name)).unwrap()).unwrap();
    let source = case["template"].as_str().unwrap();
    let thinking = load(&dir).with_template(source).unwrap();
    let trained = thinking.clone().with_variables(variables(&json!({"enable_thinking": false})));
    let prompt = [Message::user("How are you?")];
    assert!(thinking.render(&prompt, true).unwrap().ends_with("<|im_start|>assistant\n"));
    assert!(trained.render(&prompt, true).unwrap().ends_with("<|im_start|>assistant\n<think>\n\n</think>\n\n"));
    assert_eq!(assert_portable("qwen3", &trained, &read("tokenizer.json"), &read("tokenizer_config.json")), None);
    let portable = trained.portable_templates().unwrap().unwrap();
    assert_eq!(
        portable.chat_template,
        json!(format!(
            "{{% if enable_thinking is not defined %}}{{% set enable_thinking = false %}}{{% endif %}}\n{source}"
        ))
    );
}

/// Every tokenizer directory of the shared data.
fn shared_tokenizers() -> Vec<PathBuf> {
    let shared = PathBuf::from(std::env::var("ORPO_SHARED").unwrap_or_else(|_| "../../shared".into()));
    let children = |dir: &str| fs::read_dir(shared.join(dir)).into_iter().flatten().map(|entry| entry.unwrap().path());
    let models = children("train/golden").map(|dir| dir.join("model"));
    let mut dirs: Vec<_> = children("data/tokenizers").chain(models).collect();
    dirs.retain(|dir| dir.join("tokenizer.json").is_file());
    dirs.sort();
    dirs
}

#[test]
fn every_shared_tokenizer_is_served_as_it_was_trained() {
    let dirs = shared_tokenizers();
    if dirs.is_empty() {
        assert!(std::env::var_os("ORPO_SHARED").is_none(), "no tokenizer in ORPO_SHARED");
        println!("skipped: no shared tokenizers");
        return;
    }
    let recipe = fs::read_to_string("../train/recipes/chat.jinja").unwrap();
    for dir in dirs {
        let tokenizer: Value = serde_json::from_slice(&fs::read(dir.join("tokenizer.json")).unwrap()).unwrap();
        let config: Value = serde_json::from_slice(&fs::read(dir.join("tokenizer_config.json")).unwrap()).unwrap();
        let own = load(&dir);
        let given = [HEADERS, BARE, &recipe].map(|template| own.clone().with_template(template).unwrap());
        let own = own.template().is_ok().then_some(own);
        for (at, trained) in own.into_iter().chain(given).enumerate() {
            let warning = assert_portable(&dir.display().to_string(), &trained, &tokenizer, &config);
            println!("{} {at}: {warning:?}", dir.display());
        }
    }
}
