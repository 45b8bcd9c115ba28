//! The model's answers: asked for, or from a file, and put beside the baseline's.

use std::borrow::Cow;
use std::sync::Mutex;

use serde_json::Value;

use super::comparison::{Comparison, Problem};
use super::outputs::{Output, Outputs};
use crate::asking::{Hopeless, Party};
use crate::client::Message;
use crate::jsonl::InputError;
use crate::judge::verdicts::VerdictStore;
use crate::judge::{Judge, JudgeError, Outcome, Pace, Request};
use crate::learning::Lesson;
use crate::progress::Progress;
use crate::reasoning::Reasoning;
use crate::server::{Connected, Server, ServerError};

/// A model that answers.
#[derive(Debug)]
pub struct Respondent {
    /// Its name on the server.
    pub model: String,
    /// The address that it was asked at.
    pub endpoint: String,
    /// Where it comes from, if its server says so.
    pub lineage: Option<Value>,
    /// The fields that its server refused, and what was done about them.
    pub learnt: Vec<Lesson>,
}

/// Why a model could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The server.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// It went away before the first answer.
    #[error("{0}; is the server up, and --endpoint right?")]
    Silent(crate::client::ClientError),
    /// It answers no question of the run.
    #[error("the model cannot be asked: {0}")]
    Hopeless(Hopeless),
    /// The file of the answers.
    #[error(transparent)]
    File(#[from] InputError),
}

/// Asks a server for an answer to each instruction. Every answer is kept in the store as it arrives; what is there
/// already is not asked again.
///
/// # Errors
/// When the server cannot be asked at all, or the store cannot be written. A failed request is no error but a
/// comparison without an answer.
pub async fn ask(
    references: &[Output],
    server: &Server,
    store: &mut VerdictStore,
    progress: &Progress,
) -> Result<(Vec<Comparison>, Respondent), AnswerError> {
    let Connected { client, model, lineage } = server.connect().await?;
    let endpoint = client.base().to_owned();
    let request = |reference: &Output| {
        let user = Message { role: "user", content: reference.instruction.clone() };
        Request::new(server.body(&model, &[user], &server.sampling))
    };
    let requests: Vec<Request> = references.iter().map(request).collect();
    // Asking and keeping is the same for answers as for verdicts.
    let asker = Judge {
        client,
        party: Party::Model,
        concurrency: server.concurrency,
        pace: Pace::new(None, None),
        prices: None,
        max_cost: None,
        edits: server.edits.clone(),
        reasoning: Reasoning::default(),
        retry_unscored: false,
        used: Mutex::default(),
    };
    let (outcomes, _) = asker.ask(&requests, store, |_| Ok(()), progress).await.map_err(|error| match error {
        JudgeError::Store(error) => AnswerError::File(error),
        JudgeError::Unreachable(error) => AnswerError::Silent(error),
        JudgeError::Hopeless(end) => AnswerError::Hopeless(end),
        JudgeError::Unfit { .. } | JudgeError::NotAgreed(_) => {
            unreachable!("every reply is fit, and nobody has to agree")
        }
    })?;
    let comparison = |(reference, outcome): (&Output, Outcome)| {
        let comparison = of_reference(reference);
        match outcome {
            Outcome::Replied(reply) => Comparison {
                response: Some(reply.answer()),
                finish_reason: reply.finish_reason().map(Cow::into_owned),
                ..comparison
            },
            Outcome::Filtered(reason) | Outcome::Failed(reason) | Outcome::NotAsked(reason) => {
                Comparison { problem: Some(Problem::Unanswered(reason)), ..comparison }
            }
        }
    };
    let comparisons = references.iter().zip(outcomes).map(comparison).collect();
    let learnt = store.lessons(None, &model);
    Ok((comparisons, Respondent { model, endpoint, lineage, learnt }))
}

/// Puts the answers of a file beside the baseline's, in the order of the latter. An instruction that the file does not
/// have gives a comparison without an answer.
pub fn pair(references: &[Output], outputs: &Outputs) -> Vec<Comparison> {
    let comparison = |reference: &Output| {
        let comparison = of_reference(reference);
        match outputs.get(&reference.instruction) {
            Some(output) => Comparison { response: Some(output.output.clone()), ..comparison },
            None => {
                let reason = format!("`{}` has no answer to this instruction", outputs.source.source);
                Comparison { problem: Some(Problem::Missing(reason)), ..comparison }
            }
        }
    };
    references.iter().map(comparison).collect()
}

fn of_reference(reference: &Output) -> Comparison {
    Comparison {
        dataset: reference.dataset.clone(),
        instruction: reference.instruction.clone(),
        reference: reference.output.clone(),
        ..Comparison::default()
    }
}

/// Takes reasoning out of the answers; one whose reasoning does not end becomes empty. Returns how many held reasoning,
/// and how many of them were left empty so.
pub fn strip_reasoning(comparisons: &mut [Comparison], reasoning: &Reasoning) -> (usize, usize) {
    let (mut stripped, mut unterminated) = (0, 0);
    for comparison in comparisons {
        let Some(found) = comparison.response.as_deref().and_then(|response| reasoning.strip(response)) else {
            continue;
        };
        stripped += 1;
        unterminated += usize::from(found.answer.is_none());
        comparison.raw_response = comparison.response.replace(found.answer.unwrap_or_default());
    }
    (stripped, unterminated)
}
