//! `orpo-eval judge-agreement`.

use std::collections::BTreeMap;
use std::mem;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::{ArgGroup, Args};
use serde_json::{Value, json};

use super::judge::JudgeArgs;
use super::requests::{at_least_one, share};
use super::{DONE, INCOMPLETE, print, runtime};
use crate::alpaca::is_switched;
use crate::alpaca::verdicts::SEED;
use crate::clock::Clock;
use crate::compare::judging::{self, Asking, Style, Styles};
use crate::compare::pair::Pair;
use crate::judge::annotator::Annotator;
use crate::judge_agreement::reference::{Reference, of_files};
use crate::judge_agreement::summary::Summary;
use crate::judge_agreement::{Item, TASK, TASK_VERSION, decisions, item, sample, table};
use crate::mt_bench::judge_prompt::JudgePrompts;
use crate::progress::Progress;
use crate::reasoning::Format;
use crate::results::{self, Results};
use crate::settings;
use crate::table::count;

/// The word for the embedded prompts of MT-Bench.
const EMBEDDED: &str = "embedded";

/// Measures how far a judge can be trusted: its decisions beside official annotations or people's votes.
///
/// Asks the judge about pairs of answers on which decisions are known, each in both orders, or takes decisions from a file. Prints
/// the agreement with the reference, Cohen's kappa, how alike both rank the models, how far the judge agrees with itself, prefers
/// the first place and the longer answer, all with 95 % intervals, and what it cost. Exit codes: 0 done, 1 too much could not be
/// decided, 2 wrong usage or input, or no server.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("reference").required(true).args(["annotations", "votes"]),
    after_help = "Examples:
  orpo-eval judge-agreement --annotations results/*/*/annotations.json --limit 300 \\
      --judge-endpoint http://127.0.0.1:8000 --judge-model judge --out results/judge
  orpo-eval judge-agreement --votes alpaca_farm_human_crossannotations.json \\
      --judge-endpoint https://api.example.com --judge-model M --judge-prompts embedded \\
      --price-in 1 --price-out 4 --max-cost 5 --out results/judge
  orpo-eval judge-agreement --votes people.jsonl --decisions annotations.json

A vote is a row like
  {\"instruction\": \"Name a prime.\", \"output_1\": \"7\", \"output_2\": \"8\", \"preference\": 1}
where 1 says that output_1 is better, 2 that output_2 is, and 1.5 neither. `annotator`, `generator_1`
and `generator_2` may say who voted, and which models answered. Rows on the same answers are votes on
one pair.

`agreement_leave_one_out` is to be compared with `human_agreement`: the judge's and a person's
agreement with the majority of the same other people. Win rates are ranked where three models or more
were compared with one baseline; their interval says what other models might show."
)]
pub(super) struct JudgeAgreement {
    /// Official annotations (annotations.json) of one or several models
    #[arg(long, value_name = "FILE", num_args = 1..)]
    annotations: Vec<PathBuf>,
    /// Votes of people, several on a pair allowed; AlpacaFarm's cross-annotations, too
    #[arg(long, value_name = "FILE", num_args = 1..)]
    votes: Vec<PathBuf>,
    /// Compare these decisions instead of asking a judge: annotations, votes, or samples.jsonl of this command or of `compare`
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["judge_endpoint", "annotator_config", "judge_prompts", "one_order"])]
    decisions: Vec<PathBuf>,
    /// Judge as an annotator of AlpacaEval: a directory of its evaluators_configs, or a configs.yaml [default: an embedded one, which
    /// reads log-probabilities]
    #[arg(long, value_name = "PATH", conflicts_with = "judge_prompts")]
    annotator_config: Option<PathBuf>,
    /// Judge with the prompt pair-v2 of this judge_prompts.jsonl of MT-Bench, whose verdict is read from the text; `embedded` is
    /// ours
    #[arg(long, value_name = "FILE")]
    judge_prompts: Option<PathBuf>,
    /// Ask about every pair once, in the order of AlpacaEval's coin, instead of in both orders
    #[arg(long)]
    one_order: bool,
    /// Use only N pairs: of every model as many, and the same prompts
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    limit: Option<usize>,
    /// Seed of the sample and of the bootstrap
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Directory for results.json, samples.jsonl and the verdicts; a rerun asks only what is missing there
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Exit with 1 if a larger share than this is not decided
    #[arg(long, value_name = "SHARE", default_value = "1%", value_parser = share)]
    max_unscored: f64,
    #[command(flatten)]
    judge: JudgeArgs,
    /// Print results.json instead of tables
    #[arg(long)]
    json: bool,
    /// Draw no progress bar
    #[arg(long, short)]
    quiet: bool,
}

