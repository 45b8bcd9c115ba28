//! `orpo-eval alpaca`.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::{ArgGroup, Args};
use serde_json::{Value, json};

use super::judge::JudgeArgs;
use super::requests::{Requests, at_least_one, note_responses, share};
use super::{DONE, INCOMPLETE, print, runtime};
use crate::alpaca::annotations::{self, Names};
use crate::alpaca::answers;
use crate::alpaca::comparison::{Comparison, Problem};
use crate::alpaca::gamed::{read_difficulty, read_gamed};
use crate::alpaca::outputs::{Output, Outputs};
use crate::alpaca::run::Evaluation;
use crate::alpaca::summary::LengthControl;
use crate::alpaca::verdicts::{Judged, Orders};
use crate::alpaca::{FoldLayout, table, verdicts};
use crate::client::ClientError;
use crate::clock::Clock;
use crate::jsonl;
use crate::judge::Judge;
use crate::judge::annotator::Annotator;
use crate::judge::template::Templating;
use crate::judge::verdicts::VerdictStore;
use crate::progress::Progress;
use crate::reasoning::{Format, Reasoning};
use crate::results::{DataSource, RequestSettings, Results};
use crate::table::count;

/// The file in an output directory that keeps what the model said.
const ANSWERS: &str = "answers.jsonl";

/// Compares a model's answers with a baseline's, by a judge (AlpacaEval 2.0).
///
/// Asks the endpoint each instruction of the reference file, or takes existing answers, asks the judge which answer of
/// each pair is better, and prints win rates; or aggregates existing annotations. Exit codes: 0 done, 1 too much could
/// not be scored, 2 wrong usage or input, or no server.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("source").required(true).args(["endpoint", "outputs", "annotations"]),
    mut_arg("max_tokens", |arg| arg.default_value("2048")),
    mut_arg("temperature", |arg| arg.default_value("0.7").help("Sampling temperature")),
    after_help = "Examples:
  orpo-eval alpaca --endpoint http://127.0.0.1:8000 --reference alpaca_eval_gpt4_baseline.json \\
      --judge-endpoint https://api.example.com/v1 --judge-model judge \\
      --annotator-config evaluators_configs/weighted_alpaca_eval_gpt4_turbo --gamed df_gamed.csv --out results/m
  orpo-eval alpaca --outputs model_outputs.json --reference baseline.json \\
      --judge-endpoint http://127.0.0.1:8001 --judge-model judge --out results/m
  orpo-eval alpaca --annotations annotations.json --gamed df_gamed.csv --leaderboard leaderboard.csv --out results/m

