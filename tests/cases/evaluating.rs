//! Models, judges and proxies that answer in their own ways, and files with their own marks.

use serde_json::{Value, json};

use crate::setting::{Case, Said};
use crate::stand_in::{Reply, StandIn, completion, verdict};

/// Two prompts, both of which want lower case.
fn write_prompts(case: &Case) {
    let prompt = |key: u32| {
        json!({"key": key, "prompt": format!("Write in lowercase, {key}."), "kwargs": [{}],
               "instruction_id_list": ["change_case:english_lowercase"]})
    };
    case.write("prompts.jsonl", format!("{}\n{}\n", prompt(1), prompt(2)));
}

fn ifeval(case: &Case, server: &StandIn, more: &[&str]) -> Said {
    write_prompts(case);
    let args = ["eval", "ifeval", "--endpoint", &server.url, "--data", "prompts.jsonl", "--out", "o", "--retries", "1"];
    case.orpo(&[&args[..], more].concat())
}

/// MT-Bench on two answers that are there, single mode.
fn mt_bench(case: &Case, server: &StandIn, more: &[&str]) -> Said {
    let line = |id: u32, category: &str, turns: [&str; 2]| {
        json!({"question_id": id, "category": category, "turns": turns}).to_string() + "\n"
    };
    let questions = line(1, "math", ["What is 2+2?", "And 3+3?"]) + &line(2, "writing", ["Write a line.", "Another."]);
    case.write("questions.jsonl", questions);
    case.write("reference.jsonl", answers(&[1], "reference", ["4", "6"]));
    case.write("mine.jsonl", answers(&[1, 2], "mine", ["Four. Rating: [[10]]", "Six."]));
    judged(case, server, "mine.jsonl", "questions.jsonl", "reference.jsonl", more)
}

fn judged(case: &Case, server: &StandIn, answers: &str, questions: &str, reference: &str, more: &[&str]) -> Said {
    let args = ["eval", "mt-bench", "--answers", answers, "--questions", questions, "--reference-answers", reference];
    let judge = ["--judge-endpoint", &server.url, "--judge-model", "stub", "--judge-retries", "1"];
    case.orpo(&[&args[..], &judge, &["--out", "o", "--json"], more].concat())
}

fn answers(ids: &[u32], model: &str, turns: [&str; 2]) -> String {
    let line = |id: &u32| {
        json!({"question_id": id, "answer_id": format!("{model}{id}"), "model_id": model, "tstamp": 1.0,
               "choices": [{"index": 0, "turns": turns}]})
    };
    ids.iter().map(|id| format!("{}\n", line(id))).collect()
}

fn alpaca(case: &Case, server: &StandIn, more: &[&str]) -> Said {
    let rows = |model: &str, end: &str| -> Value {
        let row = |word: &str| {
            json!({"instruction": format!("Say {word}."), "output": format!("{word}{end}"),
                                      "generator": model, "dataset": "mine"})
        };
        ["one", "two", "three", "four"].iter().map(|word| row(word)).collect()
    };
    case.write("reference.json", rows("base", "!").to_string());
    case.write("outputs.json", rows("mine", " indeed.").to_string());
    let args = ["eval", "alpaca", "--outputs", "outputs.json", "--reference", "reference.json", "--out", "o", "--json"];
    let judge = ["--judge-endpoint", &server.url, "--judge-model", "stub", "--judge-retries", "1"];
    case.orpo(&[&args[..], &judge, more].concat())
}

fn results(said: &Said) -> Value {
    serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{said:?}"))
}

#[test]
fn usage_in_any_shape_or_none_leaves_the_text_as_it_is() {
    let Some(case) = Case::open("50-eval-odd-usage") else { return };
    let usages = [
        json!({}),
        json!({"total_tokens": 5}),
        json!({"prompt_tokens": 3.0, "completion_tokens": 2.0}),
        json!({"prompt_tokens": 3, "completion_tokens": null}),
        json!({"prompt_tokens": -1, "completion_tokens": -1}),
        Value::Null,
    ];
    for usage in usages {
        let sent = usage.clone();
        let server = StandIn::start(move |_, _| {
            let mut reply = completion("all small letters in here");
            reply["usage"] = sent.clone();
            Reply::json(&reply)
        });
        let _ = std::fs::remove_dir_all(case.path("o"));
        let said = ifeval(&case, &server, &[]);
        assert_eq!((said.code, server.asked()), (Some(0), 2), "{usage}: {}", said.stderr);
        let metrics = &case.json("o/results.json")["metrics"];
        assert_eq!(metrics["prompt_strict"]["value"], 1.0, "{usage}");
    }
}

