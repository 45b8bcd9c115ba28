//! An evaluation from the first request to the last file.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::answer::Answers;
use super::generate::{self, AnswerError, Answered, Respondent};
use super::import::{self, Duplicates, Imported, Selected, Selection};
use super::judge_prompt::JudgePrompts;
use super::judged::{self, Asked, Judged, Sample};
use super::judgment::{Judgments, PairJudgment};
use super::plan::{self, Mode, PlanError, Setting};
use super::render;
use super::single::{Item, Unscored};
use super::summary::{AllCounts, ByModel, Categories, Summary, TASK, write_lines};
use super::verdict::{Format, Rule};
use super::{Question, Questions, category, pairwise};
use crate::clock::Clock;
use crate::jsonl::{self, InputError};
use crate::judge::cost::Estimate;
use crate::judge::verdicts::VerdictStore;
use crate::judge::{Judge, JudgeError, Request, Tally};
use crate::progress::Progress;
use crate::reasoning::Reasoning;
use crate::results::{self, DataSource, RequestSettings};
use crate::server::{Connected, Server, ServerError};
use crate::settings;

const JUDGMENTS: &str = "judgments.jsonl";
const SAMPLES: &str = "samples.jsonl";

/// What is judged, by whom, and where the results go.
#[derive(Debug)]
pub struct Options {
    /// The questions.
    pub questions: Questions,
    /// Only the first so many.
    pub limit: Option<usize>,
    /// The reference answers.
    pub references: Answers,
    /// The prompts.
    pub prompts: JudgePrompts,
    /// What is compared with what.
    pub mode: Mode,
    /// The other side of every pair, in the mode that has one.
    pub baseline: Option<String>,
    /// The model that judges.
    pub judge_model: String,
    /// How scores are read.
    pub rule: Rule,
    /// The reasoning that is taken out of answers before they are judged or become context.
    pub reasoning: Reasoning,
    /// The output directory; without one, nothing is written.
    pub out: Option<PathBuf>,
}

/// The model that answers.
#[derive(Debug)]
pub struct Source {
    /// Its server.
    pub server: Server,
    /// One temperature for all questions instead of that of their category.
    pub temperature: Option<f64>,
}

/// Everything that an evaluation found.
#[derive(Debug)]
pub struct Evaluation {
    /// The content of `results.json`.
    pub summary: Summary,
    /// The content of `samples.jsonl`.
    pub samples: Vec<Sample>,
}