/// What is known about who decided.
struct Decided {
    /// For the table.
    name: String,
    /// For the results.
    judge: Value,
    /// Pairs without a verdict, by the reason.
    unscored: BTreeMap<&'static str, usize>,
    /// The number of pairs for which a request failed.
    errors: usize,
}

pub(super) fn run(arguments: &JudgeAgreement) -> anyhow::Result<u8> {
    let clock = Clock::start();
    let reference = match &arguments.votes[..] {
        [] => Reference::of_annotations(&arguments.annotations)?,
        paths => Reference::of_votes(paths)?,
    };
    let reference_name = reference.name();
    let Reference { mut items, sources, annotators, undecided } = reference;
    if undecided > 0 {
        eprintln!("note: left out for want of a preference: {}", count(undecided, "row of the reference"));
    }
    if let Some(out) = &arguments.out {
        std::fs::create_dir_all(out).with_context(|| format!("cannot use `{}`", out.display()))?;
        settings::check(out, &json!({"task": TASK}), &[results::FILE_NAME, "samples.jsonl"])?;
    }
    let decided = if arguments.decisions.is_empty() {
        sample::take(&mut items, arguments.limit.unwrap_or(usize::MAX), arguments.seed);
        ask(arguments, &mut items)?
    } else {
        let decided = from_files(&mut items, &arguments.decisions)?;
        sample::take(&mut items, arguments.limit.unwrap_or(usize::MAX), arguments.seed);
        decided
    };
    let summary = Summary::new(&items, arguments.seed);
    let mut counts = Summary::counts(&items);
    counts.errors = decided.errors;
    let results = Results {
        task: TASK.into(),
        task_version: TASK_VERSION.into(),
        metrics: summary.metrics.clone(),
        counts,
        judge: Some(decided.judge),
        code_version: env!("CARGO_PKG_VERSION").into(),
        started_at: clock.started_at(),
        seconds: clock.seconds(),
        ..Results::default()
    };
    let mut json = summary.to_json(&results);
    json["reference"] = json!({"annotators": annotators, "sources": sources, "undecided": undecided});
    json["seed"] = arguments.seed.into();
    json["counts"]["identical"] = items.iter().filter(|item| item.is_identical()).count().into();
    json["counts"]["unscored_by_reason"] = json!(decided.unscored);
    let json = format!("{json:#}\n");
    match &arguments.out {
        Some(out) => write(out, &json, &items)?,
        None => eprintln!("note: nothing was saved; --out DIR keeps the results and the verdicts"),
    }
    let table = || table::render(&summary, &results, [&decided.name, &reference_name]);
    print(&if arguments.json { json } else { table() })?;
    Ok(report_undecided(arguments, &items, &decided.unscored))
}

/// Takes the decisions from files.
fn from_files(items: &mut Vec<Item>, paths: &[PathBuf]) -> anyhow::Result<Decided> {
    let matched = decisions::apply(items, paths)?;
    if matched.without_decision > 0 {
        let pairs = count(matched.without_decision, "pair");
        eprintln!("note: left out for want of a decision: {pairs} of the reference");
    }
    if matched.without_reference > 0 {
        let decisions = count(matched.without_reference, "decision");
        eprintln!("note: left out for want of a reference: {decisions}");
    }
    let unscored = BTreeMap::from([("no_preference", items.iter().filter(|item| item.preference().is_none()).count())]);
    let name = of_files(&matched.sources);
    let matched = json!({"pairs_without_decision": matched.without_decision,
        "decisions_without_pair": matched.without_reference, "decisions": matched.sources});
    Ok(Decided { name, judge: matched, unscored, errors: 0 })
}

