//! `orpo-eval mt-bench`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};

use super::judge::JudgeArgs;
use super::requests::{Requests, at_least_one, note_responses, share};
use super::{DONE, INCOMPLETE, print, runtime};
use crate::mt_bench::import::Duplicates;
use crate::mt_bench::plan::Mode;
use crate::mt_bench::run::{self, Evaluation, JudgmentsFile, Options, Source};
use crate::mt_bench::verdict::Rule;
use crate::mt_bench::{Answers, JudgePrompts, Questions, QuestionsError, table};
use crate::official::Hub;
use crate::progress::Progress;
use crate::reasoning::{Format, Reasoning};
use crate::table::count;

/// Lets a judge score conversations of two turns, or compare them with those of other models (MT-Bench).
///
/// Asks the endpoint every question and its follow-up, or takes existing answers, and asks the judge for a score from 1
/// to 10 or for the better of two answers, shown in both orders. Without files the questions, reference answers and
/// judge prompts are an embedded set of this program's own; published numbers can be compared only with the official
/// ones. Exit codes: 0 done, 1 more than --max-unscored could not be judged, 2 wrong usage or input, or no server.
#[derive(Debug, Args)]
#[command(
    mut_arg("max_tokens", |arg| arg.default_value("1024")),
    mut_arg("temperature", |arg| {
        arg.help("Temperature of every answer [default: 0.7 in writing and roleplay, 0.1 in stem and humanities, else 0]")
    }),
    after_help = "Examples:
  orpo-eval mt-bench --endpoint http://127.0.0.1:8000 --judge-endpoint https://api.example.com/v1 --judge-model j \\
      --questions official --reference-answers gpt-4.jsonl --judge-prompts judge_prompts.jsonl --out results/mt
  orpo-eval mt-bench --answers model_answer/*.jsonl --mode pairwise-baseline --baseline gpt-3.5-turbo \\
      --judge-endpoint http://127.0.0.1:9000 --judge-model j --out results/pairs
  orpo-eval mt-bench --endpoint http://127.0.0.1:8000 --answers before.jsonl --mode pairwise-baseline --baseline before \\
      --judge-endpoint http://127.0.0.1:9000 --judge-model j
  orpo-eval mt-bench --judgments gpt-4_single.jsonl --judge-model gpt-4 --out results/published
  orpo-eval mt-bench --judgments gpt-4_pair.jsonl --baseline gpt-3.5-turbo --official

The reference answers (data/mt_bench/reference_answer/gpt-4.jsonl) and prompts (data/judge_prompts.jsonl) of the paper are in
FastChat's repository, under fastchat/llm_judge. A key for the endpoint is read from ORPO_EVAL_API_KEY, else from
OPENAI_API_KEY. A run that was stopped, or that some requests failed in, goes on with the same command."
)]
pub(super) struct MtBench {
    /// Address of an OpenAI-compatible server that answers, with or without /v1
    #[arg(long, value_name = "URL", required_unless_present_any = ["answers", "judgments"], conflicts_with = "judgments")]
    endpoint: Option<String>,
    /// Model to ask [default: the only one that the server lists]
    #[arg(long, requires = "endpoint")]
    model: Option<String>,
    /// Judge these answers, too: official model_answer/*.jsonl, one file for each model
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "judgments")]
    answers: Vec<PathBuf>,
    /// Aggregate these judgments instead of asking a judge: official model_judgment/*.jsonl, single or pair
    #[arg(long, value_name = "FILE")]
    judgments: Option<PathBuf>,
    /// What is judged: `single` answers, every model against one (`pairwise-baseline`) or against every other
    /// (`pairwise-all`) [default: single, or what --judgments holds]
    #[arg(long)]
    mode: Option<Mode>,
    /// The model that the others are compared with
    #[arg(long, value_name = "MODEL")]
    baseline: Option<String>,
    /// Questions in the official format; `official` is the published set (lmsys/mt-bench, fetched once) [default: an
    /// embedded set]
    #[arg(long, value_name = "FILE")]
    questions: Option<PathBuf>,
    /// Reference answers in the official format [default: an embedded set for the embedded questions]
    #[arg(long, value_name = "FILE", conflicts_with = "judgments")]
    reference_answers: Option<PathBuf>,
    /// Judge prompts in the official format [default: an embedded set]
    #[arg(long, value_name = "FILE", conflicts_with = "judgments")]
    judge_prompts: Option<PathBuf>,
    /// Directory for results.json, samples.jsonl, judgments.jsonl and model_answer/; a rerun asks only what is missing
    /// there
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Use only the first N questions
    #[arg(long, value_name = "N", value_parser = at_least_one, conflicts_with = "judgments")]
    limit: Option<usize>,
    /// Take reasoning out of answers before they are judged or become context: `auto`, `think`, `harmony`, or START...END
    #[arg(long, value_name = "FORMAT", conflicts_with = "judgments")]
    strip_reasoning: Vec<Format>,
    /// Read and average scores exactly as FastChat does: any number in brackets is a score, of any size; of several verdicts
    /// in a reply the first counts, even in the judge's reasoning; and repeated judgments all count
    #[arg(long)]
    official: bool,
    /// What to do where --judgments holds several judgments of one judge on the same answers
    #[arg(long, value_name = "HOW", default_value = "refuse", requires = "judgments")]
    duplicates: DuplicatesArg,
    /// Exit with 1 if a larger share than this could not be judged, as a fraction or percentage
    #[arg(long, value_name = "SHARE", default_value = "1%", value_parser = share)]
    max_unscored: f64,
    #[command(flatten)]
    requests: Requests,
    #[command(flatten)]
    judge: JudgeArgs,
    /// Print results.json instead of tables
    #[arg(long)]
    json: bool,
    /// Draw no progress bar
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DuplicatesArg {
    /// Stop at the first
    Refuse,
    /// Take their mean
    Average,
}

pub(super) fn run(arguments: &MtBench) -> anyhow::Result<u8> {
    let evaluation = match &arguments.judgments {
        Some(path) => arguments.aggregate(path)?,
        None => arguments.evaluate()?,
    };
    let summary = &evaluation.summary;
    print(&if arguments.json { summary.to_json() } else { table::render(summary) })?;
    if arguments.out.is_none() {
        eprintln!("note: nothing was saved; --out DIR keeps results.json, judgments.jsonl and samples.jsonl");
    }
    let responses: HashSet<&str> =
        evaluation.samples.iter().flat_map(|sample| sample.responses.iter().flatten()).map(String::as_str).collect();
    note_responses(&summary.counts.counts, responses.into_iter(), 0, "the judge sees as part of them");
    let truncated = summary.counts.counts.truncated;
    if truncated > 0 {
        let judgments = count(truncated, "judgment");
        eprintln!("warning: {judgments} on answers cut off at the token limit; --max-tokens raises it");
    }
    let incomplete = report_unscored(&evaluation, arguments.max_unscored);
    if arguments.judgments.is_none() && summary.counts.losses.no_verdict + summary.counts.losses.off_scale > 0 {
        arguments.judge.advise_on_unread();
    }
    Ok(if incomplete { INCOMPLETE } else { DONE })
}

impl MtBench {
    fn rule(&self) -> Rule {
        if self.official { Rule::Official } else { Rule::Strict }
    }

    /// The questions that were named, if any.
    fn questions(&self) -> Result<Option<Questions>, QuestionsError> {
        match self.questions.as_deref() {
            Some(path) if path == Path::new("official") => Questions::official(&Hub::from_env()).map(Some),
            Some(path) => Ok(Some(Questions::read(path)?)),
            None => Ok(None),
        }
    }

    fn aggregate(&self, path: &Path) -> anyhow::Result<Evaluation> {
        let questions = self.questions()?;
        let file = JudgmentsFile {
            path,
            mode: self.mode,
            baseline: self.baseline.as_deref(),
            judge_model: self.judge.judge_model.as_deref(),
            rule: self.rule(),
            duplicates: match self.duplicates {
                DuplicatesArg::Refuse => Duplicates::Refuse,
                DuplicatesArg::Average => Duplicates::Average,
            },
            questions: questions.as_ref(),
        };
        Ok(run::aggregate(&file, self.out.as_deref())?)
    }

    fn evaluate(&self) -> anyhow::Result<Evaluation> {
        self.judge.check_text("the prompts of MT-Bench")?;
        ensure!(
            self.judge.judge_samples == 1,
            "MT-Bench takes one verdict on each answer; leave out --judge-samples, and repeat the run with another --out to \
             see how much the judge agrees with itself"
        );
        let judge_model = self.judge.judge_model.clone().context("--judge-model is needed")?;
        // The official program reads whatever the judge says.
        let judge = self.judge.judge((!self.official).then_some(Format::Auto))?;
        let questions = self.questions()?;
        let references = match (&self.reference_answers, &questions) {
            (Some(path), _) => Answers::read(path)?,
            (None, None) => Answers::embedded_references(),
            (None, Some(_)) => Answers::none_of("reference"),
        };
        let mode = self.mode.unwrap_or(Mode::Single);
        ensure!(
            self.baseline.is_none() || mode == Mode::PairwiseBaseline,
            "--baseline means something only with --mode pairwise-baseline"
        );
        let options = Options {
            questions: questions.unwrap_or_else(Questions::embedded),
            limit: self.limit,
            references,
            prompts: self.judge_prompts.as_deref().map_or_else(|| Ok(JudgePrompts::embedded()), JudgePrompts::read)?,
            mode,
            baseline: self.baseline.clone(),
            judge_model,
            rule: self.rule(),
            reasoning: Reasoning::new(self.strip_reasoning.iter().cloned()),
            out: self.out.clone(),
        };
        let answers = self.answers.iter().map(|path| Answers::read(path)).collect::<Result<Vec<_>, _>>()?;
        let source = self.endpoint.as_ref().map(|endpoint| Source {
            server: self.requests.server(endpoint, self.model.as_deref()),
            temperature: self.requests.temperature,
        });
        let mut store = self.judge.open_verdicts(self.out.as_deref())?;
        let runtime = runtime()?;
        let confirm = |estimate: &_, cached| self.judge.confirm(estimate, cached).map_err(|error| format!("{error:#}"));
        let progress = Progress::new(self.quiet);
        let evaluation = run::evaluate(&options, source.as_ref(), answers, (&judge, &mut store), confirm, &progress);
        Ok(runtime.block_on(evaluation)?)
    }
}

/// Says on stderr what could not be judged, and whether that is too much.
fn report_unscored(evaluation: &Evaluation, allowed: f64) -> bool {
    let counts = &evaluation.summary.counts.counts;
    if counts.unscored == 0 {
        return counts.total == 0;
    }
    let share = counts.unscored as f64 / counts.total as f64;
    let first = evaluation.samples.iter().find_map(|sample| sample.reason.as_deref()).unwrap_or_default();
    eprintln!(
        "warning: {} of {} judgments ({:.1} %) have no verdict and count for nothing; first reason: {first}",
        counts.unscored,
        counts.total,
        100.0 * share
    );
    if counts.errors > 0 {
        eprintln!("note: the same command with --out asks again for what has failed");
    }
    if counts.scored == 0 {
        eprintln!("error: nothing could be scored");
    } else if share > allowed {
        eprintln!("error: more than {:.1} % have no verdict; --max-unscored allows more", 100.0 * allowed);
    }
    counts.scored == 0 || share > allowed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_fraction_or_a_percentage() {
        assert_eq!(share("0.05"), Ok(0.05));
        assert_eq!(share("5%"), Ok(0.05));
        assert_eq!(share("0"), Ok(0.0));
        for wrong in ["5", "101%", "-1%", "", "%", "nan"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }
}
