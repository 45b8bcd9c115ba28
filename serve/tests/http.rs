//! The API over real sockets, with a test double in place of the engine.

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Behaviour, Double, MODEL, PROMPT_TOKENS, Server, body, eventually, limits, payloads, says, text_of};
use orpo_serve::limits::Limits;
use orpo_serve::served::Served;
use serde_json::{Value, json};

#[tokio::test]
async fn a_reply_is_whole() {
    let server = Server::start(Double::new(says("Hello, wörld! 🦀"))).await;
    let (status, reply) = server.chat(json!({})).await;
    assert_eq!(status, 200);
    assert!(reply["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(reply["object"], "chat.completion");
    assert_eq!(reply["model"], MODEL);
    assert_eq!(reply["choices"][0]["index"], 0);
    assert_eq!(reply["choices"][0]["message"]["role"], "assistant");
    assert_eq!(reply["choices"][0]["message"]["content"], "Hello, wörld! 🦀");
    assert_eq!(reply["choices"][0]["finish_reason"], "stop");
    assert_eq!(reply["choices"][0]["logprobs"], Value::Null);
    // One token per byte and the end token.
    let completion = "Hello, wörld! 🦀".len() + 1;
    let usage = json!({"prompt_tokens": PROMPT_TOKENS, "completion_tokens": completion,
                       "total_tokens": PROMPT_TOKENS + completion, "prompt_tokens_details": {"cached_tokens": 0}});
    assert_eq!(reply["usage"], usage);
}

#[tokio::test]
async fn a_stream_is_role_first_with_one_id_and_ends_with_usage_and_done() {
    let server = Server::start(Double::new(says("Hé 🦀"))).await;
    let events = server.stream(json!({"stream_options": {"include_usage": true}})).await;
    assert_eq!(events.last().unwrap(), "[DONE]");
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|payload| serde_json::from_str(payload).unwrap()).collect();
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    for chunk in &chunks {
        assert_eq!(chunk["id"], chunks[0]["id"]);
        assert_eq!(chunk["created"], chunks[0]["created"]);
        assert_eq!(chunk["object"], "chat.completion.chunk");
    }
    assert_eq!(text_of(&events), "Hé 🦀");
    let [.., last, usage] = chunks.as_slice() else { panic!("too few chunks") };
    assert_eq!(last["choices"][0]["delta"], json!({}));
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    assert_eq!(last["usage"], Value::Null);
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], "Hé 🦀".len() + 1);
    // Characters arrive whole.
    assert!(!events.concat().contains('\u{FFFD}'));
}

#[tokio::test]
async fn without_include_usage_no_chunk_has_usage() {
    let server = Server::start(Double::new(says("a"))).await;
    let events = server.stream(json!({})).await;
    assert!(!events.concat().contains("usage"));
    assert_eq!(events.len(), 4, "{events:?}");
}

#[tokio::test]
async fn whitespace_and_broken_characters_survive() {
    for text in ["\n  a\n\n", " ", "\n\n\n"] {
        let server = Server::start(Double::new(says(text))).await;
        assert_eq!(server.chat(json!({})).await.1["choices"][0]["message"]["content"], text);
        assert_eq!(text_of(&server.stream(json!({})).await), text);
    }
    let server = Server::start(Double::new(says("a🦀"))).await;
    let (_, reply) = server.chat(json!({"max_tokens": 3})).await;
    assert_eq!(reply["choices"][0]["message"]["content"], "a\u{FFFD}");
    assert_eq!(reply["choices"][0]["finish_reason"], "length");
    let events = server.stream(json!({"max_tokens": 3})).await;
    assert_eq!(text_of(&events), "a\u{FFFD}");
    assert_eq!(events.last().unwrap(), "[DONE]");
}

#[tokio::test]
async fn stop_strings_end_the_reply_and_never_leak() {
    let server = Server::start(Double::new(says("one two\nUser: three"))).await;
    for (stop, expected) in [
        (json!("\nUser:"), "one two"),
        (json!(["zzz", "two", "one two"]), ""),
        (json!(["User: nobody"]), "one two\nUser: three"),
        (json!(["ree\u{0}", "three"]), "one two\nUser: "),
    ] {
        let (_, reply) = server.chat(json!({ "stop": stop })).await;
        assert_eq!(reply["choices"][0]["message"]["content"], expected, "{stop}");
        assert_eq!(reply["choices"][0]["finish_reason"], "stop");
        assert_eq!(text_of(&server.stream(json!({ "stop": stop })).await), expected, "{stop}");
    }
}

