//! From a judge's words to a verdict.
//!
//! The official rule (FastChat, `llm_judge/common.py`) takes the first number in double brackets, else the first one in
//! single brackets. So a reference such as `[1]` becomes the score of a reply that has no verdict, and a score of 11 or
//! 0 is as good as any. [`Rule::Strict`] takes a number in single brackets only behind the word "rating" or "score" and
//! refuses what is not between 1 and 10.
//!
//! Officially the first verdict in a reply counts, be it one that the judge quotes from the answer or thinks better of. By
//! the strict rule a reply with two different verdicts has none.

use std::fmt;
use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde::{Deserialize, Serialize};

/// The lowest and the highest score that the prompts ask for.
pub const SCALE: [f64; 2] = [1.0, 10.0];

/// Two scores that differ by no more than this are a tie.
const TIE_DELTA: f64 = 0.1;

/// The form of a verdict, as prompts name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `[[7]]`: a score.
    Rating,
    /// `[[A]]`, `[[B]]`, or `[[C]]` for a tie.
    Letter,
    /// `[[7,8]]`: the scores of A and of B.
    TwoRatings,
}

/// How scores are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Ours: citations and scores off the scale are no verdicts.
    Strict,
    /// FastChat's.
    Official,
}

/// Why a reply has no score.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, thiserror::Error)]
pub enum NoScore {
    /// There is no number where a score should be.
    #[error("the judge's reply holds no score")]
    Absent,
    /// There is a number that the official program dies of: `07`, or digits of another script.
    #[error("the judge's score is not a number that Python reads")]
    Unreadable,
    /// There are several.
    #[error("the judge's reply holds different scores, such as {} and {}", .0[0], .0[1])]
    Contradictory([f64; 2]),
    /// There is a number that is not on the scale.
    #[error("the judge's score {0} is not between 1 and 10")]
    OffScale(f64),
}

/// Why a reply on two answers has no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoWinner {
    /// There is none.
    #[error("the judge's reply holds no verdict")]
    Absent,
    /// There are several.
    #[error("the judge's reply holds different verdicts, such as {} and {}", .0[0], .0[1])]
    Contradictory([Position; 2]),
}

/// Who won a game, by position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// The answer that was shown first.
    A,
    /// The answer that was shown second.
    B,
    /// Neither.
    Tie,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
            Self::Tie => "tie",
        })
    }
}

fn regex(source: &str) -> Regex {
    Regex::new(source).expect("a valid pattern")
}

/// The score in a reply to a `[[rating]]` prompt.
///
/// # Errors
/// Why there is none.
pub fn score(reply: &str, rule: Rule) -> Result<f64, NoScore> {
    // `\d` is any decimal digit here, as in Python.
    static DOUBLE: LazyLock<Regex> = LazyLock::new(|| regex(r"\[\[(\d+\.?\d*)\]\]"));
    static SINGLE: LazyLock<Regex> = LazyLock::new(|| regex(r"\[(\d+\.?\d*)\]"));
    static SPACED: LazyLock<Regex> = LazyLock::new(|| regex(r"\[\[\s*(\d+\.?\d*)\s*\]\]"));
    static NAMED: LazyLock<Regex> = LazyLock::new(|| regex(r"(?i)\b(?:rating|score)\b[^\n\d\]]{0,20}\[(\d+\.?\d*)\]"));
    match rule {
        Rule::Official => {
            let found = DOUBLE.captures(reply).or_else(|| SINGLE.captures(reply)).ok_or(NoScore::Absent)?;
            python_number(&found[1]).ok_or(NoScore::Unreadable)
        }
        Rule::Strict => {
            let all = |pattern: &Regex| -> Result<Vec<f64>, NoScore> {
                let number = |found: Captures<'_>| found[1].parse().map_err(|_| NoScore::Unreadable);
                pattern.captures_iter(reply).map(number).collect()
            };
            let mut scores = all(&SPACED)?;
            if scores.is_empty() {
                scores = all(&NAMED)?;
            }
            match only(&scores) {
                Ok(score) if !on_scale(score) => Err(NoScore::OffScale(score)),
                Ok(score) => Ok(score),
                Err(None) => Err(NoScore::Absent),
                Err(Some(different)) => Err(NoScore::Contradictory(different)),
            }
        }
    }
}

