//! An evaluation from the first request to the last file.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::StreamExt;

use super::data::{self, Dataset};
use super::directory::{Directory, Settings};
use super::example::Example;
use super::sample::{Answer, Outcome, Sample};
use super::{TASK_VERSION, metrics};
use crate::breaker::Breaker;
use crate::client::{ApiKey, Client, ClientError, Message, Retry, Sampling};
use crate::jsonl::{self, InputError};
use crate::progress::Progress;
use crate::results::{DataSource, Results};

/// The name of the task in `results.json`.
pub const TASK: &str = "ifeval";

/// The server to ask, and how.
#[derive(Debug, Clone)]
pub struct Server {
    /// Its address, with or without `/v1`.
    pub endpoint: String,
    /// The model; without one, the first that the server lists.
    pub model: Option<String>,
    /// The key, if it wants one.
    pub key: Option<ApiKey>,
    /// How replies are sampled.
    pub sampling: Sampling,
    /// The number of requests in flight.
    pub concurrency: usize,
    /// How long one try may take.
    pub timeout: Duration,
    /// How failed requests are repeated.
    pub retry: Retry,
}

/// What is evaluated, and where the results go.
#[derive(Debug)]
pub struct Options {
    /// The examples.
    pub dataset: Dataset,
    /// Evaluate only the first so many.
    pub limit: Option<usize>,
    /// The output directory; without one, nothing is written.
    pub out: Option<PathBuf>,
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
    /// The address of the server is none.
    #[error(transparent)]
    Endpoint(ClientError),
    /// The server cannot be asked at all.
    #[error("{0}; is the server up, and --endpoint right?")]
    Server(ClientError),
    /// The server names no model.
    #[error("{url}/models lists no model; name one with --model")]
    NoModel {
        /// The address.
        url: String,
    },
}

impl Options {
    fn selected(&self) -> usize {
        self.limit.unwrap_or(usize::MAX).min(self.dataset.examples.len())
    }

    fn data_source(&self) -> DataSource {
        DataSource { source: self.dataset.source.clone(), sha256: self.dataset.sha256.clone() }
    }
}

/// Asks a server for responses and scores them. Responses that the output directory already holds are not asked for again.
///
/// # Errors
/// When the server cannot be reached at all, or a file cannot be used. A single failed request is no error but an unscored
/// sample.
pub async fn evaluate(options: &Options, server: &Server, progress: &Progress) -> Result<Evaluation, RunError> {
    let clock = Clock::start();
    let client =
        Client::new(&server.endpoint, server.key.clone(), server.timeout, server.retry).map_err(RunError::Endpoint)?;
    let model = preflight(&client, server).await?;
    let settings = Settings {
        task: TASK.into(),
        data_sha256: options.dataset.sha256.clone(),
        model: Some(model.clone()),
        sampling: Some(server.sampling.clone()),
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

    let ask = |index: usize| {
        let example: &Example = &selected[index].0;
        let (client, model, sampling) = (&client, &model, &server.sampling);
        async move {
            let messages = [Message { role: "user", content: example.prompt.clone() }];
            (index, client.chat(model, &messages, sampling).await)
        }
    };
    let mut replies = futures::stream::iter(missing).map(ask).buffer_unordered(server.concurrency.max(1));
    let mut breaker = Breaker::new(server.concurrency);
    while let Some((index, reply)) = replies.next().await {
        let stop = breaker.note(&reply);
        outcomes[index] = Some(match reply {
            Ok(reply) => {
                let answer = Answer { response: reply.content, finish_reason: reply.finish_reason };
                if let Some(directory) = &mut directory {
                    directory.keep(&selected[index].0.key, &answer)?;
                }
                Outcome::Answered(answer)
            }
            Err(error) => Outcome::Failed(error.to_string()),
        });
        progress.advance();
        if stop {
            break;
        }
    }
    progress.end();

    let not_asked = || Outcome::Failed("not asked: the server had stopped answering".into());
    let outcomes = outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(not_asked));
    let evaluation = assemble(options, outcomes, &clock, |results| {
        results.model = Some(model.clone());
        results.endpoint = Some(client.base().to_owned());
        results.sampling = Some(server.sampling.clone());
    });
    finish(directory, &evaluation)?;
    Ok(evaluation)
}

/// Scores the responses in a file.
///
/// # Errors
/// When a file cannot be used. An example without a response is no error but an unscored sample.
pub fn score_responses(options: &Options, responses: &Path) -> Result<Evaluation, RunError> {
    let clock = Clock::start();
    let settings =
        Settings { task: TASK.into(), data_sha256: options.dataset.sha256.clone(), model: None, sampling: None };
    let answers = data::read_responses(responses, &options.dataset)?;
    let source = DataSource { source: responses.display().to_string(), sha256: data::hash(&jsonl::read(responses)?) };
    let directory = options.out.as_deref().map(|out| Directory::open(out, &settings)).transpose()?;
    let outcomes = answers.into_iter().take(options.selected()).map(|answer| match answer {
        Some(response) => Outcome::Answered(Answer { response, finish_reason: None }),
        None => Outcome::Missing,
    });
    let evaluation = assemble(options, outcomes, &clock, |results| results.responses = Some(source));
    finish(directory, &evaluation)?;
    Ok(evaluation)
}

/// Finds the server up and a model to ask. A server without a model list is fine if the model is given.
async fn preflight(client: &Client, server: &Server) -> Result<String, RunError> {
    match (client.models_soon().await, &server.model) {
        (Ok(_), Some(model)) => Ok(model.clone()),
        (Ok(models), None) => {
            models.into_iter().next().ok_or_else(|| RunError::NoModel { url: client.base().to_owned() })
        }
        (Err(ClientError::Status { status, .. }), Some(model)) if !matches!(status, 401 | 403) => Ok(model.clone()),
        (Err(ClientError::Malformed { .. }), Some(model)) => Ok(model.clone()),
        (Err(error), _) => Err(RunError::Server(error)),
    }
}

struct Clock {
    started_at: String,
    started: Instant,
}

impl Clock {
    fn start() -> Self {
        let now = chrono::Utc::now();
        Self { started_at: now.to_rfc3339_opts(chrono::SecondsFormat::Secs, true), started: Instant::now() }
    }
}

fn assemble(
    options: &Options,
    outcomes: impl Iterator<Item = Outcome>,
    clock: &Clock,
    complete: impl FnOnce(&mut Results),
) -> Evaluation {
    let examples = options.dataset.examples.iter();
    let samples: Vec<Sample> =
        examples.zip(outcomes).map(|((example, scorer), outcome)| Sample::new(example, scorer, outcome)).collect();
    let mut results = Results {
        task: TASK.into(),
        task_version: TASK_VERSION.into(),
        metrics: metrics::metrics(&samples),
        counts: metrics::counts(&samples),
        by_instruction: metrics::by_instruction(&samples),
        model: None,
        endpoint: None,
        sampling: None,
        judge: None,
        lineage: None,
        data: Some(options.data_source()),
        responses: None,
        code_version: env!("CARGO_PKG_VERSION").into(),
        started_at: clock.started_at.clone(),
        seconds: clock.started.elapsed().as_secs_f64(),
    };
    complete(&mut results);
    Evaluation { results, samples }
}

fn finish(directory: Option<Directory>, evaluation: &Evaluation) -> Result<(), InputError> {
    directory.map_or(Ok(()), |directory| directory.finish(&evaluation.samples, &evaluation.results))
}
