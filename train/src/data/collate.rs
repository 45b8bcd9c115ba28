//! Examples to one batch of packed rows: no padding, and a pair's shared prompt only once.

use std::sync::Arc;

use orpo_model::PackedRows;
use orpo_model::kernels::Segment;

use super::{Example, Sequence};
use crate::loss::PairSpans;

/// What the model computes and what the loss looks at.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Input tokens.
    pub rows: PackedRows,
    /// For every scored token the row that predicts it.
    pub predicting_rows: Vec<u32>,
    /// The scored tokens.
    pub labels: Vec<u32>,
    /// Where each example's scored tokens stand among them.
    pub spans: Vec<PairSpans>,
    /// The reference model's sums over each example's chosen and rejected response, where examples have them.
    pub references: Vec<(f64, f64)>,
    /// Tokens of the examples, prompts counted on both sides.
    pub tokens: usize,
}

/// Packs examples. The prompt that a pair's sides have in common is laid down once and both responses attend to it;
/// the loss and its gradient are those of two separate sequences.
pub fn collate(examples: &[&Example]) -> Batch {
    let mut packer = Packer::default();
    let spans = examples.iter().map(|example| packer.example(example)).collect();
    Batch {
        rows: PackedRows {
            ids: packer.ids,
            positions: Arc::new(packer.positions),
            groups: Arc::new(packer.groups),
            dropout_seed: None,
        },
        predicting_rows: packer.predicting_rows,
        labels: packer.labels,
        spans,
        references: examples.iter().filter_map(|example| example.reference).collect(),
        tokens: examples.iter().map(|example| example.tokens()).sum(),
    }
}

/// Rows that an example takes in a batch.
pub fn packed_rows(example: &Example) -> usize {
    let of = |sequence: &Sequence| sequence.ids.len() - 1;
    match &example.rejected {
        None => of(&example.chosen),
        Some(rejected) => {
            let shared = shared_prompt(&example.chosen, rejected);
            let tail = |sequence: &Sequence| of(sequence).saturating_sub(shared);
            shared + tail(&example.chosen) + tail(rejected)
        }
    }
}

/// How many prompt tokens both sides begin with.
fn shared_prompt(chosen: &Sequence, rejected: &Sequence) -> usize {
    let prompts = chosen.ids[..chosen.prompt_len].iter().zip(&rejected.ids[..rejected.prompt_len]);
    prompts.take_while(|(a, b)| a == b).count()
}

#[derive(Default)]
struct Packer {
    ids: Vec<u32>,
    positions: Vec<u32>,
    groups: Vec<Vec<Segment>>,
    predicting_rows: Vec<u32>,
    labels: Vec<u32>,
}

impl Packer {
    fn example(&mut self, example: &Example) -> PairSpans {
        let chosen = &example.chosen;
        let Some(rejected) = &example.rejected else {
            let start = self.ids.len();
            let segment = self.segment(&chosen.ids[..chosen.ids.len() - 1], 0, start..start);
            let row_of = |position: usize| segment.rows.start + position;
            let prompt = self.score(&chosen.ids, 1..chosen.prompt_len, row_of);
            let response = self.score(&chosen.ids, chosen.prompt_len.max(1)..chosen.ids.len(), row_of);
            self.groups.push(vec![segment]);
            return PairSpans { prompt, chosen: response, rejected: 0..0, unlearnt: 0 };
        };

        let shared = shared_prompt(chosen, rejected);
        let start = self.ids.len();
        let prefix = start..start + shared;
        let mut group = Vec::new();
        if shared > 0 {
            group.push(self.segment(&chosen.ids[..shared], 0, start..start));
        }
        // The last token of a sequence predicts nothing that is scored: it needs no row.
        let mut tail = |ids: &[u32]| {
            let segment = self.segment(&ids[shared.min(ids.len() - 1)..ids.len() - 1], shared, prefix.clone());
            let first = segment.rows.start;
            if !segment.rows.is_empty() {
                group.push(segment);
            }
            move |position: usize| if position < shared { start + position } else { first + position - shared }
        };
        let chosen_row = tail(&chosen.ids);
        let rejected_row = tail(&rejected.ids);
        self.groups.push(group);
        // What the likelihood leaves out stands at the end of the response's span; in a prompt it is not even scored.
        let skipped = |position: &usize| Some(chosen.ids[*position]) == example.nll_skips;
        let response = chosen.prompt_len.max(1)..chosen.ids.len();
        let (unlearnt, learnt): (Vec<usize>, Vec<usize>) = response.partition(skipped);
        let prompt = self.score(&chosen.ids, (1..chosen.prompt_len).filter(|at| !skipped(at)), chosen_row);
        let first = self.score(&chosen.ids, learnt, chosen_row).start;
        let end = self.score(&chosen.ids, unlearnt.iter().copied(), chosen_row).end;
        let rejected = self.score(&rejected.ids, rejected.prompt_len.max(1)..rejected.ids.len(), rejected_row);
        PairSpans { prompt, chosen: first..end, rejected, unlearnt: unlearnt.len() }
    }

