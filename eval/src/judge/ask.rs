//! Asking many questions.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Mutex;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::cost::{Budget, Estimate, Prices};
use super::verdicts::VerdictStore;
use super::{Pace, Reply, Request};
use crate::asking::{Hopeless, Party, ask_all};
use crate::body::Edits;
use crate::breaker::{Breaker, Next, limit};
use crate::client::{Client, ClientError};
use crate::jsonl::InputError;
use crate::progress::Progress;
use crate::reasoning::Reasoning;
use crate::reply::{LENGTH, NoAnswer};

/// A model that gives verdicts, and what asking it may take.
#[derive(Debug)]
pub struct Judge {
    /// Its server.
    pub client: Client,
    /// Whether it is a judge: a model that is measured is asked in the same way.
    pub party: Party,
    /// The number of requests in flight.
    pub concurrency: usize,
    /// Requests and tokens per minute.
    pub pace: Pace,
    /// What tokens cost, if that is known.
    pub prices: Option<Prices>,
    /// The most dollars that one run may spend; it takes prices.
    pub max_cost: Option<f64>,
    /// What the user changes in the bodies of requests.
    pub edits: Edits,
    /// The reasoning that is taken out of replies before a verdict is read from them.
    pub reasoning: Reasoning,
    /// Whether replies from which no verdict could be read are asked for again.
    pub retry_unscored: bool,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// A reply, now or in an earlier run.
    Replied(Reply),
    /// No usable reply after all tries, for this reason.
    Failed(String),
    /// Not asked, for this reason.
    NotAsked(String),
}

impl Outcome {
    /// The reply, if there is one.
    pub fn reply(&self) -> Option<&Reply> {
        match self {
            Self::Replied(reply) => Some(reply),
            Self::Failed(_) | Self::NotAsked(_) => None,
        }
    }

    /// Why there is no reply.
    pub fn problem(&self) -> Option<&str> {
        match self {
            Self::Replied(_) => None,
            Self::Failed(problem) | Self::NotAsked(problem) => Some(problem),
        }
    }
}

/// What a run of requests came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Requests, each counted once however often it occurs.
    pub requests: usize,
    /// Replies that were on disk already.
    pub cached: usize,
    /// Requests without a reply.
    pub failed: usize,
    /// Tokens of the questions that were asked now, as the server counts them.
    pub prompt_tokens: u64,
    /// Tokens of the replies.
    pub completion_tokens: u64,
    /// Dollars spent now, where prices are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dollars: Option<f64>,
}

/// Why nothing more could be asked.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// The verdict store.
    #[error(transparent)]
    Store(#[from] InputError),
    /// The judge answers no question of the run.
    #[error("the judge cannot be asked: {0}")]
    Hopeless(Hopeless),
    /// The first reply shows that this judge cannot be used.
    #[error("the judge at {endpoint} cannot be used: {problem}")]
    Unfit {
        /// Where it was asked.
        endpoint: String,
        /// What is wrong.
        problem: String,
    },
    /// The server is not there.
    #[error("the judge cannot be asked: {0}")]
    Unreachable(ClientError),
}

/// Why no verdict could be read from a reply.
#[derive(Debug, Clone, PartialEq)]
pub struct Unread<E> {
    /// The reason.
    pub why: Why<E>,
    /// The field whose limit cut the reply off, if it was cut off.
    limit: Option<&'static str>,
}

/// The reason why no verdict could be read.
#[derive(Debug, Clone, PartialEq)]
pub enum Why<E> {
    /// The reply says nothing.
    NoAnswer(NoAnswer),
    /// What it says holds no verdict.
    NoVerdict(E),
}

impl<E: fmt::Display> fmt::Display for Unread<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Why::NoAnswer(problem) => write!(f, "the judge's reply {problem}")?,
            Why::NoVerdict(problem) => problem.fmt(f)?,
        }
        let Some(limit) = self.limit else { return Ok(()) };
        let flag = Party::Judge.body_flag();
        match &self.why {
            Why::NoAnswer(_) => write!(f, "; raise the limit with {flag} {limit}=N"),
            Why::NoVerdict(_) => write!(f, " (it was cut off at its token limit; raise it with {flag} {limit}=N)"),
        }
    }
}

impl Judge {
    /// Changes requests as the user asked for.
    pub fn edit(&self, requests: &mut [Request]) {
        for body in requests.iter_mut().filter_map(|request| request.body.as_object_mut()) {
            self.edits.apply(body);
        }
    }

    /// Reads a verdict from a reply to a request, without the reply's reasoning.
    ///
    /// # Errors
    /// When there is none.
    pub fn read<T, E>(
        &self,
        request: &Request,
        reply: &Reply,
        verdict: impl FnOnce(&Reply) -> Result<T, E>,
    ) -> Result<T, Unread<E>> {
        let why = match reply.without(&self.reasoning) {
            Ok(answer) => match verdict(&answer) {
                Ok(verdict) => return Ok(verdict),
                Err(problem) => Why::NoVerdict(problem),
            },
            Err(problem) => Why::NoAnswer(problem),
        };
        // One token is all that a verdict by log-probabilities takes: that it ends there is as it should be.
        let was_cut = match &why {
            Why::NoAnswer(problem) => *problem == NoAnswer::Cut,
            Why::NoVerdict(_) => {
                reply.finish_reason().as_deref() == Some(LENGTH) && request.most_reply_tokens() != Some(1)
            }
        };
        let limit = limit(&request.body).unwrap_or("max_tokens");
        Err(Unread { why, limit: was_cut.then_some(limit) })
    }

