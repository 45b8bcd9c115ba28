//! Examples that are there twice, and evaluation data that is trained on.

use std::collections::HashSet;

use super::Example;

/// What evaluation examples have in common with training examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overlap {
    /// Evaluation examples whose prompt is trained on; of documents, those that are trained on.
    pub prompts: usize,
    /// Evaluation examples that are trained on, prompt and responses.
    pub examples: usize,
}

/// The tokens by which an example is known: both sides.
type Tokens<'e> = (&'e [u32], Option<&'e [u32]>);

fn tokens(example: &Example) -> Tokens<'_> {
    (&example.chosen.ids, example.rejected.as_ref().map(|sequence| sequence.ids.as_slice()))
}

/// The prompt's tokens; of a document all.
fn prompt(example: &Example) -> &[u32] {
    let ids = &example.chosen.ids;
    if example.rejected.is_some() { &ids[..example.chosen.prompt_len] } else { ids }
}

/// How many of `examples` repeat an earlier one, token by token.
pub fn duplicates(examples: &[Example]) -> usize {
    let mut seen = HashSet::new();
    examples.iter().filter(|example| !seen.insert(tokens(example))).count()
}

/// What `evaluation` has in common with `training`.
pub fn overlap(training: &[Example], evaluation: &[Example]) -> Overlap {
    let prompts: HashSet<&[u32]> = training.iter().map(prompt).collect();
    let examples: HashSet<Tokens<'_>> = training.iter().map(tokens).collect();
    Overlap {
        prompts: evaluation.iter().filter(|example| prompts.contains(prompt(example))).count(),
        examples: evaluation.iter().filter(|example| examples.contains(&tokens(example))).count(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Sequence;

    #[test]
    fn equal_examples_and_equal_prompts_are_counted() {
        let sequence = |ids: &[u32]| Sequence { ids: ids.to_vec(), prompt_len: 2 };
        let pair = |chosen: &[u32], rejected: &[u32]| Example::pair(1, sequence(chosen), sequence(rejected));
        let document = |ids: &[u32]| Example::document(1, Sequence { ids: ids.to_vec(), prompt_len: 1 });
        let training = [pair(&[1, 2, 3], &[1, 2, 4]), pair(&[1, 2, 3], &[1, 2, 5]), pair(&[1, 2, 3], &[1, 2, 4])];
        assert_eq!((duplicates(&training), duplicates(&training[..2])), (1, 0));
        let evaluation = [pair(&[1, 2, 3], &[1, 2, 5]), pair(&[1, 2, 9], &[1, 2, 8]), pair(&[1, 3, 3], &[1, 3, 4])];
        assert_eq!(overlap(&training, &evaluation), Overlap { prompts: 2, examples: 1 });
        let documents = [document(&[1, 2, 3]), document(&[1, 2])];
        assert_eq!(overlap(&documents[..1], &documents), Overlap { prompts: 1, examples: 1 });
    }
}
