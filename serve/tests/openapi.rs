//! What the server answers is what its published document describes, on every route and in every variant.

mod common;
mod schema;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Behaviour, Double, MODEL, Server, TOOL_TEMPLATE, body, eventually, limits, payloads, says, tokenizer};
use orpo_serve::keys::ApiKeys;
use orpo_serve::limits::Limits;
use orpo_serve::served::Served;
use orpo_serve::state::{Access, AppState};
use reqwest::{Method, Response};
use schema::Schemas;
use serde_json::{Value, json};

fn document() -> Value {
    serde_json::from_str(include_str!("../src/openai/openapi.json")).unwrap()
}

/// What `"$ref"` points to.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let target = value["$ref"].as_str().map(|target| document.pointer(target.strip_prefix('#').unwrap()).unwrap());
    target.unwrap_or(value)
}

/// Checks an answer: its status, headers, content type and body are those of the document.
async fn documented(path: &str, response: Response) -> (u16, String) {
    let document = document();
    let schemas = Schemas(&document);
    let operation = document["paths"][path].as_object().unwrap().values().next().unwrap();
    let status = response.status().as_u16();
    let described = resolved(&document, &operation["responses"][status.to_string()]);
    assert!(described.is_object(), "{path} answers {status}, which is not documented");
    for (name, header) in described["headers"].as_object().unwrap() {
        let header = resolved(&document, header);
        let Some(value) = response.headers().get(name) else {
            assert!(header["required"] == false, "{path} {status}: no header {name}");
            continue;
        };
        let text = value.to_str().unwrap();
        let value = if header["schema"]["type"] == "integer" { text.parse().unwrap() } else { json!(text) };
        schemas.check(&header["schema"], &value, name).unwrap();
    }
    let content_type = response.headers()["content-type"].to_str().unwrap().split(';').next().unwrap().to_string();
    let text = response.text().await.unwrap();
    let media = &described["content"][&content_type];
    assert!(media.is_object(), "{path} {status}: content type {content_type} is not documented");
    let check = |schema: &Value, value: &Value| {
        schemas.check(schema, value, "").unwrap_or_else(|error| panic!("{path} {status}: {error}\n{value:#}"));
    };
    match content_type.as_str() {
        "application/json" => check(&media["schema"], &serde_json::from_str(&text).unwrap()),
        "text/event-stream" => {
            for data in payloads(&text) {
                check(&media["schema"], &json!({ "data": data }));
            }
        }
        _ => check(&media["schema"], &json!(text)),
    }
    (status, text)
}

async fn post(server: &Server, path: &str, body: &Value) -> (u16, String) {
    documented(path, server.client.post(format!("{}{path}", server.url)).json(body).send().await.unwrap()).await
}

async fn get(server: &Server, path: &str) -> (u16, String) {
    documented(path, server.client.get(format!("{}{path}", server.url)).send().await.unwrap()).await
}

/// The document accepts the body of a request.
fn accepted(path: &str, body: &Value) {
    let document = document();
    let schema = &document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"];
    Schemas(&document).check(schema, body, "").unwrap_or_else(|error| panic!("{path}: {error}\n{body:#}"));
}

fn tool() -> Value {
    let parameters = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]});
    json!({"type": "function", "function": {"name": "f", "description": "d", "parameters": parameters, "strict": true}})
}