/// Asks the judge.
fn ask(arguments: &JudgeAgreement, items: &mut [Item]) -> anyhow::Result<Decided> {
    ensure!(
        arguments.judge.judge_endpoint.is_some(),
        "who decides? give --judge-endpoint URL and --judge-model MODEL, or --decisions FILE"
    );
    let flags = &arguments.judge;
    let (styles, named) = match (&arguments.judge_prompts, &arguments.annotator_config) {
        (Some(path), _) => {
            flags.check_text("the prompts of MT-Bench")?;
            let embedded = path.as_os_str() == EMBEDDED;
            let prompts = if embedded { JudgePrompts::embedded() } else { JudgePrompts::read(path)? };
            (Styles::Prompt(Style::of_prompts(&prompts)), None)
        }
        (None, path) => {
            let annotator = path.as_deref().map_or_else(|| Ok(Annotator::embedded()), Annotator::read)?;
            let named = annotator.model.clone();
            (Styles::Annotators(flags.ways(&annotator)?), named)
        }
    };
    let judge = flags.judge(Some(Format::Auto))?;
    let model = flags.judge_model.clone().or(named).context("--judge-model is needed")?;
    let mut pairs: Vec<Pair> = items.iter_mut().map(|item| mem::take(&mut item.pair)).collect();
    let by_coin: fn(&Pair) -> usize = |pair| usize::from(is_switched(&pair.prompt, SEED));
    let samples = flags.judge_samples;
    let asking = Asking { model: &model, repeats: 1, samples, one_order: arguments.one_order.then_some(by_coin) };
    let mut store = flags.open_verdicts(arguments.out.as_deref())?;
    let progress = Progress::new(arguments.quiet);
    let confirm = |estimate: &_, cached| flags.confirm(estimate, cached);
    let judged =
        runtime()?.block_on(judging::ask(&judge, &mut pairs, styles, asking, &mut store, confirm, &progress))?;

    // A pair with a request that has no reply could not be asked about; in other replies no verdict was found.
    let open: Vec<usize> = (0..pairs.len()).filter(|index| pairs[*index].problem.is_some()).collect();
    let no_reply = open.iter().filter(|index| judged.without_reply.contains(index)).count();
    let no_verdict = open.len() - no_reply;
    for (item, pair) in items.iter_mut().zip(pairs) {
        item.pair = pair;
    }
    let mut described = judged.style.describe(samples);
    judge.describe_ends(&judged.outcomes, &model, &store, &mut described);
    described["model"] = model.clone().into();
    described["endpoint"] = judge.client.base().into();
    if !judge.edits.is_empty() {
        described["body"] = serde_json::to_value(&judge.edits).expect("edits are JSON");
    }
    described["strip_reasoning"] = judge.reasoning.formats().map(ToString::to_string).collect();
    described["orders"] = if arguments.one_order { "one" } else { "both" }.into();
    described["requests"] = serde_json::to_value(judged.tally).expect("a tally is an object");
    let unscored = BTreeMap::from([("no_reply", no_reply), ("no_verdict", no_verdict)]);
    Ok(Decided { name: model, judge: described, unscored, errors: no_reply })
}

fn write(out: &Path, json: &str, items: &[Item]) -> anyhow::Result<()> {
    for (name, content) in [("samples.jsonl", item::samples(items).as_slice()), (results::FILE_NAME, json.as_bytes())] {
        let path = out.join(name);
        orpo_files::write_file(&path, content)?;
    }
    Ok(())
}

fn report_undecided(arguments: &JudgeAgreement, items: &[Item], reasons: &BTreeMap<&str, usize>) -> u8 {
    let undecided: Vec<&Item> = items.iter().filter(|item| item.preference().is_none()).collect();
    let Some(first) = undecided.first() else { return DONE };
    let problem = first.pair.problem.as_deref().unwrap_or("no verdict");
    let reasons: Vec<String> = reasons
        .iter()
        .filter(|(_, n)| **n > 0)
        .map(|(reason, n)| format!("{n} {}", reason.replace('_', " ")))
        .collect();
    eprintln!(
        "warning: {} of {} pairs are not decided ({}); the first: {problem}",
        undecided.len(),
        items.len(),
        reasons.join(", ")
    );
    if arguments.decisions.is_empty() {
        arguments.judge.advise_on_unread();
    }
    let is_complete =
        undecided.len() < items.len() && undecided.len() as f64 <= arguments.max_unscored * items.len() as f64;
    if is_complete { DONE } else { INCOMPLETE }
}
