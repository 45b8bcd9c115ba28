//! The files of EleutherAI's lm-evaluation-harness 0.4: `results_TIME.json` as
//! `EvaluationTracker.save_results_aggregated` writes it, and `samples_ifeval_TIME.jsonl` as `--log_samples` does. What
//! describes the harness' own machine is left out, and so is the time, which stands in the names.

use std::sync::LazyLock;

use orpo_files::sha256;
use regex::Regex;
use serde_json::{Map, Value, json};

use crate::ifeval::data::Dataset;
use crate::ifeval::example::Example;
use crate::ifeval::run::{Evaluation, TASK};
use crate::ifeval::sample::Sample;
use crate::python_json::{Characters, dumps};
use crate::results::Results;

/// The version of the harness' task (`lm_eval/tasks/ifeval/ifeval.yaml`) whose verdicts ours agree with, except for
/// letters outside of a-z and for arguments of 0, in whose place the harness draws at random.
const VERSION: f64 = 4.0;

/// The harness' names of the metrics in the order of its task, each with ours.
const METRICS: [(&str, &str); 4] = [
    ("prompt_level_strict_acc", "prompt_strict"),
    ("inst_level_strict_acc", "inst_strict"),
    ("prompt_level_loose_acc", "prompt_loose"),
    ("inst_level_loose_acc", "inst_loose"),
];

pub(super) fn files(evaluation: &Evaluation, dataset: &Dataset) -> Vec<(String, Vec<u8>)> {
    // As Python's isoformat, with what a file system may not like replaced.
    let time = evaluation.results.started_at.trim_end_matches('Z').replace(':', "-");
    let generation = generation_kwargs(&evaluation.results);
    let rows: Vec<Value> = dataset
        .examples
        .iter()
        .zip(&evaluation.samples)
        .enumerate()
        .filter_map(|(index, ((example, _), sample))| row(index, example, sample, &generation))
        .collect();
    let lines: String = rows.iter().map(|row| dumps(row, Characters::Unicode) + "\n").collect();
    let results = results(&evaluation.results, dataset.examples.len(), &rows, &generation);
    // The pretty layout of serde_json is that of Python's indent=2.
    let results = serde_json::to_string_pretty(&results).expect("keys are strings");
    vec![
        (format!("results_{time}.json"), results.into_bytes()),
        (format!("samples_{TASK}_{time}.jsonl"), lines.into_bytes()),
    ]
}

/// A line of the samples.
fn row(index: usize, example: &Example, sample: &Sample, generation: &Value) -> Option<Value> {
    let (response, raw) = (sample.response.as_deref()?, sample.raw()?);
    let all = |verdicts: &[bool]| verdicts.iter().all(|&followed| followed);
    let target = "0";
    let doc_text = serde_json::to_string_pretty(example).expect("keys are strings");
    Some(json!({
        "doc_id": index,
        "doc": example,
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": example.prompt, "arg_1": generation}},
        "resps": [[raw]],
        "filtered_resps": [response],
        "filter": "none",
        "metrics": METRICS.map(|(name, _)| name),
        "doc_hash": sha256(doc_text.as_bytes()),
        "prompt_hash": sha256(example.prompt.as_bytes()),
        "target_hash": sha256(target.as_bytes()),
        "prompt_level_strict_acc": all(&sample.score.strict),
        "inst_level_strict_acc": sample.score.strict,
        "prompt_level_loose_acc": all(&sample.score.loose),
        "inst_level_loose_acc": sample.score.loose,
    }))
}