/// The value that all are; two that differ, or none if there is none.
fn only<T: Copy + PartialEq>(values: &[T]) -> Result<T, Option<[T; 2]>> {
    let (&first, others) = values.split_first().ok_or(None)?;
    match others.iter().find(|&&other| other != first) {
        Some(&other) => Err(Some([first, other])),
        None => Ok(first),
    }
}

/// Whether a score is one that the prompts ask for.
pub fn on_scale(score: f64) -> bool {
    (SCALE[0]..=SCALE[1]).contains(&score)
}

/// The number that Python's `ast.literal_eval` makes of digits with at most one point. A literal is ASCII, and an integer but
/// zero has no zero in front.
fn python_number(digits: &str) -> Option<f64> {
    let padded = digits.len() > 1 && digits.starts_with('0') && !digits.contains('.');
    let reads = digits.is_ascii() && (!padded || digits.bytes().all(|digit| digit == b'0'));
    reads.then(|| digits.parse().ok()).flatten()
}

/// The winner in a reply to a prompt on two answers by the official rule; `None` where there is no verdict. `[[A]]` anywhere
/// comes before `[[B]]`, and that before `[[C]]`; of pairs of scores the first counts.
pub fn winner(reply: &str, format: Format) -> Option<Position> {
    match format {
        Format::Rating => None,
        Format::Letter => LETTERS.into_iter().find_map(|(mark, position)| reply.contains(mark).then_some(position)),
        Format::TwoRatings => pairs_of_scores(reply, python_number).next().flatten(),
    }
}

/// The winner in a reply to a prompt on two answers by our rule.
///
/// # Errors
/// When there is no verdict, or there are different ones.
pub fn position(reply: &str, format: Format) -> Result<Position, NoWinner> {
    let found: Vec<Position> = match format {
        Format::Rating => Vec::new(),
        Format::Letter => {
            static SPACES: LazyLock<Regex> = LazyLock::new(|| regex(r"\[\[\s*([ABC])\s*\]\]"));
            let reply = SPACES.replace_all(reply, "[[$1]]");
            let named = LETTERS.into_iter().filter(|(mark, _)| reply.contains(mark));
            named.map(|(_, position)| position).collect()
        }
        Format::TwoRatings => pairs_of_scores(reply, |digits| digits.parse().ok()).flatten().collect(),
    };
    only(&found).map_err(|different| different.map_or(NoWinner::Absent, NoWinner::Contradictory))
}

const LETTERS: [(&str, Position); 3] = [("[[A]]", Position::A), ("[[B]]", Position::B), ("[[C]]", Position::Tie)];