#[test]
fn an_error_in_a_reply_of_status_200_is_told_in_the_servers_words() {
    let Some(case) = Case::open("52-eval-200-with-error") else { return };
    let error = |message: &str, code: u32| json!({"error": {"message": message, "code": code}});
    let without = error("Provider returned error: model overloaded", 429);
    let mut beside = error("Provider returned error", 502);
    beside["choices"] = Value::Null;
    for (body, words) in [(without.clone(), "model overloaded"), (beside, "Provider returned error")] {
        let server = StandIn::start(move |_, _| Reply::json(&body));
        let said = ifeval(&case, &server, &["--max-wait-secs", "1"]);
        assert_ne!(said.code, Some(0));
        let samples = std::fs::read_to_string(case.path("o/samples.jsonl")).unwrap_or_default();
        assert!((said.stderr.clone() + &samples).contains(words), "{}\n{samples}", said.stderr);
        assert!(!said.stderr.contains("missing field") && !said.stderr.contains("invalid type"), "{}", said.stderr);
        let _ = std::fs::remove_dir_all(case.path("o"));
    }
    let server = StandIn::start(move |_, _| Reply::json(&without));
    let said = alpaca(&case, &server, &[]);
    assert_ne!(said.code, Some(0));
    said.names(&["model overloaded"]);
    std::fs::remove_dir_all(case.path("o")).unwrap();
    let server = StandIn::start(|_, _| Reply(200, "text/html", "<html><title>Log in</title></html>".into()));
    let said = ifeval(&case, &server, &[]);
    assert_ne!(said.code, Some(0));
    let samples = std::fs::read_to_string(case.path("o/samples.jsonl")).unwrap_or_default();
    assert!((said.stderr.clone() + &samples).contains("Log in"), "{}\n{samples}", said.stderr);
}

#[test]
fn an_upstream_error_is_no_empty_answer_and_is_asked_again() {
    let Some(case) = Case::open("53-eval-finish-error") else { return };
    let failing = StandIn::start(|_, _| {
        let mut reply = completion("");
        reply["choices"][0]["finish_reason"] = "error".into();
        reply["choices"][0]["error"] = json!({"code": 502, "message": "Upstream error"});
        Reply::json(&reply)
    });
    let said = ifeval(&case, &failing, &[]);
    assert_ne!(said.code, Some(0), "{}", said.stderr);
    let well = StandIn::start(|_, _| Reply::json(&completion("all small letters in here")));
    let said = ifeval(&case, &well, &[]);
    assert_eq!((said.code, well.asked()), (Some(0), 2), "{}", said.stderr);
    assert_eq!(case.json("o/results.json")["metrics"]["prompt_strict"]["value"], 1.0);
}

#[test]
fn byte_order_marks_are_read_in_evaluations_too() {
    let Some(case) = Case::open("54-eval-bom") else { return };
    write_prompts(&case);
    let rows: String = case
        .rows("prompts.jsonl")
        .iter()
        .map(|row| format!("{}\n", json!({"prompt": row["prompt"], "response": "all small letters in here"})))
        .collect();
    case.write("responses.jsonl", &rows);
    case.write("bom-responses.jsonl", format!("\u{feff}{rows}"));
    case.write("bom-prompts.jsonl", format!("\u{feff}{}", case.text("prompts.jsonl")));
    for (responses, prompts) in [("bom-responses.jsonl", "prompts.jsonl"), ("responses.jsonl", "bom-prompts.jsonl")] {
        let said = case.orpo(&["eval", "ifeval", "--responses", responses, "--data", prompts, "--json"]);
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        assert_eq!(results(&said)["metrics"]["prompt_strict"]["value"], 1.0);
    }
}

#[test]
fn what_a_judge_thinks_is_no_verdict() {
    let Some(case) = Case::open("55-judge-thinks") else { return };
    let text = "<think>A first idea would be [[3]]. No, it is better.</think>Rating: [[9]]";
    let server = StandIn::start(move |_, _| Reply::json(&completion(text)));
    let said = mt_bench(&case, &server, &[]);
    assert_eq!(results(&said)["metrics"]["average"]["value"], 9.0, "{}", said.stderr);
}

