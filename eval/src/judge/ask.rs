//! Asking many questions.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::Instant;

use futures::StreamExt;
use serde::{Deserialize, Serialize};

use super::cost::{Budget, Estimate, Prices};
use super::verdicts::VerdictStore;
use super::{Pace, Reply, Request};
use crate::breaker::Breaker;
use crate::client::{Client, ClientError};
use crate::jsonl::InputError;
use crate::progress::Progress;

/// A model that gives verdicts, and what asking it may take.
#[derive(Debug)]
pub struct Judge {
    /// Its server.
    pub client: Client,
    /// The number of requests in flight.
    pub concurrency: usize,
    /// Requests and tokens per minute.
    pub pace: Pace,
    /// What tokens cost, if that is known.
    pub prices: Option<Prices>,
    /// The most dollars that one run may spend; it takes prices.
    pub max_cost: Option<f64>,
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
    /// The first reply shows that this judge cannot be used.
    #[error("the judge at {endpoint} cannot be used: {problem}")]
    Unfit {
        /// Where it was asked.
        endpoint: String,
        /// What is wrong.
        problem: String,
    },
    /// The server cannot be asked at all: it is not there, or wants another key, or has no such model.
    #[error("the judge cannot be asked: {0}")]
    Unreachable(ClientError),
}

impl Judge {
    /// What asking the requests would take that the store has no reply to.
    pub fn estimate(&self, requests: &[Request], store: &VerdictStore) -> Estimate {
        let keys: Vec<String> = requests.iter().map(Request::key).collect();
        let missing = missing(&keys, store);
        Estimate::of(missing.into_iter().map(|index| &requests[index]), self.prices)
    }

    /// Asks the requests that the store has no reply to, and gives what became of each, in order. The first of them goes
    /// alone: if `fit` refuses its reply, or its server is not there or lets nobody in, the others are not asked.
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
        let order = missing(&keys, store);
        let unique = keys.iter().collect::<HashSet<_>>().len();
        let mut tally = Tally { requests: unique, cached: unique - order.len(), ..Tally::default() };
        progress.begin(unique, tally.cached);

        let budget = Mutex::new(Budget::new(self.prices, self.max_cost));
        let mut problems: HashMap<&str, Outcome> = HashMap::new();
        let mut breaker = Breaker::new(self.concurrency);
        let mut rest = order.as_slice();
        if let Some((&first, others)) = rest.split_first() {
            rest = others;
            let asked = self.ask_one(&requests[first], &budget).await;
            if let Some(Asked { result: Err(error), .. }) = &asked
                && is_about_all(error)
            {
                return Err(JudgeError::Unreachable(error.clone()));
            }
            let reply = self.keep(&keys[first], &requests[first], asked, store, &mut tally, &mut problems)?;
            if let Some(problem) = reply.and_then(|reply| fit(&reply).err()) {
                return Err(JudgeError::Unfit { endpoint: self.client.base().to_owned(), problem });
            }
            progress.advance();
        }
        let ask = async |&index: &usize| (index, self.ask_one(&requests[index], &budget).await);
        let mut replies = futures::stream::iter(rest).map(ask).buffer_unordered(self.concurrency.max(1));
        while let Some((index, asked)) = replies.next().await {
            let stop = asked.as_ref().is_some_and(|asked| breaker.note(&asked.result));
            self.keep(&keys[index], &requests[index], asked, store, &mut tally, &mut problems)?;
            progress.advance();
            if stop {
                break;
            }
        }
        drop(replies);
        progress.end();
        tally.dollars = budget.into_inner().expect("nothing panics while it holds the lock").spent();

        let gone = || Outcome::NotAsked("not asked: the judge had stopped answering".into());
        let outcome = |key: &String| match store.get(key) {
            Some(reply) => Outcome::Replied(reply.clone()),
            None => problems.get(key.as_str()).cloned().unwrap_or_else(gone),
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
        let result = self.client.post_chat::<Reply>(&request.body, async || self.pace.wait(tokens).await).await;
        lock().settle(request, result.as_ref().ok());
        Some(Asked { result, seconds: started.elapsed().as_secs_f64() })
    }

    /// Puts what came back into the store, and gives it if it is a reply.
    fn keep<'a>(
        &self,
        key: &'a str,
        request: &Request,
        asked: Option<Asked>,
        store: &mut VerdictStore,
        tally: &mut Tally,
        problems: &mut HashMap<&'a str, Outcome>,
    ) -> Result<Option<Reply>, InputError> {
        let Some(Asked { result, seconds }) = asked else {
            problems.insert(key, Outcome::NotAsked("not asked: the spending cap is reached".into()));
            return Ok(None);
        };
        let endpoint = self.client.base();
        match result {
            Ok(reply) => {
                store.keep(key, request, endpoint, seconds, Ok(&reply))?;
                if let Some(usage) = reply.usage() {
                    tally.prompt_tokens += usage.prompt_tokens;
                    tally.completion_tokens += usage.completion_tokens;
                }
                Ok(Some(reply))
            }
            Err(error) => {
                let problem = error.to_string();
                store.keep(key, request, endpoint, seconds, Err(&problem))?;
                problems.insert(key, Outcome::Failed(problem));
                Ok(None)
            }
        }
    }
}

/// A request that went out.
struct Asked {
    result: Result<Reply, ClientError>,
    seconds: f64,
}

/// Whether what befell one request will befall them all.
fn is_about_all(error: &ClientError) -> bool {
    matches!(error, ClientError::Unreachable { .. } | ClientError::Status { status: 401 | 403 | 404, .. })
}

/// The first request of each key that the store has no reply to, in order.
fn missing(keys: &[String], store: &VerdictStore) -> Vec<usize> {
    let mut seen = HashSet::new();
    let is_missing = |&index: &usize| store.get(&keys[index]).is_none() && seen.insert(&keys[index]);
    (0..keys.len()).filter(is_missing).collect()
}
