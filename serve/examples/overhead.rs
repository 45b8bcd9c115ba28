//! What the server costs beside its engine: the same requests to an engine directly and over HTTP, one after another in one
//! process, with the medians of many rounds. The model is a checkpoint directory, its weights may be random.
//!
//!     cargo run --release --workspace --example overhead -- DIR [ROUNDS]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use orpo_chat::ChatTokenizer;
use orpo_serve::checkpoint::Checkpoint;
use orpo_serve::engine::{self, Engine, EngineChoice, GenerateRequest, Sampling};
use orpo_serve::limits::Limits;
use orpo_serve::served::Served;
use orpo_serve::server;
use orpo_serve::state::AppState;
use serde_json::{Value, json};

const MODEL: &str = "overhead";
const PROMPT: usize = 64;
const REPLY: usize = 64;

struct Subject {
    engine: Arc<dyn Engine>,
    eos_ids: Vec<u32>,
    client: reqwest::Client,
    url: String,
}

impl Subject {
    /// Seconds of one reply by the engine alone.
    async fn alone(&self, prompt_ids: Vec<u32>) -> anyhow::Result<f64> {
        let start = Instant::now();
        let mut generation = self.engine.generate(GenerateRequest {
            prompt_ids,
            max_tokens: REPLY,
            eos_ids: self.eos_ids.clone(),
            sampling: Sampling {
                temperature: 0.0,
                logit_bias: self.eos_ids.iter().map(|&id| (id, -100.0)).collect(),
                ..Sampling::default()
            },
            top_logprobs: 0,
        })?;
        while generation.next().await?.finish.is_none() {}
        Ok(start.elapsed().as_secs_f64())
    }

    /// Seconds of the same reply over HTTP.
    async fn served(&self, prompt_ids: Vec<u32>, stream: bool) -> anyhow::Result<f64> {
        let bias: Value = self.eos_ids.iter().map(|id| (id.to_string(), json!(-100))).collect();
        let body = json!({"model": MODEL, "prompt": prompt_ids, "max_tokens": REPLY, "temperature": 0, "stream": stream,
                          "logit_bias": bias});
        let start = Instant::now();
        let response = self.client.post(format!("{}/v1/completions", self.url)).json(&body).send().await?;
        let status = response.status();
        let answer = response.text().await?;
        anyhow::ensure!(status.is_success(), "{answer}");
        Ok(start.elapsed().as_secs_f64())
    }
}

async fn start(dir: &Path) -> anyhow::Result<Subject> {
    let checkpoint = Checkpoint::open(dir)?;
    let tokenizer = ChatTokenizer::from_dir(dir)?;
    let eos_ids = tokenizer.eos_ids().to_vec();
    let prepared =
        engine::choice::select(EngineChoice::Auto, &checkpoint)?.prepare(&checkpoint, tokenizer.eos_ids())?;
    let engine = engine::load(prepared, &tokenizer, engine::Options::default()).await?;
    let limits = Limits {
        max_concurrent: 1,
        max_queue: 1,
        request_timeout: Duration::from_secs(600),
        body_timeout: Duration::from_secs(60),
        max_body_bytes: 1 << 20,
    };
    let state = Arc::new(AppState::new(limits));
    state.serve(Served::new(MODEL, engine.clone(), tokenizer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move {
        let (_stop, stopped) = tokio::sync::watch::channel(false);
        server::serve(listener, state, stopped, Duration::ZERO).await;
    });
    Ok(Subject { engine, eos_ids, client: reqwest::Client::builder().no_proxy().build()?, url })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().context("usage: overhead DIR [ROUNDS]")?;
    let rounds: u32 = arguments.next().map_or(Ok(30), |rounds| rounds.parse())?;
    let subject = start(Path::new(&dir)).await?;
    let mut times = [const { Vec::new() }; 3];
    for round in 0..=rounds {
        let ids = || (0..PROMPT as u32).map(|index| 3 + (round * 31 + index * 7) % 100).collect::<Vec<u32>>();
        // The order turns from round to round.
        for turn in 0..3 {
            let way = (turn + round as usize) % 3;
            let seconds = match way {
                0 => subject.alone(ids()).await?,
                way => subject.served(ids(), way == 2).await?,
            };
            // The first round warms up.
            if round > 0 {
                times[way].push(seconds);
            }
        }
    }
    let ratio = |way: usize| median(times[way].iter().zip(&times[0]).map(|(served, alone)| served / alone).collect());
    let (whole, streamed) = (ratio(1), ratio(2));
    let [alone, served, stream] = times.map(|times| median(times) * 1e3);
    println!(
        "{PROMPT} + {REPLY} tokens, medians of {rounds} rounds: engine {alone:.2} ms, over HTTP {served:.2} ms, streamed \
         {stream:.2} ms; overhead {:+.2} %, streamed {:+.2} %",
        100.0 * (whole - 1.0),
        100.0 * (streamed - 1.0)
    );
    Ok(())
}
