//! `orpo-eval compare`.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::judge::JudgeArgs;
use super::requests::{Requests, at_least_one, note_responses, share};
use super::{DONE, INCOMPLETE, print, runtime};
use crate::alpaca::answers as generation;
use crate::alpaca::comparison::Comparison;
use crate::alpaca::outputs::Output;
use crate::clock::Clock;
use crate::compare::answers::{self, Answers};
use crate::compare::judging::{self, Asking, Style, Styles};
use crate::compare::pair::{self, Pair};
use crate::compare::summary::Summary;
use crate::compare::{TASK, TASK_VERSION, agreement, checklist, table};
use crate::ifeval::data::Dataset;
use crate::jsonl::InputError;
use crate::judge::annotator::Annotator;
use crate::judge::verdicts::VerdictStore;
use crate::mt_bench::judge_prompt::JudgePrompts;
use crate::official::Hub;
use crate::progress::Progress;
use crate::reasoning::{Format, Reasoning};
use crate::results::{self, Counts, Results};
use crate::table::count;

/// Who decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Judged {
    /// A model behind --judge-endpoint, which sees every pair in both orders
    Model,
    /// No model: the answer that follows more of the prompt's verifiable instructions
    Checklist,
}

/// Compares two models' answers to the same prompts, pair by pair.
///
/// A judge sees every pair twice, in either order; a pair is won only if both orders agree. Prints how often A wins, with
/// bootstrap intervals, controlled for length, and tests of the difference. Exit codes: 0 done, 1 too much could not be
/// decided, 2 wrong usage or input, or no server.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  orpo-eval compare orpo.jsonl sft.jsonl --judge-endpoint https://api.example.com --judge-model judge --out results/c
  orpo-eval compare results/orpo/samples.jsonl results/base/samples.jsonl --judge checklist --data input_data.jsonl
  orpo-eval compare http://127.0.0.1:8000 http://127.0.0.1:8001 --prompts prompts.jsonl --judge-endpoint http://127.0.0.1:8002 \\
      --judge-model judge --judge-repeats 3 --out results/c

A key for the endpoints is read from ORPO_EVAL_API_KEY, else from OPENAI_API_KEY.")]
pub(super) struct Compare {
    /// Answers of the first model: a file (`prompt` and `response`, or `instruction` and `output`), or the address of a server
    #[arg(value_name = "A")]
    a: String,
    /// Answers of the second model
    #[arg(value_name = "B")]
    b: String,
    /// Prompts to ask where A or B is a server: rows with `prompt` or `instruction`
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Model to ask where A is a server [default: the only one that the server lists]
    #[arg(long, value_name = "MODEL")]
    model_a: Option<String>,
    /// Model to ask where B is a server
    #[arg(long, value_name = "MODEL")]
    model_b: Option<String>,
    /// Who decides
    #[arg(long, value_enum, default_value = "model")]
    judge: Judged,
    /// With a checklist: prompts with their instructions in IFEval's format, or `official` [default: an embedded set]
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Judge as an annotator of AlpacaEval: a directory of its evaluators_configs, or a configs.yaml
    #[arg(long, value_name = "PATH", conflicts_with = "judge_prompts")]
    annotator_config: Option<PathBuf>,
    /// Judge with the prompt pair-v2 of this judge_prompts.jsonl of MT-Bench [default: an embedded one]
    #[arg(long, value_name = "FILE")]
    judge_prompts: Option<PathBuf>,
    /// Ask the judge about every pair so often, to see how much it agrees with itself
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    judge_repeats: u32,
    /// Decisions to compare with, repeatable: rows with `prompt` and `winner` (a, b, tie), such as samples.jsonl of another run
    #[arg(long, value_name = "FILE")]
    agree_with: Vec<PathBuf>,
    /// Seed of the bootstrap
    #[arg(long, value_name = "N", default_value_t = 1)]
    bootstrap_seed: u64,
    /// Directory for results.json and samples.jsonl; a rerun asks only what is missing there
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Use only the first N prompts that both have answered
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    limit: Option<usize>,
    /// Exit with 1 if a larger share than this is not decided
    #[arg(long, value_name = "SHARE", default_value = "1%", value_parser = share)]
    max_unscored: f64,
    /// Take reasoning out of answers first: `auto`, `think`, `harmony`, or two literal delimiters START...END
    #[arg(long, value_name = "FORMAT")]
    strip_reasoning: Vec<Format>,
    #[command(flatten)]
    requests: Requests,
    #[command(flatten)]
    judge_args: JudgeArgs,
    /// Print results.json instead of tables
    #[arg(long)]
    json: bool,
    /// Draw no progress bar
    #[arg(long, short)]
    quiet: bool,
}

