//! What judging costs: an estimate before it begins, and a cap that holds while it goes on.

use super::{Reply, Request};

/// US dollars for a million tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prices {
    /// Of the questions.
    pub prompt: f64,
    /// Of the replies, reasoning included.
    pub completion: f64,
}

/// What a judge has used in this run, over all that it was asked.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Used {
    /// Tokens of the questions, as the server counts them.
    pub prompt_tokens: u64,
    /// Tokens of the replies.
    pub completion_tokens: u64,
    /// Those of them that are reasoning.
    pub reasoning_tokens: u64,
    /// Requests that were sent once more with more room.
    pub asked_again: usize,
    /// Dollars, where prices are known.
    pub dollars: f64,
}

impl Used {
    /// Counts the tokens of a reply.
    pub(super) fn note(&mut self, reply: &Reply) {
        let Some(usage) = reply.usage() else { return };
        self.prompt_tokens += usage.prompt_tokens;
        self.completion_tokens += usage.completion_tokens;
        self.reasoning_tokens += usage.reasoning_tokens;
    }
}

/// The tokens that a reply is taken to have where its request names no limit.
const REPLY_TOKENS: u64 = 1024;

impl Prices {
    fn of(self, prompt_tokens: u64, completion_tokens: u64) -> f64 {
        (prompt_tokens as f64 * self.prompt + completion_tokens as f64 * self.completion) / 1e6
    }

    /// The most that a request can cost, by an estimate of its tokens and the limit of its reply.
    pub fn most(self, request: &Request) -> f64 {
        self.of(request.prompt_tokens(), request.most_reply_tokens().unwrap_or(REPLY_TOKENS))
    }

    /// What a request has cost: by the server's count, else the most that it can.
    pub fn spent(self, request: &Request, reply: &Reply) -> f64 {
        match reply.usage() {
            Some(usage) => self.of(usage.prompt_tokens, usage.completion_tokens),
            None => self.most(request),
        }
    }
}

/// What the requests that are still to be asked come to.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Estimate {
    /// Their number.
    pub requests: usize,
    /// About how many tokens the questions have.
    pub prompt_tokens: u64,
    /// At most how many tokens the replies have.
    pub reply_tokens: u64,
    /// At most how many dollars they cost, if prices are known.
    pub dollars: Option<f64>,
}

impl Estimate {
    /// The sum over requests.
    pub fn of<'a>(requests: impl Iterator<Item = &'a Request>, prices: Option<Prices>) -> Self {
        let mut estimate = Self { dollars: prices.map(|_| 0.0), ..Self::default() };
        for request in requests {
            estimate.requests += 1;
            estimate.prompt_tokens += request.prompt_tokens();
            estimate.reply_tokens += request.most_reply_tokens().unwrap_or(REPLY_TOKENS);
            if let (Some(sum), Some(prices)) = (&mut estimate.dollars, prices) {
                *sum += prices.most(request);
            }
        }
        estimate
    }
}

/// A cap on spending. What is in flight counts with the most that it can cost, so that the cap can only be passed by as much
/// as a question has more tokens than was estimated.
#[derive(Debug)]
pub(super) struct Budget {
    prices: Option<Prices>,
    cap: Option<f64>,
    spent: f64,
    in_flight: f64,
}

impl Budget {
    /// A cap of which some is spent already.
    pub(super) fn new(prices: Option<Prices>, cap: Option<f64>, spent: f64) -> Self {
        Self { prices, cap, spent, in_flight: 0.0 }
    }

    /// Whether the request may be asked; if so, its cost is set aside.
    pub(super) fn reserve(&mut self, request: &Request) -> bool {
        let most = self.most(request);
        if self.cap.is_some_and(|cap| self.spent + self.in_flight + most > cap) {
            return false;
        }
        self.in_flight += most;
        true
    }

    /// What was set aside is spent, or free again.
    pub(super) fn settle(&mut self, request: &Request, reply: Option<&Reply>) {
        self.in_flight -= self.most(request);
        if let (Some(prices), Some(reply)) = (self.prices, reply) {
            self.spent += prices.spent(request, reply);
        }
    }

    /// The dollars so far, if prices are known.
    pub(super) fn spent(&self) -> Option<f64> {
        self.prices.map(|_| self.spent)
    }

    fn most(&self, request: &Request) -> f64 {
        self.prices.map_or(0.0, |prices| prices.most(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request() -> Request {
        // 96 characters and a frame: 28 tokens.
        Request::new(json!({"messages": [{"content": "x".repeat(96)}], "max_tokens": 2}))
    }

    fn reply(usage: &serde_json::Value) -> Reply {
        serde_json::from_value(json!({"choices": [{"message": {}}], "usage": usage})).unwrap()
    }

    const PRICES: Prices = Prices { prompt: 1e6, completion: 2e6 };

    #[test]
    fn estimates_add_up() {
        let requests = [request(), request()];
        let estimate = Estimate::of(requests.iter(), Some(PRICES));
        assert_eq!(estimate, Estimate { requests: 2, prompt_tokens: 56, reply_tokens: 4, dollars: Some(64.0) });
        assert_eq!(Estimate::of(requests.iter(), None).dollars, None);
    }

    #[test]
    fn the_cap_holds_with_requests_in_flight() {
        let mut budget = Budget::new(Some(PRICES), Some(70.0), 0.0);
        assert!(budget.reserve(&request()) && budget.reserve(&request()));
        assert!(!budget.reserve(&request()), "32 + 32 + 32 > 70");
        budget.settle(&request(), Some(&reply(&json!({"prompt_tokens": 1, "completion_tokens": 1}))));
        assert_eq!(budget.spent(), Some(3.0));
        assert!(budget.reserve(&request()));
        budget.settle(&request(), None);
        budget.settle(&request(), Some(&reply(&json!(null))));
        assert_eq!(budget.spent(), Some(35.0), "a reply that is not counted costs what it may cost");
        assert!(budget.reserve(&request()));
        assert!(!budget.reserve(&request()));
    }
}
