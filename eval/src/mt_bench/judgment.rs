//! Judgments in the official layouts of `model_judgment/<judge>_single.jsonl` and `<judge>_pair.jsonl`.

use std::path::Path;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use super::verdict::Position;
use super::{Id, Turn};
use crate::jsonl::{self, InputError};

/// The score of a judgment without one.
pub const NO_SCORE: f64 = -1.0;

/// A judgment on one answer.
///
/// ```json
/// {"question_id": 81, "model": "m", "judge": ["gpt-4", "single-v1"], "user_prompt": "[Instruction] ...",
///  "judgment": "... Rating: [[8]]", "score": 8, "turn": 1, "tstamp": 1714512345.6}
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SingleJudgment {
    /// The question.
    pub question_id: Id,
    /// The model whose answer is judged.
    pub model: String,
    /// The judge and its prompt.
    pub judge: (String, String),
    /// What the judge was shown.
    #[serde(default)]
    pub user_prompt: String,
    /// What the judge said.
    #[serde(default)]
    pub judgment: String,
    /// The score; -1 is none.
    #[serde(serialize_with = "whole_as_integer")]
    pub score: f64,
    /// The turn.
    pub turn: Turn,
    /// When it was judged, in seconds since 1970.
    #[serde(default)]
    pub tstamp: f64,
}

/// What a game said about two models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GameWinner {
    /// The first model.
    #[serde(rename = "model_1")]
    Model1,
    /// The second model.
    #[serde(rename = "model_2")]
    Model2,
    /// Neither.
    #[serde(rename = "tie")]
    Tie,
    /// There was no verdict.
    #[serde(rename = "error")]
    Error,
}

impl GameWinner {
    /// The winner of a game in which the second model's answer was shown first, or not.
    pub fn of(position: Option<Position>, swapped: bool) -> Self {
        match (position, swapped) {
            (Some(Position::A), false) | (Some(Position::B), true) => Self::Model1,
            (Some(Position::B), false) | (Some(Position::A), true) => Self::Model2,
            (Some(Position::Tie), _) => Self::Tie,
            (None, _) => Self::Error,
        }
    }
}

/// A judgment on two answers: two games, the second one with the answers in swapped positions.
///
/// ```json
/// {"question_id": 81, "model_1": "m", "model_2": "n", "g1_winner": "model_1", "g2_winner": "tie",
///  "judge": ["gpt-4", "pair-v2"], "g1_user_prompt": "...", "g1_judgment": "... [[A]]",
///  "g2_user_prompt": "...", "g2_judgment": "... [[C]]", "turn": 1, "tstamp": 1714512345.6}
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairJudgment {
    /// The question.
    pub question_id: Id,
    /// The model whose answer came first in the first game.
    pub model_1: String,
    /// The other model.
    pub model_2: String,
    /// What the first game said.
    pub g1_winner: GameWinner,
    /// What the second game said.
    pub g2_winner: GameWinner,
    /// The judge and its prompt.
    pub judge: (String, String),
    /// What the judge was shown in the first game.
    #[serde(default)]
    pub g1_user_prompt: String,
    /// What the judge said in the first game.
    #[serde(default)]
    pub g1_judgment: String,
    /// What the judge was shown in the second game.
    #[serde(default)]
    pub g2_user_prompt: String,
    /// What the judge said in the second game.
    #[serde(default)]
    pub g2_judgment: String,
    /// The turn.
    pub turn: Turn,
    /// When it was judged, in seconds since 1970.
    #[serde(default)]
    pub tstamp: f64,
}

/// Python writes a score without a point as an integer.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn whole_as_integer<S: Serializer>(score: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if score.fract() == 0.0 && score.abs() < 1e15 {
        serializer.serialize_i64(*score as i64)
    } else {
        serializer.serialize_f64(*score)
    }
}

/// The judgments of a file, with their lines.
#[derive(Debug, Clone, PartialEq)]
pub enum Judgments {
    /// On single answers.
    Single(Vec<(usize, SingleJudgment)>),
    /// On pairs of answers.
    Pair(Vec<(usize, PairJudgment)>),
}

