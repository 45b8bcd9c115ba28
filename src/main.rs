//! From a base model and a preference dataset to an aligned, served and evaluated model, in one command.
//!
//! The pipeline runs the same programs that a person can run by hand, as child processes of itself: `orpo train`,
//! `orpo serve` and `orpo eval` are `orpo-train`, `orpo-serve` and `orpo-eval`.

mod children;
mod pipeline;
mod quickstart;
mod summary;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::children::{Children, Interrupted};

/// Align a language model with ORPO, serve it and measure it, in one command.
#[derive(Debug, Parser)]
#[command(name = "orpo", version, after_help = EXAMPLES, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  orpo                                     the quickstart: embedded data and model, a few minutes, no download
  orpo run pipeline.toml                   your base model, your preference pairs
  orpo run pipeline.toml --resume          go on where a run was stopped
  orpo serve --model orpo-quickstart/orpo/model
  orpo train --help, orpo serve --help, orpo eval --help";

#[derive(Debug, Subcommand)]
enum Command {
    /// Train, serve and evaluate on embedded data: no download, no configuration (the default command).
    Quickstart {
        /// Where everything is written; what an earlier quickstart finished there is used again.
        #[arg(long, default_value = "orpo-quickstart")]
        out: PathBuf,
        /// Seed of data, weights and order.
        #[arg(long, default_value_t = 42)]
        seed: u64,
    },
    /// Train a base model with ORPO on preference pairs, serve it, and evaluate it before and after.
    Run {
        /// What to do (TOML); see the README.
        pipeline: PathBuf,
        /// Go on with what an earlier run of the same pipeline left.
        #[arg(long)]
        resume: bool,
    },
    /// The trainer: `orpo-train`.
    #[command(disable_help_flag = true)]
    Train {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// The server: `orpo-serve`.
    #[command(disable_help_flag = true)]
    Serve {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// The evaluation: `orpo-eval`.
    #[command(disable_help_flag = true)]
    Eval {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let default = || Command::Quickstart { out: "orpo-quickstart".into(), seed: 42 };
    let named = |name: &str, args: Vec<OsString>| std::iter::once(name.into()).chain(args).collect::<Vec<_>>();
    match Cli::parse().command.unwrap_or_else(default) {
        Command::Train { args } => orpo_train::cli::main(named("orpo-train", args)),
        Command::Serve { args } => orpo_serve::cli::main(named("orpo-serve", args)),
        Command::Eval { args } => orpo_eval::cli::main(named("orpo-eval", args)),
        Command::Quickstart { out, seed } => finish(
            Children::new().and_then(|children| quickstart::run(&children, &out, seed)),
            &format!("orpo quickstart --out {} --seed {seed}", out.display()),
        ),
        Command::Run { pipeline, resume } => finish(
            Children::new().and_then(|children| pipeline::run_file(&children, &pipeline, resume)),
            &format!("orpo run {} --resume", pipeline.display()),
        ),
    }
}

/// Prints the summary or the error and gives the exit code.
fn finish(result: anyhow::Result<summary::Summary>, again: &str) -> ExitCode {
    match result {
        Ok(summary) => {
            println!("{summary}");
            ExitCode::from(u8::from(!summary.is_complete()))
        }
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("\nstopped; go on with: {again}");
            ExitCode::from(orpo_train::cli::INTERRUPTED)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
