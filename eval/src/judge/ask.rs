//! Asking many questions.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Mutex;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::cost::{Budget, Estimate, Prices, Used};
use super::verdicts::{Sent, VerdictStore};
use super::{Pace, Reply, Request, way};
use crate::asking::{Hopeless, Party, Step, ask_all};
use crate::body::Edits;
use crate::breaker::{Breaker, Next, limit};
use crate::client::{Client, ClientError};
use crate::jsonl::InputError;
use crate::learning::Lessons;
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
    /// What it has used so far in this run.
    pub used: Mutex<Used>,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// A reply, now or in an earlier run.
    Replied(Reply),
    /// A content filter withheld the reply.
    Filtered(String),
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
            Self::Filtered(_) | Self::Failed(_) | Self::NotAsked(_) => None,
        }
    }

    /// Why there is no reply.
    pub fn problem(&self) -> Option<&str> {
        match self {
            Self::Replied(_) => None,
            Self::Filtered(problem) | Self::Failed(problem) | Self::NotAsked(problem) => Some(problem),
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
    /// Tokens of the replies, reasoning included.
    pub completion_tokens: u64,
    /// Those of them that are reasoning, where the server counts them. They are part of the tokens of the replies.
    #[serde(default)]
    pub reasoning_tokens: u64,
    /// Requests whose first reply was reasoning up to its limit, and that were sent once more with twice the limit.
    #[serde(default)]
    pub asked_again: usize,
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
    /// The user does not agree to what it costs, or to where it goes.
    #[error("{0}")]
    NotAgreed(String),
}

/// Why no verdict could be read from a reply.
#[derive(Debug, Clone, PartialEq)]
pub struct Unread<E> {
    /// The reason.
    pub why: Why<E>,
    /// The field whose limit cut the reply off, if it was cut off.
    limit: Option<&'static str>,
    /// True if the model has reasoned, as far as its server says so.
    has_reasoned: bool,
}

/// The kinds of ends that a request to a judge comes to. Only a verdict is scored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Outcomes {
    /// Replies with a verdict.
    pub verdict: usize,
    /// Replies that were cut off at the token limit before the verdict.
    pub cut: usize,
    /// Replies that are reasoning and nothing else, also with twice the limit.
    pub empty_after_reasoning: usize,
    /// Replies that are empty.
    pub empty: usize,
    /// Replies that are refusals.
    pub refused: usize,
    /// Replies that a content filter withheld.
    pub filtered: usize,
    /// Replies that hold no verdict.
    pub unparsable: usize,
    /// Requests without a usable reply after all tries.
    pub failed: usize,
    /// Requests that were not sent.
    pub not_asked: usize,
}

impl Outcomes {
    /// Counts what became of a request. `read` is what was read from its reply.
    pub fn note<T, E>(&mut self, outcome: &Outcome, read: Option<&Result<T, Unread<E>>>) {
        let count = match (outcome, read) {
            (Outcome::Replied(_), Some(Ok(_))) => &mut self.verdict,
            (Outcome::Replied(_), Some(Err(unread))) => self.of_unread(unread),
            (Outcome::Replied(_), None) => &mut self.unparsable,
            (Outcome::Filtered(_), _) => &mut self.filtered,
            (Outcome::Failed(_), _) => &mut self.failed,
            (Outcome::NotAsked(_), _) => &mut self.not_asked,
        };
        *count += 1;
    }

    fn of_unread<E>(&mut self, unread: &Unread<E>) -> &mut usize {
        match &unread.why {
            Why::NoVerdict(_) if unread.limit.is_some() => &mut self.cut,
            Why::NoVerdict(_) => &mut self.unparsable,
            Why::NoAnswer(NoAnswer::Refused(_)) => &mut self.refused,
            Why::NoAnswer(NoAnswer::Cut | NoAnswer::Unfinished) => &mut self.empty_after_reasoning,
            Why::NoAnswer(NoAnswer::Empty) if unread.has_reasoned => &mut self.empty_after_reasoning,
            Why::NoAnswer(NoAnswer::Empty) => &mut self.empty,
        }
    }
}

impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let others = [
            (self.cut, "cut"),
            (self.empty_after_reasoning, "empty after reasoning"),
            (self.empty, "empty"),
            (self.refused, "refused"),
            (self.filtered, "filtered"),
            (self.unparsable, "unparsable"),
            (self.failed, "failed"),
            (self.not_asked, "not asked"),
        ];
        f.write_str(&crate::table::count(self.verdict, "verdict"))?;
        others.iter().filter(|(count, _)| *count > 0).try_for_each(|(count, name)| write!(f, ", {count} {name}"))
    }
}