#[tokio::test]
async fn max_tokens_ends_with_length() {
    let server = Server::start(Double::new(says("abcdef"))).await;
    for name in ["max_tokens", "max_completion_tokens"] {
        let (_, reply) = server.chat(json!({ name: 3 })).await;
        assert_eq!(reply["choices"][0]["message"]["content"], "abc");
        assert_eq!(reply["choices"][0]["finish_reason"], "length");
        assert_eq!(reply["usage"]["completion_tokens"], 3);
    }
}

#[tokio::test]
async fn without_max_tokens_the_reply_fills_the_context() {
    let mut engine = Double::new(Behaviour::Noise);
    engine.context_length = 40;
    let server = Server::start(engine).await;
    for extra in [json!({}), json!({"max_tokens": 1000})] {
        let (_, reply) = server.chat(extra).await;
        assert_eq!(reply["usage"]["total_tokens"], 40);
        assert_eq!(reply["choices"][0]["finish_reason"], "length");
    }
}

#[tokio::test]
async fn logprobs_agree_between_stream_and_whole() {
    let server = Server::start(Double::new(Behaviour::Noise)).await;
    let extra = json!({"max_tokens": 5, "logprobs": true, "top_logprobs": 3});
    let (_, reply) = server.chat(extra.clone()).await;
    let content = reply["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    assert_eq!(content.len(), 5);
    let text: String = content.iter().map(|entry| entry["token"].as_str().unwrap()).collect();
    assert_eq!(text, reply["choices"][0]["message"]["content"].as_str().unwrap());
    for entry in &content {
        assert_eq!(entry["bytes"], json!(entry["token"].as_str().unwrap().as_bytes()));
        let top = entry["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        assert_eq!((&top[0]["token"], &top[0]["logprob"]), (&entry["token"], &entry["logprob"]));
        assert!(entry["logprob"].as_f64().unwrap() < 0.0);
    }
    let streamed: Vec<Value> = server
        .stream(extra)
        .await
        .iter()
        .filter_map(|payload| serde_json::from_str::<Value>(payload).ok())
        .filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array().cloned())
        .flatten()
        .collect();
    assert_eq!(streamed, content);
}

#[tokio::test]
async fn logprobs_of_a_cut_off_stop_string_are_cut_off_too() {
    let server = Server::start(Double::new(says("abXYc"))).await;
    let (_, reply) = server.chat(json!({"stop": "XY", "logprobs": true})).await;
    let tokens: Vec<&str> = reply["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["token"].as_str().unwrap())
        .collect();
    assert_eq!(tokens, ["a", "b"]);
}

#[tokio::test]
async fn a_seed_reproduces_and_temperature_zero_is_greedy() {
    let server = Server::start(Double::new(Behaviour::Noise)).await;
    let text = async |extra: Value| {
        let (status, reply) = server.chat(extra).await;
        assert_eq!(status, 200, "{reply}");
        reply["choices"][0]["message"]["content"].as_str().unwrap().to_string()
    };
    let seeded = json!({"max_tokens": 40, "temperature": 1, "seed": 7});
    let first = text(seeded.clone()).await;
    assert_eq!(text(seeded.clone()).await, first);
    assert_eq!(text_of(&server.stream(seeded).await), first);
    assert_ne!(text(json!({"max_tokens": 40, "temperature": 1, "seed": 8})).await, first);
    let greedy = text(json!({"max_tokens": 40})).await;
    assert_eq!(text(json!({"max_tokens": 40, "seed": 1})).await, greedy);
    assert_eq!(text(json!({"max_tokens": 40, "temperature": 1, "top_k": 1})).await, greedy);
    assert_eq!(text(json!({"max_tokens": 40, "temperature": 1, "top_p": 0.0})).await, greedy);
    assert_ne!(greedy, first);
}

/// Checks status and error object.
fn assert_error(answer: &(u16, Value), status: u16, code: &str, param: Value) {
    let error = &answer.1["error"];
    assert_eq!((answer.0, &error["code"], &error["param"]), (status, &json!(code), &param), "{}", answer.1);
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{}", answer.1);
    assert!(error["type"].is_string(), "{}", answer.1);
    assert_eq!(answer.1.as_object().unwrap().len(), 1);
}

#[tokio::test]
async fn refusals_have_status_and_error_object() {
    let server = Server::start(Double::new(says("a"))).await;
    for (extra, status, code, param) in [
        (json!({"model": "other"}), 404, "model_not_found", json!("model")),
        (json!({"messages": null}), 400, "missing_required_parameter", json!("messages")),
        (json!({"temperature": "hot"}), 400, "invalid_value", json!("temperature")),
        (
            json!({"tools": [{"type": "function", "function": {"name": "f"}}]}),
            400,
            "unsupported_parameter",
            json!("tools"),
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}}),
            400,
            "invalid_value",
            json!("response_format"),
        ),
        (json!({"n": 0}), 400, "invalid_value", json!("n")),
        (json!({"logit_bias": {"258": 1}}), 400, "invalid_value", json!("logit_bias")),
        (json!({"no_such_field": 1}), 400, "unsupported_parameter", json!("no_such_field")),
        (json!({"logprobs": true, "top_logprobs": 21}), 400, "invalid_value", json!("top_logprobs")),
        (json!({"stream_options": {}}), 400, "invalid_value", json!("stream_options")),
    ] {
        assert_error(&server.chat(extra).await, status, code, param);
    }
    let request = |method: &str, path: &str, body: &str| {
        let method = method.parse().unwrap();
        let request = server.client.request(method, format!("{}{path}", server.url));
        request.header("content-type", "application/json").body(body.to_string())
    };
    for (method, path, text, status, code) in [
        ("POST", "/v1/chat/completions", "{\"model\": ", 400, "invalid_json"),
        ("POST", "/v1/chat/completions", "[]", 400, "invalid_json"),
        ("GET", "/v1/chat/completions", "", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", "", 405, "method_not_allowed"),
        ("GET", "/v1/nothing", "", 404, "unknown_url"),
        ("POST", "/", "{}", 405, "method_not_allowed"),
        ("POST", "/v1/chat/completions", &"x".repeat(70 << 10), 413, "request_too_large"),
    ] {
        let response = request(method, path, text).send().await.unwrap();
        let answer = (response.status().as_u16(), response.json().await.unwrap());
        assert_error(&answer, status, code, Value::Null);
    }
}

