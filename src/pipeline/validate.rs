//! Whatever can be known to be wrong is said before anything takes time.

use std::ffi::OsString;

use anyhow::{Context, Result, anyhow, ensure};
use clap::Parser;
use orpo_eval::alpaca::outputs::Outputs;
use orpo_eval::ifeval::data::Dataset;
use orpo_eval::judge::annotator::Annotator;
use orpo_eval::mt_bench::{Answers, JudgePrompts, Questions};
use orpo_serve::config::ServeArgs;
use orpo_train::run::ModelSource;

use super::file::{BASE, Pipeline};
use super::inputs::Surveyed;
use super::options::{JUDGE, file};
use super::stages::{Kind, Model, Stage};
use super::{Options, no_template, stages};

/// Checks all that a pipeline names: files, recipes against the base model's headers, options of every program.
///
/// # Errors
/// With the first thing that is wrong.
pub fn check(pipeline: &Pipeline, options: &Options) -> Result<()> {
    options.check(pipeline)?;
    for recipe in pipeline.recipes.values() {
        ModelSource::open(recipe)?.outline()?;
    }
    let has_template = has_template(pipeline)?;
    for stage in stages::stages(pipeline)? {
        // What is asked over HTTP are chats; a server elsewhere has a template of its own.
        let asks_here = stage.asks.as_ref().is_some_and(|model| !options.endpoints.contains_key(model));
        if asks_here && !has_template && options.wants(stage.kind) {
            let dir = Model::of(pipeline, BASE)?.dir;
            return Err(no_template(&dir)).with_context(|| format!("stage {} asks its model in chats", stage.name));
        }
        for (key, paths) in &stage.files {
            for path in paths {
                ensure!(path.exists(), "there is no `{}`; `{key}` names it", path.display());
            }
        }
        check_command(pipeline, &stage).with_context(|| format!("stage {}", stage.name))?;
    }
    check_data(pipeline)
}

/// True if the base model has a chat template, of its own or by the pipeline file.
///
/// # Errors
/// When the model cannot be opened.
pub fn has_template(pipeline: &Pipeline) -> Result<bool> {
    let recipe = pipeline.recipes.values().next().context("a pipeline has a variant")?;
    Ok(ModelSource::open(recipe)?.files.chat.template().is_ok())
}

/// Checks that the judge can be asked, if a stage is going to.
///
/// # Errors
/// When it cannot.
pub fn check_judge(pipeline: &Pipeline, surveyed: &[Surveyed]) -> Result<()> {
    let is_needed = surveyed.iter().any(|surveyed| surveyed.stage.is_judged && !surveyed.is_up_to_date());
    match &pipeline.judge {
        Some(judge) if is_needed => orpo_eval::cli::check_judge(JUDGE.flags(judge)),
        _ => Ok(()),
    }
}

/// Whether the program understands the stage's options.
fn check_command(pipeline: &Pipeline, stage: &Stage) -> Result<()> {
    if !matches!(stage.kind, Kind::Train | Kind::Score) {
        let mut args: Vec<OsString> = vec!["orpo-eval".into()];
        args.extend(stage.args[1..].iter().cloned());
        if stage.asks.is_some() {
            args.extend(["--endpoint".into(), "http://127.0.0.1:1".into()]);
        }
        orpo_eval::cli::check(args).map_err(|reason| anyhow!(reason))?;
    }
    if let Some(name) = &stage.asks {
        let args = Model::of(pipeline, name)?.serve_args(pipeline, 0);
        ServeArgs::try_parse_from(args).map_err(|error| {
            let text = error.to_string();
            anyhow!("[serve] {}", text.lines().next().unwrap_or_default().trim_start_matches("error: "))
        })?;
    }
    Ok(())
}

/// Whether the files of the evaluations are what they should be.
fn check_data(pipeline: &Pipeline) -> Result<()> {
    if let Some(path) = pipeline.ifeval.as_ref().and_then(|table| file(table, "data")) {
        Dataset::read(path)?;
    }
    if let Some(table) = &pipeline.alpaca {
        file(table, "reference").map(Outputs::read).transpose()?;
        file(table, "annotator_config").map(Annotator::read).transpose()?;
    }
    if let Some(table) = &pipeline.mt_bench {
        file(table, "questions").map(Questions::read).transpose()?;
        file(table, "reference_answers").map(Answers::read).transpose()?;
        file(table, "judge_prompts").map(JudgePrompts::read).transpose()?;
    }
    Ok(())
}
