//! Judgments from a file instead of a judge.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use super::judged::Sample;
use super::judgment::{GameWinner, Judgments, PairJudgment, SingleJudgment};
use super::question::Question;
use super::single::{self, Item, Unscored};
use super::verdict::{self, Rule};
use super::{Id, Turn, pairwise};
use crate::jsonl::InputError;

/// What to do where the same answers are judged more than once by the same judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duplicates {
    /// Say so, and stop.
    Refuse,
    /// Take the mean of the scores; of pairs, let each judgment count.
    Average,
}

/// Which judgments of a file count, and how.
#[derive(Debug, Clone, Copy)]
pub struct Selection<'a> {
    /// Only those of this judge.
    pub judge_model: Option<&'a str>,
    /// How scores are read. By the official rule repeated judgments and several judges are as good as others.
    pub rule: Rule,
    /// What to do with repeated judgments otherwise.
    pub duplicates: Duplicates,
    /// Questions that must all be judged; what is missing counts as unscored.
    pub questions: Option<&'a [Question]>,
}

/// The judgments that count.
#[derive(Debug)]
pub struct Imported {
    /// The judgments.
    pub judgments: Selected,
    /// A line of `samples.jsonl` for each, and for each that is missing.
    pub samples: Vec<Sample>,
    /// Judgments beyond the first on the same answers.
    pub duplicates: usize,
    /// The judges, by model and prompt.
    pub judges: BTreeSet<(String, String)>,
}

/// The judgments that count, by kind.
#[derive(Debug)]
pub enum Selected {
    /// On single answers, by model.
    Single(BTreeMap<String, Vec<Item>>),
    /// On pairs.
    Pair(Vec<PairJudgment>),
}

/// What selecting needs to know of a row.
trait Row {
    fn judge(&self) -> &(String, String);
    fn question(&self) -> (&Id, Turn);
    fn models(&self) -> Vec<&str>;
}

impl Row for SingleJudgment {
    fn judge(&self) -> &(String, String) {
        &self.judge
    }

    fn question(&self) -> (&Id, Turn) {
        (&self.question_id, self.turn)
    }

    fn models(&self) -> Vec<&str> {
        vec![&self.model]
    }
}

impl Row for PairJudgment {
    fn judge(&self) -> &(String, String) {
        &self.judge
    }

    fn question(&self) -> (&Id, Turn) {
        (&self.question_id, self.turn)
    }

    fn models(&self) -> Vec<&str> {
        vec![&self.model_1, &self.model_2]
    }
}

/// Takes the judgments that count from those of a file. `path` is its name in messages.
///
/// # Errors
/// When there are none, when there are several judges and none is selected, and where a judgment is repeated.
pub fn import(path: &Path, judgments: Judgments, selection: &Selection<'_>) -> Result<Imported, InputError> {
    match judgments {
        Judgments::Single(rows) => {
            let (rows, duplicates, judges) = select(path, rows, selection)?;
            let missing = missing(&rows, selection.questions);
            let mut items = single::items(&rows, selection.rule);
            let mut samples: Vec<Sample> = rows.iter().map(|row| single_sample(row, selection)).collect();
            for (question, turn, models) in missing {
                let item = Item { question_id: question.question_id.clone(), turn, score: Err(Unscored::Missing) };
                items.entry(models[0].clone()).or_default().push(item);
                samples.push(missing_sample(question, turn, models));
            }
            Ok(Imported { judgments: Selected::Single(items), samples, duplicates, judges })
        }
        Judgments::Pair(rows) => {
            let (rows, duplicates, judges) = select(path, rows, selection)?;
            let mut samples: Vec<Sample> = rows.iter().map(|row| pair_sample(row, selection)).collect();
            let missing = missing(&rows, selection.questions);
            samples.extend(missing.into_iter().map(|(question, turn, models)| missing_sample(question, turn, models)));
            Ok(Imported { judgments: Selected::Pair(rows), samples, duplicates, judges })
        }
    }
}

type Kept<T> = (Vec<T>, usize, BTreeSet<(String, String)>);

