//! Stages that ask a judge, against a stand-in.

use std::time::Duration;

use serde_json::{Value, json};

use crate::setting::{Setting, stderr, stdout};
use crate::stand_in::StandIn;

/// Models that say the prompt again, and a judge that finds everything a 7, and the first of two answers better.
fn stand_in() -> StandIn {
    StandIn::start(Duration::ZERO, |model, prompt| match model {
        "judge" if prompt.contains("[[A]]") => "Both are fine. [[A]]".into(),
        "judge" if prompt.contains("Rating: [[6]]") => "Rating: [[7]]".into(),
        "judge" => "m".into(),
        _ => format!("{model} on {prompt}"),
    })
}

fn pipeline(url: &str) -> String {
    Setting::pipeline(6)
        + &format!(
            "[judge]\nendpoint = \"{url}\"\nmodel = \"judge\"\nprice_in = 10\nprice_out = 30\nmax_cost = 5.0\n\
             [alpaca]\nreference = \"reference.json\"\nmax_tokens = 8\n[mt_bench]\nlimit = 2\nmax_tokens = 8\n\
             [compare]\njudge = \"model\"\n"
        )
}

fn setting(url: &str) -> Setting {
    let setting = Setting::with_base();
    let rows: Vec<Value> = ["one", "two", "three"]
        .iter()
        .map(
            |word| json!({"dataset": "d", "instruction": word, "output": format!("{word}!"), "generator": "reference"}),
        )
        .collect();
    setting.write("reference.json", &json!(rows).to_string());
    setting.write("pipeline.toml", &pipeline(url));
    setting
}

#[test]
fn a_judge_is_asked_once_and_the_plan_says_how_often() {
    let stand_in = stand_in();
    let setting = setting(&stand_in.url);
    let plan: Value = serde_json::from_slice(&setting.succeed(&["plan", "pipeline.toml", "--json"]).stdout).unwrap();
    let estimate = |name: &str| {
        let stages = plan["stages"].as_array().unwrap();
        stages.iter().find(|stage| stage["stage"] == name).unwrap()["estimate"].clone()
    };
    for (name, prompts, requests) in [
        ("alpaca:orpo", json!(3), json!(3)),
        ("mt-bench:base", json!(4), json!(4)),
        ("compare:orpo-base", json!(null), json!(6)),
    ] {
        let estimate = estimate(name);
        assert_eq!((&estimate["prompts"], &estimate["judge_requests"]), (&prompts, &requests), "{name}");
        assert!(estimate["dollars"].as_f64() > Some(0.0), "{estimate}");
    }

    let urls = [format!("base={}", stand_in.url), format!("orpo={}", stand_in.url)];
    let run = ["run", "pipeline.toml", "--endpoint", &urls[0], "--endpoint", &urls[1]];
    let said = stdout(&setting.succeed(&run));
    for words in ["AlpacaEval win rate", "MT-Bench average", "7.00", "orpo against base"] {
        assert!(said.contains(words), "no `{words}` in\n{said}");
    }
    // As many as planned: 3 + 3, 4 + 4, 6.
    let asked: usize = stand_in.asked("judge").values().sum();
    assert_eq!(asked, 20);
    let compared = setting.json("run/compare/orpo-vs-base/results.json");
    assert_eq!((&compared["n_ties"], &compared["judge"]["model"]), (&json!(3), &json!("judge")));

    // What the judge costs, and where it is, changes nothing; who it is does.
    let resume = [&run[..], &["--resume"]].concat();
    setting.write("pipeline.toml", &pipeline(&stand_in.url).replace("price_in = 10", "price_in = 1\nrpm = 6000"));
    assert!(setting.stages_of(&resume).iter().all(|(_, what)| what == "up to date"));
    assert_eq!(stand_in.asked("judge").values().sum::<usize>(), 20);
    setting.write("pipeline.toml", &pipeline(&stand_in.url).replace("\"judge\"\nprice", "\"other\"\nprice"));
    let plan = stdout(&setting.succeed(&["plan", "pipeline.toml"]));
    assert!(plan.contains("judge.model \"judge\" → \"other\""), "{plan}");
}

#[test]
fn a_judge_that_is_not_there_is_known_before_training() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let setting = setting(&format!("http://127.0.0.1:{port}"));
    setting.refuse(&["run", "pipeline.toml"], &["judge", &port.to_string()]);
    assert!(!setting.path("run/orpo").exists());
    // Nobody needs it for training.
    let output = setting.orpo(&["run", "pipeline.toml", "--resume", "--until", "train"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = pipeline("http://127.0.0.1:1")
        .replace("max_tokens = 8\n[mt_bench]", "max_tokens = 8\nfold_layout = \"x\"\n[mt_bench]");
    setting.write("pipeline.toml", &text);
    setting.refuse(&["run", "pipeline.toml", "--resume"], &["stage alpaca:base", "--fold-layout"]);
}
