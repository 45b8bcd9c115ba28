//! Which answers are judged, and what the judge is asked for that.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::answer::{Answers, Missing};
use super::judge_prompt::JudgePrompts;
use super::question::Question;
use super::render::{self, Rendered};
use super::verdict::Rule;
use super::{Id, Turn};
use crate::judge::Request;

/// What is compared with what, as officially.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// A score for every answer.
    Single,
    /// Every model against one.
    PairwiseBaseline,
    /// Every model against every other.
    PairwiseAll,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "single" => Ok(Self::Single),
            "pairwise-baseline" => Ok(Self::PairwiseBaseline),
            "pairwise-all" => Ok(Self::PairwiseAll),
            _ => Err("`single`, `pairwise-baseline` or `pairwise-all` is needed".into()),
        }
    }
}

/// Why answers cannot be judged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A question of such a category is judged against a reference answer.
    #[error("no reference answer to question {id} ({category}); name a file that has it with --reference-answers")]
    NoReference {
        /// The question.
        id: Id,
        /// Its category.
        category: String,
    },
    /// A reference answer cannot be used.
    #[error("the reference answer to question {id} {problem}; correct it in the file of --reference-answers")]
    Reference {
        /// The question.
        id: Id,
        /// What is wrong with it, as the end of a sentence.
        problem: String,
    },
    /// A prompt needs something that is not there.
    #[error("the judge prompts do not fit: {0}")]
    Prompt(String),
    /// Two sets of answers have the same name.
    #[error("there are two sets of answers of `{0}`; rename one of them by its `model_id`")]
    SameModel(String),
    /// Pairs take two models.
    #[error("pairs need the answers of at least two models; name more files with --answers")]
    OneModel,
    /// The baseline is none of the models.
    #[error("--mode pairwise-baseline needs --baseline MODEL, one of: {0}")]
    NoBaseline(String),
}

/// The questions and everything that the judge is shown with them.
#[derive(Debug)]
pub struct Setting<'a> {
    /// The questions.
    pub questions: &'a [Question],
    /// The reference answers.
    pub references: &'a Answers,
    /// The prompts.
    pub prompts: &'a JudgePrompts,
    /// The model that judges.
    pub judge_model: &'a str,
    /// How scores are read.
    pub rule: Rule,
}

/// Answers to one turn of a question that are judged together: one, or two of different models.
#[derive(Debug)]
pub struct Match<'a> {
    /// The question.
    pub question: &'a Question,
    /// The turn.
    pub turn: Turn,
    /// The models, one or two.
    pub models: Vec<&'a Answers>,
    /// The games: one for a score, two for a pair; or why there can be none.
    pub games: Result<Vec<Game<'a>>, String>,
}

/// One request to the judge.
#[derive(Debug)]
pub struct Game<'a> {
    /// The filled prompt.
    pub rendered: Rendered<'a>,
    /// The request.
    pub request: Request,
}

/// Checks before anything is asked that a plan can be made: reference answers for all questions, models for the mode.
///
/// # Errors
/// When one of them is missing.
pub fn check(setting: &Setting<'_>, mode: Mode, baseline: Option<&str>, models: &[&str]) -> Result<(), PlanError> {
    for question in setting.questions.iter().filter(|question| question.needs_reference()) {
        for turn in question.turns() {
            setting.reference(question, turn)?;
        }
    }
    sides(mode, baseline, models).map(drop)
}

/// Lists what has to be judged, in the order of questions, turns and models.
///
/// # Errors
/// When a reference answer is missing, or the models do not fit the mode.
pub fn plan<'a>(
    setting: &Setting<'a>,
    mode: Mode,
    baseline: Option<&str>,
    models: &'a [Answers],
) -> Result<Vec<Match<'a>>, PlanError> {
    let names: Vec<&str> = models.iter().map(|model| model.model.as_str()).collect();
    let sides = sides(mode, baseline, &names)?;
    let mut matches = Vec::new();
    for question in setting.questions {
        for turn in question.turns() {
            for side in &sides {
                let models: Vec<&Answers> = side.iter().map(|&index| &models[index]).collect();
                let games = games(setting, question, turn, &models)?;
                matches.push(Match { question, turn, models, games });
            }
        }
    }
    Ok(matches)
}