    /// Lays down tokens that stand at `position` onwards in their sequence.
    fn segment(&mut self, ids: &[u32], position: usize, prefix: std::ops::Range<usize>) -> Segment {
        let start = self.ids.len();
        self.ids.extend_from_slice(ids);
        self.positions.extend((position..position + ids.len()).map(|p| p as u32));
        Segment { rows: start..self.ids.len(), prefix }
    }

    /// Scores the tokens at `positions`, each predicted from the row of the token before it.
    fn score(
        &mut self,
        ids: &[u32],
        positions: impl IntoIterator<Item = usize>,
        row_of: impl Fn(usize) -> usize,
    ) -> std::ops::Range<usize> {
        let first = self.labels.len();
        for at in positions {
            self.labels.push(ids[at]);
            self.predicting_rows.push(row_of(at - 1) as u32);
        }
        first..self.labels.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(ids: &[u32], prompt_len: usize) -> Sequence {
        Sequence { ids: ids.to_vec(), prompt_len }
    }

    #[test]
    fn a_pair_shares_its_prompt() {
        let example = Example::pair(1, sequence(&[1, 2, 3, 10, 11], 3), sequence(&[1, 2, 3, 20], 3));
        let batch = collate(&[&example]);
        assert_eq!(batch.rows.ids, [1, 2, 3, 10]);
        assert_eq!(*batch.rows.positions, [0, 1, 2, 3]);
        assert_eq!(batch.labels, [2, 3, 10, 11, 20]);
        assert_eq!(batch.predicting_rows, [0, 1, 2, 3, 2]);
        assert_eq!(batch.spans, [PairSpans { prompt: 0..2, chosen: 2..4, rejected: 4..5, unlearnt: 0 }]);
        assert_eq!(batch.rows.groups[0].len(), 2);
        assert_eq!(batch.tokens, 9);
        assert_eq!(packed_rows(&example), 4);
    }

    #[test]
    fn prompts_that_merge_differently_share_what_they_have_in_common() {
        let example = Example::pair(1, sequence(&[1, 2, 3, 10, 11], 3), sequence(&[1, 2, 9, 20, 21], 2));
        let batch = collate(&[&example]);
        assert_eq!(batch.rows.ids, [1, 2, 3, 10, 9, 20]);
        assert_eq!(*batch.rows.positions, [0, 1, 2, 3, 2, 3]);
        assert_eq!(batch.labels, [2, 3, 10, 11, 9, 20, 21]);
        assert_eq!(batch.predicting_rows, [0, 1, 2, 3, 1, 4, 5]);
        assert_eq!(packed_rows(&example), 6);
    }

    #[test]
    fn in_the_authors_convention_every_end_is_scored_and_none_is_learnt() {
        let end = 9;
        let example = Example::pair(1, sequence(&[1, end, 3, 10, end, 11, end], 3), sequence(&[1, end, 3, 20], 3))
            .in_authors_convention(end, 7);
        let batch = collate(&[&example]);
        // The chosen side is full already; the rejected one is followed by padding.
        assert_eq!(batch.labels, [3, 10, 11, end, end, 20, end]);
        assert_eq!(batch.predicting_rows, [1, 2, 4, 3, 5, 2, 6]);
        assert_eq!(batch.rows.ids, [1, end, 3, 10, end, 11, 20]);
        assert_eq!(batch.spans, [PairSpans { prompt: 0..1, chosen: 1..5, rejected: 5..7, unlearnt: 2 }]);
    }

    #[test]
    fn a_document_is_one_sequence() {
        let example = Example::document(1, sequence(&[1, 2, 3], 1));
        let batch = collate(&[&example, &example]);
        assert_eq!(batch.rows.ids, [1, 2, 1, 2]);
        assert_eq!(packed_rows(&example), 2);
        assert_eq!(batch.labels, [2, 3, 2, 3]);
        assert_eq!(batch.spans[1], PairSpans { prompt: 2..2, chosen: 2..4, rejected: 0..0, unlearnt: 0 });
    }
}