The length-controlled win rate needs df_gamed.csv of the Hugging Face data set tatsu-lab/alpaca_eval, and holds for its
805 instructions. A key for the endpoint is read from ORPO_EVAL_API_KEY, else from OPENAI_API_KEY. A run that was stopped,
or that some requests failed in, goes on with the same command and --out; nothing that was answered is asked again."
)]
pub(super) struct Alpaca {
    /// Address of an OpenAI-compatible server with the model that answers, with or without /v1
    #[arg(long, value_name = "URL", requires = "reference")]
    endpoint: Option<String>,
    /// Model that answers [default: the only one that the server lists]
    #[arg(long, requires = "endpoint")]
    model: Option<String>,
    /// Judge these answers instead: the official model_outputs.json, as a JSON list or lines
    #[arg(long, value_name = "FILE", requires = "reference")]
    outputs: Option<PathBuf>,
    /// Aggregate these annotations instead: the official annotations.json, as a JSON list or lines
    #[arg(long, value_name = "FILE")]
    annotations: Option<PathBuf>,
    /// The baseline's answers, in the layout of model_outputs.json; they are the instructions, too
    #[arg(long, value_name = "FILE", conflicts_with = "annotations")]
    reference: Option<PathBuf>,
    /// Name of the model in the files [default: the generator of the answers, else the model that was asked]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Who judges, and how: a directory of the official evaluators_configs, or a configs.yaml [default: an embedded
    /// one]
    #[arg(long, value_name = "PATH", conflicts_with = "annotations")]
    annotator_config: Option<PathBuf>,
    /// Fill the judge's prompt as the official program does, which lets placeholders and ChatML inside answers change
    /// it
    #[arg(long, conflicts_with = "annotations")]
    official_templating: bool,
    /// Ask the judge about every pair in both orders and take the mean, so that its liking for a place cancels out; twice the
    /// requests, and no longer the official measure
    #[arg(long, conflicts_with = "annotations")]
    both_orders: bool,
    /// The gamed baselines' annotations (df_gamed.csv), for the length-controlled win rate
    #[arg(long, value_name = "FILE")]
    gamed: Option<PathBuf>,
    /// The instructions' difficulties (instruction_difficulty.csv) [default: those in --gamed]
    #[arg(long, value_name = "FILE", requires = "gamed")]
    instruction_difficulty: Option<PathBuf>,
    /// How rows are held out when the length regression's penalty is chosen
    #[arg(long, value_enum, default_value_t)]
    fold_layout: FoldLayout,
    /// Directory for model_outputs.json, annotations.json, leaderboard.csv, results.json and samples.jsonl
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Leaderboard whose models the one in --out gets, too
    #[arg(long, value_name = "FILE", requires = "out")]
    leaderboard: Option<PathBuf>,
    /// Use only the first N instructions
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    limit: Option<usize>,
    /// Exit with 1 if a larger share than this has no preference
    #[arg(long, value_name = "SHARE", default_value = "1%", value_parser = share)]
    max_unscored: f64,
    /// Take reasoning out of answers before they are judged: `auto` (all known marks, in front of the answer), `think`
    /// (<think>...</think>), `harmony` (all but the final channel), or two literal delimiters START...END; reasoning that
    /// does not end leaves an empty answer
    #[arg(long, value_name = "FORMAT", conflicts_with = "annotations")]
    strip_reasoning: Vec<Format>,
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

pub(super) fn run(arguments: &Alpaca) -> anyhow::Result<u8> {
    let clock = Clock::start();
    let control = length_control(arguments)?;
    if let Some(out) = &arguments.out {
        Evaluation::claim(out)?;
    }
    let evaluation = match &arguments.annotations {
        Some(path) => aggregate(arguments, path, control.as_ref(), &clock)?,
        None => compare(arguments, control.as_ref(), &clock)?,
    };
    if let Some(out) = &arguments.out {
        let inputs = [&arguments.annotations, &arguments.outputs, &arguments.reference];
        let inputs: Vec<&Path> = inputs.into_iter().flatten().map(PathBuf::as_path).collect();
        evaluation.write(out, arguments.leaderboard.as_deref(), &inputs)?;
    }
    print(&if arguments.json { evaluation.to_json() } else { table::render(&evaluation) })?;
    if arguments.out.is_none() {
        eprintln!("note: nothing was saved; --out DIR keeps the annotations and the results");
    }
    let counts = &evaluation.results.counts;
    if arguments.annotations.is_none() {
        let responses = evaluation.comparisons.iter().filter_map(|comparison| comparison.response.as_deref());
        note_responses(counts, responses, 0, "the judge sees as part of them");
    }
    if counts.truncated > 0 {
        let answers = count(counts.truncated, "answer");
        eprintln!("warning: {answers} cut off at the token limit; --max-tokens raises it");
    }
    let code = report_unscored(&evaluation, arguments.max_unscored);
    if arguments.annotations.is_none() && evaluation.summary.counts.unparsed > 0 {
        arguments.judge.advise_on_unread();
    }
    Ok(code)
}

/// The files of the length regression, or why there are none.
fn length_control(arguments: &Alpaca) -> anyhow::Result<Result<LengthControl, String>> {
    let Some(gamed) = &arguments.gamed else {
        return Ok(Err(
            "--gamed FILE is needed: df_gamed.csv of the Hugging Face data set tatsu-lab/alpaca_eval".into()
        ));
    };
    let source = |path: &Path| -> anyhow::Result<DataSource> {
        Ok(DataSource { source: path.display().to_string(), sha256: orpo_files::sha256(&jsonl::read(path)?) })
    };
    let mut sources = vec![source(gamed)?];
    let (rows, mut difficulty) = read_gamed(gamed)?;
    if let Some(path) = &arguments.instruction_difficulty {
        difficulty = read_difficulty(path)?;
        sources.push(source(path)?);
    }
    Ok(Ok(LengthControl { gamed: rows, difficulty, sources, fold_layout: arguments.fold_layout }))
}

/// Aggregates the annotations of a file.
fn aggregate(
    arguments: &Alpaca,
    path: &Path,
    control: Result<&LengthControl, &String>,
    clock: &Clock,
) -> anyhow::Result<Evaluation> {
    let (mut comparisons, mut names, source) = annotations::read(path)?;
    comparisons.truncate(arguments.limit.unwrap_or(usize::MAX));
    if let Some(name) = &arguments.name {
        names.model = Some(name.clone());
    }
    let judge = names.annotator.as_ref().map(|annotator| json!({"annotator": annotator}));
    Ok(Evaluation::new(comparisons, names, control.map_err(Clone::clone), clock, |results| {
        results.judge = judge;
        results.data = Some(source);
    }))
}

/// Gets the answers and the verdicts.
fn compare(arguments: &Alpaca, control: Result<&LengthControl, &String>, clock: &Clock) -> anyhow::Result<Evaluation> {
    let annotator = match &arguments.annotator_config {
        Some(path) => Annotator::read(path)?,
        None => Annotator::embedded(),
    };
    let reference = Outputs::read(arguments.reference.as_deref().context("--reference is needed")?)?;
    let references = &reference.rows[..arguments.limit.unwrap_or(usize::MAX).min(reference.rows.len())];
    let ways = arguments.judge.ways(&annotator)?;
    let judge = arguments.judge.judge(Some(Format::Auto))?;
    let judge_model = arguments.judge.judge_model.clone().or(annotator.model.clone());
    let judge_model = judge_model.context("--judge-model is needed: the annotator names none")?;
    let runtime = runtime()?;
    // Answers take long: a judge that is not there should be known before.
    if let Err(error @ ClientError::Unreachable { .. }) = runtime.block_on(judge.client.models_soon()) {
        return Err(error).context("the judge does not answer; is it up, and --judge-endpoint right?");
    }

    let orders = if arguments.both_orders { Orders::Both } else { Orders::One };
    let annotator_name = match orders {
        Orders::One => annotator.name.clone(),
        Orders::Both => format!("{}_both_orders", annotator.name),
    };
    let mut names = Names {
        baseline: reference.generator().map(str::to_owned),
        model: arguments.name.clone(),
        annotator: Some(annotator_name.clone()),
    };
    let mut answered = Results::default();
    let mut comparisons = match &arguments.outputs {
        Some(path) => {
            let outputs = Outputs::read(path)?;
            let comparisons = answers::pair(references, &outputs);
            report_pairing(&comparisons, &outputs, &reference)?;
            names.model = names.model.or(outputs.generator().map(str::to_owned));
            answered.responses = Some(outputs.source);
            comparisons
        }
        None => {
            let (comparisons, respondent) = runtime.block_on(answer(arguments, references, &mut answered))?;
            names.model = names.model.or(Some(respondent.model));
            answered.endpoint = Some(respondent.endpoint);
            answered.lineage = respondent.lineage;
            answered.learnt = respondent.learnt;
            comparisons
        }
    };
    let reasoning = Reasoning::new(arguments.strip_reasoning.clone());
    let (stripped, unterminated) = answers::strip_reasoning(&mut comparisons, &reasoning);

    let count = |is: fn(&Comparison) -> bool| comparisons.iter().filter(|comparison| is(comparison)).count();
    let (refused, empty) = (count(Comparison::is_refusal), count(Comparison::is_empty));

    let templating = if arguments.official_templating { Templating::Official } else { Templating::Safe };
    let mut store = arguments.judge.open_verdicts(arguments.out.as_deref())?;
    let confirm = |annotator: &Annotator, estimate: &_, cached| {
        if let Some(out) = &arguments.out {
            Evaluation::claim_measure(out, annotator.measure())?;
        }
        arguments.judge.confirm(estimate, cached)
    };
    let progress = Progress::new(arguments.quiet);
    let asked = (judge_model.as_str(), templating, orders);
    let asked = verdicts::ask(&mut comparisons, ways, asked, &judge, &mut store, confirm, &progress);
    let judged = runtime.block_on(asked)?;

    let mut judge = described(&judged, &judge_model, &judge, templating, &store);
    judge["annotator"] = annotator_name.into();
    judge["orders"] = if orders == Orders::Both { "both" } else { "one" }.into();
    Ok(Evaluation::new(comparisons, names, control.map_err(Clone::clone), clock, |results| {
        results.endpoint = answered.endpoint;
        results.lineage = answered.lineage;
        results.learnt = answered.learnt;
        results.sampling = answered.sampling;
        results.system = answered.system;
        results.requests = answered.requests;
        results.responses = answered.responses;
        results.data = Some(reference.source);
        results.judge = Some(judge);
        results.strip_reasoning = reasoning.formats().map(ToString::to_string).collect();
        results.counts.stripped_reasoning = stripped;
        results.counts.unterminated_reasoning = unterminated;
        results.counts.refused = refused;
        results.counts.empty = empty;
    }))
}

/// Asks the model, and notes in `answered` what the results say about it.
async fn answer(
    arguments: &Alpaca,
    references: &[Output],
    answered: &mut Results,
) -> anyhow::Result<(Vec<Comparison>, answers::Respondent)> {
    let endpoint = arguments.endpoint.as_deref().context("--endpoint is needed")?;
    let server = arguments.requests.server(endpoint, arguments.model.as_deref());
    let mut store = match &arguments.out {
        Some(out) => VerdictStore::open(&out.join(ANSWERS))?,
        None => VerdictStore::in_memory(),
    };
    let answers = answers::ask(references, &server, &mut store, &Progress::new(arguments.quiet)).await?;
    answered.sampling = Some(server.parameters());
    answered.system = server.system;
    answered.requests = Some(RequestSettings {
        concurrency: server.concurrency,
        timeout_secs: server.timeout.as_secs(),
        retries: server.retry.retries,
    });
    Ok(answers)
}

/// Says on stderr how the files match, and refuses files that have nothing to do with each other.
fn report_pairing(comparisons: &[Comparison], outputs: &Outputs, reference: &Outputs) -> anyhow::Result<()> {
    let paired = comparisons.iter().filter(|comparison| comparison.response.is_some()).count();
    let source = &outputs.source.source;
    ensure!(paired > 0, "`{source}` answers no instruction of --reference; are they of the same evaluation set?");
    let missing = comparisons.len() - paired;
    let known = outputs.rows.iter().filter(|output| reference.get(&output.instruction).is_some()).count();
    let (beyond_limit, extra) = (known - paired, outputs.rows.len() - known);
    if missing > 0 {
        eprintln!("warning: {missing} of {} instructions have no answer in `{source}`", comparisons.len());
    }
    if extra > 0 {
        let answers = count(extra, "answer");
        eprintln!("note: {answers} in `{source}` to instructions that are not in --reference");
    }
    if beyond_limit > 0 {
        eprintln!("note: {} in `{source}` left out by --limit", count(beyond_limit, "answer"));
    }
    Ok(())
}

/// The judge, as the results name it.
fn described(judged: &Judged, model: &str, judge: &Judge, templating: Templating, store: &VerdictStore) -> Value {
    let Judged { annotator, tally, outcomes } = judged;
    let mut described = json!({
        "annotator": annotator.name,
        "model": model,
        "endpoint": judge.client.base(),
        "measure": annotator.measure(),
        "verdict": annotator.describe_way(),
        "template_sha256": orpo_files::sha256(annotator.template.source().as_bytes()),
        "templating": templating,
        "parameters": judge.parameters(annotator.parameters.clone(), model, store),
        "strip_reasoning": judge.reasoning.formats().map(ToString::to_string).collect::<Vec<_>>(),
        "seed": verdicts::SEED,
        "requests": tally,
    });
    judge.describe_ends(outcomes, model, store, &mut described);
    described
}

/// Says on stderr what has no preference, and whether that is too much.
fn report_unscored(evaluation: &Evaluation, max_unscored: f64) -> u8 {
    let counts = &evaluation.summary.counts;
    let unscored = counts.unscored();
    if unscored == 0 {
        return DONE;
    }
    let first = evaluation.comparisons.iter().find_map(|comparison| comparison.problem.as_ref());
    let reason = first.map_or("", Problem::reason);
    eprintln!(
        "warning: {unscored} of {} comparisons have no preference: {} without an answer, {} without a verdict, {} with \
         one that could not be parsed; the first: {reason}",
        counts.total, counts.no_answer, counts.no_verdict, counts.unparsed
    );
    if counts.scored == 0 {
        eprintln!("error: nothing could be scored");
        return INCOMPLETE;
    }
    if unscored as f64 <= max_unscored * counts.total as f64 {
        return DONE;
    }
    eprintln!("error: that is more than --max-unscored allows ({}%)", 100.0 * max_unscored);
    INCOMPLETE
}