/// Chat requests of every kind.
fn chats() -> Vec<Value> {
    let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let conversation = json!([
        {"role": "developer", "content": "a", "name": null},
        {"role": "user", "content": [{"type": "text", "text": "b"}], "name": "ann"},
        {"role": "assistant", "content": "c", "refusal": null, "annotations": [], "tool_calls": []},
        {"role": "assistant", "content": null, "reasoning": "e"},
        {"role": "assistant", "content": null, "tool_calls": [call], "reasoning_content": "e", "index": 0},
        {"role": "tool", "content": "d", "tool_call_id": "c"},
    ]);
    let schema = json!({"type": "object", "properties": {"a": {"type": "boolean"}}, "additionalProperties": false});
    let named = json!({"type": "function", "function": {"name": "f"}});
    let kinds = [
        json!({}),
        json!({"messages": conversation, "max_tokens": 3}),
        json!({"logprobs": true, "top_logprobs": 2, "max_completion_tokens": 4, "n": 3, "temperature": 1, "seed": -1}),
        json!({"think": false, "format": "", "suffix": "", "extra_body": {}}),
        json!({"stop": ["x", "yy"], "logit_bias": {"97": -3.5}, "user": "u", "metadata": {}, "store": false}),
        json!({"stop": "q", "top_p": 0.5, "top_k": 5, "min_p": 0.1, "presence_penalty": 1, "frequency_penalty": -1,
               "repetition_penalty": 1.5, "max_tokens": 9}),
        json!({"response_format": {"type": "json_object"}, "max_tokens": 20}),
        json!({"response_format": {"type": "json_schema", "json_schema": {"name": "s", "strict": true, "schema": schema}}}),
        json!({"continue_final_message": true, "modalities": ["text"], "functions": [], "function_call": "none"}),
        json!({"guided_choice": ["a", "b"], "ignore_eos": true, "min_tokens": 1, "stop_token_ids": [120],
               "return_token_ids": true, "chat_template_kwargs": {"enable_thinking": false}, "model": null}),
        json!({"structured_outputs": {"json": {"items": {"type": "null"}, "uniqueItems": true, "type": "array"}},
               "reasoning_effort": "medium", "verbosity": "medium", "skip_special_tokens": true, "typical_p": 1}),
        json!({"tools": [tool()], "logprobs": true}),
        json!({"tools": [tool()], "tool_choice": "required", "parallel_tool_calls": false, "logprobs": true}),
        json!({"tools": [tool()], "tool_choice": named, "n": 2}),
        json!({"tools": [tool()], "tool_choice": "none", "max_tokens": 2}),
    ];
    kinds.into_iter().map(body).collect()
}

fn completions() -> Vec<Value> {
    let kinds = [
        json!({"prompt": "ab"}),
        json!({"prompt": ["a", "b"], "n": 2, "best_of": 2, "stop": null, "suffix": ""}),
        json!({"prompt": [97, 98], "echo": true, "logprobs": 2, "max_tokens": 2}),
        json!({"prompt": "a", "guided_regex": "[a-c]{2}", "return_token_ids": true, "cache_prompt": true}),
        json!({"prompt": "a", "response_format": {"type": "json_object"}, "logprobs": 20}),
        json!({"prompt": [[97], [98, 99]], "echo": true, "logprobs": 0, "max_tokens": 0, "add_special_tokens": false}),
    ];
    let complete = |mut body: Value| {
        body["model"] = json!(MODEL);
        body
    };
    kinds.into_iter().map(complete).collect()
}

#[tokio::test]
async fn replies_and_chunks_of_every_kind_are_documented() {
    let reply = "Well: <tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}</tool_call>";
    for behaviour in [says(reply), says("é🦀\n"), Behaviour::Noise] {
        let server = Server::with_template(Double::new(behaviour), TOOL_TEMPLATE).await;
        let chats = chats().into_iter().map(|body| ("/v1/chat/completions", body));
        let completions = completions().into_iter().map(|body| ("/v1/completions", body));
        for (path, mut body) in chats.chain(completions) {
            if body["max_tokens"].is_null() && body["max_completion_tokens"].is_null() {
                body["max_tokens"] = json!(100);
            }
            accepted(path, &body);
            let (status, text) = post(&server, path, &body).await;
            assert_eq!(status, 200, "{body}: {text}");
            for options in [
                Value::Null,
                json!({"include_usage": true, "include_obfuscation": false}),
                json!({"include_usage": true, "continuous_usage_stats": true}),
            ] {
                body["stream"] = json!(true);
                body["stream_options"] = options;
                accepted(path, &body);
                let (status, text) = post(&server, path, &body).await;
                assert!(status == 200 && text.ends_with("data: [DONE]\n\n"), "{body}: {text}");
            }
        }
        for (path, body) in [
            ("/tokenize", json!({"prompt": "a", "return_token_strs": true, "add_special_tokens": false})),
            ("/tokenize", json!({"messages": [{"role": "user", "content": "a"}], "tools": [tool()], "model": MODEL})),
            ("/detokenize", json!({"tokens": [97, 256], "model": null})),
        ] {
            accepted(path, &body);
            assert_eq!(post(&server, path, &body).await.0, 200);
        }
    }
}

