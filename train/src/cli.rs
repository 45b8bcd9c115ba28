//! The command line of `orpo-train`.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Parser, Subcommand, ValueEnum};
use orpo_files::quoted;

use crate::check::check;
use crate::checkpoint::{WeightDtype, WeightFormat};
use crate::error::TrainError;
use crate::export::{ExportOptions, export};
use crate::loss::NllTarget;
use crate::recipe::{self, ObjectiveKind, Recipe};
use crate::run::{Outcome, run};
use crate::score::{ScoreOptions, score};
use crate::terminal::{print, say};

/// Train language models with ORPO: one model, one stage, no reference model.
#[derive(Debug, Parser)]
#[command(name = "orpo-train", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  orpo-train run recipe.toml
  orpo-train run recipe.toml --set training.learning_rate=1e-5 --set output_dir=runs/b
  orpo-train run recipe.toml --resume
  orpo-train check recipe.toml --preview 2
  orpo-train keys training
  orpo-train export runs/a --out merged --merge --dtype bf16
  orpo-train score --model runs/a --data held-out.jsonl";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a recipe: train, evaluate, write a Hugging Face checkpoint directory.
    Run {
        /// The recipe (TOML).
        recipe: PathBuf,
        /// Override a key of the recipe, e.g. training.beta=0.2; paths are relative to the recipe.
        #[arg(long = "set", value_name = "KEY=VALUE")]
        overrides: Vec<String>,
        /// Continue from the last complete checkpoint in the recipe's output_dir. A finished run continues if max_steps
        /// or epochs is larger than before; these, paths, and how often the run logs, evaluates and saves may change.
        #[arg(long)]
        resume: bool,
    },
    /// Say what a recipe would do: rows, token lengths, parameters, memory, time. Trains nothing, writes nothing.
    Check {
        /// The recipe (TOML).
        recipe: PathBuf,
        /// Override a key of the recipe, as for `run`.
        #[arg(long = "set", value_name = "KEY=VALUE")]
        overrides: Vec<String>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
        /// Show the first N examples token by token, with what the loss looks at.
        #[arg(long, value_name = "N", default_value_t = 0)]
        preview: usize,
    },
    /// List the keys of a recipe: meaning, value, default, and TRL's name.
    Keys {
        /// Only the keys of this section (`training`), or one key (`training.beta`).
        #[arg(value_name = "SECTION|KEY", default_value = "", hide_default_value = true, conflicts_with = "markdown")]
        prefix: String,
        /// Print Markdown tables.
        #[arg(long)]
        markdown: bool,
    },
    /// Write a trained model in another form: an adapter merged into its base, another type, other shards.
    Export {
        /// A run directory, or a directory with a model or an adapter.
        run_dir: PathBuf,
        /// The directory to write; it must not exist.
        #[arg(long)]
        out: PathBuf,
        /// Merge the adapter into its base model.
        #[arg(long)]
        merge: bool,
        /// The adapter's base model, if it is not where the adapter says: a directory or hub:owner/name.
        #[arg(long)]
        base: Option<PathBuf>,
        /// Type of the weights.
        #[arg(long, value_enum, default_value_t)]
        dtype: WeightDtype,
        /// A model's weights of more bytes are split into several files, e.g. 500MB.
        #[arg(long, value_name = "BYTES", default_value = "5GB", value_parser = bytes)]
        max_shard_size: usize,
    },
    /// Print the metrics of a model on data as JSON, computed as a run computes them; nothing is trained.
    ///
    /// Data is read as the recipe says (layout, columns, template, boundary, truncation), and the loss is the recipe's.
    /// Without --recipe it is the one that the model was trained with, or every key at its default.
    Score(Box<ScoreArgs>),
}

#[derive(Debug, clap::Args)]
struct ScoreArgs {
    /// A run directory, a directory with a model or an adapter, or hub:owner/name.
    #[arg(long)]
    model: PathBuf,
    /// Preference pairs (for objective "sft" documents): a file, a glob or hub:owner/name:file. Without it, the recipe's
    /// data.validation.
    #[arg(long)]
    data: Option<String>,
    /// The recipe that says how data is read and what the loss is.
    #[arg(long)]
    recipe: Option<PathBuf>,
    /// Override a key of the recipe, as for `run`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// The adapter's base model, if it is not where the adapter says: a directory or hub:owner/name.
    #[arg(long)]
    base: Option<PathBuf>,
    /// A chat template that replaces the model's and the recipe's.
    #[arg(long)]
    chat_template: Option<PathBuf>,
    /// A loss instead of the recipe's, whose other keys of the loss are then ignored; "orpo" compares any models on pairs.
    #[arg(long, value_enum)]
    objective: Option<ObjectiveKind>,
    /// The same as --set training.beta=BETA.
    #[arg(long, allow_negative_numbers = true)]
    beta: Option<f64>,
    /// The same as --set training.nll=NLL.
    #[arg(long, value_enum)]
    nll: Option<NllTarget>,
    /// The same as --set data.max_length=TOKENS.
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<NonZeroUsize>,
    /// The same as --set training.batch_size=PAIRS.
    #[arg(long, value_name = "PAIRS")]
    batch_size: Option<NonZeroUsize>,
}

