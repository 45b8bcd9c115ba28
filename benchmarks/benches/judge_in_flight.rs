//! How near the judge's client keeps 256 requests in flight: every reply takes half a second, so that ten rounds of 256 take
//! five seconds, and what they take beyond that the client was not waiting for the judge.
//!
//!     cargo bench --workspace --bench judge_in_flight

use std::net::TcpListener;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use axum::routing::post;
use axum::{Json, Router};
use orpo_eval::asking::Party;
use orpo_eval::body::Edits;
use orpo_eval::client::{Client, Retry};
use orpo_eval::judge::verdicts::VerdictStore;
use orpo_eval::judge::{Judge, Pace, Request};
use orpo_eval::progress::Progress;
use orpo_eval::reasoning::Reasoning;
use serde_json::{Value, json};

const IN_FLIGHT: usize = 256;
const ROUNDS: usize = 10;
const DELAY: Duration = Duration::from_millis(500);

async fn reply() -> Json<Value> {
    tokio::time::sleep(DELAY).await;
    let top: Vec<Value> = (0..5).map(|index| json!({"token": format!("t{index}"), "logprob": -1.5})).collect();
    let logprobs = json!({"content": [{"token": "m", "logprob": -0.1, "top_logprobs": top}]});
    let choice =
        json!({"message": {"role": "assistant", "content": "m"}, "logprobs": logprobs, "finish_reason": "stop"});
    Json(json!({"choices": [choice], "usage": {"prompt_tokens": 900, "completion_tokens": 1}}))
}

fn serve() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
            axum::serve(listener, Router::new().route("/v1/chat/completions", post(reply))).await.expect("a server");
        });
    });
    format!("http://{address}")
}

fn main() {
    let retry = Retry::default();
    let judge = Judge {
        client: Client::new(&serve(), None, Duration::from_secs(60), retry).expect("an address"),
        party: Party::Judge,
        concurrency: IN_FLIGHT,
        pace: Pace::new(None, None),
        prices: None,
        max_cost: None,
        edits: Edits::default(),
        reasoning: Reasoning::default(),
        retry_unscored: false,
        used: Mutex::default(),
    };
    // The size of AlpacaEval's requests: two answers of 2,000 characters.
    let text = "x".repeat(4500);
    let request = |index: usize| {
        let message = json!({"role": "user", "content": format!("{index} {text}")});
        Request::new(json!({"model": "j", "messages": [message], "max_tokens": 1, "logprobs": true, "top_logprobs": 5}))
    };
    // The first request goes alone, before the clock starts.
    let requests: Vec<Request> = (0..=IN_FLIGHT * ROUNDS).map(request).collect();
    let directory = tempfile::tempdir().expect("a directory");
    let mut store = VerdictStore::open(&directory.path().join("verdicts.jsonl")).expect("a new file");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let quiet = Progress::new(true);
        judge.ask(&requests[..1], &mut store, |_| Ok(()), &quiet).await.expect("a reply");
        // So does the first of the others, which is the next half second.
        let start = Instant::now();
        let (_, tally) = judge.ask(&requests[1..], &mut store, |_| Ok(()), &quiet).await.expect("replies");
        let seconds = start.elapsed().as_secs_f64();
        assert_eq!(tally.failed, 0);
        let waiting = DELAY.as_secs_f64() * (1 + (IN_FLIGHT * ROUNDS - 1).div_ceil(IN_FLIGHT)) as f64;
        println!(
            "{} requests, {IN_FLIGHT} in flight: {seconds:.2} s, of which {waiting:.2} s waiting for replies; {:.1} % outside",
            IN_FLIGHT * ROUNDS,
            100.0 * (1.0 - waiting / seconds)
        );
    });
}