#[tokio::test]
async fn pages_and_lists_are_documented() {
    let (server, state) = Server::empty(limits()).await;
    for path in ["/v1/models", "/tokenizer_info", "/ready"] {
        assert_eq!(get(&server, path).await.0, 503);
    }
    state.serve(Served::new(MODEL, Arc::new(Double::new(says("a"))), tokenizer()));
    for path in ["/v1/models", "/tokenizer_info", "/health", "/ready", "/metrics", "/openapi.json", "/"] {
        assert_eq!(get(&server, path).await.0, 200, "{path}");
    }
    assert_eq!(get(&server, "/report").await.0, 404);
    for (name, status) in [(MODEL, 200), ("owner/name", 404)] {
        let response = server.client.get(format!("{}/v1/models/{name}", server.url)).send().await.unwrap();
        assert_eq!(documented("/v1/models/{model}", response).await.0, status, "{name}");
    }
}

#[tokio::test]
async fn the_committed_document_is_served() {
    let server = Server::start(Double::new(says("a"))).await;
    let committed = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/openai/openapi.json")).unwrap();
    assert_eq!(get(&server, "/openapi.json").await, (200, committed));
}

#[tokio::test]
async fn errors_of_every_status_are_documented() {
    let chat = "/v1/chat/completions";
    let server = Server::start(Double::new(says("a"))).await;
    let good = body(json!({}));
    for (path, body, status) in [
        (chat, body(json!({"temperature": 3})), 400),
        (chat, body(json!({"messages": [{"role": "user", "content": "a".repeat(600)}]})), 400),
        (chat, body(json!({"messages": [{"role": "tool", "content": "a", "tool_call_id": "b"}]})), 400),
        (chat, json!([]), 400),
        (chat, body(json!({"model": "other"})), 404),
        (chat, body(json!({"user": "a".repeat(70 << 10)})), 413),
        ("/v1/completions", json!({"model": MODEL}), 400),
        ("/v1/completions", json!({"model": "other", "prompt": "a"}), 404),
        ("/tokenize", json!({}), 400),
        ("/tokenize", json!({"prompt": "a", "model": "other"}), 404),
        ("/detokenize", json!({"tokens": [999]}), 400),
    ] {
        assert_eq!(post(&server, path, &body).await.0, status, "{path}");
    }
    for path in document()["paths"].as_object().unwrap().keys() {
        let response = server.client.request(Method::DELETE, format!("{}{path}", server.url)).send().await.unwrap();
        assert_eq!(documented(path, response).await.0, 405, "{path}");
    }

    // Pages of others, other names, other bodies.
    for (path, methods) in document()["paths"].as_object().unwrap() {
        let method: Method = methods.as_object().unwrap().keys().next().unwrap().to_uppercase().parse().unwrap();
        let request = || server.client.request(method.clone(), format!("{}{path}", server.url));
        let foreign = request().header("origin", "http://evil.example").send().await.unwrap();
        assert_eq!(documented(path, foreign).await.0, 403, "{path}");
        if method == Method::POST {
            let text = request().header("content-type", "text/plain").body("{}").send().await.unwrap();
            assert_eq!(documented(path, text).await.0, 415, "{path}");
        }
    }

    // Keys.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "sk-a\n").unwrap();
    let access = Access { keys: Some(ApiKeys::from_file(file.path()).unwrap()), ..Access::default() };
    let (guarded, _) = Server::over(AppState::with_access(limits(), access)).await;
    for (path, methods) in document()["paths"].as_object().unwrap() {
        let (method, operation) = methods.as_object().unwrap().iter().next().unwrap();
        let method = method.to_uppercase().parse().unwrap();
        let response = guarded.client.request(method, format!("{}{path}", guarded.url)).send().await.unwrap();
        let is_open = operation["security"] == json!([]);
        assert_eq!(documented(path, response).await.0 != 401, is_open, "{path}");
    }

    // A full queue, a slow engine, a broken one, whole and streamed.
    let engine = Double::new(says("abcdefgh")).paced(Duration::from_millis(50));
    let running = engine.running.clone();
    let full = Server::with_limits(engine, Limits { max_queue: 0, ..limits() }).await;
    let first = tokio::spawn(full.post(&good).send());
    eventually("it runs", || running.load(Ordering::SeqCst) == 1).await;
    for (path, body) in [(chat, good.clone()), ("/v1/completions", json!({"model": MODEL, "prompt": "a"}))] {
        assert_eq!(post(&full, path, &body).await.0, 429);
    }
    assert_eq!(documented(chat, first.await.unwrap().unwrap()).await.0, 200);
    let slow = Double::new(Behaviour::Noise).paced(Duration::from_millis(20));
    let slow = Server::with_limits(slow, Limits { request_timeout: Duration::from_millis(100), ..limits() }).await;
    let broken = Server::start(Double::new(Behaviour::FailsAfter(1))).await;
    for (server, status) in [(&slow, 504), (&broken, 500)] {
        for (path, mut body) in [(chat, good.clone()), ("/v1/completions", json!({"model": MODEL, "prompt": "a"}))] {
            assert_eq!(post(server, path, &body).await.0, status);
            body["stream"] = json!(true);
            let (status, text) = post(server, path, &body).await;
            assert!(status == 200 && text.contains("\"error\""), "{text}");
        }
    }
}

