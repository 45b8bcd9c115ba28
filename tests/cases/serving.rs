//! Requests as clients send them: what must be answered, bounded or refused.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::setting::{Case, Server, names};

fn user_bot(case: &Case) -> PathBuf {
    case.shared("data/chat_templates/user_bot.jinja")
}

/// A small model with a template for people and bots.
fn stories(case: &Case) -> Server {
    case.serve(&case.shared("data/models/stories260k"), &["--chat-template", user_bot(case).to_str().unwrap()])
}

fn object(choice: &Value) -> Value {
    let content = choice["message"]["content"].as_str().unwrap();
    serde_json::from_str(content).unwrap_or_else(|error| panic!("{error}: {choice}"))
}

#[test]
fn a_forced_call_and_a_schema_end_before_the_tokens_do() {
    let Some(case) = Case::open("40-whitespace-forever") else { return };
    for model in ["data/models/stories260k", "train/golden/qwen2/model", "train/golden/llama/model"] {
        let server = case.serve(&case.shared(model), &["--chat-template", "t.jinja"]);
        for (temperature, seed) in [(0.0, 0), (1.0, 1), (1.0, 2), (0.7, 3)] {
            let with = |name: &str| {
                let mut body = case.json(name);
                body["temperature"] = json!(temperature);
                body["seed"] = json!(seed);
                server.chat(&body)
            };
            let call = with("forced.json");
            assert_eq!(call["finish_reason"], "tool_calls", "{model}: {call}");
            let arguments = call["message"]["tool_calls"][0]["function"]["arguments"].as_str().unwrap();
            let arguments: Value = serde_json::from_str(arguments).unwrap();
            assert!(arguments["c"].is_string(), "{model}: {arguments}");
            let choice = with("schema.json");
            assert!(choice["finish_reason"] == "stop" && object(&choice)["a"].is_boolean(), "{model}: {choice}");
        }
    }
}

#[test]
fn a_call_that_was_cut_off_can_be_sent_back() {
    let Some(case) = Case::open("41-truncated-call-sent-back") else { return };
    let server = case.serve(&case.shared("train/golden/llama/model"), &["--chat-template", "t.jinja"]);
    server.chat(&case.json("req.json"));
}

#[test]
fn fields_that_ask_for_nothing_are_accepted() {
    let Some(case) = Case::open("42-neutral-fields") else { return };
    let server = stories(&case);
    for number in 1..=15 {
        server.chat(&case.json(&format!("{number:02}.json")));
    }
    // One that asks for something that is not done is refused by name.
    let mut body = case.json("12.json");
    body["use_beam_search"] = true.into();
    names(&server.refused(&body), &["use_beam_search"]);
}

#[test]
fn arguments_of_the_template_reach_it() {
    let Some(case) = Case::open("42-neutral-fields") else { return };
    let template =
        "{% if enable_thinking is defined and not enable_thinking %}[off]{% endif %}{{ messages[0].content }}";
    case.write("thinking.jinja", template);
    let server = case.serve(&case.shared("data/models/stories260k"), &["--chat-template", "thinking.jinja"]);
    let messages = json!([{"role": "user", "content": "Hi"}]);
    let chat = json!({"messages": messages, "chat_template_kwargs": {"enable_thinking": false}});
    names(&server.detokenize(&server.tokenize(&chat)), &["[off]Hi"]);
    let plain = server.detokenize(&server.tokenize(&json!({"messages": messages})));
    assert!(!plain.contains("[off]"), "{plain}");
}

#[test]
fn more_than_four_stop_strings_are_accepted() {
    let Some(case) = Case::open("44-more-than-four-stops") else { return };
    let server = case.serve(&case.shared("data/models/stories260k"), &[]);
    let (status, reply) = server.post("/v1/completions", &case.json("req.json"));
    assert_eq!(status, 200, "{reply}");
}

#[test]
fn an_unknown_format_is_an_annotation_and_a_bad_pattern_is_told_in_full() {
    let Some(case) = Case::open("45-unknown-format") else { return };
    let server = case.serve(&case.shared("train/golden/llama/model"), &[]);
    for name in ["binary", "json-string", "password", "path", "uri-reference"] {
        let choice = server.chat(&case.json(&format!("{name}.json")));
        assert!(object(&choice)["s"].is_string(), "{name}: {choice}");
    }
    let message = server.refused(&case.json("pattern-lookahead.json"));
    names(&message, &["look-ahead"]);
    assert!(!message.trim_end().ends_with("parse error:"), "{message}");
}

#[test]
fn a_template_sees_no_tools_and_no_documents_as_none() {
    let Some(case) = Case::open("47-tools-is-not-none") else { return };
    let server = case.serve(&case.shared("train/golden/llama/model"), &["--chat-template", "t.jinja"]);
    let ids = server.tokenize(&json!({"messages": [{"role": "user", "content": "Hi"}]}));
    let text = server.detokenize(&ids);
    assert!(text.contains("[no documents]user: Hi") && !text.contains("[tools mode]"), "{text:?}");
}

