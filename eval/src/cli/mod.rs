//! The command line: one file here is one task's command; what several of them have is in [`requests`] and here.

mod alpaca;
mod compare;
mod ifeval;
mod judge;
mod judge_agreement;
mod mt_bench;
mod report;
mod requests;

use std::ffi::OsString;
use std::io::{self, Write};
use std::iter;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

/// Everything could be scored.
const DONE: u8 = 0;
/// The run finished, but not everything could be scored, or a threshold was missed.
const INCOMPLETE: u8 = 1;
/// Usage, input or environment.
const FAILED: u8 = 2;
/// Stopped by a signal.
const INTERRUPTED: u8 = 130;

/// Measures a chat model behind any OpenAI-compatible endpoint.
#[derive(Debug, Parser)]
#[command(name = "orpo-eval", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Ifeval(Box<ifeval::Ifeval>),
    Alpaca(Box<alpaca::Alpaca>),
    Compare(Box<compare::Compare>),
    MtBench(Box<mt_bench::MtBench>),
    JudgeAgreement(Box<judge_agreement::JudgeAgreement>),
    Report(report::Report),
}

/// Runs a command line, the program's name included, and reports to stdout and stderr. It starts a runtime of its own,
/// so it must not be called from inside one.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let command = match Cli::try_parse_from(args) {
        Ok(cli) => cli.command,
        Err(error) => {
            // A closed pipe is not an error.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { FAILED } else { DONE });
        }
    };
    stop_on_signals();
    let code = match command {
        Command::Ifeval(arguments) => ifeval::run(*arguments),
        Command::Alpaca(arguments) => alpaca::run(&arguments),
        Command::MtBench(arguments) => mt_bench::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::JudgeAgreement(arguments) => judge_agreement::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
    };
    ExitCode::from(code.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        FAILED
    }))
}

/// Ends the program on SIGINT, SIGTERM and SIGHUP, also where it is process 1, for which signals do nothing of themselves.
/// Whatever has arrived is on disk already.
fn stop_on_signals() {
    // A program that embeds this one may have a handler of its own.
    let _ = ctrlc::set_handler(|| {
        // Whoever started this program may be gone, and stderr with it.
        let _ = writeln!(io::stderr(), "stopped; the same command goes on from here");
        std::process::exit(INTERRUPTED.into());
    });
}

/// The commands with their flags, for programs that describe them.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Whether a command line would be understood, the program's name included. Nothing is run, no file is looked at.
///
/// # Errors
/// With the first thing that is wrong, in one line.
pub fn check(args: impl IntoIterator<Item = OsString>) -> Result<(), String> {
    match Cli::try_parse_from(args) {
        Ok(_) => Ok(()),
        Err(error) => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            Err(first.trim_start_matches("error: ").to_owned())
        }
    }
}

/// Whether the judge that these flags name (`--judge-endpoint` and what belongs to it) can be asked: it is there and takes
/// the key.
///
/// # Errors
/// When it cannot, with the reason.
pub fn check_judge(flags: impl IntoIterator<Item = OsString>) -> anyhow::Result<()> {
    let Flags { judge } = Flags::try_parse_from(iter::once("orpo-eval".into()).chain(flags))?;
    judge.check(&runtime()?)
}

#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    judge: judge::JudgeArgs,
}

/// What requests are sent from.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().context("cannot start the network runtime")
}

/// Writes to stdout; that the reader has gone is not an error.
fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("cannot write to stdout"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_is_wrong_with_a_command_line_is_one_line() {
        let check = |line: &str| check(line.split(' ').map(OsString::from));
        assert_eq!(check("orpo-eval ifeval --endpoint http://127.0.0.1:1 --max-tokens 8"), Ok(()));
        let error = check("orpo-eval ifeval --endpoint http://127.0.0.1:1 --max-tokens 0").unwrap_err();
        assert!(error.starts_with("invalid value '0' for '--max-tokens <N>'") && !error.contains('\n'), "{error}");
    }
}
