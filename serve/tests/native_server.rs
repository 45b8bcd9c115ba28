//! The whole server over the engine of our own with a tiny random model: clients that leave, clients that do not read,
//! many requests side by side, a cache that is too small.

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
    self, Engine, EngineChoice, EngineError, GenerateRequest, Generation, Occupancy, Options, Sampling, Scoring, Step,
};
use orpo_serve::limits::Limits;
use orpo_serve::served::Served;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Bytes of a page of the random model: 2 layers, keys and values, 16 tokens, 32 columns; its heads of width 8 have value
/// rows of 16.
const PAGE_BYTES: usize = 2 * 16 * 4 * (8 + 16) * 4;

async fn load(dir: &Path, options: Options) -> Arc<dyn Engine> {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let tokenizer = tokenizer();
    let selected = engine::choice::select(EngineChoice::Native, &checkpoint).unwrap();
    let prepared = selected.prepare(&checkpoint, tokenizer.eos_ids()).unwrap();
    engine::load(prepared, &tokenizer, options).await.unwrap()
}

/// An engine with a random model that runs so many sequences at a time and has so many pages.
async fn engine(sequences: usize, pages: usize) -> Arc<dyn Engine> {
    let dir = tempfile::tempdir().unwrap();
    random_model::write(dir.path(), "f32", json!({}));
    let options = Options { max_concurrent: NonZeroUsize::new(sequences), kv_cache_bytes: Some(pages * PAGE_BYTES) };
    let engine = load(dir.path(), options).await;
    assert_eq!(engine.occupancy().map(|occupancy| occupancy.pages), Some(pages));
    engine
}

async fn serve(engine: Arc<dyn Engine>, max_queue: usize) -> Server {
    // What the limits say of requests at a time holds for engines that are told one after another.
    let (server, state) = Server::empty(Limits { max_concurrent: 1, max_queue, ..limits() }).await;
    state.serve(Served::new(MODEL, engine, tokenizer()));
    server
}