fn select<T: Row>(path: &Path, rows: Vec<(usize, T)>, selection: &Selection<'_>) -> Result<Kept<T>, InputError> {
    let unusable = |problem| Err(InputError::File { path: path.to_owned(), problem });
    let named = |(_, row): &(usize, T)| selection.judge_model.is_none_or(|name| row.judge().0 == name);
    let models: BTreeSet<String> = rows.iter().map(|(_, row)| row.judge().0.clone()).collect();
    let names = || models.iter().cloned().collect::<Vec<_>>().join(", ");
    let rows: Vec<(usize, T)> = rows.into_iter().filter(named).collect();
    if rows.is_empty() {
        return unusable(format!("it holds no judgments of that judge, but of {}", names()));
    }
    if selection.rule == Rule::Strict && selection.judge_model.is_none() && models.len() > 1 {
        return unusable(format!("it holds judgments of several judges; select one with --judge-model: {}", names()));
    }
    let mut lines: HashMap<_, usize> = HashMap::new();
    let mut duplicates = 0;
    for (line, row) in &rows {
        let (id, turn) = row.question();
        let Some(first) = lines.insert((id, turn, row.models(), &row.judge().0), *line) else { continue };
        duplicates += 1;
        if selection.rule == Rule::Strict && selection.duplicates == Duplicates::Refuse {
            let problem = format!(
                "question {id}, turn {turn} of {} is already judged by `{}` on line {first}; remove one of them or let \
                 --duplicates average join them",
                row.models().iter().map(|model| format!("`{model}`")).collect::<Vec<_>>().join(" and "),
                row.judge().0
            );
            return Err(InputError::Line { path: path.to_owned(), line: *line, problem });
        }
    }
    let judges = rows.iter().map(|(_, row)| row.judge().clone()).collect();
    Ok((rows.into_iter().map(|(_, row)| row).collect(), duplicates, judges))
}

/// The turns of questions that some models of the file are not judged on.
fn missing<'a>(rows: &[impl Row], questions: Option<&'a [Question]>) -> Vec<(&'a Question, Turn, Vec<String>)> {
    let mut judged: HashMap<Vec<&str>, Vec<(&Id, Turn)>> = HashMap::new();
    for row in rows {
        judged.entry(row.models()).or_default().push(row.question());
    }
    let mut judged: Vec<_> = judged.into_iter().collect();
    judged.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    let mut missing = Vec::new();
    for question in questions.unwrap_or_default() {
        for turn in question.turns() {
            let lacking = judged.iter().filter(|(_, done)| !done.contains(&(&question.question_id, turn)));
            missing
                .extend(lacking.map(|(models, _)| (question, turn, models.iter().map(ToString::to_string).collect())));
        }
    }
    missing
}

fn sample(question_id: &Id, turn: Turn, models: Vec<String>, questions: Option<&[Question]>) -> Sample {
    let known = questions.unwrap_or_default().iter().find(|question| question.question_id == *question_id);
    Sample {
        question_id: question_id.clone(),
        category: known.map(|question| question.category.clone()),
        turn,
        prompt: known.and_then(|question| question.turns.get(turn.index()).cloned()),
        responses: vec![None; models.len()],
        models,
        score: None,
        winner: None,
        games: Vec::new(),
        reason: None,
        unscored: None,
    }
}

fn missing_sample(question: &Question, turn: Turn, models: Vec<String>) -> Sample {
    let mut sample = sample(&question.question_id, turn, models, Some(std::slice::from_ref(question)));
    sample.reason = Some("there is no judgment in the file".into());
    sample.unscored = Some(Unscored::Missing);
    sample
}

fn single_sample(row: &SingleJudgment, selection: &Selection<'_>) -> Sample {
    let mut sample = sample(&row.question_id, row.turn, vec![row.model.clone()], selection.questions);
    sample.games = vec![Some(row.judgment.clone())];
    match single::recorded(row, selection.rule) {
        Ok(score) => sample.score = Some(score),
        Err(unscored) => {
            sample.unscored = Some(unscored);
            sample.reason = Some(match unscored {
                Unscored::OffScale => verdict::NoScore::OffScale(row.score).to_string(),
                _ => verdict::NoScore::Absent.to_string(),
            });
        }
    }
    sample
}

