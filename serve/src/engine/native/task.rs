//! What the logits of a sequence are for: the next token of a reply, or the scores of a text.

use rayon::prelude::*;

use crate::engine::sampling::{self, SampledToken, Sampler};
use crate::engine::{CachedTokens, EngineError, Finish, ScoringSender, Step, StepSender};

/// The purpose of a sequence.
pub enum Task {
    /// To be continued.
    Reply(Box<Reply>),
    /// To be scored.
    Score(Score),
}

/// A reply in the making.
pub struct Reply {
    /// Chooses its tokens, and knows those it has.
    pub sampler: Sampler,
    /// How many tokens it may still have.
    pub left: usize,
    /// The tokens that end it.
    pub eos_ids: Vec<u32>,
    /// How many alternatives each token carries.
    pub top_logprobs: usize,
    /// Where the tokens go.
    pub steps: StepSender,
    /// Where it is noted how many tokens of the prompt were known.
    pub cached: CachedTokens,
}

/// The scores of a text in the making.
pub struct Score {
    /// The tokens that are scored.
    pub ids: Vec<u32>,
    /// How many alternatives each token carries.
    pub top_logprobs: usize,
    /// Those that are scored already.
    pub scored: Vec<SampledToken>,
    /// Where the scores go.
    pub scores: ScoringSender,
}

/// What a step did to a sequence.
pub enum Outcome {
    /// A token was chosen, and more are to follow.
    Chosen(u32),
    /// So many rows were scored, and more are to follow.
    Scored(usize),
    /// Nothing is left to do, or nobody waits for it.
    Done,
    /// It cannot be continued.
    Failed(EngineError),
}

impl Task {
    /// True if nobody waits for it any more.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Reply(reply) => reply.steps.is_closed(),
            Self::Score(score) => score.scores.is_closed(),
        }
    }

    /// Uses the logits of the sequence's wanted rows, `(rows, vocabulary)`; a reply has one. `cached` tokens of its
    /// prompt were known.
    pub fn advance(&mut self, logits: &[f32], vocabulary: usize, known_ids: usize, cached: usize) -> Outcome {
        match self {
            Self::Reply(reply) => reply.advance(logits, known_ids, cached),
            Self::Score(score) => score.advance(logits, vocabulary, known_ids),
        }
    }

    /// Tells the end to whoever waits for it.
    pub fn end(self, outcome: Outcome) {
        // Nobody waits for it where the sending fails.
        match (self, outcome) {
            (Self::Reply(reply), Outcome::Failed(error)) => drop(reply.steps.send(Err(error))),
            (Self::Score(score), Outcome::Failed(error)) => drop(score.scores.send(Err(error))),
            (Self::Score(score), _) => drop(score.scores.send(Ok(score.scored))),
            (Self::Reply(_), _) => {}
        }
    }
}

impl Reply {
    fn advance(&mut self, logits: &[f32], known_ids: usize, cached: usize) -> Outcome {
        self.cached.set(cached);
        let token = match self.sampler.sample(logits, known_ids, self.top_logprobs) {
            Ok(token) => token,
            Err(error) => return Outcome::Failed(error.into()),
        };
        self.left -= 1;
        let id = token.id;
        let finish =
            if self.eos_ids.contains(&id) { Some(Finish::Eos) } else { (self.left == 0).then_some(Finish::Length) };
        let gone = self.steps.send(Ok(Step { token, finish })).is_err();
        if gone || finish.is_some() { Outcome::Done } else { Outcome::Chosen(id) }
    }
}

impl Score {
    fn advance(&mut self, logits: &[f32], vocabulary: usize, known_ids: usize) -> Outcome {
        let next = &self.ids[self.scored.len()..];
        let rows = logits.par_chunks_exact(vocabulary).zip(next);
        let scored = rows.map(|(logits, id)| sampling::score(logits, *id, known_ids, self.top_logprobs));
        match scored.collect::<Result<Vec<_>, _>>() {
            Ok(scored) => {
                let rows = scored.len();
                self.scored.extend(scored);
                if self.scored.len() == self.ids.len() { Outcome::Done } else { Outcome::Scored(rows) }
            }
            Err(error) => Outcome::Failed(error.into()),
        }
    }
}
