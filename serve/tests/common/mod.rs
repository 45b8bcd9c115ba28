//! A server over a test double of the engine: real sockets, no model.
#![allow(dead_code, reason = "every test binary uses a part of this")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use orpo_chat::ChatTokenizer;
use orpo_serve::engine::sampling::{Sampler, score};
use orpo_serve::engine::{Engine, EngineError, Finish, GenerateRequest, Generation, Scoring, Step};
use orpo_serve::limits::Limits;
use orpo_serve::served::Served;
use orpo_serve::server;
use orpo_serve::state::{Access, AppState};
use serde_json::{Value, json};
use tokio::sync::watch;

pub const BOS: u32 = 256;
pub const EOS: u32 = 257;
pub const VOCABULARY: usize = 258;
pub const MODEL: &str = "double";
/// "user: hi\nbot:" and BOS.
pub const PROMPT_TOKENS: usize = 14;

pub const TEMPLATE: &str = "{% for m in messages %}{% if m.role == 'king' %}{{ raise_exception('no kings') }}{% endif %}\
    {{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}bot:{% endif %}";

/// Presents tools as Hermes and Qwen do, and shows calls and their results.
pub const TOOL_TEMPLATE: &str = "{% if tools %}tools:{% for t in tools %} {{ t | tojson }}{% endfor %} call by \
    <tool_call>{...}</tool_call>{{ '\\n' }}{% endif %}{% for m in messages %}{{ m.role }}{% if m.name %} {{ m.name }}\
    {% endif %}: {{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>\
    {% endfor %}{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}bot:{% endif %}";

/// What the double answers.
#[derive(Clone)]
pub enum Behaviour {
    /// These tokens, of which a byte is one, then the end token.
    Says(Vec<u32>),
    /// Pseudo-random logits of the context, without end.
    Noise,
    /// So many tokens, then an error.
    FailsAfter(usize),
    /// So many tokens, then silence: the channel closes.
    VanishesAfter(usize),
}

pub fn says(text: &str) -> Behaviour {
    Behaviour::Says(text.bytes().map(u32::from).collect())
}

/// A deterministic engine.
pub struct Double {
    pub behaviour: Behaviour,
    pub context_length: usize,
    /// Time per token.
    pub pace: Duration,
    /// How many generations were cancelled by their reader.
    pub cancelled: Arc<AtomicUsize>,
    /// How many generations run.
    pub running: Arc<AtomicUsize>,
}

impl Double {
    pub fn new(behaviour: Behaviour) -> Self {
        Self {
            behaviour,
            context_length: 512,
            pace: Duration::ZERO,
            cancelled: Arc::default(),
            running: Arc::default(),
        }
    }

    pub fn paced(mut self, pace: Duration) -> Self {
        self.pace = pace;
        self
    }
}

impl Engine for Double {
    fn context_length(&self) -> usize {
        self.context_length
    }

    fn generate(&self, request: GenerateRequest) -> Result<Generation, EngineError> {
        let (steps, generation) = Generation::channel();
        let (behaviour, pace) = (self.behaviour.clone(), self.pace);
        let (cancelled, running) = (self.cancelled.clone(), self.running.clone());
        running.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            let mut sampler = Sampler::new(request.sampling.clone());
            let mut context = request.prompt_ids.clone();
            for index in 0..request.max_tokens {
                tokio::time::sleep(pace).await;
                let logits = match &behaviour {
                    Behaviour::Says(ids) => peak(ids.get(index).copied().unwrap_or(EOS)),
                    Behaviour::Noise => noise(&context),
                    Behaviour::FailsAfter(count) if index == *count => {
                        let _ = steps.send(Err(EngineError::Failed("secret words".into())));
                        break;
                    }
                    Behaviour::VanishesAfter(count) if index == *count => break,
                    Behaviour::FailsAfter(_) | Behaviour::VanishesAfter(_) => peak(u32::from(b'x')),
                };
                let token = match sampler.sample(&logits, VOCABULARY, request.top_logprobs) {
                    Ok(token) => token,
                    Err(error) => {
                        let _ = steps.send(Err(error.into()));
                        break;
                    }
                };
                context.push(token.id);
                let finish = if request.eos_ids.contains(&token.id) {
                    Some(Finish::Eos)
                } else {
                    (index + 1 == request.max_tokens).then_some(Finish::Length)
                };
                if steps.send(Ok(Step { token, finish })).is_err() {
                    cancelled.fetch_add(1, Ordering::SeqCst);
                    break;
                }
                if finish.is_some() {
                    break;
                }
            }
            running.fetch_sub(1, Ordering::SeqCst);
        });
        Ok(generation)
    }

    /// By the logits of [`Behaviour::Noise`], or an error where replies fail, too.
    fn score(&self, prompt_ids: Vec<u32>, top_logprobs: usize) -> Result<Scoring, EngineError> {
        let (sender, scoring) = Scoring::channel();
        let outcome = match self.behaviour {
            Behaviour::FailsAfter(_) => Err(EngineError::Failed("secret words".into())),
            Behaviour::VanishesAfter(_) => return Ok(scoring),
            Behaviour::Says(_) | Behaviour::Noise => (1..prompt_ids.len())
                .map(|end| score(&noise(&prompt_ids[..end]), prompt_ids[end], VOCABULARY, top_logprobs))
                .collect::<Result<_, _>>()
                .map_err(|error| EngineError::Failed(error.to_string())),
        };
        let _ = sender.send(outcome);
        Ok(scoring)
    }
}

