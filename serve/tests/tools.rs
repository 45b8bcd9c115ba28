//! Tools: calls that are forced, calls that are found, streams without their syntax, and what is refused.

mod common;

use std::sync::Arc;

use common::{BOS, Behaviour, Double, MODEL, Server, TOOL_TEMPLATE, body, limits, payloads, says, tokenizer_with};
use orpo_serve::served::Served;
use serde_json::{Value, json};

fn weather() -> Value {
    let unit = json!({"$ref": "#/$defs/unit"});
    let parameters = json!({
        "type": "object",
        "properties": {"days": {"type": "integer", "minimum": 1, "maximum": 9}, "unit": unit},
        "required": ["days", "unit"],
        "$defs": {"unit": {"enum": ["C", "F"]}},
    });
    json!({"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": parameters,
                                            "strict": null}})
}

fn time() -> Value {
    json!({"type": "function", "function": {"name": "time"}})
}

/// What a streamed reply puts together, checked for OpenAI's order: the message, its finish reason, and the chunks.
async fn streamed(server: &Server, extra: Value) -> (Value, Value) {
    let mut extra = extra;
    extra["stream"] = json!(true);
    let response = server.post(&body(extra)).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let events = payloads(&response.text().await.unwrap());
    let (done, chunks) = events.split_last().unwrap();
    assert_eq!(done, "[DONE]");
    let chunks: Vec<Value> = chunks.iter().map(|chunk| serde_json::from_str(chunk).unwrap()).collect();
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant"}));
    let (mut content, mut calls, mut reason) = (Value::Null, Vec::<Value>::new(), Value::Null);
    for choice in chunks.iter().map(|chunk| &chunk["choices"][0]) {
        assert_eq!(reason, Value::Null, "nothing follows the end");
        reason = choice["finish_reason"].clone();
        if let Some(text) = choice["delta"]["content"].as_str() {
            content = json!(content.as_str().unwrap_or_default().to_string() + text);
        }
        for call in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let index = call["index"].as_u64().unwrap() as usize;
            let arguments = call["function"]["arguments"].as_str().unwrap();
            if index == calls.len() {
                assert_eq!((&call["type"], arguments), (&json!("function"), ""));
                let function = json!({"name": call["function"]["name"], "arguments": ""});
                calls.push(json!({"id": call["id"], "type": "function", "function": function}));
            } else {
                assert_eq!(
                    (index + 1, &call["id"], &call["function"]["name"]),
                    (calls.len(), &Value::Null, &Value::Null)
                );
                let so_far = calls[index]["function"]["arguments"].as_str().unwrap().to_string();
                calls[index]["function"]["arguments"] = json!(so_far + arguments);
            }
        }
    }
    let mut message = json!({"role": "assistant", "content": content, "refusal": null});
    if !calls.is_empty() {
        message["tool_calls"] = json!(calls);
    } else if content.is_null() {
        message["content"] = json!("");
    }
    (message, reason)
}

/// Message and finish reason of a reply, the same whole and streamed, but for the ids of calls.
async fn answer(server: &Server, extra: Value) -> (Value, Value) {
    let (status, reply) = server.chat(extra.clone()).await;
    assert_eq!(status, 200, "{reply}");
    let choice = &reply["choices"][0];
    let without_ids = |message: &Value| {
        let mut message = message.clone();
        let mut ids = Vec::new();
        for call in message["tool_calls"].as_array_mut().into_iter().flatten() {
            let id = call.as_object_mut().unwrap().remove("id").unwrap();
            assert!(id.as_str().unwrap().len() == 9 && !ids.contains(&id), "{id}");
            ids.push(id);
        }
        message
    };
    let (message, reason) = streamed(server, extra).await;
    assert_eq!((without_ids(&message), &reason), (without_ids(&choice["message"]), &choice["finish_reason"]));
    (without_ids(&choice["message"]), reason)
}

fn arguments(call: &Value) -> Value {
    serde_json::from_str(call["function"]["arguments"].as_str().unwrap())
        .unwrap_or_else(|error| panic!("{error}: {call}"))
}