pub(super) fn run(arguments: &Compare) -> anyhow::Result<u8> {
    let clock = Clock::start();
    let runtime = runtime()?;
    let a = answers_of(arguments, &arguments.a, arguments.model_a.as_deref(), "a", &runtime)?;
    let b = answers_of(arguments, &arguments.b, arguments.model_b.as_deref(), "b", &runtime)?;
    let (mut pairs, unmatched) = answers::join(&a, &b);
    ensure!(!pairs.is_empty(), "`{}` and `{}` have answered no prompt in common", a.source.source, b.source.source);
    if unmatched != [0, 0] {
        eprintln!(
            "warning: left out for want of a counterpart: {} of A and {} of B",
            count(unmatched[0], "answer"),
            count(unmatched[1], "answer")
        );
    }
    pairs.truncate(arguments.limit.unwrap_or(usize::MAX));
    let reasoning = Reasoning::new(arguments.strip_reasoning.clone());
    for answer in pairs.iter_mut().flat_map(|pair| &mut pair.answers) {
        if let Some(stripped) = reasoning.strip(answer) {
            *answer = stripped.answer.unwrap_or_default();
        }
    }
    let judge = match arguments.judge {
        Judged::Checklist => decide_by_checklist(arguments, &mut pairs)?,
        Judged::Model => decide_by_model(arguments, &mut pairs, &runtime)?,
    };
    let agreement =
        arguments.agree_with.iter().map(|path| agreement::agreement(&pairs, path)).collect::<Result<_, _>>()?;
    let summary = Summary::new(&pairs, unmatched, agreement, arguments.bootstrap_seed);
    let results = Results {
        task: TASK.into(),
        task_version: TASK_VERSION.into(),
        metrics: summary.metrics.clone(),
        counts: Summary::counts(&pairs),
        judge: Some(judge),
        lineage: (a.lineage.is_some() || b.lineage.is_some()).then(|| json!({"a": a.lineage, "b": b.lineage})),
        strip_reasoning: reasoning.formats().map(ToString::to_string).collect(),
        code_version: env!("CARGO_PKG_VERSION").into(),
        started_at: clock.started_at(),
        seconds: clock.seconds(),
        ..Results::default()
    };
    let mut json = summary.to_json(&results, [&a.name, &b.name]);
    json["sources"] = json!({"a": a.source, "b": b.source});
    json["bootstrap_seed"] = arguments.bootstrap_seed.into();
    let json = format!("{json:#}\n");
    if let Some(out) = &arguments.out {
        write(out, &json, &pairs)?;
    } else {
        eprintln!("note: nothing was saved; --out DIR keeps the results and the verdicts");
    }
    print(&if arguments.json { json } else { table::render(&summary, &results, [&a.name, &b.name]) })?;
    let responses = pairs.iter().flat_map(|pair| &pair.answers).map(String::as_str);
    note_responses(&results.counts, responses, 0, "is compared as part of them");
    let code = report_undecided(&pairs, arguments.max_unscored);
    if arguments.judge == Judged::Model && results.counts.unscored > 0 {
        arguments.judge_args.advise_on_unread();
    }
    Ok(code)
}

/// The answers of one side: a file's, or a server's.
fn answers_of(
    arguments: &Compare,
    source: &str,
    model: Option<&str>,
    side: &str,
    runtime: &tokio::runtime::Runtime,
) -> anyhow::Result<Answers> {
    if !(source.starts_with("http://") || source.starts_with("https://")) {
        ensure!(model.is_none(), "--model-{side} is for a server, and `{source}` is a file");
        return Ok(Answers::read(Path::new(source))?);
    }
    let prompts = arguments.prompts.as_deref().context("--prompts FILE is needed to ask a server")?;
    let ask = |prompt| Output { dataset: None, instruction: prompt, output: String::new(), generator: None };
    let prompts: Vec<Output> = answers::read_prompts(prompts)?.into_iter().map(ask).collect();
    let prompts = &prompts[..arguments.limit.unwrap_or(usize::MAX).min(prompts.len())];
    let server = arguments.requests.server(source, model);
    let mut store = match &arguments.out {
        Some(out) => {
            std::fs::create_dir_all(out).with_context(|| format!("cannot use `{}`", out.display()))?;
            VerdictStore::open(&out.join(format!("answers_{side}.jsonl")))?
        }
        None => VerdictStore::in_memory(),
    };
    let progress = Progress::new(arguments.quiet);
    let (answered, respondent) = runtime.block_on(generation::ask(prompts, &server, &mut store, &progress))?;
    let missing = answered.iter().filter(|comparison| comparison.response.is_none()).count();
    if missing > 0 {
        eprintln!("warning: {source} has not answered {missing} of {} prompts", answered.len());
    }
    let count = |is: fn(&Comparison) -> bool| answered.iter().filter(|comparison| is(comparison)).count();
    let counts = Counts {
        refused: count(Comparison::is_refusal),
        empty: count(Comparison::is_empty),
        truncated: count(Comparison::is_truncated),
        ..Counts::default()
    };
    note_responses(&counts, std::iter::empty(), 0, "");
    let rows = answered.into_iter().map(|comparison| (comparison.instruction, comparison.response)).collect();
    Ok(Answers::of_server(respondent, rows))
}

