//! What a stage is going to take, before it runs.

use anyhow::{Context, Result};
use orpo_eval::alpaca::comparison::Comparison;
use orpo_eval::alpaca::outputs::Outputs;
use orpo_eval::alpaca::verdicts::{self, Orders};
use orpo_eval::compare::judging::{self, Asking, Style};
use orpo_eval::compare::pair::Pair;
use orpo_eval::ifeval::data::Dataset;
use orpo_eval::judge::Request;
use orpo_eval::judge::annotator::Annotator;
use orpo_eval::judge::cost::{Estimate as JudgeEstimate, Prices};
use orpo_eval::judge::template::Templating;
use orpo_eval::mt_bench::plan::{self, Mode, Setting};
use orpo_eval::mt_bench::verdict::Rule;
use orpo_eval::mt_bench::{Answers, JudgePrompts, Questions};
use orpo_eval::official::Hub;
use orpo_train::check::check;
use orpo_train::error::TrainError;
use serde::Serialize;
use toml::Table;

use super::file::{Decider, Pipeline};
use super::options::{file, is_official, number};
use super::stages::{Kind, Stage};

/// What a stage takes; what does not apply is null.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Estimate {
    /// Optimiser steps.
    pub steps: Option<usize>,
    /// Seconds of training on this machine.
    pub seconds: Option<f64>,
    /// Bytes of memory at the peak of training.
    pub memory_bytes: Option<u64>,
    /// Requests to the model.
    pub prompts: Option<usize>,
    /// Requests to the judge, if no two answers are the same.
    pub judge_requests: Option<usize>,
    /// US dollars that the judge costs at most, where prices are known and every answer is as long as it may be.
    pub dollars: Option<f64>,
}

/// Characters that stand for a token of an answer that is not there yet.
const FILLER: &str = "word";
/// The most tokens of an answer where the section does not say: the default of the program.
const ALPACA_TOKENS: usize = 2048;
const MT_BENCH_TOKENS: usize = 1024;
const IFEVAL_TOKENS: usize = 1280;

/// What a stage takes if it runs from the beginning, and what there is to say of its training data.
///
/// # Errors
/// When a file cannot be read, or training could not start.
pub fn estimate(pipeline: &Pipeline, stage: &Stage) -> Result<(Estimate, Vec<String>)> {
    let mut estimate = Estimate::default();
    let requests = match stage.kind {
        Kind::Train => {
            let (_, variant) = stage.name.split_once(':').context("training has a variant")?;
            let report = check(&pipeline.recipes[variant], 0).map_err(in_words_of_pipelines)?;
            estimate.steps = Some(report.steps.total);
            estimate.seconds = Some(report.time.seconds);
            estimate.memory_bytes = Some(report.memory.total());
            let notes = report.notes.iter().flat_map(|note| note.lines()).map(str::to_owned).collect();
            return Ok((estimate, notes));
        }
        Kind::Score | Kind::Report => Vec::new(),
        Kind::Ifeval => {
            estimate.prompts = Some(ifeval_prompts(pipeline.ifeval.as_ref())?.len());
            Vec::new()
        }
        Kind::Alpaca => {
            let table = pipeline.alpaca.as_ref().context("the stage has a section")?;
            let comparisons = alpaca_comparisons(table)?;
            estimate.prompts = Some(comparisons.len());
            alpaca_requests(pipeline, table, comparisons)?
        }
        Kind::MtBench => {
            let table = pipeline.mt_bench.as_ref().context("the stage has a section")?;
            let questions = mt_bench_questions(table)?;
            let asked = questions.first(number(table, "limit"));
            estimate.prompts = Some(asked.iter().map(|question| question.turns.len()).sum());
            mt_bench_requests(pipeline, table, &questions)?
        }
        Kind::Compare => compare_requests(pipeline)?,
    };
    if stage.is_judged {
        let judged = JudgeEstimate::of(requests.iter(), prices(pipeline));
        estimate.judge_requests = Some(judged.requests);
        estimate.dollars = judged.dollars;
    }
    Ok((estimate, Vec::new()))
}

/// The trainer's error, with the key of a pipeline file where it is about one of a recipe.
fn in_words_of_pipelines(error: TrainError) -> anyhow::Error {
    match error {
        TrainError::NoTemplate { dir } => super::no_template(&dir),
        error => error.into(),
    }
}

/// An answer of so many tokens.
fn answer(tokens: usize) -> String {
    FILLER.repeat(tokens)
}

fn prices(pipeline: &Pipeline) -> Option<Prices> {
    let number = |key: &str| {
        let value = pipeline.judge.as_ref()?.get(key)?;
        value.as_float().or_else(|| value.as_integer().map(|number| number as f64))
    };
    Some(Prices { prompt: number("price_in")?, completion: number("price_out")? })
}

/// The name of the judge; where only an annotator knows it, the estimate needs none.
fn judge_model(pipeline: &Pipeline) -> &str {
    pipeline.judge.as_ref().and_then(|judge| judge.get("model")?.as_str()).unwrap_or_default()
}

fn ifeval_prompts(table: Option<&Table>) -> Result<Vec<String>> {
    let Some(table) = table else { return Ok(Vec::new()) };
    let dataset = match file(table, "data") {
        Some(path) => Dataset::read(path)?,
        None if is_official(table, "data") => Dataset::official(&Hub::from_env())?,
        None => Dataset::embedded(),
    };
    let prompts = dataset.examples.into_iter().map(|(example, _)| example.prompt);
    Ok(prompts.take(number(table, "limit").unwrap_or(usize::MAX)).collect())
}

