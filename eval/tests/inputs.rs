//! The program on files: formats of responses, exports, thresholds, and one message for everything that is wrong.

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::{orpo_eval, read_json, read_lines, stderr, text, write_data};

const ROW: &str = r#"{"key": 1, "prompt": "p", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}"#;

/// The only line on stderr of a command line that fails with 2, with `DIR/` for the directory.
fn refusal(directory: &Path, arguments: &[&str]) -> String {
    let output = orpo_eval(arguments);
    let message = stderr(&output).replace(text(directory), "DIR");
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    assert_eq!(message.lines().count(), 1, "{message}");
    message.trim_end().to_owned()
}

#[test]
fn wrong_data_is_one_message_with_file_and_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data.jsonl");
    let responses = directory.path().join("responses.jsonl");
    std::fs::write(&responses, "{\"key\": 1, \"response\": \"a\"}").unwrap();
    let known = orpo_eval::ifeval::ids().collect::<Vec<_>>().join(", ");
    let unknown = format!("unknown instruction `punctuation:no_dot`; the known ones are {known}");
    let second = ROW.replace("\"key\": 1", "\"key\": 2").replace("\"p\"", "\"q\"");
    for (row, message) in [
        (second.replace("\"key\": 2, ", ""), "not a usable row: missing field `key` (column 80)"),
        (second.replace("no_comma", "no_dot"), &unknown),
        (second.replace("{}", "7"), "not a usable row: invalid type: integer `7`, expected a map (column 87)"),
        (
            second.replace("{}", "{\"relation\": 1}"),
            "instruction `punctuation:no_comma`: there is no argument `relation`",
        ),
        (
            second
                .replace("punctuation:no_comma", "length_constraints:number_paragraphs")
                .replace("{}", "{\"num_paragraphs\": \"3\"}"),
            "instruction `length_constraints:number_paragraphs`: the argument `num_paragraphs` must be a whole number of \
             at least 0, not `\"3\"`",
        ),
        (second.replace("\"q\"", "\"p\""), "the same prompt is already on line 1; responses could not be told apart"),
        (ROW.replace("\"p\"", "\"q\""), "the key 1 is already on line 1; keys must be unique"),
        (
            second.replace("[{}]", "[{}, {}]"),
            "`kwargs` needs one entry per instruction: 2 for the 1 in `instruction_id_list`",
        ),
        ("{\"key\": 2".into(), "invalid JSON: EOF while parsing an object (column 9)"),
    ] {
        std::fs::write(&path, format!("{ROW}\n{row}\n")).unwrap();
        let found = refusal(directory.path(), &["--responses", text(&responses), "--data", text(&path)]);
        assert_eq!(found, format!("error: DIR/data.jsonl:2: {message}"));
    }
    std::fs::write(&path, [ROW.as_bytes(), b"\n{\"key\": 2, \"prompt\": \"\xff\"}"].concat()).unwrap();
    let found = refusal(directory.path(), &["--responses", text(&responses), "--data", text(&path)]);
    assert_eq!(found, "error: DIR/data.jsonl:2: invalid UTF-8 at byte 23 of the line; save the file as UTF-8");
}

#[test]
fn wrong_responses_are_one_message_with_file_and_line() {
    let directory = tempfile::tempdir().unwrap();
    let data = write_data(directory.path(), &["p", "q"]);
    let path = directory.path().join("r.jsonl");
    let arguments = ["--responses", text(&path), "--data", &data];
    let first = "{\"key\": 0, \"response\": \"a\"}";
    for (row, message) in [
        (
            "{\"key\": 7, \"response\": \"a\"}",
            "no example in `DIR/data.jsonl` has the key 7; name its data with --data",
        ),
        (
            "{\"prompt\": \"x\", \"response\": \"a\"}",
            "no example in `DIR/data.jsonl` has this prompt; name its data with --data",
        ),
        ("{\"prompt\": \"p\", \"response\": \"a\"}", "the same example is already answered on line 1"),
        ("{\"key\": 1, \"prompt\": \"p\", \"response\": \"a\"}", "the key 1 has another prompt in `DIR/data.jsonl`"),
        ("{\"key\": 1, \"response\": 3}", "not a usable row: invalid type: integer `3`, expected a string"),
        (
            "{\"key\": 1}",
            "not a row of responses: its fields are `key`; known are lm-evaluation-harness' samples_ifeval_*.jsonl (`doc`, \
             `resps`, `filtered_resps`, ...); samples.jsonl of orpo-eval (`key`, `prompt`, `response`, `reasons`, ...); the \
             official format (`prompt` or `key`, and `response`)",
        ),
    ] {
        std::fs::write(&path, format!("{first}\n{row}\n")).unwrap();
        assert_eq!(refusal(directory.path(), &arguments), format!("error: DIR/r.jsonl:2: {message}"));
    }
    std::fs::write(&path, b"\n\xff").unwrap();
    let message = "invalid UTF-8 at byte 1 of the line; save the file as UTF-8";
    assert_eq!(refusal(directory.path(), &arguments), format!("error: DIR/r.jsonl:2: {message}"));
    std::fs::remove_file(&path).unwrap();
    let found = refusal(directory.path(), &arguments);
    assert_eq!(found, "error: cannot use `DIR/r.jsonl`: No such file or directory (os error 2)");
    let empty = directory.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let found = refusal(directory.path(), &["--responses", text(&empty), "--data", &data]);
    let message = "it holds neither samples.jsonl nor samples_ifeval_*.jsonl; name a file";
    assert_eq!(found, format!("error: cannot use `DIR/empty`: {message}"));
}