fn decide_by_checklist(arguments: &Compare, pairs: &mut [Pair]) -> anyhow::Result<Value> {
    ensure!(
        arguments.judge_args.judge_endpoint.is_none()
            && arguments.annotator_config.is_none()
            && arguments.judge_prompts.is_none(),
        "--judge checklist asks no model; leave out --judge-endpoint, --annotator-config and --judge-prompts"
    );
    let dataset = match arguments.data.as_deref() {
        Some(path) if path.as_os_str() == "official" => Dataset::official(&Hub::from_env())?,
        Some(path) => Dataset::read(path)?,
        None => Dataset::embedded(),
    };
    checklist::decide(pairs, &dataset);
    let known = pairs.iter().filter(|pair| pair.followed.is_some()).count();
    ensure!(known > 0, "`{}` has none of these prompts; name their data with --data", dataset.source);
    Ok(json!({"checklist": {"source": dataset.source, "sha256": dataset.sha256}}))
}

fn decide_by_model(
    arguments: &Compare,
    pairs: &mut [Pair],
    runtime: &tokio::runtime::Runtime,
) -> anyhow::Result<Value> {
    ensure!(arguments.data.is_none(), "--data is for --judge checklist");
    ensure!(
        arguments.judge_args.judge_endpoint.is_some(),
        "who decides? give --judge-endpoint URL and --judge-model MODEL, or --judge checklist"
    );
    let flags = &arguments.judge_args;
    let (styles, named) = match (&arguments.annotator_config, &arguments.judge_prompts) {
        (Some(path), _) => {
            let annotator = Annotator::read(path)?;
            (Styles::Annotators(flags.ways(&annotator)?), annotator.model)
        }
        (None, prompts) => {
            flags.check_text("the prompts of MT-Bench")?;
            let prompts = prompts.as_deref().map_or_else(|| Ok(JudgePrompts::embedded()), JudgePrompts::read)?;
            (Styles::Prompt(Style::of_prompts(&prompts)), None)
        }
    };
    let judge = flags.judge(Some(Format::Auto))?;
    let model = flags.judge_model.clone().or(named).context("--judge-model is needed")?;
    let mut store = flags.open_verdicts(arguments.out.as_deref())?;
    let progress = Progress::new(arguments.quiet);
    let (repeats, samples) = (arguments.judge_repeats, flags.judge_samples);
    let asking = Asking { model: &model, repeats, samples, one_order: None };
    let confirm = |estimate: &_, cached| flags.confirm(estimate, cached);
    let judged = runtime.block_on(judging::ask(&judge, pairs, styles, asking, &mut store, confirm, &progress))?;
    let mut described = judged.style.describe(samples);
    judge.describe_ends(&judged.outcomes, &model, &store, &mut described);
    described["model"] = model.into();
    described["endpoint"] = judge.client.base().into();
    if !judge.edits.is_empty() {
        described["body"] = serde_json::to_value(&judge.edits).expect("edits are JSON");
    }
    described["strip_reasoning"] = judge.reasoning.formats().map(ToString::to_string).collect();
    described["repeats"] = arguments.judge_repeats.into();
    described["requests"] = serde_json::to_value(judged.tally).expect("a tally is an object");
    Ok(described)
}

fn write(out: &Path, json: &str, pairs: &[Pair]) -> anyhow::Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot use `{}`", out.display()))?;
    for (name, content) in [("samples.jsonl", pair::samples(pairs).as_slice()), (results::FILE_NAME, json.as_bytes())] {
        let path = out.join(name);
        orpo_files::write_file(&path, content).map_err(InputError::from)?;
    }
    Ok(())
}

fn report_undecided(pairs: &[Pair], allowed: f64) -> u8 {
    let undecided: Vec<&Pair> = pairs.iter().filter(|pair| pair.winner().is_none()).collect();
    let Some(first) = undecided.first() else { return DONE };
    let problem = first.problem.as_deref().unwrap_or("no verdict");
    eprintln!("warning: {} of {} pairs are not decided; the first: {problem}", undecided.len(), pairs.len());
    // Without a decision there is no result, whatever is allowed.
    let is_complete = undecided.len() < pairs.len() && undecided.len() as f64 <= allowed * pairs.len() as f64;
    if is_complete { DONE } else { INCOMPLETE }
}
