//! Serves a test double in place of a model: for work on the playground and for trying clients in seconds.
//!
//!     cargo run -p orpo-serve --no-default-features --example double -- [KEY_FILE]

#[path = "../tests/common/mod.rs"]
mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{Behaviour, Double, MODEL, limits, tokenizer};
use orpo_serve::keys::ApiKeys;
use orpo_serve::server;
use orpo_serve::state::{Access, AppState, Served};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let keys = std::env::args().nth(1).map(|file| ApiKeys::from_file(Path::new(&file))).transpose()?;
    let state = Arc::new(AppState::with_access(limits(), Access { keys, ..Access::default() }));
    let engine = Double::new(Behaviour::Noise).paced(Duration::from_millis(20));
    state.serve(Served::new(MODEL, Arc::new(engine), tokenizer()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on http://{}", listener.local_addr()?);
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    server::serve(listener, state, stopped, Duration::ZERO).await;
    Ok(())
}