impl ScoreArgs {
    fn options(self) -> ScoreOptions {
        let mut overrides = self.overrides;
        overrides.extend(self.beta.map(|beta| format!("training.beta={beta:?}")));
        overrides.extend(self.nll.map(|nll| format!("training.nll={}", name_of(nll))));
        overrides.extend(self.max_length.map(|tokens| format!("data.max_length={tokens}")));
        overrides.extend(self.batch_size.map(|pairs| format!("training.batch_size={pairs}")));
        ScoreOptions {
            model: self.model,
            base: self.base,
            data: self.data,
            recipe: self.recipe,
            overrides,
            objective: self.objective.map(name_of),
            chat_template: self.chat_template,
        }
    }
}

/// The name of a choice, which is the same on the command line and in a recipe.
fn name_of(choice: impl ValueEnum) -> String {
    choice.to_possible_value().map_or_else(String::new, |value| value.get_name().into())
}

/// Exit code of a run that was asked to stop and saved its state: that of a shell for SIGINT.
pub const INTERRUPTED: u8 = 130;

/// Runs the command line `args` (the program's name first).
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing can be done where even the message cannot be printed.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match execute(cli.command) {
        Ok(code) => code,
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::from(2)
        }
    }
}

/// A number of bytes, with or without a decimal unit, as transformers writes it.
fn bytes(text: &str) -> Result<usize, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => Some(1),
        "KB" => Some(1_000),
        "MB" => Some(1_000_000),
        "GB" => Some(1_000_000_000),
        _ => None,
    };
    let bytes = factor.zip(number.parse::<usize>().ok()).and_then(|(factor, number)| number.checked_mul(factor));
    bytes.filter(|bytes| *bytes > 0).ok_or_else(|| "expected a number of bytes above 0, such as 5GB or 500MB".into())
}

fn execute(command: Command) -> Result<ExitCode, TrainError> {
    match command {
        Command::Run { recipe, overrides, resume } => {
            let loaded = Recipe::load(&recipe, &overrides)?;
            let stop = Arc::new(AtomicBool::new(false));
            let flag = stop.clone();
            ctrlc::set_handler(move || {
                // The second signal does not wait for the step to end.
                if flag.swap(true, Ordering::Relaxed) {
                    std::process::exit(i32::from(INTERRUPTED));
                }
            })
            .map_err(|e| TrainError::Refused(format!("cannot handle signals: {e}")))?;
            match run(&loaded, resume, &stop)? {
                Outcome::Finished(dir) => {
                    print(&format!("{}\n", dir.display()))?;
                    Ok(ExitCode::SUCCESS)
                }
                Outcome::Interrupted { step } => {
                    say(&format!("stopped after step {step}; resume with: {}", resume_command(&recipe, &overrides)));
                    Ok(ExitCode::from(INTERRUPTED))
                }
            }
        }
        Command::Check { recipe, overrides, json, preview } => {
            let report = check(&Recipe::load(&recipe, &overrides)?, preview)?;
            print(&if json { as_json(&report) } else { report.to_string() })?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Export { run_dir, out, merge, base, dtype, max_shard_size } => {
            let format = WeightFormat { dtype, max_shard_bytes: max_shard_size };
            export(&ExportOptions { from: run_dir, out: out.clone(), merge, base, format })?;
            print(&format!("{}\n", out.display()))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Keys { prefix, markdown } => {
            let text = if markdown { recipe::markdown() } else { recipe::listing(&prefix) };
            if text.is_empty() {
                let reason = format!("there is no key or section `{prefix}`; `orpo train keys` lists all keys");
                return Err(TrainError::Refused(reason));
            }
            print(&text)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Score(args) => {
            print(&as_json(&score(&args.options())?))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn as_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).expect("plain data") + "\n"
}

/// The command that continues a run, for a shell.
fn resume_command(recipe: &Path, overrides: &[String]) -> String {
    let mut command = format!("orpo-train run {}", quoted(&recipe.to_string_lossy()));
    for entry in overrides {
        command += &format!(" --set {}", quoted(entry));
    }
    command + " --resume"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_that_resumes_can_be_pasted() {
        let command = resume_command(Path::new("mein lauf/r.toml"), &["data.train=[\"a\"]".into(), "seed=1".into()]);
        assert_eq!(command, r#"orpo-train run 'mein lauf/r.toml' --set 'data.train=["a"]' --set seed=1 --resume"#);
    }

    #[test]
    fn sizes() {
        assert_eq!((bytes("40000"), bytes("5GB"), bytes("2kb")), (Ok(40_000), Ok(5_000_000_000), Ok(2_000)));
        for wrong in ["", "0", "0MB", "1.5GB", "GB", "5 apples", "-1", "99999999999GB"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