/// The places of the models that are judged together.
fn sides(mode: Mode, baseline: Option<&str>, models: &[&str]) -> Result<Vec<Vec<usize>>, PlanError> {
    for (index, model) in models.iter().enumerate() {
        if models[..index].contains(model) {
            return Err(PlanError::SameModel((*model).to_owned()));
        }
    }
    if mode != Mode::Single && models.len() < 2 {
        return Err(PlanError::OneModel);
    }
    let all = 0..models.len();
    match mode {
        Mode::Single => Ok(all.map(|model| vec![model]).collect()),
        Mode::PairwiseAll => {
            Ok(all.clone().flat_map(|first| (first + 1..all.end).map(move |second| vec![first, second])).collect())
        }
        Mode::PairwiseBaseline => {
            let Some(base) = models.iter().position(|&model| baseline == Some(model)) else {
                return Err(PlanError::NoBaseline(models.join(", ")));
            };
            Ok(all.filter(|&model| model != base).map(|model| vec![model, base]).collect())
        }
    }
}

impl Setting<'_> {
    /// The reference answers to a question up to a turn.
    fn reference(&self, question: &Question, turn: Turn) -> Result<&[String], PlanError> {
        self.references.find(question, turn).map_err(|missing| {
            let id = question.question_id.clone();
            match missing {
                Missing::All => PlanError::NoReference { id, category: question.category.clone() },
                missing => PlanError::Reference { id, problem: missing.to_string() },
            }
        })
    }
}

fn games<'a>(
    setting: &Setting<'a>,
    question: &Question,
    turn: Turn,
    models: &[&Answers],
) -> Result<Result<Vec<Game<'a>>, String>, PlanError> {
    let answers: Result<Vec<&[String]>, String> = models.iter().map(|model| model.up_to(question, turn)).collect();
    let answers = match answers {
        Ok(answers) => answers,
        Err(problem) => return Ok(Err(problem)),
    };
    let reference = question.needs_reference().then(|| setting.reference(question, turn)).transpose()?;
    let game = |rendered: Result<Rendered<'a>, String>| {
        let rendered = rendered.map_err(PlanError::Prompt)?;
        let request = Request::new(rendered.request(setting.judge_model));
        Ok(Game { rendered, request })
    };
    let prompts = setting.prompts;
    let games: Result<Vec<Game<'a>>, PlanError> = match answers[..] {
        [answer] => [render::single(prompts, question, turn, answer, reference)].into_iter().map(game).collect(),
        [first, second] => [[first, second], [second, first]]
            .into_iter()
            .map(|order| game(render::pair(prompts, question, turn, order, reference)))
            .collect(),
        _ => unreachable!("one or two models are judged together"),
    };
    games.map(Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_pair_models_as_officially() {
        let models = ["a", "b", "c"];
        assert_eq!(sides(Mode::Single, None, &models).unwrap(), [[0], [1], [2]]);
        assert_eq!(sides(Mode::PairwiseAll, None, &models).unwrap(), [[0, 1], [0, 2], [1, 2]]);
        assert_eq!(sides(Mode::PairwiseBaseline, Some("b"), &models).unwrap(), [[0, 1], [2, 1]]);
        for (mode, baseline, models, problem) in [
            (Mode::PairwiseAll, None, &models[..1], "at least two models"),
            (Mode::PairwiseBaseline, None, &models[..], "needs --baseline MODEL, one of: a, b, c"),
            (Mode::PairwiseBaseline, Some("d"), &models[..], "needs --baseline MODEL"),
            (Mode::Single, None, &["a", "a"][..], "two sets of answers of `a`"),
        ] {
            let message = sides(mode, baseline, models).unwrap_err().to_string();
            assert!(message.contains(problem), "{message}");
        }
    }
}
