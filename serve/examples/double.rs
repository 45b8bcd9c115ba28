//! Serves a test double in place of a model: for work on the playground and for trying clients in seconds. Its replies
//! are letters by chance, or what a grammar asks for; its chat template presents tools.
//!
//!     cargo run -p orpo-serve --example double -- --help

#[path = "../tests/common/mod.rs"]
mod common;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use common::{Behaviour, Double, MODEL, TOOL_TEMPLATE, limits, tokenizer_with};
use orpo_serve::keys::ApiKeys;
use orpo_serve::limits::Limits;
use orpo_serve::served::Served;
use orpo_serve::server;
use orpo_serve::state::{Access, AppState};

/// Serve a test double of a model
#[derive(Parser)]
struct Args {
    /// Port to listen on; 0 picks a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// File with API keys
    #[arg(long)]
    api_key_file: Option<PathBuf>,
    /// HTML file to offer at /report
    #[arg(long)]
    report: Option<PathBuf>,
    /// Milliseconds a token takes
    #[arg(long, default_value_t = 20)]
    pace: u64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let keys = args.api_key_file.as_deref().map(ApiKeys::from_file).transpose()?;
    // As large as the program takes by default.
    let limits = Limits { max_body_bytes: 8 << 20, ..limits() };
    let state = AppState::with_access(limits, Access { keys, ..Access::default() }).with_report(args.report);
    let state = Arc::new(state);
    let engine = Double { context_length: 2048, ..Double::new(Behaviour::Noise) };
    let engine = engine.paced(Duration::from_millis(args.pace));
    state.serve(Served::new(MODEL, Arc::new(engine), tokenizer_with(TOOL_TEMPLATE, "<s>")));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", args.port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    server::serve(listener, state, stopped, Duration::ZERO).await;
    Ok(())
}