/// Why an evaluation could not be done.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An input or output file.
    #[error(transparent)]
    File(#[from] InputError),
    /// The model's server cannot be asked at all.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The model answers no question.
    #[error(transparent)]
    Answers(#[from] AnswerError),
    /// The answers cannot be judged.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The judge cannot be asked at all.
    #[error(transparent)]
    Judge(#[from] JudgeError),
    /// The user did not agree to the cost.
    #[error("{0}")]
    NotAgreed(String),
}

/// Answers the questions where there is a source, and judges its answers and those of files. What the output directory
/// and the verdict store hold is not asked for again. `confirm` hears what the judge is going to be asked, and how many
/// of its replies are there already.
///
/// # Errors
/// When a server cannot be asked at all, a file cannot be used, the answers cannot be judged, or `confirm` refuses. A
/// single failed request is no error but an unscored sample.
pub async fn evaluate(
    options: &Options,
    source: Option<&Source>,
    mut answers: Vec<Answers>,
    (judge, store): (&Judge, &mut VerdictStore),
    confirm: impl FnOnce(&Estimate, usize) -> Result<(), String>,
    progress: &Progress,
) -> Result<Evaluation, RunError> {
    let clock = Clock::start();
    let setting = Setting {
        questions: options.questions.first(options.limit),
        references: &options.references,
        prompts: &options.prompts,
        judge_model: &options.judge_model,
        rule: options.rule,
    };
    let respondent = match source {
        Some(source) => Some(source.connect(&options.reasoning).await?),
        None => None,
    };
    let names = respondent.iter().map(|respondent| respondent.model.as_str());
    let names: Vec<&str> = names.chain(answers.iter().map(|answers| answers.model.as_str())).collect();
    plan::check(&setting, options.mode, options.baseline.as_deref(), &names)?;
    if let Some(out) = &options.out {
        open(out, &options.settings(source.zip(respondent.as_ref())))?;
    }
    let (mut stripped, mut unterminated) = (0, 0);
    for turn in answers.iter_mut().flat_map(|answers| answers.by_question.values_mut()).flatten() {
        if let Some(found) = options.reasoning.strip(turn) {
            stripped += 1;
            unterminated += usize::from(found.answer.is_none());
            *turn = found.answer.unwrap_or_default();
        }
    }
    let mut answered = None;
    if let Some(respondent) = &respondent {
        let found = respondent.answer(setting.questions, options.out.as_deref(), progress).await?;
        if let Some(out) = &options.out {
            write_answers(out, &found)?;
        }
        answers.insert(0, found.answers.clone());
        answered = Some(found);
    }

    let matches = plan::plan(&setting, options.mode, options.baseline.as_deref(), &answers)?;
    let games = || matches.iter().filter_map(|one| one.games.as_ref().ok()).flatten();
    let mut requests: Vec<Request> = games().map(|game| game.request.clone()).collect();
    judge.edit(&mut requests);
    let formats: Vec<Format> = games().map(|game| game.rendered.prompt.format).collect();
    judge.forget_unread(&requests, store, |index, request, reply| {
        Asked { judge, request, reply }.is_read(formats[index], setting.rule)
    });
    let estimate = judge.estimate(&requests, store);
    let unique = requests.iter().map(Request::key).collect::<HashSet<_>>().len();
    confirm(&estimate, unique - estimate.requests).map_err(RunError::NotAgreed)?;
    let (outcomes, tally) = judge.ask(&requests, store, |_| Ok(()), progress).await?;

    let tstamp = chrono::Utc::now().timestamp() as f64;
    let judged = judged::judged(&setting, &matches, judge, (&requests, &outcomes), tstamp);
    let mut counts = AllCounts::of(
        &judged.samples,
        judged.samples.iter().filter(|sample| has_failed(sample, &answers)).count(),
        judged.samples.iter().filter(|sample| is_truncated(sample, &answers)).count(),
    );
    if let (Some(answered), Some(respondent)) = (&answered, &respondent) {
        stripped += answered.stripped_reasoning;
        unterminated += answered.unterminated_reasoning;
        counts.counts.refused = answered.refused;
        counts.counts.empty = answered.empty;
        counts.counts.retries = respondent.client.repetitions();
    }
    counts.counts.stripped_reasoning = stripped;
    counts.counts.unterminated_reasoning = unterminated;
    let by_model = ByModel::of(
        &selected(&judged, options.mode),
        options.baseline.as_deref(),
        &Categories::new(Some(setting.questions)),
    );
    let mut described = options.judge(judge, store, tally);
    judge.describe_ends(&judged.outcomes, &options.judge_model, store, &mut described);
    let mut summary = Summary::new(options.mode, by_model, counts, described, &clock);
    summary.bias = pairwise::bias(&judged.pairs, &judged.samples);
    summary.baseline = options.baseline.clone().filter(|_| options.mode == Mode::PairwiseBaseline);
    summary.data = Some(options.questions.source.clone());
    summary.answers =
        answers.iter().filter_map(|answers| Some((answers.model.clone(), answers.source.clone()?))).collect();
    summary.strip_reasoning = options.reasoning.formats().map(ToString::to_string).collect();
    summary.learnt = answered.map(|answered| answered.learnt).unwrap_or_default();
    if let (Some(source), Some(respondent)) = (source, &respondent) {
        source.note(&mut summary, respondent, setting.questions);
    }
    if let Some(out) = &options.out {
        match options.mode {
            Mode::Single => write_lines(&out.join(JUDGMENTS), &judged.single)?,
            _ => write_lines(&out.join(JUDGMENTS), &judged.pairs)?,
        }
        write_lines(&out.join(SAMPLES), &judged.samples)?;
        summary.write(out)?;
    }
    Ok(Evaluation { summary, samples: judged.samples })
}

impl Options {
    /// What the content of the output directory belongs to.
    fn settings(&self, source: Option<(&Source, &Respondent<'_>)>) -> Value {
        let mut settings = json!({"task": TASK, "mode": self.mode, "questions_sha256": self.questions.source.sha256});
        if let Some((source, respondent)) = source {
            settings["model"] = respondent.model.clone().into();
            settings["sampling"] = source.sampling(&self.questions.list);
            settings["system"] = source.server.system.clone().into();
            settings["strip_reasoning"] = self.reasoning.formats().map(ToString::to_string).collect();
        }
        settings
    }

    /// The judge, for the results.
    fn judge(&self, judge: &Judge, store: &VerdictStore, tally: Tally) -> Value {
        let parameters = judge.parameters(render::parameters(), &self.judge_model, store);
        let mut described = json!({
            "model": self.judge_model,
            "endpoint": judge.client.base(),
            "prompts": self.prompts.source,
            "reference_answers": self.references.source,
            "seed": null,
        });
        described.as_object_mut().expect("it is an object").extend(parameters);
        described["scores"] = serde_json::to_value(self.rule).expect("a rule is a word");
        described["strip_reasoning"] = judge.reasoning.formats().map(ToString::to_string).collect();
        described["requests"] = serde_json::to_value(tally).expect("numbers are JSON");
        described
    }
}

impl Source {
    async fn connect<'a>(&'a self, reasoning: &'a Reasoning) -> Result<Respondent<'a>, ServerError> {
        let Connected { client, model, lineage } = self.server.connect().await?;
        let Self { server, temperature } = self;
        Ok(Respondent { server, client, model, lineage, temperature: *temperature, reasoning })
    }

    /// The fields of requests beside model and messages, with the temperature of each category.
    fn sampling(&self, questions: &[Question]) -> Value {
        let mut sampling = self.server.sampling.fields();
        let temperature = match self.temperature {
            Some(temperature) => temperature.into(),
            None => {
                let categories = category::in_order(questions.iter().map(|question| question.category.as_str()));
                categories.into_iter().map(|name| (name.to_owned(), Value::from(category::temperature(name)))).collect()
            }
        };
        sampling.insert("temperature".into(), temperature);
        self.server.edits.apply(&mut sampling);
        sampling.into()
    }

    fn note(&self, summary: &mut Summary, respondent: &Respondent<'_>, questions: &[Question]) {
        summary.model = Some(respondent.model.clone());
        summary.endpoint = Some(respondent.client.base().to_owned());
        summary.lineage.clone_from(&respondent.lineage);
        summary.sampling = Some(self.sampling(questions));
        summary.system.clone_from(&self.server.system);
        summary.requests = Some(RequestSettings {
            concurrency: self.server.concurrency,
            timeout_secs: self.server.timeout.as_secs(),
            retries: self.server.retry.retries,
        });
    }
}

/// The judgments of this run, ready to be aggregated.
fn selected(judged: &Judged, mode: Mode) -> Selected {
    if mode != Mode::Single {
        return Selected::Pair(judged.pairs.clone());
    }
    let mut items: BTreeMap<String, Vec<Item>> = BTreeMap::new();
    for sample in &judged.samples {
        let score = sample.score.ok_or_else(|| sample.unscored.unwrap_or(Unscored::NoVerdict));
        let item = Item { question_id: sample.question_id.clone(), turn: sample.turn, score };
        items.entry(sample.models[0].clone()).or_default().push(item);
    }
    Selected::Single(items)
}

fn models_of<'a>(sample: &'a Sample, answers: &'a [Answers]) -> impl Iterator<Item = &'a Answers> {
    answers.iter().filter(|answers| sample.models.contains(&answers.model))
}

/// Whether a sample is unscored because a request to its model has failed.
fn has_failed(sample: &Sample, answers: &[Answers]) -> bool {
    let key = (sample.question_id.clone(), sample.turn);
    sample.unscored == Some(Unscored::NoAnswer)
        && models_of(sample, answers).any(|answers| answers.failures.contains_key(&key))
}

/// Whether a verdict is on an answer that was cut off.
fn is_truncated(sample: &Sample, answers: &[Answers]) -> bool {
    let key = (sample.question_id.clone(), sample.turn);
    sample.unscored.is_none() && models_of(sample, answers).any(|answers| answers.truncated.contains(&key))
}

/// Creates the output directory, or finds that it belongs to the same kind of run.
fn open(out: &Path, settings: &Value) -> Result<(), InputError> {
    let failed = |error: std::io::Error| InputError::File { path: out.to_owned(), problem: error.to_string() };
    std::fs::create_dir_all(out).map_err(failed)?;
    settings::check(out, settings, &[results::FILE_NAME, SAMPLES, JUDGMENTS, generate::LOG])
}

/// Writes the complete answers in the official layout.
fn write_answers(out: &Path, answered: &Answered) -> Result<(), InputError> {
    let directory = out.join("model_answer");
    let failed = |error: std::io::Error| InputError::File { path: directory.clone(), problem: error.to_string() };
    std::fs::create_dir_all(&directory).map_err(failed)?;
    write_lines(&directory.join(format!("{}.jsonl", file_name(&answered.answers.model))), &answered.rows)
}

/// A model's name without what means something in a path.
fn file_name(model: &str) -> String {
    let name = model.replace(|character: char| !(character.is_alphanumeric() || "-_.".contains(character)), "_");
    if name.starts_with('.') { format!("_{name}") } else { name }
}

/// A file of judgments to aggregate.
#[derive(Debug)]
pub struct JudgmentsFile<'a> {
    /// The file.
    pub path: &'a Path,
    /// What the user takes it for.
    pub mode: Option<Mode>,
    /// Only pairs with this model count.
    pub baseline: Option<&'a str>,
    /// Only the judgments of this judge count.
    pub judge_model: Option<&'a str>,
    /// How scores are read.
    pub rule: Rule,
    /// What to do with repeated judgments.
    pub duplicates: Duplicates,
    /// Questions that must all be judged.
    pub questions: Option<&'a Questions>,
}

/// Aggregates the judgments of a file.
///
/// # Errors
/// When a file cannot be used, or holds something else than the mode says.
pub fn aggregate(file: &JudgmentsFile<'_>, out: Option<&Path>) -> Result<Evaluation, RunError> {
    let clock = Clock::start();
    let unusable = |problem: String| InputError::File { path: file.path.to_owned(), problem };
    let bytes = jsonl::read(file.path)?;
    let judgments = Judgments::parse(file.path, &bytes)?;
    let found = match (&judgments, file.baseline) {
        (Judgments::Single(_), _) => Mode::Single,
        (Judgments::Pair(_), Some(_)) => Mode::PairwiseBaseline,
        (Judgments::Pair(_), None) => Mode::PairwiseAll,
    };
    let kind = |mode| if mode == Mode::Single { "single answers" } else { "pairs" };
    match file.mode {
        Some(mode) if kind(mode) != kind(found) => {
            return Err(unusable(format!("it holds judgments on {}, not on {}", kind(found), kind(mode))).into());
        }
        Some(Mode::PairwiseBaseline) if found != Mode::PairwiseBaseline => {
            return Err(PlanError::NoBaseline("the models of the file".into()).into());
        }
        _ => {}
    }
    let baseline = file.baseline.filter(|_| file.mode != Some(Mode::PairwiseAll));
    let questions = file.questions.map(|questions| questions.list.as_slice());
    let selection =
        Selection { judge_model: file.judge_model, rule: file.rule, duplicates: file.duplicates, questions };
    let Imported { judgments, mut samples, duplicates, judges } = import::import(file.path, judgments, &selection)?;
    let categories = Categories::new(questions);
    for sample in &mut samples {
        sample.category = categories.of(&sample.question_id);
    }
    if let Some(baseline) = baseline {
        samples.retain(|sample| sample.models.iter().any(|model| model == baseline));
        if samples.is_empty() {
            return Err(unusable(format!("it holds no pair with `{baseline}`; check --baseline")).into());
        }
    }
    let by_model = ByModel::of(&judgments, baseline, &categories);
    let bias = match &judgments {
        Selected::Pair(pairs) => {
            let counts = |pair: &&PairJudgment| {
                baseline.is_none_or(|baseline| pair.model_1 == baseline || pair.model_2 == baseline)
            };
            pairwise::bias(pairs.iter().filter(counts), &samples)
        }
        Selected::Single(_) => None,
    };
    let mut counts = AllCounts::of(&samples, 0, 0);
    counts.duplicates = duplicates;
    let models: BTreeSet<&String> = judges.iter().map(|(model, _)| model).collect();
    let judge = json!({
        "model": if models.len() == 1 { models.first() } else { None },
        "judges": judges,
        "scores": file.rule,
        "seed": null,
    });
    let mode = if found == Mode::Single || baseline.is_some() { found } else { Mode::PairwiseAll };
    let mut summary = Summary::new(mode, by_model, counts, judge, &clock);
    summary.bias = bias;
    summary.baseline = baseline.map(str::to_owned);
    summary.data = file.questions.map(|questions| questions.source.clone());
    let source = file.path.display().to_string();
    summary.judgments = Some(DataSource { source, sha256: orpo_files::sha256(&bytes) });
    if let Some(out) = out {
        open(out, &json!({"task": TASK, "mode": mode, "source": "judgments"}))?;
        write_lines(&out.join(SAMPLES), &samples)?;
        summary.write(out)?;
    }
    Ok(Evaluation { summary, samples })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_names_become_file_names() {
        assert_eq!(file_name("phi-3_v1.5"), "phi-3_v1.5");
        assert_eq!(file_name("org/model:8b"), "org_model_8b");
        assert_eq!(file_name("../x"), "_.._x");
    }
}
