//! What the judge's replies say about the answers.

use std::borrow::Cow;

use serde::Serialize;

use super::answer::Answers;
use super::judgment::{GameWinner, NO_SCORE, PairJudgment, SingleJudgment};
use super::plan::{Game, Match, Setting};
use super::single::Unscored;
use super::verdict::{self, Format, NoScore, NoWinner, Position, Rule};
use super::{Id, Turn, pairwise};
use crate::judge::{Judge, Outcome, Outcomes, Reply, Request, Unread, Why};

/// A line of `samples.jsonl`: what was asked and answered, and what became of it.
///
/// For a single answer `responses` and `models` have one entry and `score` is the verdict; for a pair they have two,
/// `winner` is what both games say together, and `games` has two entries. Without a verdict both are null.
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
    pub score: Option<f64>,
    /// The winner of a pair.
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
    /// What became of the requests.
    pub outcomes: Outcomes,
}

/// Why there is no winner of a game.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
enum NoGame {
    /// By our rule.
    #[error(transparent)]
    Strict(NoWinner),
    /// By the official rule, which has no word for it.
    #[error("the judge's reply holds no verdict")]
    Official,
}

/// A request of a game, and what the judge said to it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The judge.
    pub judge: &'a Judge,
    /// The request, as it was sent.
    pub request: &'a Request,
    /// The reply.
    pub reply: &'a Reply,
}

impl Asked<'_> {
    /// The reply as it is kept.
    fn text(self) -> String {
        self.reply.content().unwrap_or_default().into_owned()
    }

    fn score(self, rule: Rule) -> Result<f64, Unread<NoScore>> {
        self.judge.read(self.request, self.reply, |answer| verdict::score(&answer.content().unwrap_or_default(), rule))
    }

    fn winner(self, format: Format, rule: Rule) -> Result<Position, Unread<NoGame>> {
        self.judge.read(self.request, self.reply, |answer| {
            let text = answer.content().unwrap_or_default();
            match rule {
                Rule::Strict => verdict::position(&text, format).map_err(NoGame::Strict),
                Rule::Official => verdict::winner(&text, format).ok_or(NoGame::Official),
            }
        })
    }

    /// True if the reply has a verdict of this format.
    pub fn is_read(self, format: Format, rule: Rule) -> bool {
        self.read(format, rule).is_ok()
    }

    /// Finds out whether the reply has a verdict of this format.
    fn read(self, format: Format, rule: Rule) -> Result<(), Unread<()>> {
        match format {
            Format::Rating => self.score(rule).map(drop).map_err(|unread| unread.map(drop)),
            Format::Letter | Format::TwoRatings => {
                self.winner(format, rule).map(drop).map_err(|unread| unread.map(drop))
            }
        }
    }
}

/// Reads the judge's replies. `requests` are those of all games in the order of the matches, as they were sent, and `outcomes`
/// what became of them; `tstamp` is their time in seconds since 1970.
pub fn judged(
    setting: &Setting<'_>,
    matches: &[Match<'_>],
    judge: &Judge,
    (requests, outcomes): (&[Request], &[Outcome]),
    tstamp: f64,
) -> Judged {
    let mut judged = Judged::default();
    let mut asked = requests.iter().zip(outcomes);
    for one in matches {
        let games = one.games.as_ref().map_or(&[][..], Vec::as_slice);
        let asked: Vec<(&Request, &Outcome)> = asked.by_ref().take(games.len()).collect();
        let replies: Option<Vec<Asked<'_>>> =
            asked.iter().map(|&(request, outcome)| Some(Asked { judge, request, reply: outcome.reply()? })).collect();
        for (game, &(request, outcome)) in games.iter().zip(&asked) {
            let read = outcome.reply().map(|reply| {
                let asked = Asked { judge, request, reply };
                asked.read(game.rendered.prompt.format, setting.rule)
            });
            judged.outcomes.note(outcome, read.as_ref());
        }
        let texts = asked.iter().map(|(_, outcome)| outcome.reply().and_then(Reply::content).map(Cow::into_owned));
        let mut sample = one.sample(texts.collect());
        sample.unscored = match (&one.games, replies.as_deref()) {
            (Err(problem), _) => {
                sample.reason = Some(problem.clone());
                Some(Unscored::NoAnswer)
            }
            (Ok(_), None) => {
                sample.reason = asked.iter().find_map(|(_, outcome)| outcome.problem()).map(str::to_owned);
                Some(Unscored::JudgeFailed)
            }
            (Ok(games), Some([reply])) => judged.one_answer(setting, one, &games[0], *reply, tstamp, &mut sample),
            (Ok(games), Some([first, second])) => {
                judged.two_answers(setting, one, games, [*first, *second], tstamp, &mut sample)
            }
            (Ok(_), Some(_)) => unreachable!("a match has one game or two"),
        };
        judged.samples.push(sample);
    }
    judged
}

impl Match<'_> {
    fn sample(&self, replies: Vec<Option<String>>) -> Sample {
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
            games: replies,
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
        reply: Asked<'_>,
        tstamp: f64,
        sample: &mut Sample,
    ) -> Option<Unscored> {
        let score = reply.score(setting.rule);
        self.single.push(SingleJudgment {
            question_id: one.question.question_id.clone(),
            model: one.models[0].model.clone(),
            judge: (setting.judge_model.to_owned(), game.rendered.prompt.name.clone()),
            user_prompt: game.rendered.user.clone(),
            judgment: reply.text(),
            score: match &score {
                Ok(score) => *score,
                Err(Unread { why: Why::NoVerdict(NoScore::OffScale(score)), .. }) => *score,
                Err(_) => NO_SCORE,
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
                Some(match problem.why {
                    Why::NoVerdict(NoScore::OffScale(_)) => Unscored::OffScale,
                    _ => Unscored::NoVerdict,
                })
            }
        }
    }

    fn two_answers(
        &mut self,
        setting: &Setting<'_>,
        one: &Match<'_>,
        games: &[Game<'_>],
        replies: [Asked<'_>; 2],
        tstamp: f64,
        sample: &mut Sample,
    ) -> Option<Unscored> {
        let format: Format = games[0].rendered.prompt.format;
        let found = replies.map(|reply| reply.winner(format, setting.rule));
        let winner = |index: usize| GameWinner::of(found[index].as_ref().ok().copied(), index == 1);
        let judgment = PairJudgment {
            question_id: one.question.question_id.clone(),
            model_1: one.models[0].model.clone(),
            model_2: one.models[1].model.clone(),
            g1_winner: winner(0),
            g2_winner: winner(1),
            judge: (setting.judge_model.to_owned(), games[0].rendered.prompt.name.clone()),
            g1_user_prompt: games[0].rendered.user.clone(),
            g1_judgment: replies[0].text(),
            g2_user_prompt: games[1].rendered.user.clone(),
            g2_judgment: replies[1].text(),
            turn: one.turn,
            tstamp,
        };
        sample.winner = pairwise::outcome(judgment.g1_winner, judgment.g2_winner);
        self.pairs.push(judgment);
        let problem = found.iter().find_map(|found| found.as_ref().err());
        sample.reason = problem.map(ToString::to_string);
        problem.map(|_| Unscored::NoVerdict)
    }
}
