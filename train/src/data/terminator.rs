//! Whether the model can learn to stop.

use super::Example;

/// A warning for data in most of whose rows no chosen response holds an end token (`eos_ids`), so that the model is not
/// taught to end a turn and talks on until its limit.
pub fn untrained_terminator(examples: &[Example], eos_ids: &[u32]) -> Option<String> {
    let ends = |example: &&Example| {
        let sequence = &example.chosen;
        sequence.ids[sequence.prompt_len..].iter().any(|id| eos_ids.contains(id))
    };
    let without = examples.len() - examples.iter().filter(ends).count();
    (2 * without > examples.len()).then(|| {
        format!(
            "{without} of {} responses hold no end token, so the model does not learn to stop: \
             keep `data.append_eos`, raise `data.max_length`, or use a chat template that ends turns with the EOS",
            examples.len()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Sequence;

    #[test]
    fn most_rows_decide() {
        let example = |ids: &[u32]| Example::document(1, Sequence { ids: ids.to_vec(), prompt_len: 1 });
        let (ended, cut) = (example(&[2, 5, 2, 6]), example(&[2, 5, 5]));
        assert_eq!(untrained_terminator(&[ended.clone(), cut.clone()], &[2]), None);
        let warning = untrained_terminator(&[ended.clone(), cut.clone(), cut], &[2]).unwrap();
        assert!(warning.starts_with("2 of 3 responses hold no end token"), "{warning}");
        assert!(untrained_terminator(&[ended], &[]).is_some());
        assert_eq!(untrained_terminator(&[], &[2]), None);
    }
}
