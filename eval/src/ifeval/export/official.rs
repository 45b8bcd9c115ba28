//! The files of google-research's `instruction_following_eval/evaluation_main.py`, byte by byte.

use serde::Serialize;

use crate::ifeval::run::Evaluation;
use crate::ifeval::sample::Sample;
use crate::python_json::{Characters, dumps};

/// `OutputExample`, whose fields are written in alphabetical order.
#[derive(Serialize)]
struct OutputExample<'a> {
    follow_all_instructions: bool,
    follow_instruction_list: &'a [bool],
    instruction_id_list: &'a [String],
    prompt: &'a str,
    response: &'a str,
}

pub(super) fn files(evaluation: &Evaluation) -> Vec<(String, Vec<u8>)> {
    let strict = rows(&evaluation.samples, |sample| &sample.score.strict);
    let loose = rows(&evaluation.samples, |sample| &sample.score.loose);
    vec![("eval_results_strict.jsonl".into(), strict), ("eval_results_loose.jsonl".into(), loose)]
}

fn rows(samples: &[Sample], verdicts: fn(&Sample) -> &Vec<bool>) -> Vec<u8> {
    let row = |sample: &Sample| {
        let row = OutputExample {
            follow_all_instructions: verdicts(sample).iter().all(|&followed| followed),
            follow_instruction_list: verdicts(sample),
            instruction_id_list: &sample.instruction_id_list,
            prompt: &sample.prompt,
            response: sample.response.as_deref()?,
        };
        Some(dumps(&row, Characters::Ascii) + "\n")
    };
    samples.iter().filter_map(row).collect::<String>().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ifeval::Example;
    use crate::ifeval::sample::{Answer, Outcome};
    use crate::reasoning::Reasoning;

    #[test]
    fn rows_are_those_of_the_official_script() {
        let example: Example = serde_json::from_str(
            r#"{"key": 1, "prompt": "Say “é”", "kwargs": [{}, {}],
                "instruction_id_list": ["punctuation:no_comma", "startend:quotation"]}"#,
        )
        .unwrap();
        let sample = |outcome| Sample::new(&example, &example.scorer().unwrap(), outcome, &Reasoning::default());
        let answer = Answer { response: "Sure:\n\"é 😀\"".into(), finish_reason: None };
        let samples = [sample(Outcome::Missing), sample(Outcome::Answered(answer))];
        // write_outputs([OutputExample([...], "Say “é”", "Sure:\n\"é 😀\"", False, [True, False])])
        let line = r#"{"follow_all_instructions": false, "follow_instruction_list": [true, false], "instruction_id_list": ["punctuation:no_comma", "startend:quotation"], "prompt": "Say \u201c\u00e9\u201d", "response": "Sure:\n\"\u00e9 \ud83d\ude00\""}"#;
        let written = |verdicts| String::from_utf8(rows(&samples, verdicts)).unwrap();
        assert_eq!(written(|sample| &sample.score.strict), format!("{line}\n"));
        let loose = line.replace("\"follow_all_instructions\": false", "\"follow_all_instructions\": true");
        assert_eq!(written(|sample| &sample.score.loose), loose.replace("[true, false]", "[true, true]") + "\n");
    }
}
