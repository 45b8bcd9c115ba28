//! Exports: the official rows, the harness' layout, and the way back; and that equal runs leave equal files.

mod support;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use orpo_eval::python_json::{Characters, dumps};
use serde_json::{Value, json};
use support::{orpo_eval, read_json, read_lines, reference, stderr, text, write_data};

/// The files in a directory.
fn files(directory: &Path) -> BTreeMap<String, PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), entry.path())).collect()
}

/// The only file whose name begins so.
fn only(directory: &Path, prefix: &str) -> PathBuf {
    let mut found = files(directory).into_iter().filter(|(name, _)| name.starts_with(prefix));
    let (_, path) = found.next().unwrap();
    assert!(found.next().is_none());
    path
}

#[test]
fn equal_runs_leave_equal_files() {
    let directory = tempfile::tempdir().unwrap();
    let data = write_data(directory.path(), &["p", "q", "r"]);
    let responses = directory.path().join("responses.jsonl");
    std::fs::write(&responses, "{\"key\": 1, \"response\": \"<think>a\"}\n{\"key\": 0, \"response\": \"a\"}\n")
        .unwrap();
    let run = |name: &str| {
        let out = directory.path().join(name);
        let arguments = ["--responses", text(&responses), "--data", &data, "--out", text(&out)];
        let more = ["--export", "official,lm-eval", "--strip-reasoning", "think"];
        let output = orpo_eval(&[&arguments[..], &more].concat());
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        let is_timed = |name: &str| name.starts_with("results_") || name.starts_with("samples_ifeval_");
        let untimed = |name: String| if is_timed(&name) { name[..8].to_owned() } else { name };
        files(&out).into_iter().map(|(name, path)| (untimed(name), std::fs::read(path).unwrap())).collect()
    };
    let mut first: BTreeMap<String, Vec<u8>> = run("first");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let mut second = run("second");
    let mut results = [&mut first, &mut second].map(|files| {
        let mut results: Value = serde_json::from_slice(&files.remove("results.json").unwrap()).unwrap();
        let taken = ["started_at", "seconds"].map(|name| results.as_object_mut().unwrap().shift_remove(name).unwrap());
        (taken, results.to_string())
    });
    assert_ne!(results[0].0[0], results[1].0[0]);
    results[0].0 = results[1].0.clone();
    assert_eq!(results[0], results[1]);
    let names = [
        "eval_results_loose.jsonl",
        "eval_results_strict.jsonl",
        "results_",
        "samples.jsonl",
        "samples_",
        "settings.json",
    ];
    assert_eq!(first.keys().collect::<Vec<_>>(), names);
    assert_eq!(first, second);
}

