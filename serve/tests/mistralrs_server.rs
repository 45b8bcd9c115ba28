//! The whole server over mistralrs with a tiny random model: clients that leave, clients that do not read, requests side
//! by side, an engine that panics.
#![cfg(feature = "mistralrs")]

mod common;
mod random_model;

use std::io::{BufRead, BufReader, Read};
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::{EOS, MODEL, Server, limits, payloads, tokenizer};
use futures::future::join_all;
use orpo_serve::checkpoint::Checkpoint;
use orpo_serve::engine::{
    self, Engine, EngineChoice, EngineError, GenerateRequest, Generation, Sampling, Scoring, Step,
};
use orpo_serve::limits::Limits;
use orpo_serve::served::Served;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn load(dir: &Path, slots: usize) -> Arc<dyn Engine> {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let tokenizer = tokenizer();
    let selected = engine::choice::select(EngineChoice::Mistralrs, &checkpoint).unwrap();
    let prepared = selected.prepare(&checkpoint, tokenizer.eos_ids()).unwrap();
    engine::load(
        prepared,
        &tokenizer,
        engine::Options { max_concurrent: NonZeroUsize::new(slots), ..Default::default() },
    )
    .await
    .unwrap()
}

/// A server over a random model that generates for `slots` requests at a time.
async fn start(slots: usize) -> Server {
    let dir = tempfile::tempdir().unwrap();
    random_model::write(dir.path(), "f32", json!({}));
    serve(load(dir.path(), slots).await, slots).await
}

async fn serve(engine: Arc<dyn Engine>, slots: usize) -> Server {
    let (server, state) = Server::empty(Limits { max_concurrent: slots, max_queue: 32, ..limits() }).await;
    state.serve(Served::new(MODEL, engine, tokenizer()));
    server
}

