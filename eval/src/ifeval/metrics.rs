//! From samples to the four accuracies.
//!
//! `prompt_*` is the share of prompts all of whose instructions are followed, `inst_*` the share of instructions. The
//! intervals at the instruction level take instructions for independent, although some share a prompt. Samples without
//! a response are left out of all metrics and counted.

use std::collections::BTreeMap;

use super::sample::Sample;
use crate::reply::{LENGTH, REFUSAL};
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

/// What became of the samples. How often requests were repeated is not known here.
pub fn counts(samples: &[Sample]) -> Counts {
    let count = |condition: fn(&Sample) -> bool| samples.iter().filter(|sample| condition(sample)).count();
    Counts {
        total: samples.len(),
        scored: count(|sample| sample.response.is_some()),
        unscored: count(|sample| sample.response.is_none()),
        errors: count(|sample| sample.error.is_some()),
        truncated: count(|sample| sample.finish_reason.as_deref() == Some(LENGTH)),
        stripped_reasoning: count(|sample| sample.raw_response.is_some()),
        unterminated_reasoning: count(|sample| sample.unterminated_reasoning),
        refused: count(|sample| sample.finish_reason.as_deref() == Some(REFUSAL)),
        empty: count(|sample| sample.response.as_deref().is_some_and(|response| response.trim().is_empty())),
        retries: 0,
    }
}

/// The verdicts by type of instruction.
pub fn by_instruction(samples: &[Sample]) -> BTreeMap<String, InstructionCounts> {
    by_name(samples, |id| id)
}

/// The verdicts by category of instructions, which is the part of an identifier in front of the colon.
pub fn by_category(samples: &[Sample]) -> BTreeMap<String, InstructionCounts> {
    by_name(samples, |id| id.split(':').next().unwrap_or(id))
}

fn by_name(samples: &[Sample], name: fn(&str) -> &str) -> BTreeMap<String, InstructionCounts> {
    #[derive(Default)]
    struct Tally {
        n: usize,
        strict: usize,
        loose: usize,
    }
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    for sample in samples {
        let verdicts = sample.score.strict.iter().zip(&sample.score.loose);
        for (id, (&strict, &loose)) in sample.instruction_id_list.iter().zip(verdicts) {
            let tally = tallies.entry(name(id).to_owned()).or_default();
            tally.n += 1;
            tally.strict += usize::from(strict);
            tally.loose += usize::from(loose);
        }
    }
    let counts = |Tally { n, strict, loose }| InstructionCounts::new(n, strict, loose);
    tallies.into_iter().map(|(name, tally)| (name, counts(tally))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ifeval::Example;
    use crate::ifeval::sample::{Answer, Outcome};
    use crate::reasoning::{Format, Reasoning};
    use crate::stats::Missing;

    fn sample(outcome: Outcome) -> Sample {
        let example: Example = serde_json::from_str(
            r#"{"key": 1, "prompt": "p", "kwargs": [{}, {}],
                "instruction_id_list": ["punctuation:no_comma", "startend:quotation"]}"#,
        )
        .unwrap();
        let reasoning = Reasoning::new([Format::Think]);
        Sample::new(&example, &example.scorer().unwrap(), outcome, &reasoning)
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
        let found = NAMES.map(|name| (metrics[name].value.unwrap() * metrics[name].n as f64, metrics[name].n));
        assert_eq!(found, [(1.0, 3), (3.0, 6), (2.0, 3), (4.0, 6)]);
        let found = counts(&samples);
        assert_eq!(found, Counts { total: 5, scored: 3, unscored: 2, errors: 1, truncated: 1, ..Counts::default() });
        assert_eq!(by_category(&samples)["punctuation"], by_instruction(&samples)["punctuation:no_comma"]);
        let quotation = by_instruction(&samples)["startend:quotation"];
        assert_eq!((quotation.n, quotation.strict_correct, quotation.loose_correct), (3, 1, 2));
    }

    #[test]
    fn where_nothing_is_scored_there_is_no_accuracy() {
        let samples = [sample(Outcome::Missing), sample(Outcome::Failed("no".into()))];
        assert!(metrics(&samples).values().all(|metric| *metric == Metric::missing(0, Missing::NothingScored)));
        assert!(by_category(&samples).is_empty());
    }

    #[test]
    fn refusals_and_empty_responses_are_counted() {
        let samples =
            [answered("I cannot.", "refusal"), answered("", "refusal"), answered(" ", "stop"), answered("a", "stop")];
        let counts = counts(&samples);
        assert_eq!((counts.scored, counts.refused, counts.empty), (4, 2, 2));
    }

    #[test]
    fn reasoning_is_neither_scored_nor_lost() {
        let samples = [
            answered("<think>a, b</think>\n\n\"c\"", "stop"),
            answered("<think>\"a\"", "length"),
            answered("\"a\"", "stop"),
        ];
        assert_eq!(samples[0].response.as_deref(), Some("\"c\""));
        assert_eq!(samples[0].raw(), Some("<think>a, b</think>\n\n\"c\""));
        assert_eq!((samples[1].response.as_deref(), samples[1].raw()), (Some(""), Some("<think>\"a\"")));
        assert_eq!(samples[1].score.loose, [false, false]);
        assert_eq!((samples[2].raw_response.as_deref(), samples[2].raw()), (None, Some("\"a\"")));
        let counts = counts(&samples);
        assert_eq!((counts.scored, counts.stripped_reasoning, counts.unterminated_reasoning), (3, 2, 1));
    }
}
