//! From scores to the mean of each turn, of both, and of each category.
//!
//! `average` is the mean over all scores, as officially, not the mean of the two turns' means: they differ where scores
//! are missing. The two turns of a question are not independent, so intervals take questions for the observations: the
//! standard error is that of a mean over clusters, and the 95 % interval is normal and ends where the scale does.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::judgment::{NO_SCORE, SingleJudgment};
use super::verdict::{self, Rule, SCALE};
use super::{Id, Turn};
use crate::stats::Metric;

/// What a model's answer to one turn got.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// The question.
    pub question_id: Id,
    /// The turn.
    pub turn: Turn,
    /// The score, or why there is none.
    pub score: Result<f64, Unscored>,
}

/// Why an item has no score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unscored {
    /// The judge's reply holds no score (-1 in a file).
    NoVerdict,
    /// The score is not between 1 and 10.
    OffScale,
    /// The judge could not be asked.
    JudgeFailed,
    /// There is no answer to judge.
    NoAnswer,
    /// The file of judgments has none on it.
    Missing,
}

/// The means of some items.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Means {
    /// Over the first answers.
    pub first_turn: Metric,
    /// Over the second answers.
    pub second_turn: Metric,
    /// Over both.
    pub average: Metric,
}

/// Where items were lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    /// Verdicts without a score: -1.
    pub no_verdict: usize,
    /// Scores that are not between 1 and 10.
    pub off_scale: usize,
    /// Requests to the judge that failed.
    pub judge_failed: usize,
    /// Answers that are not there.
    pub no_answer: usize,
    /// Judgments that are not in the file.
    pub missing: usize,
}

impl Losses {
    /// One more.
    pub fn count(&mut self, unscored: Unscored) {
        *match unscored {
            Unscored::NoVerdict => &mut self.no_verdict,
            Unscored::OffScale => &mut self.off_scale,
            Unscored::JudgeFailed => &mut self.judge_failed,
            Unscored::NoAnswer => &mut self.no_answer,
            Unscored::Missing => &mut self.missing,
        } += 1;
    }

    /// All of them.
    pub fn total(&self) -> usize {
        self.no_verdict + self.off_scale + self.judge_failed + self.no_answer + self.missing
    }
}

impl std::ops::AddAssign for Losses {
    fn add_assign(&mut self, other: Self) {
        self.no_verdict += other.no_verdict;
        self.off_scale += other.off_scale;
        self.judge_failed += other.judge_failed;
        self.no_answer += other.no_answer;
        self.missing += other.missing;
    }
}

/// What one model got.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Over all items.
    #[serde(flatten)]
    pub means: Means,
    /// By category, where the categories are known.
    pub by_category: BTreeMap<String, Means>,
    /// Items with a score.
    pub scored: usize,
    /// Items without one.
    pub unscored: usize,
    /// The reasons of those.
    pub losses: Losses,
}

/// The mean scores of one model's items. `category` knows the category of a question, if anybody does.
pub fn scores(items: &[Item], category: impl Fn(&Id) -> Option<String>) -> Scores {
    let mut losses = Losses::default();
    let mut by_category: BTreeMap<String, Vec<&Item>> = BTreeMap::new();
    for item in items {
        if let Err(unscored) = item.score {
            losses.count(unscored);
        }
        if let Some(category) = category(&item.question_id) {
            by_category.entry(category).or_default().push(item);
        }
    }
    let by_category = by_category.into_iter().map(|(category, items)| (category, means(&items))).collect();
    let unscored = losses.total();
    Scores {
        means: means(&items.iter().collect::<Vec<_>>()),
        by_category,
        scored: items.len() - unscored,
        unscored,
        losses,
    }
}

fn means(items: &[&Item]) -> Means {
    let mean = |turn: Option<Turn>| {
        let mut clusters: BTreeMap<&Id, Vec<f64>> = BTreeMap::new();
        for item in items.iter().filter(|item| turn.is_none_or(|turn| turn == item.turn)) {
            if let Ok(score) = item.score {
                clusters.entry(&item.question_id).or_default().push(score);
            }
        }
        let clusters: Vec<Vec<f64>> = clusters.into_values().collect();
        Metric::clustered_mean(&clusters, SCALE)
    };
    Means { first_turn: mean(Some(Turn::First)), second_turn: mean(Some(Turn::Second)), average: mean(None) }
}

