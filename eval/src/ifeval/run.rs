//! An evaluation from the first request to the last file.

use std::borrow::Cow;
use std::cell::RefCell;
use std::path::PathBuf;

use serde_json::Value;

use super::data::Dataset;
use super::directory::{Directory, Settings};
use super::export::Export;
use super::responses::Responses;
use super::sample::{Answer, Outcome, Sample};
use super::{TASK_VERSION, metrics};
use crate::asking::{Party, Step, ask_all};
use crate::breaker::{Breaker, Next};
use crate::client::{ClientError, Message};
use crate::clock::Clock;
use crate::jsonl::InputError;
use crate::learning::Lessons;
use crate::progress::Progress;
use crate::reasoning::Reasoning;
use crate::reply::Reply;
use crate::results::{DataSource, RequestSettings, Results};
pub use crate::server::Server;
use crate::server::{Connected, ServerError};

/// The name of the task in `results.json`.
pub const TASK: &str = "ifeval";

/// What is evaluated, and where the results go.
#[derive(Debug)]
pub struct Options {
    /// The examples.
    pub dataset: Dataset,
    /// Evaluate only the first so many.
    pub limit: Option<usize>,
    /// The reasoning that is taken out of responses before they are scored.
    pub reasoning: Reasoning,
    /// The output directory; without one, nothing is written.
    pub out: Option<PathBuf>,
    /// Formats of other programs that the output directory gets, too.
    pub exports: Vec<Export>,
}

/// Everything that an evaluation found.
#[derive(Debug)]
pub struct Evaluation {
    /// The content of `results.json`.
    pub results: Results,
    /// The content of `samples.jsonl`.
    pub samples: Vec<Sample>,
}

/// Why an evaluation could not be done.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An input or output file.
    #[error(transparent)]
    File(#[from] InputError),
    /// The server cannot be asked at all.
    #[error(transparent)]
    Server(#[from] ServerError),
}

impl Options {
    fn selected(&self) -> usize {
        self.limit.unwrap_or(usize::MAX).min(self.dataset.examples.len())
    }

    fn data_source(&self) -> DataSource {
        DataSource { source: self.dataset.source.clone(), sha256: self.dataset.sha256.clone() }
    }
}

/// Asks a server for responses and scores them. Responses that the output directory already holds are not asked for
/// again.
///
/// # Errors
/// When the server cannot be reached at all, or a file cannot be used. A single failed request is no error but an unscored
/// sample.
pub async fn evaluate(options: &Options, server: &Server, progress: &Progress) -> Result<Evaluation, RunError> {
    let clock = Clock::start();
    let Connected { client, model, lineage } = server.connect().await?;
    let settings = Settings {
        task: TASK.into(),
        data_sha256: options.dataset.sha256.clone(),
        model: Some(model.clone()),
        sampling: Some(server.parameters()),
        system: server.system.clone(),
    };
    let mut directory = options.out.as_deref().map(|out| Directory::open(out, &settings)).transpose()?;
    let selected = &options.dataset.examples[..options.selected()];
    let mut outcomes: Vec<Option<Outcome>> = Vec::new();
    for (example, _) in selected {
        let answer = directory.as_mut().and_then(|directory| directory.take(&example.key));
        outcomes.push(answer.map(Outcome::Answered));
    }
    if let Some(directory) = &directory {
        directory.check_all_taken()?;
    }
    let missing: Vec<usize> = (0..selected.len()).filter(|&index| outcomes[index].is_none()).collect();
    progress.begin(selected.len(), selected.len() - missing.len());

    let lessons = RefCell::new(Lessons::default());
    let ask = async |&index: &usize| {
        let user = Message { role: "user", content: selected[index].0.prompt.clone() };
        let body = lessons.borrow().applied(&server.body(&model, &[user], &server.sampling));
        let result = client.chat(&body, async || ()).await;
        (body, result)
    };
    let mut breaker = Breaker::new(Party::Model, server.concurrency, options.reasoning.clone());
    let take = |index: usize, (body, result): (Value, Result<Reply, ClientError>)| {
        if let Err(error) = &result
            && breaker.next() == Next::Alone
            && let Some(lesson) = lessons.borrow_mut().learn(Party::Model, &server.edits, &body, error)
        {
            lesson.announce(Party::Model);
            return Ok(Step { next: Next::Alone, again: Some(index) });
        }
        outcomes[index] = Some(match &result {
            Ok(reply) => {
                let answer =
                    Answer { response: reply.answer(), finish_reason: reply.finish_reason().map(Cow::into_owned) };
                if let Some(directory) = &mut directory {
                    directory.keep(&selected[index].0.key, &answer)?;
                }
                Outcome::Answered(answer)
            }
            Err(error) => Outcome::Failed(error.to_string()),
        });
        breaker.note(&body, &result).map(Step::from).map_err(|end| RunError::Server(ServerError::Hopeless(end)))
    };
    ask_all(missing, server.concurrency, Next::Alone, progress, ask, take).await?;
    progress.end();

    let outcomes = outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|| Outcome::Failed(breaker.not_asked())));
    let evaluation = assemble(options, outcomes, &clock, |results| {
        results.model = Some(model.clone());
        results.endpoint = Some(client.base().to_owned());
        results.sampling = Some(server.parameters());
        results.lineage = lineage;
        results.system = server.system.clone();
        results.requests = Some(RequestSettings {
            concurrency: server.concurrency,
            timeout_secs: server.timeout.as_secs(),
            retries: server.retry.retries,
        });
        results.counts.retries = client.repetitions();
        results.learnt = lessons.into_inner().list().to_vec();
    });
    finish(options, directory, &evaluation)?;
    Ok(evaluation)
}

