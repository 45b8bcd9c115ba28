//! What the judge's replies say about the answers.

use serde::Serialize;

use super::answer::Answers;
use super::judgment::{GameWinner, NO_SCORE, PairJudgment, SingleJudgment};
use super::plan::{Game, Match, Setting};
use super::single::Unscored;
use super::verdict::{self, Format, NoScore};
use super::{Id, Turn, pairwise};
use crate::judge::{Outcome, Reply};

/// A line of `samples.jsonl`: what was asked and answered, and what became of it.
///
/// For a single answer `responses` and `models` have one entry and `score` is the verdict; for a pair they have two,
/// `winner` is what both games say together, and `games` has two entries.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sample {
    /// The question.
    pub question_id: Id,
    /// Its category, where it is known.
    pub category: Option<String>,
    /// The turn.
    pub turn: Turn,
    /// The user's message of this turn, where it is known.
    pub prompt: Option<String>,
    /// The model, or both.
    pub models: Vec<String>,
    /// Their answers of this turn; null where there is none.
    pub responses: Vec<Option<String>>,
    /// The score of a single answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// The winner of a pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub winner: Option<pairwise::PairOutcome>,
    /// What the judge said, in each game.
    pub games: Vec<Option<String>>,
    /// Why there is no verdict.
    pub reason: Option<String>,
    /// The same as a kind.
    #[serde(skip)]
    pub unscored: Option<Unscored>,
}

/// What came of the matches.
#[derive(Debug, Default)]
pub struct Judged {
    /// Judgments on single answers, in the official layout; only those that the judge replied to.
    pub single: Vec<SingleJudgment>,
    /// Judgments on pairs; only those that the judge replied to twice.
    pub pairs: Vec<PairJudgment>,
    /// Every match, judged or not.
    pub samples: Vec<Sample>,
}

/// Reads the judge's replies. `outcomes` are those of all games in the order of the matches; `tstamp` is their time in
/// seconds since 1970.
pub fn judged(setting: &Setting<'_>, matches: &[Match<'_>], outcomes: &[Outcome], tstamp: f64) -> Judged {
    let mut judged = Judged::default();
    let mut outcomes = outcomes.iter();
    for one in matches {
        let games = one.games.as_ref().map_or(&[][..], Vec::as_slice);
        let outcomes: Vec<&Outcome> = outcomes.by_ref().take(games.len()).collect();
        let replies: Vec<Option<&Reply>> = outcomes.iter().map(|outcome| outcome.reply()).collect();
        let mut sample = one.sample(&replies);
        sample.unscored = match (&one.games, &outcomes[..]) {
            (Err(problem), _) => {
                sample.reason = Some(problem.clone());
                Some(Unscored::NoAnswer)
            }
            (Ok(_), outcomes) if outcomes.iter().any(|outcome| outcome.reply().is_none()) => {
                sample.reason = outcomes.iter().find_map(|outcome| outcome.problem()).map(str::to_owned);
                Some(Unscored::JudgeFailed)
            }
            (Ok(games), _) => {
                let texts: Vec<&str> =
                    replies.iter().map(|reply| reply.and_then(Reply::content).unwrap_or_default()).collect();
                match games.len() {
                    1 => judged.one_answer(setting, one, &games[0], texts[0], tstamp, &mut sample),
                    _ => judged.two_answers(setting, one, games, &texts, tstamp, &mut sample),
                }
            }
        };
        let cut_off = replies.iter().flatten().any(|reply| reply.finish_reason() == Some("length"));
        if let Some(reason) = sample.reason.as_mut().filter(|_| cut_off) {
            reason.push_str(" (it was cut off at its token limit)");
        }
        judged.samples.push(sample);
    }
    judged
}

impl Match<'_> {
    fn sample(&self, replies: &[Option<&Reply>]) -> Sample {
        let Self { question, turn, models, .. } = self;
        let response = |model: &&Answers| {
            let turns = model.by_question.get(&question.question_id);
            turns.and_then(|turns| turns.get(turn.index())).cloned()
        };
        Sample {
            question_id: question.question_id.clone(),
            category: Some(question.category.clone()),
            turn: *turn,
            prompt: Some(question.turns[turn.index()].clone()),
            models: models.iter().map(|model| model.model.clone()).collect(),
            responses: models.iter().map(response).collect(),
            score: None,
            winner: None,
            games: replies.iter().map(|reply| reply.and_then(Reply::content).map(str::to_owned)).collect(),
            reason: None,
            unscored: None,
        }
    }
}

impl Judged {
    fn one_answer(
        &mut self,
        setting: &Setting<'_>,
        one: &Match<'_>,
        game: &Game<'_>,
        text: &str,
        tstamp: f64,
        sample: &mut Sample,
    ) -> Option<Unscored> {
        let score = verdict::score(text, setting.rule);
        self.single.push(SingleJudgment {
            question_id: one.question.question_id.clone(),
            model: one.models[0].model.clone(),
            judge: (setting.judge_model.to_owned(), game.rendered.prompt.name.clone()),
            user_prompt: game.rendered.user.clone(),
            judgment: text.to_owned(),
            score: match score {
                Ok(score) | Err(NoScore::OffScale(score)) => score,
                Err(NoScore::Absent | NoScore::Unreadable) => NO_SCORE,
            },
            turn: one.turn,
            tstamp,
        });
        match score {
            Ok(score) => {
                sample.score = Some(score);
                None
            }
            Err(problem) => {
                sample.reason = Some(problem.to_string());
                Some(match problem {
                    NoScore::OffScale(_) => Unscored::OffScale,
                    NoScore::Absent | NoScore::Unreadable => Unscored::NoVerdict,
                })
            }
        }
    }

    fn two_answers(
        &mut self,
        setting: &Setting<'_>,
        one: &Match<'_>,
        games: &[Game<'_>],
        texts: &[&str],
        tstamp: f64,
        sample: &mut Sample,
    ) -> Option<Unscored> {
        let format: Format = games[0].rendered.prompt.format;
        let winner = |index: usize| GameWinner::of(verdict::winner(texts[index], format), index == 1);
        let judgment = PairJudgment {
            question_id: one.question.question_id.clone(),
            model_1: one.models[0].model.clone(),
            model_2: one.models[1].model.clone(),
            g1_winner: winner(0),
            g2_winner: winner(1),
            judge: (setting.judge_model.to_owned(), games[0].rendered.prompt.name.clone()),
            g1_user_prompt: games[0].rendered.user.clone(),
            g1_judgment: texts[0].to_owned(),
            g2_user_prompt: games[1].rendered.user.clone(),
            g2_judgment: texts[1].to_owned(),
            turn: one.turn,
            tstamp,
        };
        sample.winner = pairwise::outcome(judgment.g1_winner, judgment.g2_winner);
        self.pairs.push(judgment);
        if sample.winner.is_some() {
            return None;
        }
        sample.reason = Some("a reply of the judge holds no verdict".into());
        Some(Unscored::NoVerdict)
    }
}