/// The items of every model in a file of judgments, models in the order of their names.
///
/// By [`Rule::Strict`] a score off the scale is none, and repeated judgments of one answer are averaged into one item.
/// By [`Rule::Official`] every row but those with -1 is an item, whatever its score and however often it is repeated.
pub fn items(judgments: &[SingleJudgment], rule: Rule) -> BTreeMap<String, Vec<Item>> {
    let mut models: BTreeMap<String, Vec<Item>> = BTreeMap::new();
    let mut repeated: HashMap<(&str, &Id, Turn), Vec<&SingleJudgment>> = HashMap::new();
    for judgment in judgments {
        let SingleJudgment { question_id, model, turn, .. } = judgment;
        let rows = repeated.entry((model, question_id, *turn)).or_default();
        rows.push(judgment);
        if rule == Rule::Official {
            let item = Item { question_id: question_id.clone(), turn: *turn, score: recorded(judgment, rule) };
            models.entry(model.clone()).or_default().push(item);
        }
    }
    if rule == Rule::Strict {
        for judgment in judgments {
            let SingleJudgment { question_id, model, turn, .. } = judgment;
            let Some(rows) = repeated.remove(&(model.as_str(), question_id, *turn)) else { continue };
            let item = Item { question_id: question_id.clone(), turn: *turn, score: averaged(&rows) };
            models.entry(model.clone()).or_default().push(item);
        }
    }
    models
}

/// The score in a row.
///
/// # Errors
/// Why it is none.
pub fn recorded(judgment: &SingleJudgment, rule: Rule) -> Result<f64, Unscored> {
    match (judgment.score, rule) {
        (NO_SCORE, _) => Err(Unscored::NoVerdict),
        (score, Rule::Strict) if !verdict::on_scale(score) => Err(Unscored::OffScale),
        (score, _) => Ok(score),
    }
}

/// The mean of those rows that have a score.
fn averaged(rows: &[&SingleJudgment]) -> Result<f64, Unscored> {
    let scores: Vec<_> = rows.iter().map(|row| recorded(row, Rule::Strict)).collect();
    let known: Vec<f64> = scores.iter().flatten().copied().collect();
    match known.len() {
        0 => scores[0],
        n => Ok(known.iter().sum::<f64>() / n as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Missing;

    fn judgment(id: i64, turn: Turn, score: f64) -> SingleJudgment {
        SingleJudgment {
            question_id: Id::Number(id),
            model: "m".into(),
            judge: ("j".into(), "single-v1".into()),
            user_prompt: String::new(),
            judgment: String::new(),
            score,
            turn,
            tstamp: 0.0,
        }
    }

    fn of(judgments: &[SingleJudgment], rule: Rule) -> Scores {
        scores(&items(judgments, rule)["m"], |id| (*id == Id::Number(1)).then(|| "math".to_owned()))
    }

    #[test]
    fn a_turn_without_scores_has_no_mean() {
        let rows = [judgment(1, Turn::First, 4.0), judgment(1, Turn::Second, -1.0), judgment(2, Turn::First, 6.0)];
        let Means { first_turn, second_turn, average } = of(&rows, Rule::Strict).means;
        assert_eq!((first_turn.value, average.value), (Some(5.0), Some(5.0)));
        assert_eq!(second_turn, Metric::missing(0, Missing::NothingScored));
    }

    #[test]
    fn the_rules_differ_in_what_they_count() {
        let rows = [
            judgment(1, Turn::First, 4.0),
            judgment(1, Turn::First, 8.0),
            judgment(1, Turn::Second, -1.0),
            judgment(2, Turn::First, 11.0),
            judgment(2, Turn::Second, 2.0),
        ];
        let strict = of(&rows, Rule::Strict);
        assert_eq!((strict.means.first_turn.value, strict.means.first_turn.n), (Some(6.0), 1));
        assert_eq!((strict.means.average.value, strict.means.average.n), (Some(4.0), 2));
        let losses = Losses { no_verdict: 1, off_scale: 1, ..Losses::default() };
        assert_eq!((strict.scored, strict.unscored, strict.losses), (2, 2, losses));
        assert_eq!(strict.by_category["math"].average.value, Some(6.0));

        let official = of(&rows, Rule::Official);
        assert_eq!((official.means.first_turn.value, official.means.first_turn.n), (Some(23.0 / 3.0), 3));
        assert_eq!((official.means.average.value, official.scored), (Some(25.0 / 4.0), 4));
        assert_eq!(official.losses, Losses { no_verdict: 1, ..Losses::default() });
    }
}