async fn start(sequences: usize) -> Server {
    serve(engine(sequences, 1000).await, 32).await
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
            answer.retain(|name, _| name != "id" && name != "created" && name != "usage");
        }
        (status, answer)
    }

    async fn status(&self, path: &str) -> u16 {
        self.client.get(format!("{}{path}", self.url)).send().await.unwrap().status().as_u16()
    }

    async fn metrics(&self) -> String {
        self.client.get(format!("{}/metrics", self.url)).send().await.unwrap().text().await.unwrap()
    }

    /// Waits until the metrics have this line, at most twenty seconds.
    async fn metric(&self, line: &str) {
        let mut metrics = String::new();
        for _ in 0..2000 {
            metrics = self.metrics().await;
            if metrics.lines().any(|other| other == line) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no `{line}` within twenty seconds:\n{metrics}");
    }

    /// Waits until no sequence runs or waits, and no page is held by one.
    async fn idle(&self) {
        for name in ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"] {
            self.metric(&format!("vllm:{name}{{model_name=\"{MODEL}\"}} 0")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_go_break_nobody_and_free_their_pages() {
    let server = start(4).await;
    let short = || completion("abc", 40, json!({}));
    let expected = server.complete(short()).await;
    assert_eq!(expected.0, 200);
    for round in 1..=6 {
        let long = completion("xyz", 400, json!({"n": 8, "stream": round % 2 == 0}));
        let client = tokio::spawn(server.completing(&long).send());
        // Its choices run side by side.
        server.metric("orpo_serve_num_requests_running 4").await;
        let beside = (0..3).map(|_| tokio::spawn(server.completing(&short()).send())).collect::<Vec<_>>();
        if round % 2 == 0 {
            // Its stream has begun.
            drop(client.await.unwrap().unwrap());
        } else {
            client.abort();
        }
        for answer in beside {
            let answer = answer.await.unwrap().unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.json::<Value>().await.unwrap()["choices"], expected.1["choices"]);
        }
        let gone = r#"orpo_serve_http_requests_total{route="/v1/completions",method="POST",status="499",api_key=""}"#;
        server.metric(&format!("{gone} {round}")).await;
        server.idle().await;
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
    let short = completion("abc", 20, json!({}));
    let answers = join_all((0..4).map(|_| server.complete(short.clone()))).await;
    assert!(answers.iter().all(|answer| answer.0 == 200 && *answer == answers[0]), "{answers:?}");
    let mut stream = String::new();
    unread.read_to_string(&mut stream).await.unwrap();
    assert_eq!(stream.matches("\"finish_reason\":\"length\"").count(), 8);
    assert!(stream.contains("data: [DONE]"));
}

/// Replies, samples, scores, streams and grammars of different lengths.
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
        completion(
            "a longer prompt than the others have, bound",
            30,
            json!({"guided_regex": "[a-f]{3,9}", "logprobs": 1}),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_a_time_say_to_the_bit_what_each_says_alone() {
    let server = start(1).await;
    let mut alone = Vec::new();
    for body in mixed() {
        alone.push(server.complete(body).await);
    }
    assert!(alone.iter().all(|answer| answer.0 == 200), "{alone:?}");
    assert_ne!(alone[2], alone[3]);
    // In a line, side by side, and with too few pages for all.
    for (sequences, pages) in [(1, 1000), (16, 1000), (16, 32)] {
        let server = serve(engine(sequences, pages).await, 32).await;
        for _ in 0..3 {
            let answers = join_all(mixed().into_iter().map(|body| server.complete(body))).await;
            assert_eq!(answers, alone, "{sequences} sequences, {pages} pages");
        }
        server.idle().await;
    }
}

/// An engine that is asked for more alternatives than memory can hold where a request is for so many tokens: it panics
/// when it chooses.
struct Sabotaged(Arc<dyn Engine>);

const FATAL: usize = 13;

impl Engine for Sabotaged {
    fn context_length(&self) -> usize {
        self.0.context_length()
    }

    fn is_ready(&self) -> bool {
        self.0.is_ready()
    }

    fn occupancy(&self) -> Option<Occupancy> {
        self.0.occupancy()
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
async fn a_panic_is_a_500_for_what_it_broke_and_others_are_served() {
    let server = serve(Arc::new(Sabotaged(engine(4, 100).await)), 32).await;
    let (short, fatal) = (completion("abc", 20, json!({})), completion("abc", FATAL, json!({})));
    let scored = completion("to be scored", 0, json!({"echo": true, "logprobs": 1}));
    let expected = (server.complete(short.clone()).await, server.complete(scored.clone()).await);
    assert_eq!((expected.0.0, expected.1.0), (200, 200));
    for _ in 0..3 {
        let (failed, short, scored) = tokio::join!(
            server.complete(fatal.clone()),
            server.complete(short.clone()),
            server.complete(scored.clone())
        );
        assert_eq!((failed.0, &failed.1["error"]["code"]), (500, &json!("engine_failed")), "{failed:?}");
        assert_eq!((short, scored), expected);
        assert_eq!(server.status("/ready").await, 200);
    }
    // In a stream the status has gone out before.
    let mut streamed = fatal.clone();
    streamed["stream"] = json!(true);
    let response = server.completing(&streamed).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let events = payloads(&response.text().await.unwrap());
    assert!(events.last().unwrap().contains("engine_failed"), "{events:?}");
    server.idle().await;
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
        replies.push(steps(&*load(dir.path(), Options::default()).await, request()).await);
    }
    assert_eq!(replies[1], replies[0]);
    assert_eq!(replies[2], replies[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_end_with_the_last_position_and_have_as_many_tokens_as_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    random_model::write(dir.path(), "f32", json!({"max_position_embeddings": 600}));
    let server = serve(load(dir.path(), Options::default()).await, 32).await;
    let endless = json!({"logit_bias": {EOS.to_string(): -100}});
    let (status, reply) = server.chat(endless).await;
    assert_eq!((status, &reply["usage"]["total_tokens"]), (200, &json!(600)), "{reply}");
    assert_eq!(reply["choices"][0]["finish_reason"], "length");
    for max_tokens in [0, 1, 2] {
        let body = completion("abc", max_tokens, json!({}));
        let answer: Value = server.completing(&body).send().await.unwrap().json().await.unwrap();
        assert_eq!(answer["usage"]["completion_tokens"], max_tokens, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_longer_than_the_cache_is_refused_and_two_pages_serve_what_fits() {
    let server = serve(engine(4, 2).await, 32).await;
    let (status, answer) = server.complete(completion(&"a".repeat(40), 1, json!({}))).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!("context_length_exceeded")), "{answer}");
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("32 tokens") && message.contains("40 tokens"), "{message}");
    let roomy = start(4).await;
    let bodies = || (0..8).map(|number| completion(&"abcdefgh"[..number + 1], 20, json!({"logprobs": 2})));
    let answers = join_all(bodies().map(|body| server.complete(body))).await;
    assert_eq!(answers, join_all(bodies().map(|body| roomy.complete(body))).await);
    assert!(answers.iter().all(|answer| answer.0 == 200), "{answers:?}");
    server.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_and_metrics_tell_what_was_known() {
    let server = start(4).await;
    let prompt = "a prompt of more than two pages, which are 32 tokens";
    let usage = async |n: usize| {
        let body = completion(prompt, 3, json!({"n": n}));
        let answer: Value = server.completing(&body).send().await.unwrap().json().await.unwrap();
        answer["usage"].clone()
    };
    let told = |n: usize, cached: usize| {
        json!({"prompt_tokens": prompt.len(), "completion_tokens": 3 * n, "total_tokens": prompt.len() + 3 * n,
               "prompt_tokens_details": {"cached_tokens": cached}})
    };
    assert_eq!(usage(1).await, told(1, 0));
    assert_eq!(usage(1).await, told(1, 48));
    assert_eq!(usage(3).await, told(3, 48));
    server.idle().await;
    let metrics = server.metrics().await;
    for (name, kind, value) in [
        ("prefix_cache_queries_total", "counter", 5 * prompt.len()),
        ("prefix_cache_hits_total", "counter", 4 * 48),
        ("num_requests_running", "gauge", 0),
        ("num_requests_waiting", "gauge", 0),
    ] {
        assert!(
            metrics.contains(&format!("# TYPE vllm:{name} {kind}\nvllm:{name}{{model_name=\"{MODEL}\"}} {value}\n"))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_full_is_answered_with_429() {
    let server = serve(engine(2, 100).await, 3).await;
    let long = completion("xyz", 400, json!({}));
    let expected = server.complete(long.clone()).await;
    let answers = join_all((0..30).map(|_| server.completing(&long).send())).await;
    let mut statuses = Vec::new();
    for answer in answers {
        let answer = answer.unwrap();
        statuses.push(answer.status().as_u16());
        match answer.status().as_u16() {
            429 => assert!(answer.headers().contains_key("retry-after")),
            _ => assert_eq!(answer.json::<Value>().await.unwrap()["choices"], expected.1["choices"]),
        }
    }
    let answered = statuses.iter().filter(|&&status| status == 200).count();
    assert!(answered >= 5 && statuses.iter().all(|status| [200, 429].contains(status)), "{statuses:?}");
    server.idle().await;
    assert_eq!(server.complete(long).await, expected);
}

/// Hundreds of requests, sixteen at a time, of which every fifth is left by its client, with pages for a few.
#[tokio::test(flavor = "multi_thread")]
async fn in_a_long_run_no_page_is_lost_and_no_reply_is_wrong() {
    let engine = engine(8, 40).await;
    let server = Arc::new(serve(engine.clone(), 64).await);
    let body = |number: usize| {
        let prompt = format!("{} and then {}", "the same beginning ".repeat(number % 4), number % 10);
        completion(&prompt, 5 + number % 40, json!({"logprobs": 1, "temperature": number % 2, "seed": number % 10}))
    };
    let mut expected = Vec::new();
    for number in 0..40 {
        expected.push(server.complete(body(number)).await);
    }
    let workers = (0..16).map(|worker| {
        let (server, expected) = (server.clone(), expected.clone());
        tokio::spawn(async move {
            for round in 0..25 {
                let number = (worker * 7 + round * 3) % 40;
                if round % 5 == 4 {
                    let gone = server.completing(&completion("left alone", 300, json!({"n": 2}))).send();
                    let _ = tokio::time::timeout(Duration::from_millis(20), gone).await;
                } else {
                    assert_eq!(server.complete(body(number)).await, expected[number]);
                }
            }
        })
    });
    for worker in workers {
        worker.await.unwrap();
    }
    server.idle().await;
    let Occupancy { pages, pages_held, pages_known, prefix_hits, .. } = engine.occupancy().unwrap();
    assert_eq!((pages, pages_held), (40, 0));
    assert!(pages_known > 0 && prefix_hits > 0);
}

/// The program itself.
struct Program {
    child: Child,
    url: String,
    client: reqwest::Client,
}

impl Program {
    /// Serves what is in `dir`.
    fn start(dir: &Path, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_orpo-serve"))
            .env_remove("RUST_LOG")
            .args(["--port", "0", "--exit-with-stdin", "--engine", "native", "--served-model-name", MODEL, "--model"])
            .arg(dir)
            .args(arguments)
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
        let (status, text) = self.post_as("", path, body).await;
        (status, serde_json::from_str(&text).unwrap())
    }

    /// With an API key.
    async fn post_as(&self, key: &str, path: &str, body: &Value) -> (u16, String) {
        let request = self.client.post(format!("{}{path}", self.url)).bearer_auth(key).json(body);
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
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

#[tokio::test]
async fn a_model_with_a_window_is_served_over_all_of_its_positions_and_the_cache_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let window = json!({"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 32});
    random_model::write(dir.path(), "f32", window);
    let program = Program::start(dir.path(), &[]);
    let models = program.client.get(format!("{}/v1/models", program.url)).send().await.unwrap();
    let models: Value = models.json().await.unwrap();
    assert_eq!(models["data"][0]["max_model_len"], 512);
    let (status, _) = program.post("/v1/completions", &completion(&"a".repeat(500), 12, json!({}))).await;
    assert_eq!(status, 200);
    let told = program.logged("key-value cache");
    // No more than all sequences can fill.
    assert!(told.contains(&format!("bytes={}", 16 * 32 * PAGE_BYTES)) && told.contains("sequences=16"), "{told}");
}

/// A PEFT directory for the random model: rank 1 on a layer, with these values.
fn write_adapter(dir: &Path, layer: &str, value: f32) {
    std::fs::create_dir(dir).unwrap();
    let config = json!({"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["v_proj", "z_proj"]});
    std::fs::write(dir.join("adapter_config.json"), config.to_string()).unwrap();
    let bytes: Vec<u8> = (0..64).flat_map(|_| value.to_le_bytes()).collect();
    let name = |side: &str| format!("base_model.model.model.layers.0.self_attn.{layer}.lora_{side}.weight");
    let header = json!({
        name("A"): {"dtype": "F32", "shape": [1, 32], "data_offsets": [0, 128]},
        name("B"): {"dtype": "F32", "shape": [32, 1], "data_offsets": [128, 256]},
    });
    let header = header.to_string();
    let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &bytes].concat();
    std::fs::write(dir.join("adapter_model.safetensors"), file).unwrap();
}

#[tokio::test]
async fn adapters_are_loaded_and_unloaded_while_the_server_runs() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::create_dir(path("base")).unwrap();
    random_model::write(&path("base"), "f32", json!({}));
    write_adapter(&path("one"), "v_proj", 0.3);
    write_adapter(&path("two"), "v_proj", -0.2);
    write_adapter(&path("odd"), "z_proj", 0.1);
    std::fs::write(path("keys"), "ann:sk-1\n").unwrap();
    let (keys, one) = (path("keys").display().to_string(), format!("one={}", path("one").display()));
    let arguments = ["--adapter", &one, "--allow-adapter-updates", "--api-key-file", &keys];
    let program = Program::start(&path("base"), &arguments);
    let said = async |model: &str| {
        let body = completion("some words", 12, json!({"model": model, "logprobs": 1}));
        let (status, text) = program.post_as("sk-1", "/v1/completions", &body).await;
        let answer: Value = serde_json::from_str(&text).unwrap();
        if status == 200 { Ok(answer["choices"].clone()) } else { Err(answer["error"]["code"].clone()) }
    };
    let update = async |what: &str, name: &str, path: Option<&Path>| {
        let mut body = json!({"lora_name": name});
        if let Some(path) = path {
            body["lora_path"] = json!(path);
        }
        program.post_as("sk-1", &format!("/v1/{what}_lora_adapter"), &body).await
    };
    let (base, first) = (said(MODEL).await.unwrap(), said("one").await.unwrap());
    assert_eq!(said("two").await.unwrap_err(), "model_not_found");
    let success = |done: &str| (200, format!("Success: LoRA adapter 'two' {done} successfully."));
    assert_eq!(update("load", "two", Some(&path("two"))).await, success("added"));
    let second = said("two").await.unwrap();
    assert!(base != first && first != second && base != second);
    // The same again under another name, and the others are as before.
    assert_eq!(update("load", "three", Some(&path("two"))).await.0, 200);
    assert_eq!(said("three").await.unwrap(), second);
    assert_eq!((said(MODEL).await.unwrap(), said("one").await.unwrap()), (base.clone(), first));
    for (what, name, at, status, words) in [
        ("load", "two", Some(path("one")), 400, "a model `two` is served already"),
        ("load", MODEL, Some(path("one")), 400, "is served already"),
        ("load", "four", Some(path("none")), 400, "adapter_config.json"),
        ("load", "four", Some(path("odd")), 400, "z_proj"),
        ("load", "four", None, 400, "lora_path"),
        ("unload", "four", None, 404, "`four` is not served"),
        ("unload", MODEL, None, 400, "is the base model"),
    ] {
        let (found, text) = update(what, name, at.as_deref()).await;
        assert!(found == status && text.contains(words), "{what} {name}: {found} {text}");
    }
    assert_eq!(program.post_as("", "/v1/unload_lora_adapter", &json!({"lora_name": "one"})).await.0, 401);
    assert_eq!(update("unload", "two", None).await, success("removed"));
    assert_eq!(said("two").await.unwrap_err(), "model_not_found");
    assert_eq!(said("three").await.unwrap(), second);
    assert_eq!(update("load", "two", Some(&path("two"))).await, success("added"));
    assert_eq!((said("two").await.unwrap(), said(MODEL).await.unwrap()), (second, base));
}

#[tokio::test]
async fn adapters_stay_as_they_are_unless_updates_are_allowed() {
    let dir = tempfile::tempdir().unwrap();
    random_model::write(dir.path(), "f32", json!({}));
    let program = Program::start(dir.path(), &[]);
    for what in ["load", "unload"] {
        let body = json!({"lora_name": "a", "lora_path": "b"});
        let (status, answer) = program.post(&format!("/v1/{what}_lora_adapter"), &body).await;
        assert_eq!(status, 400, "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains("--allow-adapter-updates"), "{answer}");
    }
    // Only where a key is asked for.
    let output = Command::new(env!("CARGO_BIN_EXE_orpo-serve"))
        .args(["--port", "0", "--engine", "native", "--allow-adapter-updates", "--model"])
        .arg(dir.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("--api-key-file"));
}

#[tokio::test]
async fn a_small_cache_is_a_warning_and_a_tiny_one_an_error() {
    let dir = tempfile::tempdir().unwrap();
    random_model::write(dir.path(), "f32", json!({}));
    let bytes = (4 * PAGE_BYTES).to_string();
    let warned = Program::start(dir.path(), &["--kv-cache-bytes", &bytes]).logged("raise --kv-cache-bytes");
    assert!(warned.contains("holds 64 tokens") && warned.contains("can use 512"), "{warned}");
    let output = Command::new(env!("CARGO_BIN_EXE_orpo-serve"))
        .args(["--port", "0", "--engine", "native", "--kv-cache-bytes", "1000", "--model"])
        .arg(dir.path())
        .output()
        .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("1000 bytes has no room for one page of 16 tokens"), "{told}");
}
