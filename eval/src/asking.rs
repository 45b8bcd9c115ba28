//! Asking many questions of one server: the first alone, then many at a time, and no more once it is clear that nothing will
//! come back.

use futures::StreamExt;

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
    mut take: impl FnMut(T, A) -> Result<Next, E>,
) -> Result<(), E> {
    let mut items = items.into_iter();
    while next == Next::Alone
        && let Some(item) = items.next()
    {
        let asked = ask(&item).await;
        next = take(item, asked)?;
        progress.advance();
    }
    if next == Next::Stop {
        return Ok(());
    }
    let ask = async |item: T| {
        let asked = ask(&item).await;
        (item, asked)
    };
    let mut replies = futures::stream::iter(items).map(ask).buffer_unordered(concurrency.max(1));
    while let Some((item, asked)) = replies.next().await {
        let next = take(item, asked)?;
        progress.advance();
        if next == Next::Stop {
            break;
        }
    }
    Ok(())
}
