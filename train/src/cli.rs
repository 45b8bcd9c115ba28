//! The command line of `orpo-train`.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Parser, Subcommand};

use crate::check::check;
use crate::checkpoint::{WeightDtype, WeightFormat};
use crate::data::{BatchSize, Dataset, Selection, TokeniseOptions, Tokeniser};
use crate::error::TrainError;
use crate::export::{ExportOptions, export};
use crate::loss::NllTarget;
use crate::model::{Checkpoint, Decoder, Trained};
use crate::recipe::Recipe;
use crate::run::{Outcome, load_chat, run};
use crate::step::Objective;
use crate::{evaluate, hub, telemetry};

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
  orpo-train export runs/a --out merged --merge --dtype bf16
  orpo-train score --model runs/a/model --data held-out.jsonl";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a recipe: train, evaluate, write a Hugging Face checkpoint directory.
    Run {
        /// The recipe (TOML).
        recipe: PathBuf,
        /// Override a key of the recipe, e.g. training.beta=0.2; paths are relative to the recipe.
        #[arg(long = "set", value_name = "KEY=VALUE")]
        overrides: Vec<String>,
        /// Go on from the last complete checkpoint in the recipe's output_dir.
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
        /// The adapter's base model, where it is not where the adapter says: a directory or hub:owner/name.
        #[arg(long)]
        base: Option<PathBuf>,
        /// Type of a whole model's weights.
        #[arg(long, value_enum, default_value_t)]
        dtype: WeightDtype,
        /// Weights of more bytes are split into several files, e.g. 500MB.
        #[arg(long, value_name = "BYTES", default_value = "5GB", value_parser = bytes)]
        max_shard_size: usize,
    },
    /// Preference metrics of a checkpoint on pairs, as JSON on stdout; nothing is trained.
    Score {
        /// A Hugging Face checkpoint directory, or hub:owner/name.
        #[arg(long)]
        model: PathBuf,
        /// Preference pairs: a file, a glob or hub:owner/name:file.
        #[arg(long)]
        data: PathBuf,
        /// A chat template that replaces the model's.
        #[arg(long)]
        chat_template: Option<PathBuf>,
        /// Weight of the odds-ratio term.
        #[arg(long, default_value_t = 0.1)]
        beta: f64,
        /// Longest sequence in tokens.
        #[arg(long, default_value = "1024")]
        max_length: NonZeroUsize,
        /// Pairs at a time.
        #[arg(long, default_value = "8")]
        batch_size: NonZeroUsize,
    },
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
            eprintln!("error: {error}");
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
                    println!("{}", dir.display());
                    Ok(ExitCode::SUCCESS)
                }
                Outcome::Interrupted { step } => {
                    eprintln!("stopped after step {step}; go on with: orpo-train run {} --resume", recipe.display());
                    Ok(ExitCode::from(INTERRUPTED))
                }
            }
        }
        Command::Check { recipe, overrides, json, preview } => {
            let report = check(&Recipe::load(&recipe, &overrides)?, preview)?;
            if json {
                println!("{}", serde_json::to_string_pretty(&report).expect("plain data"));
            } else {
                print!("{report}");
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Export { run_dir, out, merge, base, dtype, max_shard_size } => {
            let format = WeightFormat { dtype, max_shard_bytes: max_shard_size };
            export(&ExportOptions { from: run_dir, out: out.clone(), merge, base, format })?;
            println!("{}", out.display());
            Ok(ExitCode::SUCCESS)
        }
        Command::Score { model, data, chat_template, beta, max_length, batch_size } => {
            let model = hub::model_dir(&model)?;
            let Checkpoint { config, weights, .. } = Checkpoint::open(&model)?;
            let chat = load_chat(&model, chat_template.as_deref())?;
            chat.check_vocabulary(config.vocab_size)?;
            let max_length = max_length.get().min(config.max_position_embeddings);
            let options = TokeniseOptions { max_length, ..Default::default() };
            let tokeniser = Tokeniser::new(&chat, options).with_vocab_size(config.vocab_size);
            let dataset = Dataset::load(&data.into(), &Selection::default(), &tokeniser, false)?;
            eprintln!("{}", dataset.describe());
            let decoder = Decoder::load(&config, &weights, Trained::Nothing)?;
            let objective = Objective::Orpo { beta, nll: NllTarget::Full };
            let size = BatchSize::Examples(batch_size.get());
            let metrics = evaluate::evaluate(&decoder, &dataset.examples, &objective, size)?;
            let mut fields = telemetry::metric_fields(&metrics, &objective, "");
            fields.insert("n".into(), dataset.examples.len().into());
            println!("{}", serde_json::to_string_pretty(&fields).expect("plain data"));
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!((bytes("40000"), bytes("5GB"), bytes("2kb")), (Ok(40_000), Ok(5_000_000_000), Ok(2_000)));
        for wrong in ["", "0", "0MB", "1.5GB", "GB", "5 apples", "-1", "99999999999GB"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