#[tokio::test]
async fn a_prompt_that_fills_the_context_is_refused_with_both_numbers() {
    let mut engine = Double::new(says("a"));
    engine.context_length = PROMPT_TOKENS;
    let server = Server::start(engine).await;
    let long = json!({"messages": [{"role": "user", "content": "hi!"}]});
    for (extra, tokens) in [(json!({}), PROMPT_TOKENS), (long, PROMPT_TOKENS + 1)] {
        let answer = server.chat(extra).await;
        assert_error(&answer, 400, "context_length_exceeded", json!("messages"));
        let message = answer.1["error"]["message"].as_str().unwrap();
        assert!(
            message.contains(&format!("{PROMPT_TOKENS} tokens")) && message.contains(&format!("in {tokens} tokens"))
        );
    }
    // One token of room is enough.
    let mut engine = Double::new(says("abc"));
    engine.context_length = PROMPT_TOKENS + 1;
    let server = Server::start(engine).await;
    assert_eq!(server.chat(json!({})).await.1["choices"][0]["message"]["content"], "a");
}

#[tokio::test]
async fn models_health_and_ready() {
    let (server, state) = Server::empty(limits()).await;
    let get = async |path: &str| {
        let response = server.client.get(format!("{}{path}", server.url)).send().await.unwrap();
        (response.status().as_u16(), response.headers().get("retry-after").is_some(), response.text().await.unwrap())
    };
    assert_eq!(get("/health").await.0, 200);
    for path in ["/ready", "/v1/models"] {
        let (status, retry_after, text) = get(path).await;
        assert_eq!((status, retry_after), (503, true));
        assert!(text.contains("not_ready"));
    }
    assert_error(&server.chat(json!({})).await, 503, "not_ready", Value::Null);
    state.serve(Served::new(MODEL, Arc::new(Double::new(says("a"))), common::tokenizer()));
    assert_eq!(get("/ready").await.0, 200);
    let models: Value = serde_json::from_str(&get("/v1/models").await.2).unwrap();
    assert_eq!(models["object"], "list");
    assert_eq!(models["data"][0]["id"], MODEL);
    assert_eq!(models["data"][0]["max_model_len"], 512);
    let model: Value = serde_json::from_str(&get(&format!("/v1/models/{MODEL}")).await.2).unwrap();
    assert_eq!(model, models["data"][0]);
}

