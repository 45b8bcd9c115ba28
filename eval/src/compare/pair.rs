//! One prompt with two answers, and what was found about them.

use serde::{Deserialize, Serialize};

use crate::bias::Judged;

/// Which answer is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Winner {
    /// The first model's.
    #[serde(rename = "a")]
    A,
    /// The second model's.
    #[serde(rename = "b")]
    B,
    /// Neither.
    #[serde(rename = "tie")]
    Tie,
}

impl Winner {
    /// Of a preference for A between 0 and 1.
    pub fn of(preference: f64) -> Self {
        match preference {
            preference if preference > 0.5 => Self::A,
            preference if preference < 0.5 => Self::B,
            _ => Self::Tie,
        }
    }
}

/// Two answers to a prompt.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Pair {
    /// What both were asked.
    pub prompt: String,
    /// The answers of A and of B.
    pub answers: [String; 2],
    /// For every repetition of the judging, how much A was preferred, from 0 to 1: with A shown first, and with B shown
    /// first. `None` where there is no verdict. A decision without a judge has the same twice.
    pub preferences: Vec<[Option<f64>; 2]>,
    /// Verifiable instructions in the prompt, and how many of them A's and B's answers follow.
    pub followed: Option<[usize; 3]>,
    /// Why a verdict is missing.
    pub problem: Option<String>,
}

impl Pair {
    /// How much A was preferred in the first judging, over both orders; `None` unless both have a verdict.
    pub fn preference(&self) -> Option<f64> {
        let [a_first, b_first] = *self.preferences.first()?;
        Some(f64::midpoint(a_first?, b_first?))
    }

    /// The answer that won in the first judging: in both orders, else nobody did.
    pub fn winner(&self) -> Option<Winner> {
        self.winner_of(0)
    }

    /// What the judge decided in the first judging.
    pub fn judged(&self) -> Judged {
        Judged {
            placed: self.preferences.first().copied().unwrap_or_default(),
            unplaced: None,
            lengths: Some(self.answers.each_ref().map(|answer| answer.chars().count())),
        }
    }

    /// The answer that won in any repetition, as [`Pair::winner`].
    pub fn winner_of(&self, repeat: usize) -> Option<Winner> {
        let [a_first, b_first] = *self.preferences.get(repeat)?;
        let [a_first, b_first] = [Winner::of(a_first?), Winner::of(b_first?)];
        Some(if a_first == b_first { a_first } else { Winner::Tie })
    }
}

/// A line of `samples.jsonl`.
#[derive(Debug, Serialize)]
struct Sample<'a> {
    index: usize,
    prompt: &'a str,
    response_a: &'a str,
    response_b: &'a str,
    winner: Option<Winner>,
    preferences: &'a [[Option<f64>; 2]],
    #[serde(skip_serializing_if = "Option::is_none")]
    followed: Option<Followed>,
    error: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct Followed {
    instructions: usize,
    a: usize,
    b: usize,
}

/// The content of `samples.jsonl`.
pub fn samples(pairs: &[Pair]) -> Vec<u8> {
    let mut lines = Vec::new();
    for (index, pair) in pairs.iter().enumerate() {
        let sample = Sample {
            index,
            prompt: &pair.prompt,
            response_a: &pair.answers[0],
            response_b: &pair.answers[1],
            winner: pair.winner(),
            preferences: &pair.preferences,
            followed: pair.followed.map(|[instructions, a, b]| Followed { instructions, a, b }),
            error: pair.problem.as_deref(),
        };
        serde_json::to_writer(&mut lines, &sample).expect("samples have string keys");
        lines.push(b'\n');
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(preferences: &[[Option<f64>; 2]]) -> Pair {
        Pair { preferences: preferences.to_vec(), ..Pair::default() }
    }

    #[test]
    fn both_orders_must_agree() {
        for (a_first, b_first, winner) in [
            (1.0, 1.0, Winner::A),
            (0.0, 0.4, Winner::B),
            (1.0, 0.0, Winner::Tie),
            (1.0, 0.5, Winner::Tie),
            (0.5, 0.5, Winner::Tie),
        ] {
            assert_eq!(pair(&[[Some(a_first), Some(b_first)]]).winner(), Some(winner), "{a_first} {b_first}");
        }
        assert_eq!(pair(&[[Some(1.0), None]]).winner(), None);
        assert_eq!((pair(&[]).winner(), pair(&[]).preference()), (None, None));
        assert_eq!(pair(&[[Some(1.0); 2], [Some(0.0); 2]]).winner_of(1), Some(Winner::B));
    }
}
