//! `punctuation`: no commas.

use super::instruction::{Check, Instruction, Limit};

pub(super) const INSTRUCTIONS: &[Instruction] = &[Instruction {
    id: "punctuation:no_comma",
    arguments: &[],
    // Only the ASCII comma: `，` and `、` are allowed.
    build: |_| Ok(Check::new(|response| Limit::Exactly(0).verdict(response.matches(',').count(), "comma"))),
}];

#[cfg(test)]
mod tests {
    use crate::ifeval::instruction::tests::{assert_verdicts, verdict};
    use serde_json::json;

    #[test]
    fn no_comma() {
        let id = "punctuation:no_comma";
        assert_verdicts(id, &json!({}), &["a; b", "一，二、三"], &["a, b", ","]);
        assert_eq!(verdict(id, &json!({}), "a, b, c").unwrap_err(), "found 2 commas, exactly 0 required");
    }
}