/// Scores the responses in a file.
///
/// # Errors
/// When a file cannot be used. An example without a response is no error but an unscored sample.
pub fn score_responses(options: &Options, responses: &Responses) -> Result<Evaluation, RunError> {
    let clock = Clock::start();
    let settings = Settings {
        task: TASK.into(),
        data_sha256: options.dataset.sha256.clone(),
        model: None,
        sampling: None,
        system: None,
    };
    let outcomes = responses.outcomes(&options.dataset)?;
    let directory = options.out.as_deref().map(|out| Directory::open(out, &settings)).transpose()?;
    let outcomes = outcomes.into_iter().take(options.selected());
    let evaluation = assemble(options, outcomes, &clock, |results| results.responses = Some(responses.source()));
    finish(options, directory, &evaluation)?;
    Ok(evaluation)
}

fn assemble(
    options: &Options,
    outcomes: impl Iterator<Item = Outcome>,
    clock: &Clock,
    complete: impl FnOnce(&mut Results),
) -> Evaluation {
    let examples = options.dataset.examples.iter();
    let samples: Vec<Sample> = examples
        .zip(outcomes)
        .map(|((example, scorer), outcome)| Sample::new(example, scorer, outcome, &options.reasoning))
        .collect();
    let mut results = Results {
        task: TASK.into(),
        task_version: TASK_VERSION.into(),
        metrics: metrics::metrics(&samples),
        counts: metrics::counts(&samples),
        by_category: metrics::by_category(&samples),
        by_instruction: metrics::by_instruction(&samples),
        model: None,
        endpoint: None,
        sampling: None,
        system: None,
        requests: None,
        strip_reasoning: options.reasoning.formats().map(ToString::to_string).collect(),
        judge: None,
        lineage: None,
        data: Some(options.data_source()),
        responses: None,
        learnt: Vec::new(),
        code_version: env!("CARGO_PKG_VERSION").into(),
        started_at: clock.started_at(),
        seconds: clock.seconds(),
    };
    complete(&mut results);
    Evaluation { results, samples }
}

fn finish(options: &Options, directory: Option<Directory>, evaluation: &Evaluation) -> Result<(), InputError> {
    let Some(directory) = directory else { return Ok(()) };
    let files = |export: &Export| export.files(evaluation, &options.dataset);
    directory.finish(&evaluation.samples, options.exports.iter().flat_map(files).collect(), &evaluation.results)
}