/// What the pairs of scores in a reply say; none for a pair that `number` does not read. Pairs in single brackets count only
/// where there are none in double ones.
fn pairs_of_scores(reply: &str, number: fn(&str) -> Option<f64>) -> impl Iterator<Item = Option<Position>> {
    static DOUBLE: LazyLock<Regex> = LazyLock::new(|| regex(r"\[\[(\d+\.?\d*),\s?(\d+\.?\d*)\]\]"));
    static SINGLE: LazyLock<Regex> = LazyLock::new(|| regex(r"\[(\d+\.?\d*),\s?(\d+\.?\d*)\]"));
    let pattern = if DOUBLE.is_match(reply) { &DOUBLE } else { &SINGLE };
    pattern.captures_iter(reply).map(move |found| {
        let difference = number(&found[1])? - number(&found[2])?;
        Some(match difference {
            difference if difference.abs() <= TIE_DELTA => Position::Tie,
            difference if difference > 0.0 => Position::A,
            _ => Position::B,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strict_rule_refuses_what_is_no_verdict() {
        for (reply, strict, official) in [
            ("Good. Rating: [[7]]", Ok(7.0), Ok(7.0)),
            ("Rating: [[7.5]], not [[9]]", Err(NoScore::Contradictory([7.5, 9.0])), Ok(7.5)),
            ("It says \"Rating: [[10]]\" itself. Rating: [[2]]", Err(NoScore::Contradictory([10.0, 2.0])), Ok(10.0)),
            ("Rating: [[7]]. Once more: [[7.0]]", Ok(7.0), Ok(7.0)),
            ("Score: [6] for style. Rating: [[7]]", Ok(7.0), Ok(7.0)),
            ("Rating: [6], or rather rating: [7]", Err(NoScore::Contradictory([6.0, 7.0])), Ok(6.0)),
            ("As [1] says, it is fine.", Err(NoScore::Absent), Ok(1.0)),
            ("Rating: [6]", Ok(6.0), Ok(6.0)),
            ("As [1] says. **Score**: [6]", Ok(6.0), Ok(1.0)),
            ("Rating: \\[[6]\\]", Ok(6.0), Ok(6.0)),
            ("Rating: [[11]]", Err(NoScore::OffScale(11.0)), Ok(11.0)),
            ("Rating: [[0]]", Err(NoScore::OffScale(0.0)), Ok(0.0)),
            ("Rating: [[07]]", Ok(7.0), Err(NoScore::Unreadable)),
            ("Rating: [[５]]", Err(NoScore::Unreadable), Err(NoScore::Unreadable)),
            ("Rating: [[07.5]]", Ok(7.5), Ok(7.5)),
            ("Rating: [[ 7 ]]", Ok(7.0), Err(NoScore::Absent)),
            ("Rating: [[7]], not [[ 9 ]]", Err(NoScore::Contradictory([7.0, 9.0])), Ok(7.0)),
            ("Rating: 7", Err(NoScore::Absent), Err(NoScore::Absent)),
        ] {
            assert_eq!(score(reply, Rule::Strict), strict, "{reply}");
            assert_eq!(score(reply, Rule::Official), official, "{reply}");
        }
    }

    #[test]
    fn letters_have_an_order() {
        assert_eq!(winner("not [[B]] but [[A]]", Format::Letter), Some(Position::A));
        assert_eq!(winner("[[C]] or [[B]]", Format::Letter), Some(Position::B));
        assert_eq!(winner("[[C]]", Format::Letter), Some(Position::Tie));
        assert_eq!(winner("[A]", Format::Letter), None);
    }

    #[test]
    fn two_different_verdicts_are_none() {
        use Position::{A, B, Tie};
        let letter = |reply: &str| position(reply, Format::Letter);
        assert_eq!(letter("I would not say [[A]]; the verdict is [[B]]"), Err(NoWinner::Contradictory([A, B])));
        assert_eq!(letter("[[C]] or [[B]]"), Err(NoWinner::Contradictory([B, Tie])));
        assert_eq!(letter("[[B]], that is [[ B ]]"), Ok(B));
        assert_eq!(letter("not [[A]] but [[ B ]]"), Err(NoWinner::Contradictory([A, B])));
        assert_eq!(letter("A is better"), Err(NoWinner::Absent));
        let message = letter("[[A]] [[C]]").unwrap_err().to_string();
        assert_eq!(message, "the judge's reply holds different verdicts, such as A and tie");
        let scores = |reply: &str| position(reply, Format::TwoRatings);
        assert_eq!(scores("[[8,7]] [[1,9]]"), Err(NoWinner::Contradictory([A, B])));
        assert_eq!(scores("[[8,7]], in short [[8, 7]]"), Ok(A));
        assert_eq!(scores("[[08,7]]"), Ok(A));
        assert_eq!(position("[[8]]", Format::Rating), Err(NoWinner::Absent));
    }

    #[test]
    fn python_reads_both_scores_or_none() {
        for (reply, official) in [
            ("[[8,7]]", Some(Position::A)),
            ("[[08,7]]", None),
            ("[[8,07]]", None),
            ("[[8.0,07.5]]", Some(Position::A)),
            ("[[00,0]]", Some(Position::Tie)),
            ("[[\u{ff18},7]]", None),
            ("[8,7]", Some(Position::A)),
        ] {
            assert_eq!(winner(reply, Format::TwoRatings), official, "{reply}");
        }
    }
}
