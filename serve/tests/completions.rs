//! Completions, several choices, constrained replies and the tokenizer's routes, with a test double of the engine.

mod common;

use common::{BOS, Behaviour, Double, MODEL, PROMPT_TOKENS, Server, payloads, says, text_of};
use serde_json::{Value, json};

/// Status and body of `POST path`.
async fn post(server: &Server, path: &str, body: Value) -> (u16, Value) {
    let response = server.client.post(format!("{}{path}", server.url)).json(&body).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

async fn complete(server: &Server, extra: Value) -> (u16, Value) {
    let mut body = json!({"model": MODEL, "prompt": "ab", "temperature": 0});
    for (name, value) in extra.as_object().unwrap() {
        body[name] = value.clone();
    }
    post(server, "/v1/completions", body).await
}

#[tokio::test]
async fn all_forms_of_prompt_are_completed_in_order() {
    let server = Server::start(Double::new(says("xyz"))).await;
    for (prompt, choices, prompt_tokens) in [
        (json!("ab"), 1, 2),
        (json!(["a", "bcd"]), 2, 4),
        (json!([97, 98]), 1, 2),
        (json!([[BOS, 97], [98], [99]]), 3, 4),
    ] {
        let (status, reply) = complete(&server, json!({ "prompt": prompt })).await;
        assert_eq!((status, &reply["object"]), (200, &json!("text_completion")), "{reply}");
        let got = reply["choices"].as_array().unwrap();
        assert_eq!(got.len(), choices);
        for (index, choice) in got.iter().enumerate() {
            let expected = json!({"index": index, "text": "xyz", "logprobs": null, "finish_reason": "stop"});
            assert_eq!(choice, &expected);
        }
        // "xyz" and the end token for each choice.
        let usage = json!({"prompt_tokens": prompt_tokens, "completion_tokens": 4 * choices,
                           "total_tokens": prompt_tokens + 4 * choices, "prompt_tokens_details": {"cached_tokens": 0}});
        assert_eq!(reply["usage"], usage);
    }
}

#[tokio::test]
async fn choices_of_a_prompt_stand_together_and_have_their_own_seeds() {
    let server = Server::start(Double::new(Behaviour::Noise)).await;
    let texts = async |extra: Value| -> Vec<String> {
        let (status, reply) = complete(&server, extra).await;
        assert_eq!(status, 200, "{reply}");
        let choices = reply["choices"].as_array().unwrap();
        choices.iter().map(|choice| choice["text"].as_str().unwrap().to_string()).collect()
    };
    let sampled = |prompt: Value, n: usize| json!({"prompt": prompt, "n": n, "temperature": 1, "seed": 5});
    let both = texts(sampled(json!(["ab", "cd"]), 3)).await;
    assert_eq!(both.len(), 6);
    assert_eq!(both[..3], texts(sampled(json!("ab"), 3)).await);
    assert_eq!(both[3..], texts(sampled(json!("cd"), 3)).await);
    assert_eq!(both[..1], texts(sampled(json!("ab"), 1)).await);
    assert!(both[0] != both[1] && both[1] != both[2]);
}

#[tokio::test]
async fn a_harness_finds_the_log_likelihood_of_a_prompt() {
    let server = Server::start(Double::new(Behaviour::Noise)).await;
    let ids: Vec<u32> = b"hello".iter().map(|&byte| byte.into()).collect();
    let scored = async |prompt: Value, max_tokens: usize| {
        let body = json!({"prompt": prompt, "echo": true, "logprobs": 1, "max_tokens": max_tokens});
        let (status, reply) = complete(&server, body).await;
        assert_eq!(status, 200, "{reply}");
        reply
    };
    let one = scored(json!([ids]), 1).await;
    let lists = one["choices"][0]["logprobs"].clone();
    assert_eq!(lists["tokens"].as_array().unwrap().len(), 6);
    assert_eq!(lists["text_offset"], json!([0, 1, 2, 3, 4, 5]));
    assert_eq!((&lists["token_logprobs"][0], &lists["top_logprobs"][0]), (&Value::Null, &Value::Null));
    for at in 1..6 {
        let logprob = lists["token_logprobs"][at].as_f64().unwrap();
        let top = lists["top_logprobs"][at].as_object().unwrap();
        assert_eq!(top[lists["tokens"][at].as_str().unwrap()], lists["token_logprobs"][at]);
        let best = top.values().map(|value| value.as_f64().unwrap()).fold(f64::MIN, f64::max);
        // The generated token is greedy: exactly the best.
        assert!(logprob <= best && (at < 5 || logprob == best), "{at}: {lists}");
    }
    let text = one["choices"][0]["text"].as_str().unwrap();
    assert!(text.starts_with("hello") && text.len() == 6, "{text}");
    let usage = json!({"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6,
                       "prompt_tokens_details": {"cached_tokens": 0}});
    assert_eq!(one["usage"], usage);

    // What is generated is scored the same when it is a prompt.
    let again = scored(json!(text), 0).await;
    assert_eq!(again["choices"][0]["text"], text);
    assert_eq!(again["choices"][0]["finish_reason"], "length");
    assert_eq!(again["choices"][0]["logprobs"]["token_logprobs"], lists["token_logprobs"]);
    assert_eq!(again["usage"]["completion_tokens"], 0);
}

#[tokio::test]
async fn a_streamed_completion_is_the_whole_one() {
    let server = Server::start(Double::new(Behaviour::Noise)).await;
    let mut body = json!({"model": MODEL, "prompt": ["hi", "ho"], "n": 2, "max_tokens": 5, "seed": 3, "logprobs": 2,
                          "echo": true});
    let (_, whole) = post(&server, "/v1/completions", body.clone()).await;
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let response = server.client.post(format!("{}/v1/completions", server.url)).json(&body).send().await.unwrap();
    let events = payloads(&response.text().await.unwrap());
    assert_eq!(events.last().unwrap(), "[DONE]");
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let (usage, chunks) = chunks.split_last().unwrap();
    assert_eq!((&usage["choices"], &usage["usage"]), (&json!([]), &whole["usage"]));
    for expected in whole["choices"].as_array().unwrap() {
        let mut text = String::new();
        let mut logprobs = Vec::new();
        let mut reason = Value::Null;
        for choice in chunks.iter().map(|chunk| &chunk["choices"][0]).filter(|c| c["index"] == expected["index"]) {
            text += choice["text"].as_str().unwrap();
            logprobs.extend(choice["logprobs"]["token_logprobs"].as_array().cloned().unwrap_or_default());
            reason = choice["finish_reason"].clone();
        }
        assert_eq!(json!(text), expected["text"]);
        assert_eq!(json!(logprobs), expected["logprobs"]["token_logprobs"]);
        assert_eq!(reason, expected["finish_reason"]);
    }
}

#[tokio::test]
async fn a_token_that_is_part_of_a_character_is_written_as_bytes() {
    let server = Server::start(Double::new(says("é!"))).await;
    let (_, reply) = complete(&server, json!({"logprobs": 0})).await;
    let lists = &reply["choices"][0]["logprobs"];
    assert_eq!(lists["tokens"], json!(["bytes:\\xc3", "bytes:\\xa9", "!"]));
    assert_eq!(lists["text_offset"], json!([0, 0, 1]));
}

#[tokio::test]
async fn completions_that_cannot_be_are_refused() {
    let mut engine = Double::new(says("a"));
    engine.context_length = 8;
    let server = Server::start(engine).await;
    for (extra, code, param) in [
        (json!({"prompt": "12345678"}), "context_length_exceeded", "prompt"),
        (json!({"prompt": "123456789", "max_tokens": 0}), "context_length_exceeded", "prompt"),
        (json!({"prompt": ""}), "invalid_value", "prompt"),
        (json!({"prompt": [258]}), "invalid_value", "prompt"),
        (json!({"logprobs": 21}), "invalid_value", "logprobs"),
        (json!({"suffix": "x"}), "unsupported_parameter", "suffix"),
    ] {
        let (status, reply) = complete(&server, extra).await;
        assert_eq!((status, &reply["error"]["code"], &reply["error"]["param"]), (400, &json!(code), &json!(param)));
    }
    assert_eq!(complete(&server, json!({"prompt": "12345678", "max_tokens": 0})).await.0, 200);
    let server = Server::start(Double::new(Behaviour::FailsAfter(0))).await;
    let (status, reply) = complete(&server, json!({"echo": true, "logprobs": 1})).await;
    assert_eq!((status, &reply["error"]["code"]), (500, &json!("engine_failed")));
    assert!(!reply.to_string().contains("secret"));
}

#[tokio::test]
async fn chat_has_several_choices_whole_and_streamed() {
    let server = Server::start(Double::new(Behaviour::Noise)).await;
    let extra = json!({"n": 3, "max_tokens": 8, "temperature": 1, "seed": 1});
    let (_, whole) = server.chat(extra.clone()).await;
    let texts: Vec<&str> =
        (0..3).map(|index| whole["choices"][index]["message"]["content"].as_str().unwrap()).collect();
    assert!(texts[0] != texts[1] && texts[1] != texts[2]);
    assert_eq!(whole["usage"]["prompt_tokens"], PROMPT_TOKENS);
    assert_eq!(whole["usage"]["completion_tokens"], 24);
    let events = server.stream(extra).await;
    for (index, text) in texts.iter().enumerate() {
        let of_choice: Vec<String> =
            events.iter().filter(|event| event.contains(&format!("\"index\":{index}"))).cloned().collect();
        assert!(of_choice[0].contains("assistant"), "{}", of_choice[0]);
        assert_eq!(&text_of(&of_choice), text);
        assert!(of_choice.last().unwrap().contains("\"finish_reason\":\"length\""));
    }
}

#[tokio::test]
async fn bias_and_penalties_reach_the_choice() {
    let server = Server::start(Double::new(says("aaaa"))).await;
    let text = async |extra: Value| server.chat(extra).await.1["choices"][0]["message"]["content"].clone();
    assert_eq!(text(json!({"max_tokens": 3, "logit_bias": {"98": 100}})).await, "bbb");
    // The peak of 30 falls to 0.3, below the bias of 1, which is not penalised.
    assert_eq!(text(json!({"max_tokens": 3, "repetition_penalty": 100, "logit_bias": {"98": 1}})).await, "abb");
}

#[tokio::test]
async fn a_schema_is_followed_by_a_model_that_knows_nothing() {
    let server = Server::start(Double::new(Behaviour::Says(Vec::new()))).await;
    let schema = json!({"type": "object", "properties": {"name": {"enum": ["ann", "bob"]}, "old": {"type": "boolean"}},
                        "required": ["name", "old"], "additionalProperties": false});
    let format = json!({"type": "json_schema", "json_schema": {"name": "person", "schema": schema}});
    for seed in 0..5 {
        let extra = json!({"temperature": 2, "seed": seed, "response_format": format, "max_tokens": 400});
        let (status, reply) = server.chat(extra.clone()).await;
        assert_eq!((status, &reply["choices"][0]["finish_reason"]), (200, &json!("stop")), "{reply}");
        let content = reply["choices"][0]["message"]["content"].as_str().unwrap();
        let value: Value = serde_json::from_str(content).unwrap_or_else(|error| panic!("{error}: {content}"));
        assert!(value["name"] == "ann" || value["name"] == "bob", "{content}");
        assert!(value["old"].is_boolean(), "{content}");
        assert_eq!(text_of(&server.stream(extra).await), content);
    }
}

#[tokio::test]
async fn the_last_message_is_continued() {
    let server = Server::start(Double::new(says(" more"))).await;
    let messages = json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "so"}]);
    let body = json!({"messages": messages, "continue_final_message": true});
    let (status, reply) = server.chat(body.clone()).await;
    assert_eq!((status, &reply["choices"][0]["message"]["content"]), (200, &json!(" more")), "{reply}");
    // BOS and "user: hi\nassistant: so".
    assert_eq!(reply["usage"]["prompt_tokens"], 1 + "user: hi\nassistant: so".len());
    let (_, tokenized) = post(&server, "/tokenize", body).await;
    let (_, text) = post(&server, "/detokenize", json!({"tokens": tokenized["tokens"]})).await;
    assert_eq!(text["prompt"], "<s>user: hi\nassistant: so");
}

