//! How long the examples are, and what truncation took from them.

use serde::Serialize;

use crate::data::{DataFile, Dataset, Dropped, Example, packed_rows};

/// Order statistics of some lengths, in tokens: nearest rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// Half of them are not longer.
    pub p50: usize,
    /// Nine of ten are not longer.
    pub p90: usize,
    /// 95 of a hundred are not longer.
    pub p95: usize,
    /// 99 of a hundred are not longer.
    pub p99: usize,
    /// The longest.
    pub max: usize,
}

impl Percentiles {
    /// Those of `lengths`; none where there are none.
    pub fn of(lengths: impl IntoIterator<Item = usize>) -> Option<Self> {
        let mut lengths: Vec<usize> = lengths.into_iter().collect();
        lengths.sort_unstable();
        let max = *lengths.last()?;
        let at = |percent: usize| lengths[(lengths.len() * percent).div_ceil(100).max(1) - 1];
        Some(Self { p50: at(50), p90: at(90), p95: at(95), p99: at(99), max })
    }
}

/// Lengths of the examples as they are trained, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Lengths {
    /// Prompts of pairs.
    pub prompt: Option<Percentiles>,
    /// Chosen responses; of documents the whole.
    pub chosen: Option<Percentiles>,
    /// Rejected responses.
    pub rejected: Option<Percentiles>,
    /// Rows of a whole example in a batch, a pair's shared prompt once.
    pub packed: Option<Percentiles>,
}

impl Lengths {
    /// Those of `examples`.
    pub fn of(examples: &[Example]) -> Self {
        let pairs = || examples.iter().filter_map(|example| Some((&example.chosen, example.rejected.as_ref()?)));
        let chosen = |example: &Example| match example.rejected {
            Some(_) => example.chosen.response_len(),
            None => example.chosen.ids.len(),
        };
        Self {
            prompt: Percentiles::of(pairs().map(|(chosen, _)| chosen.prompt_len)),
            chosen: Percentiles::of(examples.iter().map(chosen)),
            rejected: Percentiles::of(pairs().map(|(_, rejected)| rejected.response_len())),
            packed: Percentiles::of(examples.iter().map(packed_rows)),
        }
    }
}

/// What `data.max_length` and `data.drop_long_prompts` cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Cuts {
    /// Rows that are used and lost tokens.
    pub rows_cut: usize,
    /// Tokens that they lost, on both sides.
    pub tokens_cut: usize,
    /// Rows that are not used because too little of them would be left to tell the sides apart, or for their long prompt.
    pub rows_lost: usize,
}

impl Cuts {
    /// Those of `data`.
    pub fn of(data: &Dataset) -> Self {
        let lost = |file: &DataFile| -> usize {
            let rows = |reason| file.dropped.get(&reason).map_or(0, Vec::len);
            [Dropped::NothingLeft, Dropped::LongPrompt, Dropped::EqualWithinLength].map(rows).into_iter().sum()
        };
        Self {
            rows_cut: data.examples.iter().filter(|example| example.cut > 0).count(),
            tokens_cut: data.examples.iter().map(|example| example.cut).sum(),
            rows_lost: data.files.iter().map(lost).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let all = Percentiles::of((1..=200).rev()).unwrap();
        assert_eq!(all, Percentiles { p50: 100, p90: 180, p95: 190, p99: 198, max: 200 });
        assert_eq!(Percentiles::of([7]), Some(Percentiles { p50: 7, p90: 7, p95: 7, p99: 7, max: 7 }));
        assert_eq!(Percentiles::of([]), None);
    }
}