#[test]
fn a_value_that_the_vocabulary_cannot_write_is_no_server_error() {
    let Some(case) = Case::open("71-enum-beyond-the-vocabulary") else { return };
    let template = user_bot(&case);
    let server =
        case.serve(&case.shared("data/models/tinystories-656k"), &["--chat-template", template.to_str().unwrap()]);
    for seed in 1..=8 {
        let mut body = case.json("request.json");
        body["seed"] = seed.into();
        let (status, reply) = server.post("/v1/chat/completions", &body);
        match status {
            200 => assert_eq!(object(&reply["choices"][0]), "foo", "seed {seed}"),
            status => assert_eq!(status, 400, "seed {seed}: {reply}"),
        }
    }
}

#[test]
fn blanks_between_json_tokens_are_bounded() {
    let Some(case) = Case::open("72-schema-blanks-and-digits") else { return };
    let server = stories(&case);
    for seed in 1..=8 {
        let mut body = case.json("request.json");
        body["seed"] = seed.into();
        let choice = server.chat(&body);
        assert!(choice["finish_reason"] == "stop" && object(&choice)["foo"].is_boolean(), "seed {seed}: {choice}");
        let text = choice["message"]["content"].as_str().unwrap();
        assert!(!text.contains("  ") && !text.contains("\n\n"), "{text:?}");
    }
}

#[test]
fn annotations_of_a_schema_do_not_refuse_it() {
    let Some(case) = Case::open("74-schema-annotations") else { return };
    let choice = stories(&case).chat(&case.json("request.json"));
    assert!(object(&choice)["p"].is_string(), "{choice}");
}

#[test]
fn a_web_page_elsewhere_cannot_make_a_server_generate() {
    let Some(case) = Case::open("75-foreign-origin-and-content-type") else { return };
    let server = stories(&case);
    let body = case.text("request.json");
    let chat = || server.client.post(format!("{}/v1/chat/completions", server.url)).body(body.clone());
    let status = |request: reqwest::blocking::RequestBuilder| request.send().unwrap().status().as_u16();
    let json = "application/json";
    assert_eq!(status(chat().header("content-type", json)), 200);
    assert_eq!(status(chat().header("content-type", "text/plain")), 415);
    assert_eq!(status(chat().header("content-type", json).header("origin", "http://evil.example")), 403);
    let models = || server.client.get(format!("{}/v1/models", server.url));
    assert_eq!(status(models()), 200);
    assert_eq!(status(models().header("host", "evil.example")), 403);
}

#[test]
fn a_seed_out_of_range_is_told_its_range() {
    let Some(case) = Case::open("76-seed-range") else { return };
    let message = stories(&case).refused(&case.json("request.json"));
    names(&message, &["seed", "-9223372036854775808"]);
}

#[test]
fn echoed_ids_are_shown_as_they_decode() {
    let Some(case) = Case::open("78-echo-of-special-ids") else { return };
    let server = case.serve(&case.shared("train/golden/llama3/model"), &[]);
    let mut body = case.json("request.json");
    body["model"] = "m".into();
    let (status, reply) = server.post("/v1/completions", &body);
    assert_eq!(status, 200, "{reply}");
    let ids: Vec<u64> = body["prompt"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    let choice = &reply["choices"][0];
    let (text, prompt) = (choice["text"].as_str().unwrap(), server.detokenize(&ids));
    assert!(prompt.matches("<|begin_of_text|>").count() == 2 && text.starts_with(&prompt), "{text:?} {prompt:?}");
    // Every offset is where its token begins.
    let tokens = choice["logprobs"]["tokens"].as_array().unwrap();
    for (token, offset) in tokens.iter().zip(choice["logprobs"]["text_offset"].as_array().unwrap()) {
        let rest: String = text.chars().skip(offset.as_u64().unwrap() as usize).collect();
        assert!(rest.starts_with(token.as_str().unwrap()), "{token} at {offset} in {text:?}");
    }
}

#[test]
fn a_benchmark_gets_all_its_tokens_and_its_usage() {
    let Some(case) = Case::open("79-ignore-eos-and-usage-stats") else { return };
    let server = stories(&case);
    let chat = server.client.post(format!("{}/v1/chat/completions", server.url)).json(&case.json("request.json"));
    let reply = chat.send().unwrap();
    assert_eq!(reply.status().as_u16(), 200, "{}", reply.text().unwrap());
    let text = reply.text().unwrap();
    let chunks = text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    let chunks: Vec<Value> = chunks.map(|data| serde_json::from_str(data).unwrap()).collect();
    assert!(chunks.iter().all(|chunk| chunk["usage"].is_object()), "{text}");
    assert_eq!(chunks.last().unwrap()["usage"]["completion_tokens"], 16);
}