#[test]
fn wrong_usage_exits_with_2() {
    for (arguments, message) in [
        (vec![], "--endpoint <URL>"),
        (vec!["--endpoint", "http://h", "--responses", "f"], "cannot be used with"),
        (vec!["--endpoint", "http://h", "--limit", "0"], "at least 1"),
        (vec!["--endpoint", "http://h", "--top-p", "0"], "a number above 0 and at most 1 is needed"),
        (vec!["--responses", "f", "--system", "s"], "cannot be used with"),
        (vec!["--endpoint", "http://h", "--export", "official"], "--out <DIR>"),
        (vec!["--endpoint", "http://h", "--out", "o", "--export", "csv"], "[possible values: official, lm-eval]"),
        (vec!["--endpoint", "http://h", "--strip-reasoning", "thoughts"], "two delimiters written START...END"),
        (
            vec!["--endpoint", "http://h", "--fail-under", "strict=1"],
            "no metric is called `strict`; the metrics are prompt_strict",
        ),
        (
            vec!["--endpoint", "http://h", "--fail-under", "prompt_strict=66"],
            "`66` is neither a fraction between 0 and 1 nor a percentage like 66%",
        ),
        (vec!["--endpoint", "localhost:8000"], "must begin with http:// or https://"),
        (vec!["--endpoint", "http://h", "--data", "absent.jsonl"], "cannot use `absent.jsonl`"),
    ] {
        let output = orpo_eval(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(message), "{arguments:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
    let help = orpo_eval(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    let help = String::from_utf8(help.stdout).unwrap();
    for flag in ["--strip-reasoning", "--export official,lm-eval", "--fail-under prompt_strict=66%", "--max-wait-secs"]
    {
        assert!(help.contains(flag), "{flag}");
    }
}

#[test]
fn existing_responses_are_scored_without_a_server() {
    let directory = tempfile::tempdir().unwrap();
    let data = write_data(directory.path(), &["p", "q", "r"]);
    let responses = directory.path().join("responses.jsonl");
    let out = directory.path().join("out");
    let arguments = ["--responses", text(&responses), "--data", &data, "--out", text(&out), "--export", "official"];
    std::fs::write(&responses, "{\"prompt\": \"q\", \"response\": \"a, b\"}\n{\"key\": 0, \"response\": \"a\"}\n")
        .unwrap();
    let output = orpo_eval(&arguments);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let message = "warning: 1 of 3 prompts could not be scored; they have no response in the file\n\
                   warning: they are not in the exported files\n";
    assert_eq!(stderr(&output), message);
    let results = read_json(&out.join("results.json"));
    let counts = ["total", "scored", "unscored", "errors", "truncated"].map(|name| results["counts"][name].as_u64());
    assert_eq!(counts, [3, 2, 1, 0, 0].map(Some));
    assert_eq!((&results["model"], &results["endpoint"]), (&Value::Null, &Value::Null));
    assert_eq!(read_lines(&out.join("eval_results_strict.jsonl")).len(), 2);
    // What a run writes can be read back as responses, by the directory's name.
    let output = orpo_eval(&["--responses", text(&out), "--data", &data, "--limit", "2", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn samples_of_a_run_keep_what_became_of_them() {
    let directory = tempfile::tempdir().unwrap();
    let data = write_data(directory.path(), &["p", "q", "r"]);
    let row = |key: u64, prompt: &str, rest: Value| {
        let mut row = json!({"key": key, "prompt": prompt, "instruction_id_list": ["punctuation:no_comma"], "strict": [],
            "loose": [], "reasons": []});
        row.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        row.to_string() + "\n"
    };
    let samples = directory.path().join("samples.jsonl");
    let rows = [
        row(0, "p", json!({"response": null, "error": "answered 400: too long"})),
        row(1, "q", json!({"response": "a", "finish_reason": "length", "error": null})),
        row(2, "r", json!({"response": "a", "raw_response": "<think>b, c</think>a", "error": null})),
    ];
    std::fs::write(&samples, rows.concat()).unwrap();
    let arguments = ["--responses", text(&samples), "--data", &data, "--json"];
    let output = orpo_eval(&arguments);
    assert_eq!(output.status.code(), Some(1));
    let message = stderr(&output);
    for line in [
        "note: some responses hold reasoning such as <think> (1), which is scored as part of them; --strip-reasoning auto takes it out",
        "warning: 1 of 2 responses were cut off at the token limit; --max-tokens raises it",
        "warning: 1 of 3 prompts could not be scored; first failure in the file: answered 400: too long",
    ] {
        assert!(message.lines().any(|found| found == line), "{message}");
    }
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(results["metrics"]["prompt_strict"]["value"], 0.5);
    let output = orpo_eval(&[&arguments[..], &["--strip-reasoning", "think"]].concat());
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(results["metrics"]["prompt_strict"]["value"], 1.0);
    assert!(!stderr(&output).contains("reasoning"));
}

#[test]
fn a_missed_threshold_is_a_message_and_exit_code_1() {
    let directory = tempfile::tempdir().unwrap();
    let data = write_data(directory.path(), &["p", "q", "r"]);
    let responses = directory.path().join("responses.jsonl");
    let rows = [0, 1, 2].map(|key| json!({"key": key, "response": if key == 0 { "a, b" } else { "a" }}).to_string());
    std::fs::write(&responses, rows.join("\n")).unwrap();
    let arguments = ["--responses", text(&responses), "--data", &data];
    let reached = ["--fail-under", "prompt_strict=66%", "--fail-under", "inst_loose=0.6666666666666666"];
    assert_eq!(orpo_eval(&[&arguments[..], &reached].concat()).status.code(), Some(0));
    let missed = ["--fail-under", "inst_strict=67%", "--fail-under", "prompt_loose=1", "--fail-under", "inst_loose=0"];
    let output = orpo_eval(&[&arguments[..], &missed].concat());
    assert_eq!(output.status.code(), Some(1));
    let messages: Vec<String> =
        stderr(&output).lines().filter(|line| line.starts_with("error: ")).map(str::to_owned).collect();
    let expected = [
        "error: inst_strict is 0.6666666666666666; --fail-under requires at least 67%",
        "error: prompt_loose is 0.6666666666666666; --fail-under requires at least 1",
    ];
    assert_eq!(messages, expected);
    assert!(String::from_utf8_lossy(&output.stdout).contains("66.67"), "the tables are printed all the same");
}

#[test]
fn a_log_of_the_harness_works_alone() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("samples_ifeval_2025-01-01T00-00-00.123456.jsonl");
    // As EvaluationTracker.save_results_samples writes it, with the kwargs of the data set on the hub.
    let row = |key: u64, response: &str| {
        json!({"doc_id": key, "doc": {"key": key, "prompt": format!("p{key}"), "instruction_id_list": ["punctuation:no_comma"],
                "kwargs": [{"num_highlights": null, "relation": null, "keywords": null}]},
            "target": "0", "arguments": {"gen_args_0": {"arg_0": "p", "arg_1": {"until": [], "do_sample": false}}},
            "resps": [[format!("<think>x, y</think>{response}")]], "filtered_resps": [response], "filter": "none",
            "metrics": ["prompt_level_strict_acc"], "doc_hash": "", "prompt_hash": "", "target_hash": "",
            "prompt_level_strict_acc": true, "inst_level_strict_acc": [true]})
        .to_string()
            + "\n"
    };
    std::fs::write(&log, row(5, "a") + &row(3, "a, b")).unwrap();
    let output = orpo_eval(&["--responses", text(&log), "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&results["metrics"]["prompt_strict"]["value"], &results["counts"]["total"]), (&json!(0.5), &json!(2)));
    assert_eq!(results["data"]["source"], text(&log));
    // With data of one's own it is matched by key and prompt.
    let data = directory.path().join("data.jsonl");
    std::fs::write(&data, ROW.replace("\"key\": 1", "\"key\": 5").replace("\"p\"", "\"p5\"")).unwrap();
    let found = refusal(directory.path(), &["--responses", text(&log), "--data", text(&data)]);
    let message = "no example in `DIR/data.jsonl` has the key 3; name its data with --data";
    assert_eq!(found, format!("error: DIR/samples_ifeval_2025-01-01T00-00-00.123456.jsonl:2: {message}"));
}

/// A file of rows in every layout and encoding that programs write, and what it is called.
fn layouts(rows: &[Value]) -> Vec<(&'static str, Vec<u8>)> {
    let lines: String = rows.iter().map(|row| row.to_string() + "\n").collect();
    let pretty: String = rows.iter().map(|row| format!("{row:#}\n")).collect();
    let marked = |text: &str| [b"\xef\xbb\xbf", text.as_bytes()].concat();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, lines.as_bytes()).unwrap();
    vec![
        ("a byte order mark", marked(&lines)),
        ("a byte order mark and CRLF", marked(&lines.replace('\n', "\r\n"))),
        ("carriage returns", lines.replace('\n', "\r").into_bytes()),
        ("objects over several lines", pretty.into_bytes()),
        ("a list with a byte order mark", marked(&format!("{:#}", json!(rows)))),
        ("an object around a list", format!("{:#}", json!({"data": rows})).into_bytes()),
        ("NaN in a column", lines.replace("}\n", ", \"note\": NaN, \"other\": -Infinity}\n").into_bytes()),
        ("gzip", packed.finish().unwrap()),
    ]
}

#[test]
fn every_input_is_read_in_every_layout() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let questions = [1, 2].map(|id| json!({"question_id": id, "category": "writing", "turns": ["q"]}));
    let judgments = [1, 2].map(|id| {
        json!({"question_id": id, "model": "m", "judge": ["j", "single-v1"], "turn": 1, "score": 5, "judgment": "[[5]]"})
    });
    let annotations = ["i", "j"].map(|instruction| {
        json!({"instruction": instruction, "output_1": "a", "generator_1": "b", "output_2": "c", "generator_2": "m",
            "annotator": "x", "preference": 1.5})
    });
    let examples = [1, 2].map(|key| {
        json!({"key": key, "prompt": format!("p{key}"), "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]})
    });
    let responses = [1, 2].map(|key| json!({"key": key, "prompt": format!("p{key}"), "response": "a"}));
    let answers = [1, 2].map(|key| json!({"instruction": format!("p{key}"), "output": "b, c"}));
    let inputs: [(&str, &[Value]); 6] = [
        ("questions", &questions),
        ("judgments", &judgments),
        ("annotations", &annotations),
        ("data", &examples),
        ("responses", &responses),
        ("answers", &answers),
    ];
    let count = layouts(&examples).len();
    for layout in 0..count {
        let mut name = "";
        for (input, rows) in inputs {
            let (layout_name, bytes) = layouts(rows).swap_remove(layout);
            name = layout_name;
            std::fs::write(path(input), bytes).unwrap();
        }
        let file = |name: &str| text(&path(name)).to_owned();
        let runs = [
            ("mt-bench", vec!["--judgments".into(), file("judgments"), "--questions".into(), file("questions")]),
            ("alpaca", vec!["--annotations".into(), file("annotations")]),
            ("ifeval", vec!["--responses".into(), file("responses"), "--data".into(), file("data")]),
            (
                "compare",
                vec![
                    file("responses"),
                    file("answers"),
                    "--judge".into(),
                    "checklist".into(),
                    "--data".into(),
                    file("data"),
                ],
            ),
        ];
        for (command, arguments) in runs {
            let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            arguments.push("--json");
            let output = support::program(command, &arguments).output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{command}, {name}: {}", stderr(&output));
            let results: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(results["counts"]["scored"], 2, "{command}, {name}");
        }
    }
}

#[test]
fn files_that_configure_may_have_a_byte_order_mark_too() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, format!("\u{feff}{content}")).unwrap();
        path
    };
    let config = write("a/configs.yaml", "a:\n  prompt_template: a/t.txt\n  fn_completion_parser: ranking_parser\n");
    write("a/t.txt", "<|im_start|>user\n{instruction} {output_1} {output_2}<|im_end|>");
    let annotator = orpo_eval::judge::annotator::Annotator::read(&config).unwrap();
    assert!(!annotator.template.source().contains('\u{feff}'));
    let difficulty = write("difficulty.csv", "index,instruction_difficulty\r\n0,0.5\r\n1,-0.5\r\n");
    assert_eq!(orpo_eval::alpaca::gamed::read_difficulty(&difficulty).unwrap().len(), 2);
    let gamed = write(
        "gamed.csv",
        "index,preference,std_delta_len,instruction_difficulty,not_gamed_baseline\n0,0.25,1,0.5,False\n",
    );
    assert_eq!(orpo_eval::alpaca::gamed::read_gamed(&gamed).unwrap().0.len(), 1);
}

#[test]
fn text_in_another_encoding_is_one_message() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("r.jsonl");
    let arguments = ["--responses", text(&path)];
    let row = "{\"prompt\": \"café\", \"response\": \"a\"}\n";
    let utf16: Vec<u8> = row.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for content in [[b"\xff\xfe".to_vec(), utf16.clone()].concat(), utf16] {
        std::fs::write(&path, content).unwrap();
        let message = "error: cannot use `DIR/r.jsonl`: it is UTF-16, not UTF-8; convert it, for example with `iconv -f UTF-16 -t UTF-8`";
        assert_eq!(refusal(directory.path(), &arguments), message);
    }
    let latin1: Vec<u8> = row.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
    std::fs::write(&path, latin1).unwrap();
    let message = "error: DIR/r.jsonl:1: invalid UTF-8 at byte 16 of the line; save the file as UTF-8";
    assert_eq!(refusal(directory.path(), &arguments), message);
}

/// Whatever a command prints or writes of nothing is null or a dash, and it says 1.
#[test]
fn of_nothing_there_are_no_numbers() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, rows: &[Value]| {
        let path = directory.path().join(name);
        std::fs::write(&path, rows.iter().map(|row| row.to_string() + "\n").collect::<String>()).unwrap();
        text(&path).to_owned()
    };
    let data = file(
        "data",
        &[
            json!({"key": 1, "prompt": "p", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}),
            json!({"key": 2, "prompt": "q", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}),
        ],
    );
    let responses = file("responses", &[]);
    let annotations = file(
        "annotations",
        &[json!({"instruction": "i", "output_1": "a", "generator_1": "b",
        "output_2": "c", "generator_2": "m", "annotator": "x", "preference": null})],
    );
    let judgments = file(
        "judgments",
        &[json!({"question_id": 1, "model": "m", "judge": ["j", "single-v1"], "turn": 1,
        "score": -1, "judgment": "?"})],
    );
    let pairs = file(
        "pairs",
        &[json!({"question_id": 1, "model_1": "m", "model_2": "n", "g1_winner": "error",
        "g2_winner": "error", "judge": ["j", "pair-v2"], "turn": 1, "g1_judgment": "", "g2_judgment": ""})],
    );
    let runs = [
        ("ifeval", vec!["--responses", &responses, "--data", &data], 4),
        ("alpaca", vec!["--annotations", &annotations, "--max-unscored", "100%"], 2),
        ("mt-bench", vec!["--judgments", &judgments, "--max-unscored", "100%"], 3),
        ("mt-bench", vec!["--judgments", &pairs, "--max-unscored", "100%"], 0),
    ];
    for (index, (command, arguments, metrics)) in runs.into_iter().enumerate() {
        let out = directory.path().join(format!("out-{index}"));
        let output = support::program(command, &[&arguments[..], &["--out", text(&out)]].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{command}: {}", stderr(&output));
        let results = read_json(&out.join("results.json"));
        assert_eq!(results["counts"]["scored"], 0, "{command}");
        let found = results["metrics"].as_object().unwrap();
        assert_eq!(found.len(), metrics, "{command}: {found:?}");
        let nothing = json!({"value": null, "stderr": null, "ci95": null, "n": 0, "reason": "nothing was scored"});
        assert!(found.values().all(|metric| *metric == nothing), "{command}: {found:?}");
        let table = String::from_utf8(output.stdout).unwrap();
        assert!(!table.contains("0.0"), "{command}: {table}");
    }
    // And the report shows dashes.
    let page = directory.path().join("page.html");
    let output = support::program("report", &[text(directory.path()), "--out", text(&page)]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let page = std::fs::read_to_string(&page).unwrap();
    let numbers = page.split("<section id=\"lineage\"").next().unwrap();
    assert!(numbers.contains("<small>nothing was scored</small>") && !numbers.contains("<td>0.0"), "{numbers}");
}

#[test]
fn a_turn_that_no_question_has_is_null_while_the_run_is_complete() {
    let directory = tempfile::tempdir().unwrap();
    let judgments = directory.path().join("judgments");
    let rows = [1, 2].map(|id| {
        json!({"question_id": id, "model": "m", "judge": ["j", "single-v1"], "turn": 1, "score": 5, "judgment": "[[5]]"})
            .to_string()
    });
    std::fs::write(&judgments, rows.join("\n")).unwrap();
    let output = support::program("mt-bench", &["--judgments", text(&judgments), "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(results["metrics"]["second_turn"]["value"], Value::Null);
    assert_eq!(results["metrics"]["average"]["value"], 5.0);
}