/// The instructions with the baseline's answers, and ours as long as they may be.
fn alpaca_comparisons(table: &Table) -> Result<Vec<Comparison>> {
    let path = file(table, "reference").context("[alpaca] needs a `reference`: the baseline's answers")?;
    let response = answer(number(table, "max_tokens").unwrap_or(ALPACA_TOKENS));
    let rows = Outputs::read(path)?.rows.into_iter().take(number(table, "limit").unwrap_or(usize::MAX));
    let comparison = |row: orpo_eval::alpaca::outputs::Output| Comparison {
        instruction: row.instruction,
        reference: row.output,
        response: Some(response.clone()),
        ..Comparison::default()
    };
    Ok(rows.map(comparison).collect())
}

fn alpaca_requests(pipeline: &Pipeline, table: &Table, mut comparisons: Vec<Comparison>) -> Result<Vec<Request>> {
    let annotator = annotator(table)?;
    let is_both = table.get("both_orders").and_then(toml::Value::as_bool) == Some(true);
    let orders = if is_both { Orders::Both } else { Orders::One };
    let requests =
        verdicts::plan(&mut comparisons, &annotator, judge_model(pipeline), Templating::Safe, orders).requests;
    let samples = number(table, "judge_samples").unwrap_or(1);
    Ok(requests.into_iter().flat_map(|request| vec![request; samples]).collect())
}

fn annotator(table: &Table) -> Result<Annotator> {
    Ok(file(table, "annotator_config").map_or_else(|| Ok(Annotator::embedded()), Annotator::read)?)
}

fn mt_bench_questions(table: &Table) -> Result<Questions> {
    Ok(match file(table, "questions") {
        Some(path) => Questions::read(path)?,
        None if is_official(table, "questions") => Questions::official(&Hub::from_env())?,
        None => Questions::embedded(),
    })
}

fn mt_bench_requests(pipeline: &Pipeline, table: &Table, questions: &Questions) -> Result<Vec<Request>> {
    let references = match file(table, "reference_answers") {
        Some(path) => Answers::read(path)?,
        None if table.contains_key("questions") => Answers::none_of("reference"),
        None => Answers::embedded_references(),
    };
    let prompts = judge_prompts(table)?;
    let asked = questions.first(number(table, "limit"));
    let response = answer(number(table, "max_tokens").unwrap_or(MT_BENCH_TOKENS));
    let turns = |question: &orpo_eval::mt_bench::Question| vec![response.clone(); question.turns.len()];
    let own = Answers {
        by_question: asked.iter().map(|question| (question.question_id.clone(), turns(question))).collect(),
        ..Answers::none_of("model")
    };
    let mut answers = vec![own];
    for path in table.get("answers").and_then(toml::Value::as_array).into_iter().flatten() {
        answers.push(Answers::read(path.as_str().unwrap_or_default().as_ref())?);
    }
    let mode = table.get("mode").and_then(toml::Value::as_str).map(str::parse::<Mode>);
    let mode = mode.transpose().map_err(anyhow::Error::msg)?.unwrap_or(Mode::Single);
    let setting = Setting {
        questions: asked,
        references: &references,
        prompts: &prompts,
        judge_model: judge_model(pipeline),
        rule: Rule::Strict,
    };
    let baseline = table.get("baseline").and_then(toml::Value::as_str);
    let matches = plan::plan(&setting, mode, baseline, &answers)?;
    let games = matches.into_iter().filter_map(|one| one.games.ok()).flatten();
    Ok(games.map(|game| game.request).collect())
}

fn judge_prompts(table: &Table) -> Result<JudgePrompts> {
    Ok(file(table, "judge_prompts").map_or_else(|| Ok(JudgePrompts::embedded()), JudgePrompts::read)?)
}

fn compare_requests(pipeline: &Pipeline) -> Result<Vec<Request>> {
    let compare = pipeline.compare.as_ref().context("the stage has a section")?;
    if compare.judge == Decider::Checklist {
        return Ok(Vec::new());
    }
    let table = &compare.options;
    let (prompts, tokens): (Vec<String>, usize) = match (&pipeline.alpaca, &pipeline.ifeval) {
        (Some(alpaca), _) => {
            let comparisons = alpaca_comparisons(alpaca)?;
            let prompts = comparisons.into_iter().map(|comparison| comparison.instruction).collect();
            (prompts, number(alpaca, "max_tokens").unwrap_or(ALPACA_TOKENS))
        }
        (None, ifeval) => {
            let tokens = ifeval.as_ref().and_then(|ifeval| number(ifeval, "max_tokens")).unwrap_or(IFEVAL_TOKENS);
            (ifeval_prompts(ifeval.as_ref())?, tokens)
        }
    };
    let answers = [answer(tokens), answer(tokens) + FILLER];
    let prompts = prompts.into_iter().take(number(table, "limit").unwrap_or(usize::MAX));
    let pair = |prompt| Pair { prompt, answers: answers.clone(), ..Pair::default() };
    let mut pairs: Vec<Pair> = prompts.map(pair).collect();
    let style = match file(table, "annotator_config") {
        Some(path) => Style::Annotator(Box::new(Annotator::read(path)?)),
        None => Style::of_prompts(&judge_prompts(table)?),
    };
    let times = |key: &str| number(table, key).and_then(|times| times.try_into().ok()).unwrap_or(1);
    let (repeats, samples) = (times("judge_repeats"), times("judge_samples"));
    let asking = Asking { model: judge_model(pipeline), repeats, samples, one_order: None };
    Ok(judging::plan(&mut pairs, &style, asking).requests)
}
