//! Renders chat templates for a comparison with another program: every line of standard input is `{"template",
//! "messages", "tools", "variables", "add_generation_prompt"}`, every line of standard output `{"text"}` or `{"error"}`.

use std::io::{BufRead, Write};

use orpo_chat::{ChatTemplate, Message, RenderOptions, SpecialTokens};
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Deserialize)]
struct Case {
    template: String,
    messages: Vec<Message>,
    #[serde(default)]
    tools: Vec<Value>,
    #[serde(default)]
    variables: Map<String, Value>,
    #[serde(default)]
    add_generation_prompt: bool,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let case: Case = serde_json::from_str(&line?)?;
        let options = RenderOptions {
            tools: &case.tools,
            add_generation_prompt: case.add_generation_prompt,
            variables: Some(&case.variables),
        };
        let rendered = ChatTemplate::new(case.template)
            .and_then(|template| template.render(&case.messages, options, &SpecialTokens::default()));
        let answer = match rendered {
            Ok(text) => json!({"text": text}),
            Err(error) => json!({"error": error.to_string()}),
        };
        writeln!(out, "{answer}")?;
    }
    Ok(())
}