#[tokio::test]
async fn the_tokenizer_is_at_hand() {
    let server = Server::start(Double::new(says("a"))).await;
    let (status, reply) = post(&server, "/tokenize", json!({"prompt": "hé", "return_token_strs": true})).await;
    let expected = json!({"count": 3, "max_model_len": 512, "tokens": [104, 0xC3, 0xA9],
                          "token_strs": ["h", "Ã", "©"]});
    assert_eq!((status, reply), (200, expected));
    let (_, reply) = post(&server, "/tokenize", json!({"prompt": "</s>", "add_special_tokens": false})).await;
    assert_eq!((&reply["tokens"], &reply["token_strs"]), (&json!([257]), &Value::Null));
    let (status, reply) = post(&server, "/detokenize", json!({"tokens": [999]})).await;
    assert_eq!((status, &reply["error"]["param"]), (400, &json!("tokens")));
    let (status, reply) = post(&server, "/tokenize", json!({"prompt": "a", "model": "other"})).await;
    assert_eq!((status, &reply["error"]["code"]), (404, &json!("model_not_found")));
    let info = server.client.get(format!("{}/tokenizer_info", server.url)).send().await.unwrap();
    let info: Value = info.json().await.unwrap();
    assert_eq!((&info["bos_token"], &info["eos_token"]), (&json!("<s>"), &json!("</s>")));
    assert!(info["chat_template"].as_str().unwrap().contains("add_generation_prompt"));
}

