//! From a base model and a preference dataset to an aligned, served and evaluated model, in one command.
//!
//! The pipeline runs the same programs that a person can run by hand, as child processes of itself: `orpo train`,
//! `orpo serve` and `orpo eval` are `orpo-train`, `orpo-serve` and `orpo-eval`.

mod children;
#[cfg(test)]
mod docker;
mod hash;
mod keys;
mod pipeline;
mod quickstart;
mod shell;
mod summary;
mod trace;
mod words;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::children::{Children, Interrupted};
use crate::pipeline::Options;
use crate::pipeline::stages::Kind;
use crate::shell::describe;

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
  orpo plan pipeline.toml                  what that would do, and what it would take
  orpo run pipeline.toml --resume          go on where a run was stopped, or do again what has changed
  orpo run pipeline.toml --until train     only that far
  orpo trace runs/mine/eval/orpo/ifeval/results.json
  orpo keys judge                          every key of a section of pipeline.toml
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
        #[command(flatten)]
        stages: StageArgs,
    },
    /// Train variants of a base model on preference pairs, serve them, measure them before and after, write a report.
    ///
    /// Stages that are up to date are skipped; what has changed is said, and run again. Exit codes: 0 done, 1 not everything
    /// could be scored, 2 a stage failed or an input is wrong, 130 stopped.
    #[command(after_help = RUN_EXAMPLES)]
    Run {
        /// What to do (TOML); see the README.
        pipeline: PathBuf,
        /// Go on with what an earlier run of the same pipeline left.
        #[arg(long)]
        resume: bool,
        #[command(flatten)]
        stages: StageArgs,
    },
    /// Say which stages would run, why, and what they would take: time and memory, prompts, judge requests and their cost.
    /// Runs nothing, writes nothing.
    #[command(after_help = PLAN_EXAMPLES)]
    Plan {
        /// As for `orpo run`.
        pipeline: PathBuf,
        #[command(flatten)]
        stages: StageArgs,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Print every key of a pipeline file with its meaning and default.
    Keys {
        /// Only this section, such as judge.
        section: Option<String>,
        /// Print the page docs/keys.md, with the server's flags.
        #[arg(long, conflicts_with = "section")]
        markdown: bool,
    },
    /// Follow a result back to its responses, server, checkpoint, recipe, data and base, and check their hashes.
    ///
    /// Every link is verified, differs, or is not at hand. Exit codes: 0 nothing differs, 1 something does, 2 it cannot be
    /// read.
    #[command(after_help = TRACE_EXAMPLES)]
    Trace {
        /// The results.json of an evaluation, or the score.json of a pipeline.
        results: PathBuf,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
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

const RUN_EXAMPLES: &str = "\
Examples:
  orpo run pipeline.toml
  orpo run pipeline.toml --resume
  orpo run pipeline.toml --resume --until train
  orpo run pipeline.toml --resume --endpoint orpo=http://127.0.0.1:8000     a server of your own with the model `orpo`";

const PLAN_EXAMPLES: &str = "\
Examples:
  orpo plan pipeline.toml
  orpo plan pipeline.toml --until train --json";

const TRACE_EXAMPLES: &str = "\
Examples:
  orpo trace runs/mine/eval/orpo/ifeval/results.json
  orpo trace runs/mine/compare/orpo-vs-base/results.json --json";

/// Which stages are run, and against which servers.
#[derive(Debug, Default, Args)]
struct StageArgs {
    /// Stop after the stages of this kind.
    #[arg(long, value_name = "KIND")]
    until: Option<Kind>,
    /// Ask this server for a model in the place of one of our own; repeat it for several models. It must call the model by
    /// its name in the pipeline, and may be away for up to three minutes at a time.
    #[arg(long, value_name = "MODEL=URL", value_parser = pipeline::endpoint)]
    endpoint: Vec<(String, String)>,
    /// Where people reach the server and its /report; the closing lines name this instead of paths and a command.
    #[arg(long, value_name = "URL", env = "ORPO_PUBLIC_URL")]
    public_url: Option<String>,
}

impl StageArgs {
    fn options(&self) -> Options {
        let public_url =
            self.public_url.as_ref().map(|url| url.trim_end_matches('/').to_owned()).filter(|url| !url.is_empty());
        Options { until: self.until, endpoints: self.endpoint.iter().cloned().collect(), public_url }
    }

    /// The flags again.
    fn flags(&self) -> Vec<OsString> {
        let until = self.until.iter().flat_map(|kind| ["--until".to_owned(), kind.to_string()]);
        let endpoints = self.endpoint.iter().flat_map(|(model, url)| ["--endpoint".into(), format!("{model}={url}")]);
        until.chain(endpoints).map(OsString::from).collect()
    }
}

fn main() -> ExitCode {
    children::stop_with_parent();
    let default = || Command::Quickstart { out: "orpo-quickstart".into(), seed: 42, stages: StageArgs::default() };
    let named = |name: &str, args: Vec<OsString>| std::iter::once(name.into()).chain(args).collect::<Vec<_>>();
    match Cli::parse().command.unwrap_or_else(default) {
        Command::Train { args } => orpo_train::cli::main(named("orpo-train", args)),
        Command::Serve { args } => orpo_serve::cli::main(named("orpo-serve", args)),
        Command::Eval { args } => orpo_eval::cli::main(named("orpo-eval", args)),
        Command::Quickstart { out, seed, stages } => {
            let mut again = vec!["quickstart".into(), "--out".into(), (&out).into()];
            again.extend(["--seed".into(), seed.to_string().into()]);
            again.extend(stages.flags());
            let run = |children| quickstart::run(&children, &out, seed, &stages.options());
            finish(Children::new().and_then(run), &describe(&again))
        }
        Command::Run { pipeline, resume, stages } => {
            let mut again = vec!["run".into(), (&pipeline).into(), "--resume".into()];
            again.extend(stages.flags());
            let run = |children| pipeline::run::run_file(&children, &pipeline, resume, &stages.options());
            finish(Children::new().and_then(run), &describe(&again))
        }
        Command::Plan { pipeline, stages, json } => {
            let plan = pipeline::plan::plan(&pipeline, &stages.options());
            say(plan.map(|plan| {
                let text = if json { format!("{:#}", serde_json::json!(plan)) } else { plan.to_string() };
                (text, ExitCode::SUCCESS)
            }))
        }
        Command::Keys { section, markdown } => {
            let text = if markdown { Ok(keys::page().trim_end().to_owned()) } else { keys::text(section.as_deref()) };
            say(text.map(|text| (text, ExitCode::SUCCESS)))
        }
        Command::Trace { results, json } => say(trace::Trace::of(&results).map(|trace| {
            let text = if json { format!("{:#}", trace.to_json()) } else { trace.to_string() };
            (text, ExitCode::from(u8::from(trace.differs())))
        })),
    }
}

/// Prints a text; that the reader has gone is no error.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints a text and gives its exit code, or prints the error.
fn say(result: anyhow::Result<(String, ExitCode)>) -> ExitCode {
    match result {
        Ok((text, code)) => {
            print(&text);
            code
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Prints the summary or the error and gives the exit code.
fn finish(result: anyhow::Result<summary::Summary>, again: &str) -> ExitCode {
    match result {
        Ok(summary) => {
            print(&summary.to_string());
            ExitCode::from(u8::from(!summary.is_complete))
        }
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("\nstopped; resume with: {again}");
            ExitCode::from(orpo_train::cli::INTERRUPTED)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
