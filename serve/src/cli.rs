//! The program: parse, check, bind, load, serve, and map the end to an exit code.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Read, Write};
use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use orpo_chat::ChatTokenizer;
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use crate::checkpoint::Checkpoint;
use crate::config::ServeArgs;
use crate::engine::{self, choice};
use crate::server::{self, Stop, stopped};
use crate::state::{AppState, Served};

/// mistralrs warns that the staged directory has no chat template, which is as it should be.
const DEFAULT_LOG: &str = "warn,orpo_serve=info,mistralrs_core::pipeline::paths=error";
/// Usage, input or environment error.
const EXIT_ERROR: u8 = 2;

/// Runs the server until it is told to stop. `args` begin with the program's name as usage messages show it
/// (`orpo-serve`, or `orpo serve`). 0 after a clean stop, 2 after an error, which is told in one line on stderr.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match ServeArgs::try_parse_from(args) {
        Ok(args) => args,
        Err(message) => {
            // A closed pipe is not an error.
            let _ = message.print();
            return if message.use_stderr() { ExitCode::from(EXIT_ERROR) } else { ExitCode::SUCCESS };
        }
    };
    log_to_stderr();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let message = format!("{error:#}");
            let _ = writeln!(io::stderr(), "error: {}", message.lines().collect::<Vec<_>>().join(" "));
            ExitCode::from(EXIT_ERROR)
        }
    }
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG));
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // A program that embeds the server may have set up its own.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colour).try_init();
}

fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let checkpoint = Checkpoint::open(&args.model)?;
    let selected = choice::select(args.engine, &checkpoint.config)
        .with_context(|| format!("cannot serve `{}`", args.model.display()))?;
    let tokenizer = tokenizer(args)?;
    let listener = bind(&args.host, args.port)?;

    let runtime = tokio::runtime::Runtime::new().context("cannot start the asynchronous runtime")?;
    let served = runtime.block_on(async {
        tracing::info!(engine = %selected.engine(), asked = %args.engine, "engine chosen");
        let prepared = selected
            .prepare(&checkpoint, tokenizer.eos_ids())
            .context("cannot prepare the model in the directory for temporary files; set TMPDIR to a writable one")?;
        let load = engine::load(prepared, &tokenizer, args.max_concurrent);
        serve_while_loading(args, listener, load, tokenizer.clone()).await
    });
    // An engine in the middle of loading cannot be interrupted, and need not be waited for.
    runtime.shutdown_background();
    served
}

fn tokenizer(args: &ServeArgs) -> anyhow::Result<ChatTokenizer> {
    let mut tokenizer = ChatTokenizer::from_dir(&args.model)?;
    if let Some(path) = &args.chat_template {
        let source = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read --chat-template `{}`", path.display()))?;
        tokenizer = tokenizer.with_template(source).with_context(|| format!("--chat-template `{}`", path.display()))?;
    }
    tokenizer.template().context("pass --chat-template FILE")?;
    Ok(tokenizer)
}

fn bind(host: &str, port: u16) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind((host, port)).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            anyhow::anyhow!("port {port} of {host} is in use; stop the program that holds it or choose another --port")
        }
        _ => anyhow::anyhow!("cannot listen on {host}:{port}: {error}; check --host and --port"),
    })?;
    listener.set_nonblocking(true).context("cannot make the socket non-blocking")?;
    Ok(listener)
}

/// Answers `/health` from the start, everything else once `load` is through.
async fn serve_while_loading(
    args: &ServeArgs,
    listener: TcpListener,
    load: impl Future<Output = Result<Arc<dyn engine::Engine>, engine::LoadError>>,
    tokenizer: ChatTokenizer,
) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener).context("cannot use the socket")?;
    let address = listener.local_addr().context("cannot tell the socket's address")?;
    let stop = stop_on_signals(args.exit_with_stdin)?;
    let state = Arc::new(AppState::new(args.limits()));
    let drain = Duration::from_secs(args.drain_timeout_secs);
    let server = tokio::spawn(server::serve(listener, state.clone(), stop.clone(), drain));

    tracing::info!(model = %args.model.display(), "loading");
    tokio::select! {
        loaded = load => {
            let engine = loaded.with_context(|| format!("cannot load `{}`", args.model.display()))?;
            let name = args.model_name();
            tracing::info!(%name, context_length = engine.context_length(), "loaded");
            state.serve(Served::new(name, engine, tokenizer));
            let mut stdout = io::stdout();
            let _ = writeln!(stdout, "listening on http://{address}").and_then(|()| stdout.flush());
        }
        () = stopped(stop) => {}
    }
    server.await.context("the server task failed")?.context("cannot accept connections")
}

/// Turns SIGINT, SIGTERM and, if asked for, the end of stdin into one word.
fn stop_on_signals(watch_stdin: bool) -> anyhow::Result<Stop> {
    let (sender, stop) = watch::channel(false);
    let sender = Arc::new(sender);
    if watch_stdin {
        let sender = sender.clone();
        std::thread::spawn(move || {
            let _ = io::copy(&mut io::stdin().lock().by_ref(), &mut io::sink());
            sender.send_replace(true);
        });
    }
    #[cfg(unix)]
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .context("cannot listen for SIGTERM")?;
    tokio::spawn(async move {
        #[cfg(unix)]
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await;
        sender.send_replace(true);
    });
    Ok(stop)
}