/// A greedy completion of `prompt` that does not end by itself, with further fields.
fn completion(prompt: &str, max_tokens: usize, extra: Value) -> Value {
    let mut body = json!({"model": MODEL, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0,
                          "logit_bias": {EOS.to_string(): -100}});
    for (name, value) in extra.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

impl Server {
    fn completing(&self, body: &Value) -> reqwest::RequestBuilder {
        self.client.post(format!("{}/v1/completions", self.url)).json(body)
    }

    /// Status and answer without what differs between two answers to the same.
    async fn complete(&self, body: Value) -> (u16, Value) {
        let response = self.completing(&body).send().await.unwrap();
        let status = response.status().as_u16();
        let mut answer: Value = if body["stream"] == true {
            let events = payloads(&response.text().await.unwrap());
            let events = events.iter().filter_map(|event| serde_json::from_str::<Value>(event).ok());
            events.map(|mut event| event["choices"][0].take()).collect()
        } else {
            response.json().await.unwrap()
        };
        if let Some(answer) = answer.as_object_mut() {
            answer.retain(|name, _| name != "id" && name != "created");
        }
        (status, answer)
    }

    async fn status(&self, path: &str) -> u16 {
        self.client.get(format!("{}{path}", self.url)).send().await.unwrap().status().as_u16()
    }

    /// Waits until the metrics have this line, at most twenty seconds.
    async fn metric(&self, line: &str) {
        let mut metrics = String::new();
        for _ in 0..2000 {
            metrics = self.client.get(format!("{}/metrics", self.url)).send().await.unwrap().text().await.unwrap();
            if metrics.lines().any(|other| other == line) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no `{line}` within twenty seconds:\n{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_go_break_nobody_and_free_their_slots() {
    let server = start(2).await;
    let short = || completion("abc", 40, json!({}));
    let expected = server.complete(short()).await;
    assert_eq!(expected.0, 200);
    for round in 1..=6 {
        // Eight choices: it is certainly under way when its client goes.
        let long = completion("xyz", 400, json!({"n": 8, "stream": round % 2 == 0}));
        let client = tokio::spawn(server.completing(&long).send());
        server.metric("orpo_serve_num_requests_running 1").await;
        let mut beside = (0..3).map(|_| tokio::spawn(server.completing(&short()).send())).collect::<Vec<_>>();
        // In the slot beside it.
        let mut answers = vec![beside.remove(0).await.unwrap().unwrap()];
        if round % 2 == 0 {
            // Its stream has begun.
            drop(client.await.unwrap().unwrap());
        } else {
            client.abort();
        }
        for answer in beside {
            answers.push(answer.await.unwrap().unwrap());
        }
        for answer in answers {
            assert_eq!(answer.status(), 200);
            let answer: Value = answer.json().await.unwrap();
            assert_eq!(answer["choices"], expected.1["choices"]);
        }
        let gone = r#"orpo_serve_http_requests_total{route="/v1/completions",method="POST",status="499",api_key=""}"#;
        server.metric(&format!("{gone} {round}")).await;
        server.metric("orpo_serve_num_requests_running 0").await;
    }
    assert_eq!(server.complete(short()).await, expected);
    server.metric(&format!("orpo_serve_engine_failures_total{{model_name=\"{MODEL}\"}} 0")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_up_nobody() {
    let server = start(1).await;
    let address = server.url.strip_prefix("http://").unwrap();
    let mut unread = tokio::net::TcpStream::connect(address).await.unwrap();
    let body = completion("xyz", 400, json!({"n": 8, "logprobs": 5, "stream": true})).to_string();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                content-type: application/json\r\ncontent-length: ";
    unread.write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    server.metric("orpo_serve_num_requests_running 1").await;
    // There is one slot: they are answered once the other has been generated to its end.
    let short = completion("abc", 20, json!({}));
    let answers = join_all((0..4).map(|_| server.complete(short.clone()))).await;
    assert!(answers.iter().all(|answer| answer.0 == 200 && *answer == answers[0]), "{answers:?}");
    let mut stream = String::new();
    unread.read_to_string(&mut stream).await.unwrap();
    assert_eq!(stream.matches("\"finish_reason\":\"length\"").count(), 8);
    assert!(stream.contains("data: [DONE]"));
}

/// Replies, samples, scores and streams of different lengths.
fn mixed() -> Vec<Value> {
    let sampled = |seed: u64| json!({"temperature": 1, "seed": seed, "logprobs": 3});
    vec![
        completion("a", 60, json!({})),
        completion("a longer prompt than the others have", 25, json!({"logprobs": 2})),
        completion("abc", 40, sampled(1)),
        completion("abc", 40, sampled(2)),
        completion("to be scored", 0, json!({"echo": true, "logprobs": 5})),
        completion("to be scored and continued", 10, json!({"echo": true, "logprobs": 1})),
        completion("streamed", 30, json!({"stream": true, "logprobs": 1})),
        completion("several", 15, json!({"n": 3, "temperature": 1, "seed": 5})),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_at_a_time_say_to_the_bit_what_each_says_alone() {
    let server = start(1).await;
    let mut alone = Vec::new();
    for body in mixed() {
        alone.push(server.complete(body).await);
    }
    assert!(alone.iter().all(|answer| answer.0 == 200), "{alone:?}");
    assert_ne!(alone[2], alone[3]);
    for _ in 0..3 {
        assert_eq!(join_all(mixed().into_iter().map(|body| server.complete(body))).await, alone);
    }
    // Sharing steps moves logits in their last bits, but breaks nothing.
    let server = start(4).await;
    for (answer, alone) in join_all(mixed().into_iter().map(|body| server.complete(body))).await.iter().zip(alone) {
        assert_eq!((answer.0, &answer.1["usage"]), (200, &alone.1["usage"]));
    }
}

/// An engine that is asked for more alternatives than memory can hold where a request is for so many tokens: it panics in
/// the thread that samples, which is mistralrs' own.
struct Sabotaged(Arc<dyn Engine>);

const FATAL: usize = 13;

impl Engine for Sabotaged {
    fn context_length(&self) -> usize {
        self.0.context_length()
    }

    fn is_ready(&self) -> bool {
        self.0.is_ready()
    }

    fn generate(&self, mut request: GenerateRequest) -> Result<Generation, EngineError> {
        if request.max_tokens == FATAL {
            request.top_logprobs = usize::MAX - 1;
        }
        self.0.generate(request)
    }

    fn score(&self, prompt_ids: Vec<u32>, top_logprobs: usize) -> Result<Scoring, EngineError> {
        self.0.score(prompt_ids, top_logprobs)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_of_the_engine_is_a_500_for_what_it_broke_and_the_next_is_served() {
    let dir = tempfile::tempdir().unwrap();
    random_model::write(dir.path(), "f32", json!({}));
    let server = serve(Arc::new(Sabotaged(load(dir.path(), 1).await)), 1).await;
    let (short, fatal) = (completion("abc", 20, json!({})), completion("abc", FATAL, json!({})));
    let scored = completion("to be scored", 0, json!({"echo": true, "logprobs": 1}));
    let expected = (server.complete(short.clone()).await, server.complete(scored.clone()).await);
    assert_eq!((expected.0.0, expected.1.0), (200, 200));
    for _ in 0..3 {
        let (status, answer) = server.complete(fatal.clone()).await;
        assert_eq!((status, &answer["error"]["code"]), (500, &json!("engine_failed")), "{answer}");
        assert_eq!(server.status("/ready").await, 503);
        assert_eq!(server.status("/health").await, 200);
        // What comes meanwhile waits for the engine.
        let answers = tokio::join!(server.complete(short.clone()), server.complete(scored.clone()));
        assert_eq!(answers, expected);
        assert_eq!(server.status("/ready").await, 200);
    }
    // In a stream the status has gone out before.
    let mut streamed = fatal.clone();
    streamed["stream"] = json!(true);
    let response = server.completing(&streamed).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let events = payloads(&response.text().await.unwrap());
    assert!(events.last().unwrap().contains("engine_failed"), "{events:?}");
    // One fails, those behind it in the line do not.
    let line = [&fatal, &short, &scored, &fatal, &short].map(|body| server.complete(body.clone()));
    let statuses: Vec<u16> = join_all(line).await.iter().map(|answer| answer.0).collect();
    assert_eq!(statuses.iter().filter(|&&status| status == 500).count(), 2, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|&&status| status == 200).count(), 3, "{statuses:?}");
    server.metric("orpo_serve_ready 1").await;
}

async fn steps(engine: &dyn Engine, request: GenerateRequest) -> Vec<Step> {
    let mut generation = engine.generate(request).unwrap();
    let mut steps: Vec<Step> = Vec::new();
    while steps.last().is_none_or(|step| step.finish.is_none()) {
        steps.push(generation.next().await.unwrap());
    }
    steps
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_of_every_type_are_computed_in_single_precision() {
    let request = || GenerateRequest {
        prompt_ids: b"abc".iter().map(|&byte| byte.into()).collect(),
        max_tokens: 20,
        eos_ids: Vec::new(),
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        top_logprobs: 3,
    };
    let mut replies = Vec::new();
    for dtype in ["f32", "bf16", "f16"] {
        let dir = tempfile::tempdir().unwrap();
        random_model::write(dir.path(), dtype, json!({"dtype": dtype}));
        replies.push(steps(&*load(dir.path(), 1).await, request()).await);
    }
    assert_eq!(replies[1], replies[0]);
    assert_eq!(replies[2], replies[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_end_with_the_last_position_and_have_as_many_tokens_as_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    // Not a multiple of the step in which mistralrs grows its cache.
    random_model::write(dir.path(), "f32", json!({"max_position_embeddings": 600}));
    let server = serve(load(dir.path(), 1).await, 1).await;
    let endless = json!({"logit_bias": {EOS.to_string(): -100}});
    let (status, reply) = server.chat(endless).await;
    assert_eq!((status, &reply["usage"]["total_tokens"]), (200, &json!(600)), "{reply}");
    assert_eq!(reply["choices"][0]["finish_reason"], "length");
    for max_tokens in [0, 1, 2] {
        let (status, answer) = server.complete(completion("abc", max_tokens, json!({}))).await;
        assert_eq!((status, &answer["usage"]["completion_tokens"]), (200, &json!(max_tokens)), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bias_and_top_k_reach_the_choice() {
    let server = start(1).await;
    let (_, answer) = server.complete(completion("abc", 3, json!({"logit_bias": {"90": 100}}))).await;
    assert_eq!(answer["choices"][0]["text"], "ZZZ");
    let (_, greedy) = server.complete(completion("abc", 20, json!({}))).await;
    for extra in [json!({"top_k": 1}), json!({"top_p": 0.0}), json!({"min_p": 1.0})] {
        let mut body = completion("abc", 20, extra);
        body["temperature"] = json!(2);
        assert_eq!(server.complete(body).await.1, greedy);
    }
}

/// The program itself.
struct Program {
    child: Child,
    url: String,
    client: reqwest::Client,
}

impl Program {
    /// Serves what is in `dir`.
    fn start(dir: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_orpo-serve"))
            .env_remove("RUST_LOG")
            .args([
                "--engine",
                "mistralrs",
                "--port",
                "0",
                "--exit-with-stdin",
                "--served-model-name",
                MODEL,
                "--model",
            ])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim_end().strip_prefix("listening on ").unwrap_or_else(|| panic!("{line}")).to_owned();
        Self { child, url, client: reqwest::Client::builder().no_proxy().build().unwrap() }
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let response = self.client.post(format!("{}{path}", self.url)).json(body).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// Ends it, and returns the line of its log that has `words`.
    fn logged(mut self, words: &str) -> String {
        drop(self.child.stdin.take());
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert!(self.child.wait().unwrap().success());
        log.lines().find(|line| line.contains(words)).unwrap_or_else(|| panic!("{log}")).to_owned()
    }
}

/// A window bounds what is served, and log, `/v1/models` and refusal say so.
#[tokio::test]
async fn a_model_with_a_window_is_served_only_as_far_as_the_window() {
    let dir = tempfile::tempdir().unwrap();
    let window = json!({"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 32});
    random_model::write(dir.path(), "f32", window);
    let program = Program::start(dir.path());
    let models = program.client.get(format!("{}/v1/models", program.url)).send().await.unwrap();
    let models: Value = models.json().await.unwrap();
    assert_eq!(models["data"][0]["max_model_len"], 32);
    let asked =
        async |letters: usize| program.post("/v1/completions", &completion(&"a".repeat(letters), 1, json!({}))).await;
    assert_eq!(asked(31).await.0, 200);
    let (status, answer) = asked(40).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!("context_length_exceeded")), "{answer}");
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("32 tokens") && message.contains("40 tokens"), "{message}");
    let warned = program.logged("sliding_window=32");
    assert!(warned.contains("context_length=32") && warned.contains("max_position_embeddings=512"), "{warned}");
}

#[tokio::test]
async fn a_base_model_without_a_chat_template_completes_texts() {
    let dir = tempfile::tempdir().unwrap();
    random_model::write(dir.path(), "f32", json!({}));
    let config = json!({"bos_token": "<s>", "eos_token": "</s>"});
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let program = Program::start(dir.path());
    assert_eq!(program.post("/v1/completions", &completion("abc", 1, json!({}))).await.0, 200);
    let chat = json!({"model": MODEL, "messages": [{"role": "user", "content": "abc"}]});
    let (status, answer) = program.post("/v1/chat/completions", &chat).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!("chat_template_error")), "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("--chat-template FILE"), "{answer}");
    assert!(program.logged("no chat template").contains("WARN"));
}