impl Judgments {
    /// Reads a file; its first row says of which kind it is.
    ///
    /// # Errors
    /// At the first row that is malformed or of the other kind, and when there are no rows.
    pub fn read(path: &Path) -> Result<Self, InputError> {
        Self::parse(path, &jsonl::read(path)?)
    }

    /// The content of such a file; `path` is its name in messages.
    ///
    /// # Errors
    /// As [`Judgments::read`].
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, InputError> {
        let rows = jsonl::rows::<Value>(path, bytes)?;
        let is_pair = |row: &Value| row.get("model_1").is_some();
        let Some((_, first)) = rows.first() else {
            return Err(InputError::File { path: path.to_owned(), problem: "it holds no judgments".into() });
        };
        let pair = is_pair(first);
        if let Some((line, _)) = rows.iter().find(|(_, row)| is_pair(row) != pair) {
            let problem = "judgments on single answers and on pairs cannot be mixed in one file".into();
            return Err(InputError::Line { path: path.to_owned(), line: *line, problem });
        }
        Ok(if pair { Self::Pair(typed(path, rows)?) } else { Self::Single(typed(path, rows)?) })
    }
}

fn typed<T: for<'de> Deserialize<'de>>(path: &Path, rows: Vec<(usize, Value)>) -> Result<Vec<(usize, T)>, InputError> {
    let typed = |(line, row)| match serde_json::from_value(row) {
        Ok(row) => Ok((line, row)),
        Err(error) => {
            Err(InputError::Line { path: path.to_owned(), line, problem: format!("not a usable row: {error}") })
        }
    };
    rows.into_iter().map(typed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SINGLE: &str = r#"{"question_id":81,"model":"m","judge":["j","single-v1"],"user_prompt":"p","judgment":"[[8]]","score":8,"turn":1,"tstamp":1.5}"#;
    const PAIR: &str = r#"{"question_id":81,"model_1":"m","model_2":"n","g1_winner":"model_1","g2_winner":"error","judge":["j","pair-v2"],"g1_user_prompt":"p","g1_judgment":"[[A]]","g2_user_prompt":"q","g2_judgment":"","turn":2,"tstamp":1.5}"#;

    fn parse(rows: &str) -> Result<Judgments, String> {
        Judgments::parse(Path::new("j.jsonl"), rows.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_official_layouts_round_trip() {
        let Judgments::Single(rows) = parse(SINGLE).unwrap() else { panic!("a pair") };
        assert_eq!(serde_json::to_string(&rows[0].1).unwrap(), SINGLE);
        let Judgments::Pair(rows) = parse(PAIR).unwrap() else { panic!("single") };
        assert_eq!(serde_json::to_string(&rows[0].1).unwrap(), PAIR);
        let half = SINGLE.replace(":8,", ":7.5,");
        let Judgments::Single(rows) = parse(&half).unwrap() else { panic!("a pair") };
        assert_eq!(serde_json::to_string(&rows[0].1).unwrap(), half);
    }

    #[test]
    fn bad_rows_are_named_with_file_and_line() {
        assert!(parse(&format!("{SINGLE}\n{PAIR}")).unwrap_err().starts_with("j.jsonl:2: judgments on single"));
        assert!(
            parse(&SINGLE.replace("\"turn\":1", "\"turn\":3")).unwrap_err().contains("`turn` must be 1 or 2, not 3")
        );
        assert!(parse(&PAIR.replace("error", "nobody")).unwrap_err().contains("unknown variant `nobody`"));
        assert!(parse(&SINGLE.replace("\"score\":8,", "")).unwrap_err().contains("missing field `score`"));
        assert!(parse(" \n").unwrap_err().contains("holds no judgments"));
    }

    #[test]
    fn swapped_games_name_models_not_positions() {
        assert_eq!(GameWinner::of(Some(Position::A), false), GameWinner::Model1);
        assert_eq!(GameWinner::of(Some(Position::A), true), GameWinner::Model2);
        assert_eq!(GameWinner::of(Some(Position::B), true), GameWinner::Model1);
        assert_eq!(GameWinner::of(Some(Position::Tie), true), GameWinner::Tie);
        assert_eq!(GameWinner::of(None, false), GameWinner::Error);
    }
}
