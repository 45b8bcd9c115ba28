//! How a pair that is too long is cut, by the rules of those who trained before, each under its name.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Which side of a prompt and response gives way. Responses always lose their end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    /// The response has what the prompt leaves of `max_length`; the prompt is never cut (TRL from 0.27 on).
    #[default]
    Response,
    /// First the prompt is cut to its last `max_prompt_length` tokens, then, if that is not enough, responses to
    /// `max_length - max_prompt_length` (TRL 0.8 to 0.26, `truncation_mode = "keep_end"`). A BOS is cut off, too.
    KeepEnd,
    /// The same with the prompt's first tokens (`truncation_mode = "keep_start"`).
    KeepStart,
    /// Prompt and responses share `max_length` in proportion to their lengths, unless one of them is short; the prompt
    /// loses its end (LLaMA-Factory).
    Proportional,
}

/// The bounds of the cut, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Prompt and response.
    pub max_length: usize,
    /// Prompt alone, in [`Truncation::KeepEnd`] and [`Truncation::KeepStart`]; less than `max_length`.
    pub max_prompt_length: usize,
}

/// What is kept of one side of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Tokens of the prompt.
    pub prompt: Range<usize>,
    /// Tokens from the beginning of the response.
    pub response: usize,
}

impl Truncation {
    /// What is kept of a prompt and a response, of whose pair the longer response has `longest` tokens.
    pub fn keep(self, limits: Limits, prompt: usize, response: usize, longest: usize) -> Kept {
        let Limits { max_length, max_prompt_length } = limits;
        match self {
            Self::Response => Kept { prompt: 0..prompt, response: response.min(max_length.saturating_sub(prompt)) },
            Self::KeepEnd | Self::KeepStart => {
                if prompt.saturating_add(longest) <= max_length {
                    return Kept { prompt: 0..prompt, response };
                }
                let kept = prompt.min(max_prompt_length);
                let range = if self == Self::KeepEnd { prompt - kept..prompt } else { 0..kept };
                let fits = kept.saturating_add(longest) <= max_length;
                let response = if fits { response } else { response.min(max_length - max_prompt_length) };
                Kept { prompt: range, response }
            }
            Self::Proportional => {
                let for_response = if longest.saturating_mul(2) < max_length {
                    max_length
                } else if prompt.saturating_mul(2) < max_length {
                    max_length - prompt
                } else {
                    // In floating point, as the reference does it: the result is its to the last token.
                    (max_length as f64 * (longest as f64 / (prompt + longest) as f64)) as usize
                };
                let for_prompt = max_length.saturating_sub(for_response.min(longest));
                Kept { prompt: 0..prompt.min(for_prompt), response: response.min(for_response) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What `keep` does to the tokens themselves, one token at a time.
    fn slowly(rule: Truncation, limits: Limits, prompt: usize, response: usize, longest: usize) -> (Vec<usize>, usize) {
        let mut kept: Vec<usize> = (0..prompt).collect();
        let (mut response, mut longest) = (response, longest);
        match rule {
            Truncation::Response => {
                while response > 0 && kept.len() + response > limits.max_length {
                    response -= 1;
                }
            }
            Truncation::KeepEnd | Truncation::KeepStart => {
                if kept.len() + longest > limits.max_length {
                    while kept.len() > limits.max_prompt_length {
                        kept.remove(if rule == Truncation::KeepEnd { 0 } else { kept.len() - 1 });
                    }
                }
                if kept.len() + longest > limits.max_length {
                    while longest > limits.max_length - limits.max_prompt_length {
                        longest -= 1;
                    }
                    response = response.min(longest);
                }
            }
            Truncation::Proportional => unreachable!("checked against the reference's cases"),
        }
        (kept, response)
    }

    proptest! {
        #[test]
        fn ranges_equal_a_cut_token_by_token(
            max_length in 2usize..60, share in 0.0..1.0, prompt in 0usize..80, response in 1usize..80, other in 1usize..80,
        ) {
            let max_prompt_length = ((max_length as f64 * share) as usize).clamp(1, max_length - 1);
            let limits = Limits { max_length, max_prompt_length };
            let longest = response.max(other);
            for rule in [Truncation::Response, Truncation::KeepEnd, Truncation::KeepStart] {
                let kept = rule.keep(limits, prompt, response, longest);
                let tokens: Vec<usize> = kept.prompt.clone().collect();
                prop_assert_eq!((tokens, kept.response), slowly(rule, limits, prompt, response, longest));
            }
        }

        #[test]
        fn nothing_is_longer_than_allowed_or_than_it_was(
            max_length in 2usize..60, prompt in 0usize..80, response in 1usize..80, other in 1usize..80,
        ) {
            let limits = Limits { max_length, max_prompt_length: (max_length / 2).max(1) };
            for rule in [Truncation::KeepEnd, Truncation::KeepStart, Truncation::Proportional] {
                let kept = rule.keep(limits, prompt, response, response.max(other));
                prop_assert!(kept.prompt.end <= prompt && kept.response <= response);
                prop_assert!(kept.prompt.len() + kept.response <= max_length);
                if prompt + response.max(other) <= max_length {
                    prop_assert_eq!(kept, Kept { prompt: 0..prompt, response });
                }
            }
        }
    }

    #[test]
    fn no_limit_cuts_nothing() {
        let limits = Limits { max_length: usize::MAX, max_prompt_length: 512 };
        for rule in [Truncation::Response, Truncation::KeepEnd, Truncation::KeepStart, Truncation::Proportional] {
            assert_eq!(rule.keep(limits, 700, 9, 20), Kept { prompt: 0..700, response: 9 });
        }
    }
}
