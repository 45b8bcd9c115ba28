//! What a chat template does is found by rendering.

use std::fs;

use orpo_chat::{ChatTokenizer, GenerationPromptFault};
use serde_json::{Map, Value, json};

const HEADER: &str = "<|assistant|>";

/// A tokenizer of characters with `template`.
fn tokenizer(template: &str) -> ChatTokenizer {
    let mut vocab: Map<String, Value> = (' '..='~').enumerate().map(|(id, c)| (c.to_string(), json!(id))).collect();
    vocab.insert("\n".into(), json!(vocab.len()));
    let special = |id: usize, content: &str| {
        json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false})
    };
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": {"type": "Fuse"},
        "added_tokens": [special(200, HEADER), special(201, "</s>")],
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let config = json!({"eos_token": "</s>", "chat_template": template});
    fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    ChatTokenizer::from_dir(dir.path()).unwrap()
}

fn fault(template: &str) -> Option<GenerationPromptFault> {
    tokenizer(template).generation_prompt_fault().unwrap()
}

const TURNS: &str = "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}";

#[test]
fn a_template_that_heeds_the_generation_prompt_has_no_fault() {
    assert_eq!(fault(&format!("{TURNS}{{% if add_generation_prompt %}}<|assistant|>\n{{% endif %}}")), None);
    // Without headers there is nothing to open.
    let instructions = "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]\
        {% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}";
    assert_eq!(fault(instructions), None);
    // The header follows the user whether it is asked for or not, but never a reply.
    let after_user = format!("{TURNS}{{% if messages[-1].role == 'user' %}}<|assistant|>\n{{% endif %}}");
    assert_eq!(fault(&after_user), None);
    assert_eq!(fault("{{ raise_exception('never') }}"), None);
}

#[test]
fn a_header_that_is_always_written_ends_every_response() {
    let Some(GenerationPromptFault::AlwaysOpened { after_response, tokens }) =
        fault(&format!("{TURNS}{{{{ '<|assistant|>\n' }}}}"))
    else {
        panic!("not found");
    };
    assert_eq!(after_response, "</s>\n<|assistant|>\n");
    assert_eq!(tokens, ["</s>", "\n", HEADER, "\n"]);
}

#[test]
fn a_header_that_is_never_written_begins_every_response() {
    let Some(GenerationPromptFault::NeverOpened { header, tokens }) = fault(TURNS) else { panic!("not found") };
    assert_eq!(header, "<|assistant|>\n");
    assert_eq!(tokens, [HEADER, "\n"]);
}

#[test]
fn an_empty_template_presents_nothing() {
    let tokenizer = tokenizer("");
    assert!(!tokenizer.knows_tools() && !tokenizer.renders_calls());
}

#[test]
fn tools_and_calls_are_told_apart() {
    let cases = [
        (TURNS.to_string(), false, false),
        (format!("{{{{ tools | tojson }}}}{TURNS}"), true, false),
        (
            format!("{TURNS}{{% for m in messages if m.tool_calls %}}{{{{ m.tool_calls | tojson }}}}{{% endfor %}}"),
            false,
            true,
        ),
        ("{{ tools }}{{ messages }}".into(), true, true),
        ("{# tools and tool_calls #}".into(), false, false),
    ];
    for (template, tools, calls) in cases {
        let tokenizer = tokenizer(&template);
        assert_eq!((tokenizer.knows_tools(), tokenizer.renders_calls()), (tools, calls), "{template}");
    }
}