    /// Forgets the replies in the store that `is_read` finds no verdict in, if they are to be asked for again.
    pub fn forget_unread(
        &self,
        requests: &[Request],
        store: &mut VerdictStore,
        is_read: impl Fn(usize, &Request, &Reply) -> bool,
    ) {
        if !self.retry_unscored {
            return;
        }
        for (index, request) in requests.iter().enumerate() {
            let key = request.key();
            if store.get(&key).is_some_and(|reply| !is_read(index, request, reply)) {
                store.forget(&key);
            }
        }
    }

    /// What asking the requests would take that the store has no reply to.
    pub fn estimate(&self, requests: &[Request], store: &VerdictStore) -> Estimate {
        let keys: Vec<String> = requests.iter().map(Request::key).collect();
        let missing = missing(&keys, store);
        Estimate::of(missing.into_iter().map(|index| &requests[index]), self.prices)
    }

    /// Asks the requests that the store has no reply to, and gives what became of each, in order. The first of them go
    /// alone until one brings an answer: if `fit` refuses it, or the server is not there or takes no such request, the others
    /// are not asked.
    ///
    /// # Errors
    /// When the store cannot be written, or the judge cannot be used at all. What had been replied is in the store.
    pub async fn ask(
        &self,
        requests: &[Request],
        store: &mut VerdictStore,
        fit: impl Fn(&Reply) -> Result<(), String>,
        progress: &Progress,
    ) -> Result<(Vec<Outcome>, Tally), JudgeError> {
        let keys: Vec<String> = requests.iter().map(Request::key).collect();
        let missing = missing(&keys, store);
        let unique = keys.iter().collect::<HashSet<_>>().len();
        let mut tally = Tally { requests: unique, cached: unique - missing.len(), ..Tally::default() };
        progress.begin(unique, tally.cached);

        let budget = Mutex::new(Budget::new(self.prices, self.max_cost));
        let mut problems: HashMap<&str, Outcome> = HashMap::new();
        let mut breaker = Breaker::new(self.party, self.concurrency, self.reasoning.clone());
        let ask = async |&index: &usize| self.ask_one(&requests[index], &budget).await;
        let take = |index: usize, asked: Option<Asked>| {
            let (key, request) = (keys[index].as_str(), &requests[index]);
            let Some(Asked { result, seconds }) = asked else {
                problems.insert(key, Outcome::NotAsked("not asked: the spending cap is reached".into()));
                return Ok(breaker.next());
            };
            let endpoint = self.client.base();
            store.keep(key, request, endpoint, seconds, &result)?;
            match &result {
                Ok(reply) => {
                    if let Some(usage) = reply.usage() {
                        tally.prompt_tokens += usage.prompt_tokens;
                        tally.completion_tokens += usage.completion_tokens;
                    }
                    if let Ok(answer) = reply.without(&self.reasoning)
                        && breaker.next() == Next::Alone
                    {
                        let unfit = |problem| JudgeError::Unfit { endpoint: endpoint.to_owned(), problem };
                        fit(&answer).map_err(unfit)?;
                    }
                }
                Err(error @ ClientError::Unreachable { .. }) if breaker.next() == Next::Alone => {
                    return Err(JudgeError::Unreachable(error.clone()));
                }
                Err(error) => drop(problems.insert(key, Outcome::Failed(error.to_string()))),
            }
            breaker.note(&request.body, &result).map_err(JudgeError::Hopeless)
        };
        ask_all(missing, self.concurrency, Next::Alone, progress, ask, take).await?;
        progress.end();
        tally.dollars = budget.into_inner().expect("nothing panics while it holds the lock").spent();

        let outcome = |key: &String| match store.get(key) {
            Some(reply) => Outcome::Replied(reply.clone()),
            None => {
                let not_asked = || Outcome::NotAsked(breaker.not_asked());
                problems.get(key.as_str()).cloned().unwrap_or_else(not_asked)
            }
        };
        let outcomes: Vec<Outcome> = keys.iter().map(outcome).collect();
        let failed = |key: &&String| store.get(key).is_none();
        tally.failed = keys.iter().filter(failed).collect::<HashSet<_>>().len();
        Ok((outcomes, tally))
    }

    /// Asks one request; `None` if the budget does not allow it.
    async fn ask_one(&self, request: &Request, budget: &Mutex<Budget>) -> Option<Asked> {
        let lock = || budget.lock().expect("nothing panics while it holds the lock");
        if !lock().reserve(request) {
            return None;
        }
        let tokens = request.prompt_tokens() + request.most_reply_tokens().unwrap_or(0);
        let started = Instant::now();
        let result = self.client.chat(&request.body, async || self.pace.wait(tokens).await).await;
        lock().settle(request, result.as_ref().ok());
        Some(Asked { result, seconds: started.elapsed().as_secs_f64() })
    }
}

/// A request that went out.
struct Asked {
    result: Result<Reply, ClientError>,
    seconds: f64,
}

/// The first request of each key that the store has no reply to, in order.
fn missing(keys: &[String], store: &VerdictStore) -> Vec<usize> {
    let mut seen = HashSet::new();
    let is_missing = |&index: &usize| store.get(&keys[index]).is_none() && seen.insert(&keys[index]);
    (0..keys.len()).filter(is_missing).collect()
}