fn pair_sample(row: &PairJudgment, selection: &Selection<'_>) -> Sample {
    let models = vec![row.model_1.clone(), row.model_2.clone()];
    let mut sample = sample(&row.question_id, row.turn, models, selection.questions);
    sample.games = vec![Some(row.g1_judgment.clone()), Some(row.g2_judgment.clone())];
    sample.winner = pairwise::outcome(row.g1_winner, row.g2_winner);
    if sample.winner.is_none() {
        let games = [row.g1_winner, row.g2_winner].map(|winner| winner == GameWinner::Error);
        let which = if games == [true, true] { "neither game has" } else { "one of the games lacks" };
        sample.reason = Some(format!("{which} a verdict"));
        sample.unscored = Some(Unscored::NoVerdict);
    }
    sample
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mt_bench::Questions;
    use crate::mt_bench::judgment::Judgments;

    fn row(id: u8, model: &str, judge: &str, score: i8) -> String {
        format!(
            "{{\"question_id\":{id},\"model\":\"{model}\",\"judge\":[\"{judge}\",\"p\"],\"score\":{score},\"turn\":1}}\n"
        )
    }

    fn import(rows: &str, selection: &Selection<'_>) -> Result<Imported, String> {
        let path = Path::new("j.jsonl");
        let judgments = Judgments::parse(path, rows.as_bytes()).unwrap();
        super::import(path, judgments, selection).map_err(|error| error.to_string())
    }

    const STRICT: Selection<'_> =
        Selection { judge_model: None, rule: Rule::Strict, duplicates: Duplicates::Refuse, questions: None };

    #[test]
    fn repeated_judgments_are_refused_unless_they_are_averaged() {
        let rows = row(1, "m", "j", 4) + &row(2, "m", "j", 5) + &row(1, "m", "j", 8);
        let message = import(&rows, &STRICT).unwrap_err();
        assert!(
            message.starts_with("j.jsonl:3: question 1, turn 1 of `m` is already judged by `j` on line 1"),
            "{message}"
        );
        let averaged = import(&rows, &Selection { duplicates: Duplicates::Average, ..STRICT }).unwrap();
        let Selected::Single(items) = averaged.judgments else { panic!("pairs") };
        let scores: Vec<_> = items["m"].iter().map(|item| item.score).collect();
        assert_eq!((averaged.duplicates, scores), (1, vec![Ok(6.0), Ok(5.0)]));
        let official = import(&rows, &Selection { rule: Rule::Official, ..STRICT }).unwrap();
        let Selected::Single(items) = official.judgments else { panic!("pairs") };
        assert_eq!(items["m"].len(), 3);
    }

    #[test]
    fn judges_are_not_mixed() {
        let rows = row(1, "m", "j", 4) + &row(1, "m", "k", 8);
        assert!(import(&rows, &STRICT).unwrap_err().contains("select one with --judge-model: j, k"));
        let one = import(&rows, &Selection { judge_model: Some("k"), ..STRICT }).unwrap();
        assert_eq!((one.samples.len(), one.samples[0].score), (1, Some(8.0)));
        let message = import(&rows, &Selection { judge_model: Some("l"), ..STRICT }).unwrap_err();
        assert!(message.contains("no judgments of that judge, but of j, k"), "{message}");
    }

    #[test]
    fn what_is_missing_is_counted_where_the_questions_are_known() {
        let questions = [1, 2].map(|id| format!("{{\"question_id\":{id},\"category\":\"c\",\"turns\":[\"q\"]}}\n"));
        let questions = Questions::parse(Path::new("q"), questions.concat().as_bytes()).unwrap();
        let rows = row(1, "m", "j", 4) + &row(2, "m", "j", 11) + &row(1, "n", "j", -1);
        let selection = Selection { questions: Some(&questions.list), ..STRICT };
        let imported = import(&rows, &selection).unwrap();
        let unscored: Vec<_> = imported.samples.iter().map(|sample| sample.unscored).collect();
        use Unscored::{Missing, NoVerdict, OffScale};
        assert_eq!(unscored, [None, Some(OffScale), Some(NoVerdict), Some(Missing)]);
        let Selected::Single(items) = imported.judgments else { panic!("pairs") };
        assert_eq!(items["n"].iter().map(|item| item.score).collect::<Vec<_>>(), [Err(NoVerdict), Err(Missing)]);
    }
}