/// The reason why no verdict could be read.
#[derive(Debug, Clone, PartialEq)]
pub enum Why<E> {
    /// The reply says nothing.
    NoAnswer(NoAnswer),
    /// What it says holds no verdict.
    NoVerdict(E),
}

impl<E> Unread<E> {
    /// The same with another form of the reason why what was said holds no verdict.
    pub fn map<F>(self, to: impl FnOnce(E) -> F) -> Unread<F> {
        let why = match self.why {
            Why::NoAnswer(problem) => Why::NoAnswer(problem),
            Why::NoVerdict(problem) => Why::NoVerdict(to(problem)),
        };
        Unread { why, limit: self.limit, has_reasoned: self.has_reasoned }
    }
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
        Err(Unread { why, limit: was_cut.then_some(limit), has_reasoned: reply.has_reasoned() })
    }

    /// The fields of requests beside model and messages as they are sent, after the user's changes and what was learnt.
    pub fn parameters(&self, mut fields: Map<String, Value>, model: &str, store: &VerdictStore) -> Map<String, Value> {
        self.edits.apply(&mut fields);
        Lessons::new(store.lessons(None, model)).apply(&mut fields);
        fields
    }

    /// Adds to the description of this judge what became of the requests, and what was learnt about it.
    pub fn describe_ends(&self, outcomes: &Outcomes, model: &str, store: &VerdictStore, described: &mut Value) {
        described["outcomes"] = serde_json::to_value(outcomes).expect("numbers are JSON");
        let lessons = store.lessons(None, model);
        if !lessons.is_empty() {
            described["learnt"] = serde_json::to_value(lessons).expect("lessons are JSON");
        }
    }

    /// The reply in the store that counts for a request: the one to the request with more room, where that was needed.
    pub fn reply<'a>(&self, request: &Request, store: &'a VerdictStore) -> Option<&'a Reply> {
        let reply = store.get(&request.key())?;
        let second = self.needs_more_room(reply).then(|| request.with_more_room()).flatten();
        second.and_then(|second| store.get(&second.key())).or(Some(reply))
    }

    /// The request that is to be sent, unless the store has all that can be had: the request itself, or the one with more room.
    fn next(&self, request: &Request, store: &VerdictStore) -> Option<Request> {
        match store.get(&request.key()) {
            None => Some(request.clone()),
            Some(reply) if self.needs_more_room(reply) => {
                request.with_more_room().filter(|second| store.get(&second.key()).is_none())
            }
            Some(_) => None,
        }
    }

    /// True if a judge has spent all its tokens before it said anything. A model that is measured has had its chance.
    fn needs_more_room(&self, reply: &Reply) -> bool {
        self.party == Party::Judge && reply.without(&self.reasoning).is_err_and(|problem| problem == NoAnswer::Cut)
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
            if self.reply(request, store).is_some_and(|reply| !is_read(index, request, reply)) {
                store.forget(&request.key());
                request.with_more_room().iter().for_each(|second| store.forget(&second.key()));
            }
        }
    }

    /// What asking the requests would take that the store has no reply to.
    pub fn estimate(&self, requests: &[Request], store: &VerdictStore) -> Estimate {
        let keys: Vec<String> = requests.iter().map(Request::key).collect();
        Estimate::of(self.missing(requests, &keys, store).iter().map(|todo| &todo.request), self.prices)
    }

    /// The first request of each key that the store has no reply to, in order.
    fn missing(&self, requests: &[Request], keys: &[String], store: &VerdictStore) -> Vec<Todo> {
        let mut seen = HashSet::new();
        let first = (0..keys.len()).filter(|&index| seen.insert(&keys[index]));
        first.filter_map(|index| Some(Todo { index, request: self.next(&requests[index], store)? })).collect()
    }

    /// Asks the requests that the store has no reply to, and gives what became of each, in order. The first of them go
    /// alone until one brings an answer: if `fit` refuses it, or the server is not there or takes no such request, the others
    /// are not asked. What a server says meanwhile about a field is learnt, and the request sent again ([`Lessons`]).
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
        let missing = self.missing(requests, &keys, store);
        let unique = keys.iter().collect::<HashSet<_>>().len();
        let cached = unique - missing.len();
        progress.begin(unique, cached);

        let endpoint = self.client.base();
        let model = requests.first().and_then(|request| request.body["model"].as_str()).unwrap_or_default();
        let lessons = Mutex::new(Lessons::new(store.lessons(Some(endpoint), model)));
        let budget = Mutex::new(Budget::new(self.prices, self.max_cost, lock(&self.used).dollars));
        let mut problems: HashMap<&str, Outcome> = HashMap::new();
        let mut breaker = Breaker::new(self.party, self.concurrency, self.reasoning.clone());
        let ask = async |todo: &Todo| {
            let sent = lock(&lessons).applied(&todo.request.body);
            self.ask_one(Request { body: sent, repeat: todo.request.repeat }, &budget).await
        };
        let take = |todo: Todo, asked: Option<Asked>| {
            let (key, request) = (keys[todo.index].as_str(), &todo.request);
            let Some(Asked { sent: Request { body, repeat }, result, seconds }) = asked else {
                problems.insert(key, Outcome::NotAsked("not asked: the spending cap is reached".into()));
                return Ok(breaker.next().into());
            };
            let is_alone = breaker.next() == Next::Alone;
            let learnt = match &result {
                Err(error) if is_alone => lock(&lessons).learn(self.party, &self.edits, &body, error),
                _ => None,
            };
            let lost = match &result {
                Err(error) if is_alone && learnt.is_none() => way::lost(&body, error),
                _ => None,
            };
            let kept =
                Sent { endpoint, seconds, body: &body, outcome: &result, learnt: learnt.as_ref().or(lost.as_ref()) };
            store.keep(&request.key(), repeat, kept)?;
            if let Some(lesson) = learnt {
                lesson.announce(self.party);
                return Ok(Step { next: Next::Alone, again: Some(todo) });
            }
            match &result {
                Ok(reply) => {
                    lock(&self.used).note(reply);
                    if let Ok(answer) = reply.without(&self.reasoning)
                        && is_alone
                    {
                        let unfit = |problem| JudgeError::Unfit { endpoint: endpoint.to_owned(), problem };
                        fit(&answer).map_err(unfit)?;
                    }
                    // Twice the room is given once: to the request that is the item's own.
                    if self.needs_more_room(reply)
                        && request.key() == key
                        && let Some(second) = request.with_more_room()
                    {
                        lock(&self.used).asked_again += 1;
                        return Ok(Step { next: breaker.next(), again: Some(Todo { request: second, ..todo }) });
                    }
                }
                Err(error @ ClientError::Unreachable { .. }) if is_alone => {
                    return Err(JudgeError::Unreachable(error.clone()));
                }
                Err(error @ ClientError::Filtered { .. }) => {
                    problems.insert(key, Outcome::Filtered(error.to_string()));
                }
                Err(error) => drop(problems.insert(key, Outcome::Failed(error.to_string()))),
            }
            breaker.note(&body, &result).map(Step::from).map_err(JudgeError::Hopeless)
        };
        let asked = ask_all(missing, self.concurrency, Next::Alone, progress, ask, take).await;
        let dollars = budget.into_inner().expect("nothing panics while it holds the lock").spent();
        lock(&self.used).dollars = dollars.unwrap_or_default();
        asked?;
        progress.end();

        let outcome = |(request, key): (&Request, &String)| match self.reply(request, store) {
            Some(reply) => Outcome::Replied(reply.clone()),
            None => {
                let not_asked = || Outcome::NotAsked(breaker.not_asked());
                problems.get(key.as_str()).cloned().unwrap_or_else(not_asked)
            }
        };
        let outcomes: Vec<Outcome> = requests.iter().zip(&keys).map(outcome).collect();
        let failed = |key: &&String| store.get(key).is_none();
        let Used { prompt_tokens, completion_tokens, reasoning_tokens, asked_again, .. } = *lock(&self.used);
        let tally = Tally {
            requests: unique,
            cached,
            failed: keys.iter().filter(failed).collect::<HashSet<_>>().len(),
            prompt_tokens,
            completion_tokens,
            reasoning_tokens,
            asked_again,
            dollars,
        };
        Ok((outcomes, tally))
    }

    /// Sends a request; `None` if the budget does not allow it.
    async fn ask_one(&self, sent: Request, budget: &Mutex<Budget>) -> Option<Asked> {
        if !lock(budget).reserve(&sent) {
            return None;
        }
        let tokens = sent.prompt_tokens() + sent.most_reply_tokens().unwrap_or(0);
        let started = Instant::now();
        let result = self.client.chat(&sent.body, async || self.pace.wait(tokens).await).await;
        lock(budget).settle(&sent, result.as_ref().ok());
        Some(Asked { sent, result, seconds: started.elapsed().as_secs_f64() })
    }
}

/// What is to be sent for a request of the run.
struct Todo {
    /// The place of the request.
    index: usize,
    /// The request itself, or the one with more room.
    request: Request,
}

/// A request that went out.
struct Asked {
    sent: Request,
    result: Result<Reply, ClientError>,
    seconds: f64,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds the lock")
}