fn peak(id: u32) -> Vec<f32> {
    let mut logits = vec![0.0; VOCABULARY];
    logits[id as usize] = 30.0;
    logits
}

/// Logits in 0..4 from a hash of the context; letters only, so that every sample is text, unless a grammar wants others.
fn noise(context: &[u32]) -> Vec<f32> {
    let mut logits = vec![-300.0; VOCABULARY];
    let seed = context.iter().fold(17_u64, |hash, &id| hash.wrapping_mul(31).wrapping_add(u64::from(id)));
    for id in b'a'..=b'z' {
        let hash = (seed ^ u64::from(id)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        logits[usize::from(id)] = (hash % 1000) as f32 / 250.0;
    }
    logits
}

/// A byte-level tokenizer without merges: the id of a token is its byte, then BOS and EOS.
pub fn tokenizer() -> ChatTokenizer {
    tokenizer_with(TEMPLATE, "<s>")
}

/// The same with another chat template, and another text for the special token [`BOS`].
pub fn tokenizer_with(template: &str, bos: &str) -> ChatTokenizer {
    let dir = tempfile::tempdir().unwrap();
    write_tokenizer(dir.path(), template, bos);
    ChatTokenizer::from_dir(dir.path()).unwrap()
}

/// The files of [`tokenizer_with`].
pub fn write_tokenizer(dir: &Path, template: &str, bos: &str) {
    let mut moved = 0x100;
    let mut vocab = serde_json::Map::new();
    for byte in 0..=u8::MAX {
        let c = match byte {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
            _ => {
                moved += 1;
                char::from_u32(moved - 1).unwrap()
            }
        };
        vocab.insert(c.to_string(), json!(byte));
    }
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "special": true, "single_word": false,
               "lstrip": false, "rstrip": false, "normalized": false})
    };
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [special(BOS, bos), special(EOS, "</s>")],
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []}
    });
    let config = json!({"bos_token": bos, "eos_token": "</s>", "chat_template": template});
    std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(dir.join("tokenizer_config.json"), config.to_string()).unwrap();
}

pub fn limits() -> Limits {
    let (request_timeout, body_timeout) = (Duration::from_secs(20), Duration::from_secs(20));
    Limits { max_concurrent: 1, max_queue: 4, request_timeout, body_timeout, max_body_bytes: 64 << 10 }
}

/// A running server; it stops when dropped.
pub struct Server {
    pub url: String,
    pub client: reqwest::Client,
    stop: watch::Sender<bool>,
}

impl Server {
    pub async fn start(engine: Double) -> Self {
        Self::with_limits(engine, limits()).await
    }

    pub async fn with_limits(engine: Double, limits: Limits) -> Self {
        let server = Self::empty(limits).await;
        server.1.serve(Served::new(MODEL, Arc::new(engine), tokenizer()));
        server.0
    }

    /// A server whose chat template is `template`.
    pub async fn with_template(engine: Double, template: &str) -> Self {
        let server = Self::empty(limits()).await;
        let engine = Double { context_length: 4096, ..engine };
        server.1.serve(Served::new(MODEL, Arc::new(engine), tokenizer_with(template, "<s>")));
        server.0
    }

    /// A server that is still loading, and its state.
    pub async fn empty(limits: Limits) -> (Self, Arc<AppState>) {
        Self::guarded(limits, Access::default()).await
    }

    /// A server that is still loading, with keys, origins or the like.
    pub async fn guarded(limits: Limits, access: Access) -> (Self, Arc<AppState>) {
        Self::over(AppState::with_access(limits, access)).await
    }

    /// A server over `state`.
    pub async fn over(state: AppState) -> (Self, Arc<AppState>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(state);
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(server::serve(listener, state.clone(), stopped, Duration::from_secs(5)));
        let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).no_proxy().build().unwrap();
        (Self { url, client, stop }, state)
    }

    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub fn post(&self, body: &Value) -> reqwest::RequestBuilder {
        self.client.post(format!("{}/v1/chat/completions", self.url)).json(body)
    }

    /// Status and JSON body of a chat request.
    pub async fn chat(&self, extra: Value) -> (u16, Value) {
        let response = self.post(&body(extra)).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// The `data:` payloads of a streamed chat request.
    pub async fn stream(&self, extra: Value) -> Vec<String> {
        let mut extra = extra;
        extra["stream"] = json!(true);
        let response = self.post(&body(extra)).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        payloads(&response.text().await.unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A chat request that says "hi", with further fields.
pub fn body(extra: Value) -> Value {
    let mut body = json!({"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "temperature": 0});
    for (name, value) in extra.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

pub fn payloads(events: &str) -> Vec<String> {
    events.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).map(str::to_string).collect()
}

/// The text of all chunks together.
pub fn text_of(payloads: &[String]) -> String {
    let contents = payloads.iter().filter_map(|payload| serde_json::from_str::<Value>(payload).ok());
    contents.filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_string)).collect()
}

/// Waits until `condition` holds, at most five seconds.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within five seconds: {what}");
}
