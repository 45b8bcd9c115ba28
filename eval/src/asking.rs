//! Asking many questions of one server: the first alone, then many at a time, and no more once it is clear that nothing will
//! come back.

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::breaker::Next;
use crate::client::ClientError;
use crate::progress::Progress;

/// Who is asked. Messages name the flags of either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// The model that is measured.
    Model,
    /// The judge.
    Judge,
}

impl Party {
    /// The flag that changes the bodies of requests.
    pub fn body_flag(self) -> &'static str {
        match self {
            Self::Model => "--body",
            Self::Judge => "--judge-body",
        }
    }
}

/// Why asking the other questions would bring nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Hopeless {
    /// The server refuses what every request of the run has: its fields, its key, its model.
    #[error("{}{advice}", unended(.error))]
    Refused {
        /// What the server said to the first question.
        error: Box<ClientError>,
        /// The field that it names.
        field: Option<String>,
        /// What to do about it, as the end of the sentence.
        advice: String,
    },
    /// The replies have no room for an answer.
    #[error(
        "its first {replies} replies were cut off at the token limit before they said anything; raise the limit with \
         {flag} {field}=N"
    )]
    Cut {
        /// How many replies there were.
        replies: usize,
        /// The flag that changes the bodies of requests.
        flag: &'static str,
        /// The field with the limit.
        field: String,
    },
}

/// The message of an error without a full stop.
fn unended(error: &ClientError) -> String {
    error.to_string().trim_end_matches('.').to_owned()
}

/// How asking goes on after an item has been asked.
#[derive(Debug)]
pub struct Step<T> {
    /// How the next item is asked.
    pub next: Next,
    /// What has to be asked before the item is done.
    pub again: Option<T>,
}

impl<T> From<Next> for Step<T> {
    fn from(next: Next) -> Self {
        Self { next, again: None }
    }
}

/// Asks items until all are asked or `take`, which hears what came of each, says that it is enough. `next` is how to begin.
///
/// # Errors
/// When `take` fails.
pub async fn ask_all<T, A, E>(
    items: Vec<T>,
    concurrency: usize,
    mut next: Next,
    progress: &Progress,
    ask: impl AsyncFn(&T) -> A,
    mut take: impl FnMut(T, A) -> Result<Step<T>, E>,
) -> Result<(), E> {
    let mut items = items.into_iter();
    let mut again: Vec<T> = Vec::new();
    let ask = async |item: T| {
        let asked = ask(&item).await;
        (item, asked)
    };
    let mut in_flight = FuturesUnordered::new();
    loop {
        let room = match next {
            Next::Alone => 1,
            Next::Together => concurrency.max(1),
            Next::Stop => return Ok(()),
        };
        while in_flight.len() < room
            && let Some(item) = again.pop().or_else(|| items.next())
        {
            in_flight.push(ask(item));
        }
        let Some((item, asked)) = in_flight.next().await else { return Ok(()) };
        let step = take(item, asked)?;
        next = step.next;
        if step.again.is_none() {
            progress.advance();
        }
        again.extend(step.again);
    }
}