#[test]
fn the_harness_layout() {
    let directory = tempfile::tempdir().unwrap();
    let data = write_data(directory.path(), &["p", "q", "r", "s"]);
    let responses = directory.path().join("responses.jsonl");
    let rows = ["a", "b, c", "<think>b, c</think>é"].iter().enumerate();
    let rows: Vec<String> = rows.map(|(key, text)| json!({"key": key, "response": text}).to_string()).collect();
    std::fs::write(&responses, rows.join("\n")).unwrap();
    let out = directory.path().join("out");
    let arguments = ["--responses", text(&responses), "--data", &data, "--out", text(&out), "--export", "lm-eval"];
    let output = orpo_eval(&[&arguments[..], &["--strip-reasoning", "think", "--limit", "3"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let results = read_json(&only(&out, "results_"));
    // mean_stderr([1, 0, 1]) of the harness; its aggregation of instructions has none.
    let metrics = json!({"name": "ifeval", "alias": "ifeval", "sample_len": 3,
        "prompt_level_strict_acc,none": 2.0 / 3.0, "prompt_level_strict_acc_stderr,none": 1.0 / 3.0,
        "inst_level_strict_acc,none": 2.0 / 3.0, "inst_level_strict_acc_stderr,none": "N/A",
        "prompt_level_loose_acc,none": 2.0 / 3.0, "prompt_level_loose_acc_stderr,none": 1.0 / 3.0,
        "inst_level_loose_acc,none": 2.0 / 3.0, "inst_level_loose_acc_stderr,none": "N/A"});
    let found = &results["results"]["ifeval"];
    for (name, value) in metrics.as_object().unwrap() {
        match value.as_f64() {
            Some(value) => assert!((found[name].as_f64().unwrap() - value).abs() < 1e-12, "{name}: {found}"),
            None => assert_eq!(found[name], *value, "{name}"),
        }
    }
    assert_eq!(results["n-samples"]["ifeval"], json!({"original": 4, "effective": 3}));
    assert_eq!(results["n-shot"]["ifeval"], 0);
    assert_eq!(results["versions"]["ifeval"], 4.0);
    assert_eq!(results["configs"]["ifeval"]["output_type"], "generate_until");
    assert_eq!(results["config"]["limit"], 3);
    let samples = only(&out, "samples_ifeval_");
    assert!(std::fs::read_to_string(&samples).unwrap().contains("\"filtered_resps\": [\"é\"]"));
    let row = &read_lines(&samples)[2];
    assert_eq!(row["resps"], json!([["<think>b, c</think>é"]]));
    assert_eq!(row["arguments"]["gen_args_0"]["arg_0"], "r");
    assert_eq!((&row["prompt_level_strict_acc"], &row["inst_level_loose_acc"]), (&json!(true), &json!([true])));
    // printf r | sha256sum
    assert_eq!(row["prompt_hash"], "454349e422f05297191ead13e21d3db520e5abef52055e4964b82fb213f593a1");
}

/// The official prompts, and a model's rows on them with the verdicts of the official checkers.
fn official(directory: &Path, model: &str) -> (Vec<Value>, Vec<Value>) {
    let examples = read_lines(&directory.join("input_data.jsonl"));
    let mut rows = String::new();
    let file = std::fs::File::open(directory.join(format!("model_responses/{model}.jsonl.gz"))).unwrap();
    flate2::read::GzDecoder::new(file).read_to_string(&mut rows).unwrap();
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((examples.len(), rows.len()), (541, 541));
    assert!(examples.iter().zip(&rows).all(|(example, row)| example["key"] == row["key"]));
    (examples, rows)
}

fn write_lines(path: &Path, rows: &[Value]) {
    std::fs::write(path, rows.iter().map(|row| row.to_string() + "\n").collect::<String>()).unwrap();
}

#[test]
fn official_rows_and_tables_are_those_of_the_official_script() {
    let Some(reference) = reference("ifeval") else { return };
    let expected = read_json(&reference.join("expected_metrics.json"));
    let models = expected.as_object().unwrap();
    assert_eq!(models.len(), 8);
    for (model, expected) in models {
        check_model(&reference, model, expected);
    }
}

fn check_model(reference: &Path, model: &str, expected: &Value) {
    let (examples, rows) = official(reference, model);
    let directory = tempfile::tempdir().unwrap();
    let (data, responses) = (directory.path().join("data.jsonl"), directory.path().join("responses.jsonl"));
    write_lines(&data, &examples);
    write_lines(&responses, &rows);
    let out = directory.path().join("out");
    let arguments =
        ["--responses", text(&responses), "--data", text(&data), "--out", text(&out), "--export", "official"];
    let output = orpo_eval(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let results = read_json(&out.join("results.json"));
    for (metric, name, level) in [
        ("prompt_strict", "strict", "prompt"),
        ("inst_strict", "strict", "instruction"),
        ("prompt_loose", "loose", "prompt"),
        ("inst_loose", "loose", "instruction"),
    ] {
        let (correct, total) = (&expected[name][format!("{level}_correct")], &expected[name][format!("{level}_total")]);
        let value = correct.as_f64().unwrap() / total.as_f64().unwrap();
        assert_eq!(results["metrics"][metric]["value"], value, "{model} {metric}");
        assert_eq!(results["metrics"][metric]["n"], *total, "{model} {metric}");
    }
    for name in ["strict", "loose"] {
        let mut lines = String::new();
        let mut tables = [BTreeMap::<String, [u64; 2]>::new(), BTreeMap::new()];
        for (example, row) in examples.iter().zip(&rows) {
            let verdicts = row[name].as_array().unwrap();
            let official = json!({"follow_all_instructions": verdicts.iter().all(|verdict| verdict == true),
                "follow_instruction_list": verdicts, "instruction_id_list": example["instruction_id_list"],
                "prompt": example["prompt"], "response": row["response"]});
            lines += &(dumps(&official, Characters::Ascii) + "\n");
            for (id, verdict) in example["instruction_id_list"].as_array().unwrap().iter().zip(verdicts) {
                let id = id.as_str().unwrap();
                for (table, name) in tables.iter_mut().zip([id, id.split(':').next().unwrap()]) {
                    let [correct, total] = table.entry(name.to_owned()).or_default();
                    (*correct, *total) = (*correct + u64::from(verdict == true), *total + 1);
                }
            }
        }
        let written = std::fs::read_to_string(out.join(format!("eval_results_{name}.jsonl"))).unwrap();
        assert!(written == lines, "eval_results_{name}.jsonl");
        for (field, table) in ["by_instruction", "by_category"].into_iter().zip(tables) {
            let found = results[field].as_object().unwrap();
            assert_eq!(found.len(), table.len());
            for (id, [correct, total]) in table {
                let counts = &found[&id];
                let values = (&counts["n"], &counts[format!("{name}_correct")]);
                assert_eq!(values, (&json!(total), &json!(correct)), "{id}");
                assert_eq!(counts[name], correct as f64 / total as f64, "{id}");
                let interval = &counts[format!("{name}_ci95")];
                assert!(interval[0].as_f64() <= counts[name].as_f64() && counts[name].as_f64() <= interval[1].as_f64());
                let official = &expected[name][field][&id];
                assert_eq!((&official["total"], &official["correct"]), values, "{id}");
            }
        }
    }
}

#[test]
fn what_is_exported_is_read_back_with_the_same_scores() {
    let Some(reference) = reference("ifeval") else { return };
    let (examples, rows) = official(&reference, "gpt4_20231107_145030");
    let directory = tempfile::tempdir().unwrap();
    let (data, responses) = (directory.path().join("data.jsonl"), directory.path().join("responses.jsonl"));
    write_lines(&data, &examples);
    write_lines(&responses, &rows);
    let out = directory.path().join("out");
    let arguments = ["--responses", text(&responses), "--data", text(&data), "--out", text(&out)];
    let output = orpo_eval(&[&arguments[..], &["--export", "official", "--export", "lm-eval"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let results = read_json(&out.join("results.json"));
    let verdicts = |directory: &Path| -> Vec<[Value; 3]> {
        let samples = read_lines(&directory.join("samples.jsonl"));
        samples.iter().map(|sample| ["key", "strict", "loose"].map(|name| sample[name].clone())).collect()
    };
    for (index, (file, data)) in [
        (only(&out, "samples_ifeval_"), None),
        (only(&out, "samples_ifeval_"), Some(&data)),
        (out.join("eval_results_strict.jsonl"), Some(&data)),
        (out.clone(), Some(&data)),
    ]
    .into_iter()
    .enumerate()
    {
        let again = directory.path().join(format!("again{index}"));
        let mut arguments = vec!["--responses", text(&file), "--out", text(&again)];
        arguments.extend(data.iter().flat_map(|data| ["--data", text(data)]));
        let output = orpo_eval(&arguments);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let found = read_json(&again.join("results.json"));
        for field in ["metrics", "by_category", "by_instruction", "counts"] {
            assert_eq!(found[field], results[field], "{field} from {}", file.display());
        }
        assert!(verdicts(&again) == verdicts(&out), "{}", file.display());
    }
}
