//! From samples to the four accuracies.
//!
//! `prompt_*` is the share of prompts all of whose instructions are followed, `inst_*` the share of instructions. The
//! intervals at the instruction level take instructions for independent, although some share a prompt. Samples without a
//! response are left out of all metrics and counted.

use std::collections::BTreeMap;

use super::sample::Sample;
use crate::results::{Counts, InstructionCounts};
use crate::stats::Metric;

/// The metrics in the order in which they are shown.
pub const NAMES: [&str; 4] = ["prompt_strict", "inst_strict", "prompt_loose", "inst_loose"];

/// The metrics by name.
pub fn metrics(samples: &[Sample]) -> BTreeMap<String, Metric> {
    let scored = || samples.iter().filter(|sample| sample.response.is_some()).map(|sample| &sample.score);
    let of_prompts = |verdicts: Vec<&Vec<bool>>| {
        let followed = verdicts.iter().filter(|verdicts| verdicts.iter().all(|&verdict| verdict)).count();
        Metric::proportion(followed, verdicts.len())
    };
    let of_instructions = |verdicts: Vec<&Vec<bool>>| {
        let followed = verdicts.iter().copied().flatten().filter(|&&verdict| verdict).count();
        Metric::proportion(followed, verdicts.iter().map(|verdicts| verdicts.len()).sum())
    };
    let strict = || scored().map(|score| &score.strict).collect();
    let loose = || scored().map(|score| &score.loose).collect();
    let values = [of_prompts(strict()), of_instructions(strict()), of_prompts(loose()), of_instructions(loose())];
    NAMES.map(String::from).into_iter().zip(values).collect()
}

/// What became of the samples.
pub fn counts(samples: &[Sample]) -> Counts {
    let count = |condition: fn(&Sample) -> bool| samples.iter().filter(|sample| condition(sample)).count();
    Counts {
        total: samples.len(),
        scored: count(|sample| sample.response.is_some()),
        unscored: count(|sample| sample.response.is_none()),
        errors: count(|sample| sample.error.is_some()),
        truncated: count(|sample| sample.finish_reason.as_deref() == Some("length")),
    }
}

/// The verdicts by type of instruction.
pub fn by_instruction(samples: &[Sample]) -> BTreeMap<String, InstructionCounts> {
    let mut types: BTreeMap<String, InstructionCounts> = BTreeMap::new();
    for sample in samples {
        let verdicts = sample.score.strict.iter().zip(&sample.score.loose);
        for (id, (&strict, &loose)) in sample.instruction_id_list.iter().zip(verdicts) {
            let counts = types.entry(id.clone()).or_default();
            counts.n += 1;
            counts.strict_correct += usize::from(strict);
            counts.loose_correct += usize::from(loose);
        }
    }
    for counts in types.values_mut() {
        counts.strict = counts.strict_correct as f64 / counts.n as f64;
        counts.loose = counts.loose_correct as f64 / counts.n as f64;
    }
    types
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ifeval::Example;
    use crate::ifeval::sample::{Answer, Outcome};

    fn sample(outcome: Outcome) -> Sample {
        let example: Example = serde_json::from_str(
            r#"{"key": 1, "prompt": "p", "kwargs": [{}, {}],
                "instruction_id_list": ["punctuation:no_comma", "startend:quotation"]}"#,
        )
        .unwrap();
        Sample::new(&example, &example.scorer().unwrap(), outcome)
    }

    fn answered(response: &str, finish_reason: &str) -> Sample {
        sample(Outcome::Answered(Answer { response: response.into(), finish_reason: Some(finish_reason.into()) }))
    }

    #[test]
    fn accuracies_and_counts() {
        let samples = [
            answered("\"a\"", "stop"),
            answered("*\"a\"*", "stop"),
            answered("a, b", "length"),
            sample(Outcome::Failed("no".into())),
            sample(Outcome::Missing),
        ];
        let metrics = metrics(&samples);
        let found = NAMES.map(|name| (metrics[name].value * metrics[name].n as f64, metrics[name].n));
        assert_eq!(found, [(1.0, 3), (3.0, 6), (2.0, 3), (4.0, 6)]);
        assert_eq!(counts(&samples), Counts { total: 5, scored: 3, unscored: 2, errors: 1, truncated: 1 });
        let quotation = by_instruction(&samples)["startend:quotation"];
        assert_eq!((quotation.n, quotation.strict_correct, quotation.loose_correct), (3, 1, 2));
    }
}