#[tokio::test]
async fn required_calls_are_valid_from_a_model_that_knows_nothing() {
    let named = json!({"type": "function", "function": {"name": "weather"}});
    for behaviour in [Behaviour::Noise, Behaviour::Says(Vec::new()), says("Sure!")] {
        let server = Server::with_template(Double::new(behaviour), TOOL_TEMPLATE).await;
        for (seed, choice) in [(1, json!("required")), (2, json!("required")), (3, named.clone()), (4, named.clone())] {
            let extra = json!({"tools": [weather(), time()], "tool_choice": choice, "seed": seed, "temperature": 2});
            let (message, reason) = answer(&server, extra).await;
            assert_eq!((&message["content"], &reason), (&Value::Null, &json!("tool_calls")), "{message}");
            let calls = message["tool_calls"].as_array().unwrap();
            assert!(choice == "required" || calls.len() == 1);
            for call in calls {
                let arguments = arguments(call);
                match call["function"]["name"].as_str().unwrap() {
                    "weather" => {
                        assert!((1..=9).contains(&arguments["days"].as_i64().unwrap()), "{arguments}");
                        assert!(arguments["unit"] == "C" || arguments["unit"] == "F", "{arguments}");
                        assert_eq!(arguments.as_object().unwrap().len(), 2);
                    }
                    "time" => assert_eq!(arguments, json!({})),
                    other => panic!("{other}"),
                }
            }
        }
        let one = json!({"tools": [time()], "tool_choice": "required", "parallel_tool_calls": false});
        assert_eq!(answer(&server, one).await.0["tool_calls"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn calls_as_the_template_teaches_them_are_found_and_other_text_stays() {
    let call = r#"<tool_call>
{"name": "weather", "arguments": {"days": 2, "unit": "C"}}
</tool_call>"#;
    let auto = json!({"tools": [weather(), time()]});
    for (text, content, names) in [
        (call.to_string(), Value::Null, vec!["weather"]),
        (format!("Let me see.\n{call}\n{call}"), json!("Let me see."), vec!["weather", "weather"]),
        ("1 < 2 <tool> x \n".to_string(), json!("1 < 2 <tool> x \n"), vec![]),
        ("<tool_call>weather</tool_call>".to_string(), json!("<tool_call>weather</tool_call>"), vec![]),
    ] {
        let server = Server::with_template(Double::new(says(&text)), TOOL_TEMPLATE).await;
        let (message, reason) = answer(&server, auto.clone()).await;
        assert_eq!(message["content"], content);
        let calls: Vec<Value> = message["tool_calls"].as_array().cloned().unwrap_or_default();
        assert_eq!(calls.iter().map(|call| call["function"]["name"].as_str().unwrap()).collect::<Vec<_>>(), names);
        assert_eq!(reason, if names.is_empty() { "stop" } else { "tool_calls" });
        assert!(calls.iter().all(|call| call["function"]["arguments"] == r#"{"days": 2, "unit": "C"}"#));
        // Where none may be called, text is text.
        let none = json!({"tools": [weather()], "tool_choice": "none"});
        let (_, reply) = server.chat(none).await;
        assert_eq!(reply["choices"][0]["message"]["content"], text);
    }
    let server = Server::with_template(Double::new(says(&call.repeat(2))), TOOL_TEMPLATE).await;
    let one = json!({"tools": [weather()], "parallel_tool_calls": false});
    assert_eq!(answer(&server, one).await.0["tool_calls"].as_array().unwrap().len(), 1);
    // Cut off inside of the call: what there is of it, and no syntax.
    let server = Server::with_template(Double::new(says(call)), TOOL_TEMPLATE).await;
    for max_tokens in 1..call.len() {
        let (message, reason) = answer(&server, json!({"tools": [weather()], "max_tokens": max_tokens})).await;
        let content = message["content"].as_str().unwrap_or_default();
        assert!("<tool_call>".starts_with(content) && content.len() < 11, "{max_tokens}: {message}");
        assert_eq!(reason, "length");
    }
}

#[tokio::test]
async fn a_marker_that_is_a_special_token_announces_calls() {
    let template = "{{ tools }}[TOOL_CALLS]{% for m in messages %}{{ m.content }}{% endfor %}";
    let list = r#" [{"name": "time", "arguments": {}, "id": "123456789"}]"#;
    let ids = b"Now.".iter().map(|&byte| byte.into()).chain([BOS]).chain(list.bytes().map(u32::from));
    let (server, state) = Server::empty(common::limits()).await;
    let engine = Double::new(Behaviour::Says(ids.collect()));
    state.serve(Served::new(MODEL, Arc::new(engine), tokenizer_with(template, "[TOOL_CALLS]")));
    let (message, reason) = answer(&server, json!({"tools": [time()]})).await;
    assert_eq!((&message["content"], &reason), (&json!("Now."), &json!("tool_calls")));
    assert_eq!(message["tool_calls"][0]["function"], json!({"name": "time", "arguments": "{}"}));
    // Elsewhere special tokens are no text.
    let (_, reply) = server.chat(json!({})).await;
    assert_eq!(reply["choices"][0]["message"]["content"], format!("Now.{list}"));
}

#[tokio::test]
async fn tools_calls_and_results_reach_the_template() {
    let server = Server::with_template(Double::new(says("ok")), TOOL_TEMPLATE).await;
    let call = json!({"id": "c1", "type": "function", "function": {"name": "time", "arguments": "{\"a\":1}"}});
    let messages = json!([
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "noon"},
    ]);
    let rendered = async |body: Value| {
        let post = |path: &str, body: Value| server.client.post(format!("{}{path}", server.url)).json(&body).send();
        let tokens: Value = post("/tokenize", body).await.unwrap().json().await.unwrap();
        let text = post("/detokenize", json!({"tokens": tokens["tokens"]})).await.unwrap();
        text.json::<Value>().await.unwrap()["prompt"].as_str().unwrap().to_string()
    };
    let text = rendered(json!({"messages": messages, "tools": [time()]})).await;
    let expected = concat!(
        "<s>tools: {\"type\": \"function\", \"function\": {\"name\": \"time\"}} call by <tool_call>{...}</tool_call>\n",
        "user: hi\nassistant: <tool_call>{\"name\": \"time\", \"arguments\": {\"a\": 1}}</tool_call>\n",
        "tool time: noon\nbot:"
    );
    assert_eq!(text, expected);
    let (_, reply) = server.chat(json!({"messages": messages, "tools": [time()]})).await;
    assert_eq!(reply["usage"]["prompt_tokens"], expected.len() - "<s>".len() + 1);
    // With `none` the model is not shown the tools; results stay.
    let (status, reply) = server.chat(json!({"messages": messages, "tools": [time()], "tool_choice": "none"})).await;
    assert_eq!(status, 200);
    let shown = rendered(json!({ "messages": messages })).await;
    assert_eq!(reply["usage"]["prompt_tokens"], shown.len() - "<s>".len() + 1);
    assert!(!shown.contains("tools:"));
}

#[tokio::test]
async fn tools_that_cannot_be_are_refused_by_name() {
    let without = Server::start(Double::new(says("ok"))).await;
    let call = json!({"id": "c1", "type": "function", "function": {"name": "time", "arguments": "{}"}});
    let user = json!({"role": "user", "content": "hi"});
    for (extra, param) in [
        (json!({"tools": [time()]}), "tools"),
        (json!({"tools": [time()], "tool_choice": "required"}), "tools"),
        (json!({"messages": [user, {"role": "assistant", "tool_calls": [call]}]}), "messages[1]"),
        (json!({"messages": [user, {"role": "tool", "tool_call_id": "c1", "content": "x"}]}), "messages[1]"),
    ] {
        let (status, reply) = without.chat(extra).await;
        let error = &reply["error"];
        assert_eq!((status, &error["code"], &error["param"]), (400, &json!("unsupported_parameter"), &json!(param)));
        assert!(error["message"].as_str().unwrap().contains("--chat-template"), "{error}");
    }
    for harmless in [
        json!({"tools": [time()], "tool_choice": "none"}),
        json!({"tools": [], "tool_choice": "auto", "parallel_tool_calls": true}),
    ] {
        assert_eq!(without.chat(harmless).await.0, 200);
    }
    let with = Server::with_template(Double::new(says("ok")), TOOL_TEMPLATE).await;
    let nonsense =
        json!({"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "x"}}}}});
    let (status, reply) = with.chat(json!({"tools": [nonsense], "tool_choice": "required"})).await;
    assert_eq!((status, &reply["error"]["param"]), (400, &json!("tools")), "{reply}");
    assert_eq!(reply["error"]["code"], "invalid_value");
    assert_eq!(with.chat(json!({"model": MODEL, "tools": [nonsense]})).await.0, 200, "nothing is forced");
}

#[tokio::test]
async fn a_forced_call_ends_within_its_tokens_whatever_the_model_likes() {
    let parameters = json!({"type": "object", "properties": {"c": {"type": "string"}}, "required": ["c"]});
    let tool = json!({"type": "function", "function": {"name": "w", "parameters": parameters}});
    let shortest = r#"[{"name":"w","arguments":{"c":""}}]"#.len() + 1;
    let extra = |max_tokens: usize| json!({"tools": [tool], "tool_choice": "required", "max_tokens": max_tokens, "temperature": 1, "seed": max_tokens});
    for liked in [b" ", b"\n", b"{", b"\"", b"a", b"9", b",", b"\\"] {
        let liked = Behaviour::Says(vec![liked[0].into(); 500]);
        let server = Server::with_template(Double::new(liked), TOOL_TEMPLATE).await;
        for max_tokens in [shortest, shortest + 1, shortest + 7, 100, 200] {
            let (message, reason) = answer(&server, extra(max_tokens)).await;
            assert_eq!(reason, "tool_calls", "{message}");
            for call in message["tool_calls"].as_array().unwrap() {
                assert!(arguments(call)["c"].is_string(), "{call}");
            }
        }
        let (status, reply) = server.chat(extra(shortest - 1)).await;
        assert_eq!((status, &reply["error"]["param"]), (400, &json!("max_tokens")), "{reply}");
        assert!(reply["error"]["message"].as_str().unwrap().contains(&format!("{shortest} tokens")), "{reply}");
    }
}

#[tokio::test]
async fn a_call_that_a_limit_cut_can_be_sent_back() {
    let server = Server::with_template(Double::new(says("ok")), TOOL_TEMPLATE).await;
    let call = json!({"id": "c1", "type": "function", "function": {"name": "time", "arguments": "{\"c\":\"i wat"}});
    let messages = json!([
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "the arguments were cut off"},
    ]);
    assert_eq!(server.chat(json!({"messages": messages, "tools": [time()]})).await.0, 200);
}

#[tokio::test]
async fn variables_reach_the_chat_template() {
    let template = "{% if enable_thinking is defined and not enable_thinking %}no {% endif %}thinking{{ extra }}";
    let server = Server::with_template(Double::new(says("ok")), template).await;
    for (variables, text) in [
        (json!({}), "thinking"),
        (json!({"enable_thinking": false}), "no thinking"),
        (json!({"enable_thinking": true, "extra": "!"}), "thinking!"),
    ] {
        let body = json!({"messages": [{"role": "user", "content": "hi"}], "chat_template_kwargs": variables});
        let tokens = server.client.post(format!("{}/tokenize", server.url)).json(&body).send().await.unwrap();
        let tokens: Value = tokens.json().await.unwrap();
        // With BOS.
        assert_eq!(tokens["count"], text.len() + 1, "{tokens}");
        let (_, reply) = server.chat(json!({ "chat_template_kwargs": variables })).await;
        assert_eq!(reply["usage"]["prompt_tokens"], text.len() + 1, "{reply}");
    }
}

#[tokio::test]
async fn a_request_s_variables_win_over_the_server_s() {
    let template = "{% if enable_thinking is defined and not enable_thinking %}no {% endif %}thinking{{ extra }}";
    let defaults = json!({"enable_thinking": false, "extra": "!"}).as_object().unwrap().clone();
    let (server, state) = Server::empty(limits()).await;
    let engine = Double { context_length: 4096, ..Double::new(says("ok")) };
    let tokenizer = tokenizer_with(template, "<s>").with_variables(defaults);
    state.serve(Served::new(MODEL, Arc::new(engine), tokenizer));
    for (variables, text) in [
        (json!({}), "no thinking!"),
        (json!({"enable_thinking": true}), "thinking!"),
        (json!({"extra": "?"}), "no thinking?"),
    ] {
        let (_, reply) = server.chat(json!({ "chat_template_kwargs": variables })).await;
        assert_eq!(reply["usage"]["prompt_tokens"], text.len() + 1, "{reply}");
    }
}