#[tokio::test]
async fn an_echo_has_the_special_tokens_of_its_prompt() {
    let server = Server::start(Double::new(Behaviour::Noise)).await;
    for (prompt, text, offsets) in
        [(json!([BOS, 97, BOS, 98]), "<s>a<s>b", json!([0, 3, 4, 7])), (json!("a<s>b"), "a<s>b", json!([0, 1, 4]))]
    {
        let (_, reply) =
            complete(&server, json!({"prompt": prompt, "echo": true, "logprobs": 0, "max_tokens": 0})).await;
        assert_eq!(reply["choices"][0]["text"], text);
        assert_eq!(reply["choices"][0]["logprobs"]["text_offset"], offsets);
    }
}

#[tokio::test]
async fn completions_of_a_given_form() {
    let server = Server::start(Double::new(Behaviour::Noise)).await;
    for (form, texts) in [
        (json!({"guided_choice": ["yes", "no"]}), vec!["yes", "no"]),
        (json!({"structured_outputs": {"regex": "(left|right)!"}}), vec!["left!", "right!"]),
        (json!({"guided_json": {"enum": [1, 2]}}), vec!["1", "2"]),
    ] {
        let (status, reply) = complete(&server, form.clone()).await;
        assert_eq!(status, 200, "{form}: {reply}");
        assert!(texts.contains(&reply["choices"][0]["text"].as_str().unwrap().trim()), "{form}: {reply}");
        assert_eq!(reply["choices"][0]["finish_reason"], "stop");
    }
    let (_, reply) = complete(&server, json!({"guided_choice": ["yes"], "return_token_ids": true})).await;
    assert_eq!(reply["choices"][0]["token_ids"], json!([121, 101, 115]));
    assert_eq!(reply["choices"][0]["prompt_token_ids"], json!([97, 98]));
    let short = json!({"guided_choice": ["long enough"], "max_tokens": 8});
    let (status, reply) = complete(&server, short).await;
    assert_eq!((status, &reply["error"]["param"]), (400, &json!("max_tokens")));
    assert!(reply["error"]["message"].as_str().unwrap().contains("has 12 tokens"), "{reply}");
}

#[tokio::test]
async fn keywords_that_are_not_checked_are_named_in_a_header() {
    let server = Server::start(Double::new(Behaviour::Noise)).await;
    for (unique, header) in [(true, Some("uniqueItems")), (false, None)] {
        let schema = json!({"type": "array", "items": {"type": "boolean"}, "uniqueItems": unique});
        for stream in [false, true] {
            let body = common::body(json!({"guided_json": schema, "max_tokens": 60, "stream": stream}));
            let response = server.post(&body).send().await.unwrap();
            assert_eq!(response.status(), 200);
            let told = response.headers().get("x-unchecked-keywords").map(|value| value.to_str().unwrap());
            assert_eq!(told, header);
        }
    }
}