#[tokio::test]
async fn what_is_not_documented_does_not_pass() {
    let document = document();
    let schemas = Schemas(&document);
    let reference = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
    let server = Server::start(Double::new(says("a"))).await;
    let (_, reply) = server.chat(json!({"logprobs": true})).await;
    schemas.check(&reference("ChatCompletion"), &reply, "").unwrap();
    for (pointer, value) in [
        ("", json!(1)),
        ("/usage", json!(null)),
        ("/object", json!("completion")),
        ("/choices", json!([])),
        ("/choices/0/finish_reason", json!("done")),
        ("/choices/0/message/content", json!(1)),
        ("/choices/0/logprobs/content/0/logprob", json!(0.5)),
        ("/choices/0/logprobs/content/0/bytes/0", json!(256)),
    ] {
        let mut wrong = reply.clone();
        *wrong.pointer_mut(pointer).unwrap() = value;
        assert!(schemas.check(&reference("ChatCompletion"), &wrong, "").is_err(), "{pointer}");
    }
    for pointer in ["", "/choices/0", "/choices/0/message", "/usage", "/choices/0/logprobs/content/0"] {
        let mut wrong = reply.clone();
        wrong.pointer_mut(pointer).unwrap()["more"] = json!(1);
        assert!(schemas.check(&reference("ChatCompletion"), &wrong, "").is_err(), "{pointer}");
    }
    // Every object of the document says whether it is open.
    let mut open = Vec::new();
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        unclosed(schema, name, &mut open);
    }
    assert_eq!(open, ["Empty"]);
}

/// The objects at `path` that say nothing of further fields.
fn unclosed(schema: &Value, path: &str, found: &mut Vec<String>) {
    match schema {
        Value::Object(fields) => {
            let is_object = fields.get("type").is_some_and(|kind| {
                kind == "object" || kind.as_array().is_some_and(|kinds| kinds.contains(&json!("object")))
            });
            if is_object && !fields.contains_key("additionalProperties") {
                found.push(path.to_string());
            }
            fields.iter().for_each(|(name, value)| unclosed(value, &format!("{path}.{name}"), found));
        }
        Value::Array(values) => values.iter().for_each(|value| unclosed(value, path, found)),
        _ => {}
    }
}
