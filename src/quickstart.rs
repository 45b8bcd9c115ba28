//! `orpo quickstart`: embedded data, a small model from nothing, the whole pipeline.

mod data;
mod tokenizer;

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use orpo_files::write_file;
use orpo_train::optim::ScheduleKind;
use orpo_train::recipe::{DataSection, InitSection, ModelSection, ObjectiveKind, Recipe, TrainingSection};
use serde::{Deserialize, Serialize};

use crate::children::Children;
use crate::pipeline::file::Pipeline;
use crate::pipeline::run::announce;
use crate::pipeline::{self, Options};
use crate::shell::describe;
use crate::summary::Summary;

/// Tokens of the vocabulary.
const VOCAB_SIZE: usize = 1024;
/// Positions of the model; every text of the dataset is shorter.
const MAX_LENGTH: usize = 256;
/// The pipeline, but for its seed.
const PIPELINE: &str = include_str!("quickstart/pipeline.toml");

/// What a directory was made with; one made with anything else is refused.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Made {
    seed: u64,
    version: String,
}

/// Runs the quickstart in `out`, resuming what an earlier one left there.
///
/// # Errors
/// When `out` holds something else, a stage fails, or a signal came.
pub fn run(children: &Children, out: &Path, seed: u64, options: &Options) -> Result<Summary> {
    let started = Instant::now();
    prepare(out, seed)?;
    children.check()?;
    let out = std::path::absolute(out).with_context(|| format!("`{}`", out.display()))?;
    let base = base_recipe(&out, seed);
    if !base.output_dir.join(orpo_train::run::MODEL_DIR).exists() {
        announce("train: the base model, by plain next-token loss");
        fs::create_dir_all(out.join("logs")).with_context(|| format!("cannot write to `{}`", out.display()))?;
        pipeline::run::train(children, &base, &out.join("base.toml"), &out.join("logs/train-base.log"))?;
    }
    pipeline::run::run(children, &Pipeline::load(&out.join("pipeline.toml"))?, options, started)
}

/// Writes data and tokenizer unless they are there.
fn prepare(out: &Path, seed: u64) -> Result<()> {
    pipeline::file::check_out(out)?;
    let mark = out.join("quickstart.json");
    let made = Made { seed, version: env!("CARGO_PKG_VERSION").into() };
    match fs::read_to_string(&mark) {
        Ok(text) => {
            let found: Made = serde_json::from_str(&text).with_context(|| format!("`{}`", mark.display()))?;
            ensure!(
                found == made,
                "`{}` was made with seed {} by version {}; name another directory with --out, or remove it",
                out.display(),
                found.seed,
                found.version
            );
            eprintln!("resuming in {}; remove it to start afresh", out.display());
            return Ok(());
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read `{}`", mark.display())),
    }
    let empty = fs::read_dir(out).map(|mut entries| entries.next().is_none()).unwrap_or(true);
    ensure!(
        empty || out.join(".orpo-quickstart").exists(),
        "`{}` is not empty; name another directory with --out",
        out.display()
    );
    fs::create_dir_all(out).with_context(|| format!("cannot create `{}`", out.display()))?;
    // From here on the directory is known as ours, so that an interrupted preparation can be repeated.
    fs::write(out.join(".orpo-quickstart"), "").with_context(|| format!("cannot write to `{}`", out.display()))?;
    announce("data: an instruction-following preference set, from the seed");
    let dataset = data::generate(seed);
    dataset.write(&out.join("data"))?;
    eprintln!(
        "{} documents for the base model; pairs: {} train, {} validation, {} test",
        dataset.base_corpus.len(),
        dataset.train.len(),
        dataset.validation.len(),
        dataset.test.len()
    );
    announce("tokenizer: byte-level BPE, trained on the training texts");
    let tokenizer = tokenizer::train_tokenizer(dataset.training_texts(), VOCAB_SIZE)?;
    tokenizer::write_tokenizer(&tokenizer, &out.join("tokenizer"))?;
    let path = out.join("pipeline.toml");
    let text = format!("# {}\n{PIPELINE}", describe(&["run".into(), (&path).into(), "--resume".into()]));
    let text = text.replacen("seed = 42", &format!("seed = {seed}"), 1);
    write_file(&path, text.as_bytes())?;
    write_file(&mark, &serde_json::to_vec(&made)?)?;
    Ok(())
}

/// A Llama of 918,656 parameters, fitted on plain text.
fn base_recipe(out: &Path, seed: u64) -> Recipe {
    let init = InitSection {
        hidden_size: 128,
        intermediate_size: 384,
        num_hidden_layers: 4,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        max_position_embeddings: 512,
        rope_theta: 10_000.0,
        rms_norm_eps: 1e-5,
        initializer_range: 0.02,
        tie_word_embeddings: true,
    };
    Recipe {
        output_dir: out.join("base"),
        seed,
        model: ModelSection { path: None, tokenizer: Some(out.join("tokenizer")), init: Some(init) },
        data: DataSection { max_length: MAX_LENGTH, ..DataSection::new(out.join("data/base_corpus.jsonl")) },
        lora: None,
        training: TrainingSection {
            objective: ObjectiveKind::Sft,
            batch_size: 16,
            max_steps: Some(500),
            learning_rate: 3e-3,
            lr_scheduler: ScheduleKind::Cosine,
            warmup_steps: 20,
            weight_decay: 0.01,
            ..Default::default()
        },
        export: Default::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_model_has_as_many_parameters_as_is_said() {
        let init = base_recipe(Path::new("out"), 42).model.init.unwrap();
        let (hidden, head) = (init.hidden_size, init.hidden_size / init.num_attention_heads);
        let attention = 2 * hidden * hidden + 2 * hidden * head * init.num_key_value_heads;
        let layer = attention + 3 * hidden * init.intermediate_size + 2 * hidden;
        assert_eq!(VOCAB_SIZE * hidden + init.num_hidden_layers * layer + hidden, 918_656);
    }

    #[test]
    fn the_embedded_pipeline_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipeline.toml");
        fs::write(&path, PIPELINE).unwrap();
        let pipeline = Pipeline::load(&path).unwrap();
        assert_eq!(PIPELINE.matches("seed = 42").count(), 1);
        assert_eq!(pipeline.recipes["orpo"].data.max_length, MAX_LENGTH);
        assert_eq!(pipeline.out, dir.path());
        assert_eq!(pipeline.compare.unwrap().pairs, [["orpo".to_owned(), "base".to_owned()]]);
    }
}
