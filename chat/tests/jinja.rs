//! Templates render as `transformers` renders them.

use orpo_chat::{ChatTemplate, Message, RenderOptions, SpecialTokens};
use serde_json::Value;

/// Every line of `jinja.jsonl` is a template, and the text that `transformers` 5.24 (jinja2 3.1.6) made of it or null where
/// it failed: `render_jinja_template([messages], chat_template=template, add_generation_prompt=True, bos_token="<s>",
/// eos_token="</s>", pad_token="<pad>")`.
#[test]
fn templates_render_as_in_transformers() {
    let messages =
        [Message::new("system", "Be kind."), Message::user("Hi é!"), Message::assistant("Hello"), Message::user("Bye")];
    let special = SpecialTokens {
        bos_token: Some("<s>".into()),
        eos_token: Some("</s>".into()),
        pad_token: Some("<pad>".into()),
        unk_token: None,
    };
    let options = RenderOptions { add_generation_prompt: true, ..Default::default() };
    let mut wrong = Vec::new();
    for line in include_str!("data/jinja.jsonl").lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let template = case["template"].as_str().unwrap();
        let rendered = ChatTemplate::new(template).and_then(|template| template.render(&messages, options, &special));
        if rendered.as_deref().ok() != case["text"].as_str() {
            wrong.push(format!("{template}\n  expected {}\n  found {rendered:?}", case["text"]));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
