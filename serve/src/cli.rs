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
use tokio_rustls::TlsAcceptor;
use tracing_subscriber::EnvFilter;

use crate::checkpoint::Checkpoint;
use crate::config::{LogFormat, ServeArgs};
use crate::engine::{self, stage};
#[cfg(unix)]
use crate::keys;
use crate::keys::ApiKeys;
use crate::server::{self, Stop, stopped};
use crate::state::{Access, AppState, Served};
use crate::tls;

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
    log_to_stderr(args.log_format);
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let message = format!("{error:#}");
            let _ = writeln!(io::stderr(), "error: {}", message.lines().collect::<Vec<_>>().join(" "));
            ExitCode::from(EXIT_ERROR)
        }
    }
}

fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG));
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colour);
    // A program that embeds the server may have set up its own.
    let _ = match format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
}

fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let checkpoint = Checkpoint::open(&args.model)?;
    let config =
        stage::engine_config(&checkpoint.config).with_context(|| format!("cannot serve `{}`", args.model.display()))?;
    let tokenizer = tokenizer(args)?;
    let access = access(args)?;
    let tls = args.tls_cert.as_ref().zip(args.tls_key.as_ref()).map(|(cert, key)| tls::acceptor(cert, key));
    let tls = tls.transpose()?;
    let listener = bind(&args.host, args.port)?;

    let runtime = tokio::runtime::Runtime::new().context("cannot start the asynchronous runtime")?;
    let served = runtime.block_on(async {
        let staged = stage::stage(&checkpoint, config, tokenizer.eos_ids())
            .context("cannot prepare the model in the directory for temporary files; set TMPDIR to a writable one")?;
        let load = engine::load(staged, &tokenizer, args.max_concurrent);
        serve_while_loading(args, Sockets { listener, tls }, access, load, tokenizer.clone()).await
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

fn access(args: &ServeArgs) -> anyhow::Result<Access> {
    let keys = args.api_key_file.as_deref().map(ApiKeys::from_file).transpose()?;
    #[cfg(unix)]
    if let Some(path) = args.api_key_file.as_deref().filter(|path| keys::is_open_to_others(path)) {
        tracing::warn!(file = %path.display(), "other users of this machine may read the API keys; chmod 600 it");
    }
    Ok(Access { keys, origins: args.cors_origin.clone(), log_prompts: args.log_prompts })
}

/// Where requests come in.
struct Sockets {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
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
    sockets: Sockets,
    access: Access,
    load: impl Future<Output = Result<Arc<dyn engine::Engine>, engine::LoadError>>,
    tokenizer: ChatTokenizer,
) -> anyhow::Result<()> {
    let Sockets { listener, tls } = sockets;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let listener = tokio::net::TcpListener::from_std(listener).context("cannot use the socket")?;
    let address = listener.local_addr().context("cannot tell the socket's address")?;
    let stop = stop_on_signals(args.exit_with_stdin)?;
    let state = Arc::new(AppState::with_access(args.limits(), access));
    let drain = Duration::from_secs(args.drain_timeout_secs);
    let server = tokio::spawn(server::serve_with(listener, tls, state.clone(), stop.clone(), drain));

    tracing::info!(model = %args.model.display(), "loading");
    tokio::select! {
        loaded = load => {
            let engine = loaded.with_context(|| format!("cannot load `{}`", args.model.display()))?;
            let name = args.model_name();
            tracing::info!(%name, context_length = engine.context_length(), "loaded");
            state.serve(Served::new(name, engine, tokenizer));
            let mut stdout = io::stdout();
            let _ = writeln!(stdout, "listening on {scheme}://{address}").and_then(|()| stdout.flush());
        }
        () = stopped(stop) => {}
    }
    server.await.context("the server task failed")
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
