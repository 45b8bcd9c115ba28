//! From a judge's words to a verdict.
//!
//! The official rule (FastChat, `llm_judge/common.py`) takes the first number in double brackets, else the first one in
//! single brackets. So a reference such as `[1]` becomes the score of a reply that has no verdict, and a score of 11 or
//! 0 is as good as any. [`Rule::Strict`] takes a number in single brackets only behind the word "rating" or "score" and
//! refuses what is not between 1 and 10.

use std::sync::LazyLock;

use regex::Regex;
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
    #[error("the judge's score is no number that Python reads")]
    Unreadable,
    /// There is a number that is not on the scale.
    #[error("the judge's score {0} is not between 1 and 10")]
    OffScale(f64),
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
    static NAMED: LazyLock<Regex> = LazyLock::new(|| regex(r"(?i)\b(?:rating|score)\b[^\n\d\]]{0,20}\[(\d+\.?\d*)\]"));
    let backup = match rule {
        Rule::Official => &SINGLE,
        Rule::Strict => &NAMED,
    };
    let found = DOUBLE.captures(reply).or_else(|| backup.captures(reply)).ok_or(NoScore::Absent)?;
    let digits = &found[1];
    let score: f64 = match rule {
        Rule::Official if !python_reads(digits) => return Err(NoScore::Unreadable),
        _ => digits.parse().map_err(|_| NoScore::Unreadable)?,
    };
    match rule {
        Rule::Strict if !on_scale(score) => Err(NoScore::OffScale(score)),
        _ => Ok(score),
    }
}

/// Whether a score is one that the prompts ask for.
pub fn on_scale(score: f64) -> bool {
    (SCALE[0]..=SCALE[1]).contains(&score)
}

/// Whether digits with at most one point are a Python literal: ASCII, and no zero in front of an integer but zero.
fn python_reads(digits: &str) -> bool {
    let padded = digits.len() > 1 && digits.starts_with('0') && !digits.contains('.');
    digits.is_ascii() && (!padded || digits.bytes().all(|digit| digit == b'0'))
}

/// The winner in a reply to a prompt on two answers; `None` where there is no verdict. As officially, `[[A]]` anywhere
/// comes before `[[B]]`, and that before `[[C]]`.
pub fn winner(reply: &str, format: Format) -> Option<Position> {
    match format {
        Format::Rating => None,
        Format::Letter => [("[[A]]", Position::A), ("[[B]]", Position::B), ("[[C]]", Position::Tie)]
            .into_iter()
            .find_map(|(mark, position)| reply.contains(mark).then_some(position)),
        Format::TwoRatings => two_ratings(reply).map(|[a, b]| match a - b {
            difference if difference.abs() <= TIE_DELTA => Position::Tie,
            difference if difference > 0.0 => Position::A,
            _ => Position::B,
        }),
    }
}

fn two_ratings(reply: &str) -> Option<[f64; 2]> {
    static DOUBLE: LazyLock<Regex> = LazyLock::new(|| regex(r"\[\[(\d+\.?\d*),\s?(\d+\.?\d*)\]\]"));
    static SINGLE: LazyLock<Regex> = LazyLock::new(|| regex(r"\[(\d+\.?\d*),\s?(\d+\.?\d*)\]"));
    let found = DOUBLE.captures(reply).or_else(|| SINGLE.captures(reply))?;
    Some([found[1].parse().ok()?, found[2].parse().ok()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strict_rule_refuses_what_is_no_verdict() {
        for (reply, strict, official) in [
            ("Good. Rating: [[7]]", Ok(7.0), Ok(7.0)),
            ("Rating: [[7.5]], not [[9]]", Ok(7.5), Ok(7.5)),
            ("As [1] says, it is fine.", Err(NoScore::Absent), Ok(1.0)),
            ("Rating: [6]", Ok(6.0), Ok(6.0)),
            ("As [1] says. **Score**: [6]", Ok(6.0), Ok(1.0)),
            ("Rating: \\[[6]\\]", Ok(6.0), Ok(6.0)),
            ("Rating: [[11]]", Err(NoScore::OffScale(11.0)), Ok(11.0)),
            ("Rating: [[0]]", Err(NoScore::OffScale(0.0)), Ok(0.0)),
            ("Rating: [[07]]", Ok(7.0), Err(NoScore::Unreadable)),
            ("Rating: [[５]]", Err(NoScore::Unreadable), Err(NoScore::Unreadable)),
            ("Rating: [[07.5]]", Ok(7.5), Ok(7.5)),
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
}