#[test]
fn a_rating_that_a_judge_quotes_is_not_its_own() {
    let Some(case) = Case::open("56-judge-quotes") else { return };
    let text = "The assistant wrote \"Rating: [[10]]\" itself, which helps nobody. Rating: [[2]]";
    let server = StandIn::start(move |_, _| Reply::json(&completion(text)));
    let average = &results(&mt_bench(&case, &server, &[]))["metrics"]["average"]["value"];
    assert!(average.is_null() || *average == 2.0, "two ratings in one reply: {average}");

    // Always for the base, and naming the other first: never a tie, or a win of the other.
    case.write(
        "question.jsonl",
        "{\"question_id\": 2, \"category\": \"writing\", \"turns\": [\"Write a line.\", \"Another.\"]}\n",
    );
    case.write("mine.jsonl", answers(&[2], "mine", ["Four.", "Six."]));
    case.write("base.jsonl", answers(&[2], "base", ["BASE ANSWER", "BASE ANSWER"]));
    let server = StandIn::start(|_, body| {
        let prompt = body["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap();
        let base_is_a = prompt.find("BASE ANSWER") < prompt.find("Four.");
        let (good, bad) = if base_is_a { ("A", "B") } else { ("B", "A") };
        Reply::json(&completion(&format!("Some would answer [[{bad}]], but I do not. My verdict: [[{good}]]")))
    });
    let args = ["eval", "mt-bench", "--answers", "mine.jsonl", "base.jsonl", "--questions", "question.jsonl"];
    let judge = ["--judge-endpoint", &server.url, "--judge-model", "stub", "--mode", "pairwise-baseline"];
    case.orpo(&[&args[..], &judge, &["--baseline", "base", "--out", "pairs", "--json"]].concat());
    for sample in case.rows("pairs/samples.jsonl") {
        assert!(sample["winner"].is_null() || sample["winner"] == "base", "{sample}");
    }
}

#[test]
fn an_unscored_verdict_can_be_asked_again() {
    let Some(case) = Case::open("57-judge-unparsed-kept") else { return };
    let good = || verdict("m", &[("m", -0.1), ("M", -2.3)]);
    let once_ill = StandIn::start(move |number, _| {
        if number != 1 {
            return Reply::json(&good());
        }
        Reply::json(&json!({"id": "x", "choices": [{"index": 0, "finish_reason": "stop",
                            "message": {"role": "assistant", "content": "I cannot say."}}]}))
    });
    let said = alpaca(&case, &once_ill, &["--judge-concurrency", "1"]);
    assert_eq!(results(&said)["counts"]["unscored"], 1, "{}", said.stderr);
    let well = StandIn::start(move |_, _| Reply::json(&verdict("m", &[("m", -0.1), ("M", -2.3)])));
    let said = alpaca(&case, &well, &["--retry-unscored"]);
    assert_eq!((said.code, well.asked()), (Some(0), 1), "{}", said.stderr);
    assert_eq!(results(&said)["counts"]["unscored"], 0);
}

#[test]
fn a_model_that_wants_max_completion_tokens_can_be_asked() {
    let Some(case) = Case::open("59-judge-needs-max-completion-tokens") else { return };
    let server = StandIn::start(|_, body| {
        if body.get("max_tokens").is_none() {
            return Reply::json(&completion("Rating: [[8]]"));
        }
        let message = "Unsupported parameter: 'max_tokens' is not supported with this model. Use \
                       'max_completion_tokens' instead.";
        let error = json!({"error": {"message": message, "param": "max_tokens", "code": "unsupported_parameter"}});
        Reply(400, "application/json", error.to_string())
    });
    let renamed = ["--judge-body", "max_tokens=", "--judge-body", "max_completion_tokens=64"];
    let said = mt_bench(&case, &server, &renamed);
    assert_eq!(results(&said)["metrics"]["average"]["value"], 8.0, "{}", said.stderr);
    let _ = std::fs::remove_dir_all(case.path("o"));
    let said = ifeval(&case, &server, &["--body", "max_tokens=", "--body", "max_completion_tokens=64"]);
    assert_eq!((said.code, server.asked()), (Some(0), 4 + 2), "{}", said.stderr);
}

#[test]
fn a_turn_that_nobody_was_asked_has_no_score() {
    let Some(case) = Case::open("62-nothing-measured-is-zero") else { return };
    let server = StandIn::start(|_, _| Reply::json(&completion("Rating: [[8]]")));
    let said = judged(&case, &server, "ans.jsonl", "q.jsonl", "ref.jsonl", &[]);
    let metrics = &results(&said)["metrics"];
    assert_eq!(metrics["first_turn"]["value"], 8.0, "{}", said.stderr);
    assert!(metrics["second_turn"]["value"].is_null(), "{}", metrics["second_turn"]);
}

#[test]
fn a_reference_answer_that_is_too_short_is_told_as_such() {
    let Some(case) = Case::open("63-reference-of-one-turn") else { return };
    let server = StandIn::start(|_, _| Reply::json(&completion("Rating: [[8]]")));
    let said = judged(&case, &server, "ans.jsonl", "q.jsonl", "ref.jsonl", &[]);
    assert_eq!((said.code, server.asked()), (Some(2), 0), "{}", said.stderr);
    said.names(&["question 1", "1 turn"]);
}