fn results(results: &Results, original: usize, rows: &[Value], generation: &Value) -> Value {
    let effective = results.counts.scored;
    let mut metrics = json!({"name": TASK, "alias": TASK, "sample_len": effective});
    let fields = metrics.as_object_mut().expect("an object was made");
    for (theirs, ours) in METRICS {
        let value = results.metrics[ours].value;
        fields.insert(format!("{theirs},none"), value.into());
        // The harness knows the error of a mean of prompts, over n - 1, but none of its aggregation of instructions.
        let stderr = match ours.starts_with("prompt_") && effective > 1 {
            true => value.map(|value| (value * (1.0 - value) / (effective - 1) as f64).sqrt()).into(),
            false => Value::from("N/A"),
        };
        fields.insert(format!("{theirs}_stderr,none"), stderr);
    }
    let source = results.responses.as_ref().map(|responses| &responses.source);
    let model = results.model.as_ref().or(source).cloned().unwrap_or_default();
    let higher_is_better: Map<String, Value> = METRICS.iter().map(|(name, _)| ((*name).into(), true.into())).collect();
    let hashes = |row: &Value| {
        ["doc_hash", "prompt_hash", "target_hash"]
            .map(|name| row[name].as_str().unwrap_or_default().to_owned())
            .concat()
    };
    let task_hash = sha256(rows.iter().map(hashes).collect::<String>().as_bytes());
    json!({
        "results": {TASK: metrics},
        "group_subtasks": {},
        "configs": {TASK: config(results, generation)},
        "versions": {TASK: VERSION},
        "n-shot": {TASK: 0},
        "higher_is_better": {TASK: higher_is_better},
        "n-samples": {TASK: {"original": original, "effective": effective}},
        "config": {
            "model": "orpo-eval",
            "model_args": {"model": model, "base_url": results.endpoint},
            "limit": (results.counts.total < original).then_some(results.counts.total),
            "gen_kwargs": generation,
        },
        "task_hashes": {TASK: task_hash},
        "model_source": "orpo-eval",
        "model_name": model,
        "model_name_sanitized": sanitized(&model),
        "system_instruction": results.system,
        "system_instruction_sha": results.system.as_ref().map(|system| sha256(system.as_bytes())),
        "orpo_eval_version": results.code_version,
        "orpo_eval_task_version": results.task_version,
    })
}

/// The task's configuration, as far as it applies here.
fn config(results: &Results, generation: &Value) -> Value {
    let metric_list = METRICS.map(|(name, _)| json!({"metric": name, "higher_is_better": true}));
    json!({
        "task": TASK,
        "dataset_path": results.data.as_ref().map(|data| &data.source),
        "test_split": "train",
        "doc_to_text": "prompt",
        "doc_to_target": 0,
        "num_fewshot": 0,
        "metric_list": metric_list,
        "output_type": "generate_until",
        "generation_kwargs": generation,
        "repeats": 1,
        "metadata": {"version": VERSION},
    })
}

/// How the replies were sampled, in the harness' words; empty where that is not known.
fn generation_kwargs(results: &Results) -> Value {
    let mut generation = Map::new();
    if let Some(sampling) = &results.sampling {
        let sampled = sampling.get("temperature").and_then(Value::as_f64).map(|temperature| temperature > 0.0);
        generation.insert("until".into(), json!([]));
        generation.extend(sampled.map(|sampled| ("do_sample".to_owned(), sampled.into())));
        for (name, value) in sampling {
            let name =
                if matches!(name.as_str(), "max_tokens" | "max_completion_tokens") { "max_gen_toks" } else { name };
            generation.insert(name.to_owned(), value.clone());
        }
    }
    generation.into()
}

/// A model's name as a file's: `sanitize_model_name`.
fn sanitized(model: &str) -> String {
    static UNWANTED: LazyLock<Regex> = LazyLock::new(|| Regex::new(r#"["<>:/|\\?*\[\]]+"#).expect("a valid pattern"));
    UNWANTED.replace_all(model, "__").into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_models_become_names_of_files() {
        assert_eq!(sanitized("owner/name:tag"), "owner__name__tag");
        assert_eq!(sanitized("C:\\[a]"), "C__a__");
        assert_eq!(sanitized("a__/b"), "a____b");
    }
}