#[tokio::test]
async fn a_gone_client_cancels_its_generation() {
    let engine = Double::new(Behaviour::Noise).paced(Duration::from_millis(10));
    let (cancelled, running) = (engine.cancelled.clone(), engine.running.clone());
    let server = Server::start(engine).await;
    for (count, stream) in [(1, true), (2, false)] {
        let request = server.post(&body(json!({"stream": stream}))).send();
        let client = tokio::spawn(async move {
            let response = request.await.unwrap();
            let _ = response.text().await;
        });
        eventually("the generation runs", || running.load(Ordering::SeqCst) == 1).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
        client.abort();
        eventually("it is cancelled", || cancelled.load(Ordering::SeqCst) == count).await;
    }
    // The slot is free again.
    let (status, _) = server.chat(json!({"max_tokens": 1})).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_full_queue_answers_429_and_the_others_are_served_in_turn() {
    let engine = Double::new(says("abcdefgh")).paced(Duration::from_millis(50));
    let running = engine.running.clone();
    let (server, state) = Server::empty(Limits { max_queue: 1, ..limits() }).await;
    state.serve(Served::new(MODEL, Arc::new(engine), common::tokenizer()));
    let first = tokio::spawn(server.post(&body(json!({}))).send());
    eventually("the first runs", || running.load(Ordering::SeqCst) == 1).await;
    let second = tokio::spawn(server.post(&body(json!({}))).send());
    eventually("the second waits", || state.admission.waiting() == 1).await;
    let refused = server.post(&body(json!({}))).send().await.unwrap();
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_error(&(refused.status().as_u16(), refused.json().await.unwrap()), 429, "queue_full", Value::Null);
    for answer in [first, second] {
        assert_eq!(answer.await.unwrap().unwrap().status(), 200);
    }
}

#[tokio::test]
async fn an_engine_failure_is_a_500_and_an_error_event_and_the_server_lives_on() {
    for behaviour in [Behaviour::FailsAfter(2), Behaviour::VanishesAfter(2)] {
        let server = Server::start(Double::new(behaviour)).await;
        let answer = server.chat(json!({})).await;
        assert_error(&answer, 500, "engine_failed", Value::Null);
        assert!(!answer.1.to_string().contains("secret"), "{}", answer.1);
        let events = server.stream(json!({})).await;
        let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
        assert_error(&(500, last), 500, "engine_failed", Value::Null);
        assert_eq!(text_of(&events), "xx");
        assert_eq!(server.chat(json!({"max_tokens": 2})).await.0, 200);
    }
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_ended() {
    let engine = Double::new(Behaviour::Noise).paced(Duration::from_millis(20));
    let (cancelled, limits) =
        (engine.cancelled.clone(), Limits { request_timeout: Duration::from_millis(200), ..limits() });
    let server = Server::with_limits(engine, limits).await;
    assert_error(&server.chat(json!({})).await, 504, "request_timeout", Value::Null);
    eventually("it is cancelled", || cancelled.load(Ordering::SeqCst) == 1).await;
    let events = server.stream(json!({})).await;
    assert!(events.len() > 2 && events.last().unwrap().contains("request_timeout"), "{events:?}");
}

#[tokio::test]
async fn a_slow_reader_does_not_hold_the_slot() {
    let server = Server::start(Double::new(says("abc"))).await;
    // This response is never read.
    let unread = server.post(&body(json!({"stream": true}))).send().await.unwrap();
    assert_eq!(server.chat(json!({})).await.0, 200);
    assert_eq!(text_of(&payloads(&unread.text().await.unwrap())), "abc");
}

#[tokio::test]
async fn running_requests_are_finished_when_the_server_stops() {
    let engine = Double::new(says("abcdefgh")).paced(Duration::from_millis(30));
    let running = engine.running.clone();
    let server = Server::start(engine).await;
    let request = tokio::spawn(server.post(&body(json!({}))).send());
    eventually("it runs", || running.load(Ordering::SeqCst) == 1).await;
    server.stop();
    let reply: Value = request.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(reply["choices"][0]["message"]["content"], "abcdefgh");
}

#[tokio::test]
async fn a_server_of_one_model_need_not_be_told_which() {
    let server = Server::start(Double::new(says("a"))).await;
    assert_eq!(server.chat(json!({"model": null})).await.1["model"], MODEL);
    let (server, state) = Server::empty(limits()).await;
    let model = |name: &str| Served::new(name, Arc::new(Double::new(says("a"))), common::tokenizer());
    state.serve_all(vec![model("a"), model("b")]);
    assert_error(&server.chat(json!({"model": null})).await, 400, "missing_required_parameter", json!("model"));
    assert_eq!(server.chat(json!({"model": "b"})).await.1["model"], "b");
}

#[tokio::test]
async fn the_usage_can_be_told_in_every_chunk() {
    let server = Server::start(Double::new(says("abc"))).await;
    let options = json!({"include_usage": true, "continuous_usage_stats": true});
    let events = server.stream(json!({ "stream_options": options })).await;
    let counts: Vec<u64> = events[..events.len() - 1]
        .iter()
        .map(|event| serde_json::from_str::<Value>(event).unwrap()["usage"]["completion_tokens"].as_u64().unwrap())
        .collect();
    // The role, three letters, the end, the sum.
    assert_eq!(counts, [0, 1, 2, 3, 4, 4]);
}

#[tokio::test]
async fn a_reply_ends_when_it_is_asked_to() {
    let server = Server::start(Double::new(says("abcd"))).await;
    for (extra, text, reason) in [
        (json!({"stop_token_ids": [99]}), "ab", "stop"),
        (json!({"min_tokens": 3}), "abcd", "stop"),
        (json!({"ignore_eos": true, "max_tokens": 4}), "abcd", "length"),
        (json!({"stop_token_ids": [99], "min_tokens": 3, "logit_bias": {"122": 1}, "max_tokens": 3}), "abz", "length"),
    ] {
        let (_, reply) = server.chat(extra.clone()).await;
        let choice = &reply["choices"][0];
        assert_eq!(
            (&choice["message"]["content"], &choice["finish_reason"]),
            (&json!(text), &json!(reason)),
            "{extra}"
        );
    }
    // Without its end token the model continues with something else.
    let (_, reply) = server.chat(json!({"ignore_eos": true, "max_tokens": 30})).await;
    assert_eq!(reply["usage"]["completion_tokens"], 30);
    let (_, reply) = server.chat(json!({"min_tokens": 12, "max_tokens": 30})).await;
    assert_eq!(
        (&reply["usage"]["completion_tokens"], &reply["choices"][0]["finish_reason"]),
        (&json!(13), &json!("stop"))
    );
}

#[tokio::test]
async fn token_ids_are_told_whole_and_streamed() {
    let server = Server::start(Double::new(says("abc"))).await;
    let (_, reply) = server.chat(json!({"return_token_ids": true})).await;
    let ids = json!([97, 98, 99]);
    assert_eq!((&reply["choices"][0]["token_ids"], &reply["choices"][0]["logprobs"]), (&ids, &Value::Null));
    assert_eq!(reply["prompt_token_ids"].as_array().unwrap().len(), PROMPT_TOKENS);
    let events = server.stream(json!({"return_token_ids": true})).await;
    let chunks: Vec<Value> = events.iter().filter_map(|event| serde_json::from_str(event).ok()).collect();
    assert_eq!(chunks[0]["prompt_token_ids"], reply["prompt_token_ids"]);
    let streamed: Vec<Value> =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["token_ids"].as_array()).flatten().cloned().collect();
    assert_eq!(json!(streamed), ids);
    assert!(chunks[1..].iter().all(|chunk| chunk.get("prompt_token_ids").is_none()));
}
