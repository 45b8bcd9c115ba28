//! `orpo-eval ifeval`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use super::requests::{Requests, at_least_one, note_responses};
use super::{DONE, INCOMPLETE, print, runtime};
use crate::ifeval::data::{DataError, Dataset};
use crate::ifeval::export::Export;
use crate::ifeval::metrics;
use crate::ifeval::responses::Responses;
use crate::ifeval::run::{self, Evaluation, Options};
use crate::official::Hub;
use crate::progress::Progress;
use crate::reasoning::{Format, Reasoning};
use crate::results::Results;
use crate::table;
use crate::threshold::Threshold;

/// Checks whether responses follow instructions that a program can verify (IFEval).
///
/// Asks the endpoint each prompt, or scores existing responses, and prints the share of prompts and of instructions
/// that are followed, strictly and loosely. Exit codes: 0 done, 1 some prompts could not be scored or a threshold was
/// missed, 2 wrong usage or input, or no server.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  orpo-eval ifeval --endpoint http://127.0.0.1:8000 --data official --out results/my-model
  orpo-eval ifeval --endpoint https://api.example.com/v1 --model m --data input_data.jsonl --out results/m
  orpo-eval ifeval --endpoint http://127.0.0.1:8000 --strip-reasoning think --max-tokens 8192 --out results/r
  orpo-eval ifeval --responses responses.jsonl --data official --json
  orpo-eval ifeval --responses samples_ifeval_2025-01-01T00-00-00.jsonl
  orpo-eval ifeval --responses results/m --data official --out rescored --export official,lm-eval
  orpo-eval ifeval --endpoint http://127.0.0.1:8000 --fail-under prompt_strict=66% --fail-under inst_loose=0.8

A key for the endpoint is read from ORPO_EVAL_API_KEY, else from OPENAI_API_KEY. A run that was stopped, or that some \
requests failed in, goes on with the same command; only what was in flight is asked a second time.")]
pub(super) struct Ifeval {
    /// Address of an OpenAI-compatible server, with or without /v1
    #[arg(long, value_name = "URL", required_unless_present = "responses")]
    endpoint: Option<String>,
    /// Model to ask [default: the only one that the server lists]
    #[arg(long)]
    model: Option<String>,
    /// Score these responses instead: JSONL with `response` and `key` or `prompt`, samples.jsonl of a run, or
    /// samples_ifeval_*.jsonl of lm-evaluation-harness; or a directory that holds one of the latter two
    #[arg(long, value_name = "FILE", conflicts_with_all = ["endpoint", "model", "top_p", "seed", "system", "body"])]
    responses: Option<PathBuf>,
    /// Prompts in the official format: JSONL with key, prompt, instruction_id_list, kwargs; `official` is the published
    /// set (google/IFEval, fetched once) [default: what --responses carries, else an embedded set]
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Directory for results.json and samples.jsonl; a rerun asks only what is missing there
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Also write other programs' files into --out
    #[arg(long, value_name = "FORMAT", value_delimiter = ',', requires = "out")]
    export: Vec<Export>,
    /// Use only the first N prompts
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    limit: Option<usize>,
    /// Take reasoning out before scoring: `auto` (all known marks, in front of the answer), `think` (<think>...</think>),
    /// `harmony` (all but the final channel), or two literal delimiters START...END; reasoning that does not end leaves an
    /// empty response. What a server returns beside the content (reasoning_content) is never scored
    #[arg(long, value_name = "FORMAT")]
    strip_reasoning: Vec<Format>,
    /// Exit with 1 if a metric (prompt_strict, inst_strict, prompt_loose, inst_loose) is below a fraction or percentage
    #[arg(long, value_name = "METRIC=VALUE", value_parser = |text: &str| Threshold::parse(text, &metrics::NAMES))]
    fail_under: Vec<Threshold>,
    #[command(flatten)]
    requests: Requests,
    /// Print results.json instead of tables
    #[arg(long)]
    json: bool,
    /// Draw no progress bar
    #[arg(long, short)]
    quiet: bool,
}

pub(super) fn run(arguments: Ifeval) -> anyhow::Result<u8> {
    let responses = arguments.responses.as_deref().map(Responses::read).transpose()?;
    let options = Options {
        dataset: dataset(arguments.data.as_deref(), responses.as_ref())?,
        limit: arguments.limit,
        reasoning: Reasoning::new(arguments.strip_reasoning),
        out: arguments.out,
        exports: arguments.export,
    };
    let were_stripped = responses.as_ref().map_or(0, Responses::were_stripped);
    let known = if options.reasoning.formats().next().is_none() { were_stripped } else { 0 };
    let evaluation = match responses {
        Some(responses) => run::score_responses(&options, &responses)?,
        None => {
            let endpoint = arguments.endpoint.context("one of --endpoint and --responses is needed")?;
            let server = arguments.requests.server(&endpoint, arguments.model.as_deref());
            let runtime = runtime()?;
            runtime.block_on(run::evaluate(&options, &server, &Progress::new(arguments.quiet)))?
        }
    };
    let results = &evaluation.results;
    print(&if arguments.json { results.to_json() } else { table::render(results) })?;
    if options.out.is_none() {
        eprintln!("note: nothing was saved; --out DIR keeps results.json and samples.jsonl");
    }
    report_truncated(results);
    let responses = evaluation.samples.iter().filter_map(|sample| sample.response.as_deref());
    note_responses(&results.counts, responses, known, "is scored as part of them");
    let incomplete = report_unscored(&evaluation, !options.exports.is_empty());
    let missed = report_missed(results, &arguments.fail_under);
    Ok(if incomplete || missed { INCOMPLETE } else { DONE })
}

/// The prompts that `--data` names, else those that the responses carry, else the embedded ones.
fn dataset(data: Option<&Path>, responses: Option<&Responses>) -> Result<Dataset, DataError> {
    if let Some(path) = data {
        return match path.to_str() {
            Some("official") => Dataset::official(&Hub::from_env()),
            _ => Ok(Dataset::read(path)?),
        };
    }
    let carried = responses.map(Responses::dataset).transpose()?.flatten();
    Ok(carried.unwrap_or_else(Dataset::embedded))
}

/// Says on stderr how many responses were cut off.
fn report_truncated(results: &Results) {
    let (truncated, scored) = (results.counts.truncated, results.counts.scored);
    if truncated > 0 {
        eprintln!("warning: {truncated} of {scored} responses were cut off at the token limit; --max-tokens raises it");
    }
}

/// Says on stderr what could not be scored, if anything.
fn report_unscored(evaluation: &Evaluation, exported: bool) -> bool {
    let counts = &evaluation.results.counts;
    if counts.unscored == 0 {
        return false;
    }
    let first = evaluation.samples.iter().find_map(|sample| sample.error.as_deref());
    let advice = match (first, &evaluation.results.responses) {
        (Some(error), None) => format!("first failure: {error}; the same command with --out asks only what is missing"),
        (Some(error), Some(_)) => format!("first failure in the file: {error}"),
        (None, _) => "they have no response in the file".to_owned(),
    };
    eprintln!("warning: {} of {} prompts could not be scored; {advice}", counts.unscored, counts.total);
    if exported {
        eprintln!("warning: they are not in the exported files");
    }
    true
}

/// Says on stderr which thresholds are missed, if any.
fn report_missed(results: &Results, thresholds: &[Threshold]) -> bool {
    let missed: Vec<String> = thresholds.iter().filter_map(|threshold| threshold.missed(&results.metrics)).collect();
    for message in &missed {
        eprintln!("error: {message}");
    }
    !missed.is_empty()
}
