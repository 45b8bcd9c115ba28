//! One ORPO step (forward, backward, AdamW), measured in a process of its own, so that the peak of its memory is that of
//! the step. Prints one line of JSON.

use std::fs;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use orpo_benchmarks::{ADAMW, OBJECTIVE, Size, pairs};
use orpo_model::Decoder;
use orpo_model::adapter::{BaseStorage, LoraConfig, LoraSetup};
use orpo_train::data::{Example, Sequence, collate};
use orpo_train::loss::NllTarget;
use orpo_train::optim::AdamW;
use orpo_train::step::{Objective, forward_backward};

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Model {
    /// 15.2 million parameters.
    #[value(name = "15m")]
    Small,
    /// 134.5 million parameters.
    #[value(name = "134m")]
    Large,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Rows {
    /// Both sides whole, with log-probabilities of every position, as programs do that pad.
    All,
    /// Both sides whole, with log-probabilities of what the loss looks at.
    Separate,
    /// The same with a prompt that both sides share and that is computed once.
    Shared,
}

/// Measure one ORPO step. Threads by RAYON_NUM_THREADS.
#[derive(Debug, Parser)]
struct Args {
    #[arg(long, value_enum, default_value = "15m")]
    model: Model,
    /// Pairs of a batch.
    #[arg(long, default_value_t = 2)]
    pairs: usize,
    /// Tokens of a side.
    #[arg(long, default_value_t = 512)]
    length: usize,
    /// Of these the prompt's.
    #[arg(long, default_value_t = 256)]
    prompt: usize,
    /// What is computed of a pair.
    #[arg(long, value_enum, default_value = "separate")]
    rows: Rows,
    #[arg(long)]
    gradient_checkpointing: bool,
    /// Train an adapter of this rank on all linear layers and not the weights.
    #[arg(long)]
    lora: Option<usize>,
    /// Measured steps, after one that is not.
    #[arg(long, default_value_t = 5)]
    steps: usize,
}

/// User and system time of this process in seconds.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |field: usize| fields.get(field).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn peak_rss_mb() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<f64>().ok()).unwrap_or(0.0) * 1024.0 / 1e6
}

/// Every side as a text by itself, all of which is learnt.
fn documents(pairs: Vec<Example>) -> Vec<Example> {
    let sides = pairs.into_iter().flat_map(|pair| std::iter::once(pair.chosen).chain(pair.rejected));
    sides.map(|side| Example::document(1, Sequence { prompt_len: 1, ..side })).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let size = match args.model {
        Model::Small => Size::Small,
        Model::Large => Size::Large,
    };
    let config = size.config(args.length);
    let examples = pairs(args.pairs, args.prompt, args.length, args.rows == Rows::Shared, config.vocab_size);
    let (examples, objective) = match args.rows {
        Rows::All => (documents(examples), Objective::Sft { nll: NllTarget::Full }),
        Rows::Separate | Rows::Shared => (examples, OBJECTIVE),
    };
    let batch = collate(&examples.iter().collect::<Vec<_>>());
    let lora = args.lora.map(|r| LoraSetup {
        config: LoraConfig {
            r,
            lora_alpha: 2.0 * r as f64,
            lora_dropout: 0.0,
            target_modules: vec!["all-linear".into()],
            use_rslora: false,
        },
        base: BaseStorage::Source,
        seed: 1,
        initial: None,
    });
    let decoder = match &lora {
        Some(setup) => Decoder::random_with_adapter(&config, 1, setup)?,
        None => Decoder::random(&config, 1)?,
    };
    let decoder = decoder.with_activation_checkpointing(args.gradient_checkpointing);
    let mut optimizer = AdamW::new(&decoder.trainable(), ADAMW, 0);
    let mut step = || -> Result<(f64, f64), Box<dyn std::error::Error>> {
        let (wall, cpu) = (Instant::now(), cpu_seconds());
        forward_backward(&decoder, &batch, &objective)?;
        optimizer.step(1e-5, 1.0)?;
        Ok((wall.elapsed().as_secs_f64(), cpu_seconds() - cpu))
    };
    step()?;
    let times = (0..args.steps.max(1)).map(|_| step()).collect::<Result<Vec<_>, _>>()?;
    let (wall, cpu): (Vec<f64>, Vec<f64>) = times.into_iter().unzip();
    let parameters: usize = decoder.params().iter().map(|param| param.elem_count()).sum();
    println!(
        "{{\"what\": \"orpo-train\", \"parameters\": {parameters}, \"tokens\": {}, \"rows\": {}, \"seconds\": {:.3}, \
         \"cpu_seconds\": {:.2}, \"peak_rss_mb\": {:.0}}}",
        batch.tokens,
        batch.rows.ids.len(),
        median(wall),
        median(cpu),
        peak_rss_mb(),
    );
    Ok(())
}
