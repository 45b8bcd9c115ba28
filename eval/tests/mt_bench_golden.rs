//! Prompts, verdicts and aggregates against those of FastChat's `llm_judge`.
//!
//! The reference data is not part of the repository: `$ORPO_SHARED`, by default `../../shared`, says where it lies. Without
//! it these tests print that they are skipped.

mod support;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::Command;

use orpo_eval::jsonl;
use orpo_eval::mt_bench::import::{Duplicates, Selected, Selection, import};
use orpo_eval::mt_bench::judgment::{GameWinner, Judgments};
use orpo_eval::mt_bench::verdict::{self, Format, NoScore, Position, Rule};
use orpo_eval::mt_bench::{
    Answers, Id, JudgePrompts, OFFICIAL, Question, Questions, Turn, category, pairwise, render, single,
};
use orpo_eval::official::Hub;
use serde::Deserialize;
use serde_json::Value;
use support::{reference, unpack};

fn json(path: &Path) -> Value {
    serde_json::from_slice(&jsonl::read(path).unwrap()).unwrap()
}

/// The official questions, prompts and reference answers.
struct Official {
    questions: HashMap<Id, Question>,
    prompts: JudgePrompts,
    references: Answers,
}

impl Official {
    fn read(directory: &Path) -> Self {
        let questions = Questions::read(&directory.join("question.jsonl")).unwrap();
        assert_eq!(questions.list.len(), 80);
        assert_eq!(questions.source.sha256, OFFICIAL.sha256);
        let questions = questions.list.into_iter().map(|question| (question.question_id.clone(), question)).collect();
        let prompts = JudgePrompts::read(&directory.join("judge_prompts.jsonl")).unwrap();
        let references = Answers::read(&directory.join("reference_answer_gpt-4.jsonl")).unwrap();
        assert_eq!(references.by_question.len(), 30);
        Self { questions, prompts, references }
    }

    fn reference(&self, question: &Question, turn: Turn) -> Option<&[String]> {
        question.needs_reference().then(|| self.references.up_to(question, turn).unwrap())
    }
}

#[test]
fn parse_cases() {
    #[derive(Deserialize)]
    struct Case {
        kind: String,
        judgment: String,
        score: Option<f64>,
        winner: Option<String>,
        error: Option<String>,
    }
    let Some(directory) = reference("mt_bench") else { return };
    let cases: Vec<Case> = unpack(&directory.join("parse_cases.jsonl"));
    assert_eq!(cases.len(), 334);
    for case in cases {
        let text = &case.judgment;
        if case.kind == "single" {
            let expected = match (case.error, case.score.unwrap_or(-1.0)) {
                (Some(_), _) => Err(NoScore::Unreadable),
                (None, -1.0) => Err(NoScore::Absent),
                (None, score) => Ok(score),
            };
            assert_eq!(verdict::score(text, Rule::Official), expected, "{text:?}");
            continue;
        }
        let format = if case.kind == "pair" { Format::Letter } else { Format::TwoRatings };
        let winner = match verdict::winner(text, format) {
            Some(Position::A) => "A",
            Some(Position::B) => "B",
            Some(Position::Tie) => "tie",
            None => "error",
        };
        assert_eq!(Some(winner), case.winner.as_deref(), "{} {text:?}", case.kind);
    }
}

#[test]
fn judge_requests_are_those_of_the_official_program() {
    #[derive(Deserialize)]
    struct Case {
        template: String,
        question_id: Id,
        turn: Turn,
        answer: Option<Vec<String>>,
        request: Option<Value>,
        answer_1: Option<Vec<String>>,
        answer_2: Option<Vec<String>>,
        request_g1: Option<Value>,
        request_g2: Option<Value>,
        judge_replies: Option<[String; 2]>,
        g1_winner: Option<GameWinner>,
        g2_winner: Option<GameWinner>,
    }
    let Some(directory) = reference("mt_bench") else { return };
    let official = Official::read(&directory);
    let cases: Vec<Case> = unpack(&directory.join("judge_requests.jsonl"));
    assert_eq!(cases.len(), 32);
    for case in cases {
        let question = &official.questions[&case.question_id];
        let reference = official.reference(question, case.turn);
        let turns = |answer: &Option<Vec<String>>| answer.as_ref().unwrap()[..=case.turn.index()].to_vec();
        if case.answer.is_some() {
            let rendered =
                render::single(&official.prompts, question, case.turn, &turns(&case.answer), reference).unwrap();
            assert_eq!(rendered.prompt.name, case.template);
            assert_eq!(rendered.request("gpt-4").to_string(), case.request.unwrap().to_string());
            continue;
        }
        let (first, second) = (turns(&case.answer_1), turns(&case.answer_2));
        for (swapped, request, winner) in
            [(false, case.request_g1, case.g1_winner), (true, case.request_g2, case.g2_winner)]
        {
            let order = if swapped { [&second[..], &first[..]] } else { [&first[..], &second[..]] };
            let rendered = render::pair(&official.prompts, question, case.turn, order, reference).unwrap();
            assert_eq!(rendered.prompt.name, case.template);
            assert_eq!(rendered.request("gpt-4").to_string(), request.unwrap().to_string());
            let reply = &case.judge_replies.as_ref().unwrap()[usize::from(swapped)];
            let position = verdict::winner(reply, rendered.prompt.format);
            assert_eq!(Some(GameWinner::of(position, swapped)), winner, "{reply}");
        }
    }
}

#[test]
fn prompts_of_published_judgments_render_from_the_answers() {
    #[derive(Deserialize)]
    struct Row {
        question_id: Id,
        turn: Turn,
        judge: (String, String),
        model: Option<String>,
        model_1: Option<String>,
        model_2: Option<String>,
        user_prompt_sha256: Option<String>,
        g1_user_prompt_sha256: Option<String>,
        g2_user_prompt_sha256: Option<String>,
        renders_from_model_answer: Option<bool>,
    }
    let Some(directory) = reference("mt_bench") else { return };
    let official = Official::read(&directory);
    let answers: HashMap<String, Answers> = std::fs::read_dir(directory.join("model_answers"))
        .unwrap()
        .map(|entry| Answers::read(&entry.unwrap().path()).unwrap())
        .map(|answers| (answers.model.clone(), answers))
        .collect();
    assert_eq!(answers.len(), 6);
    let mut compared = 0;
    for file in ["single_orpo", "single_phi3_dpo", "pair_phi3_vs_phi3_dpo"] {
        for row in unpack::<Row>(&directory.join(format!("judgments/{file}.jsonl.gz"))) {
            if row.renders_from_model_answer != Some(true) {
                continue;
            }
            let question = &official.questions[&row.question_id];
            let reference = official.reference(question, row.turn);
            let turns = |model: &Option<String>| answers[model.as_ref().unwrap()].up_to(question, row.turn).unwrap();
            let rendered = if row.model.is_some() {
                vec![render::single(&official.prompts, question, row.turn, turns(&row.model), reference)]
            } else {
                let (first, second) = (turns(&row.model_1), turns(&row.model_2));
                [[first, second], [second, first]]
                    .map(|order| render::pair(&official.prompts, question, row.turn, order, reference))
                    .to_vec()
            };
            let hashes =
                [row.user_prompt_sha256, row.g1_user_prompt_sha256, row.g2_user_prompt_sha256].into_iter().flatten();
            let hashes: Vec<String> = hashes.collect();
            assert_eq!(rendered.len(), hashes.len());
            for (rendered, hash) in rendered.into_iter().zip(hashes) {
                let rendered = rendered.unwrap();
                assert_eq!(rendered.prompt.name, row.judge.1);
                assert_eq!(orpo_files::sha256(rendered.user.as_bytes()), hash, "{file} {}", row.question_id);
                compared += 1;
            }
        }
    }
    println!("{compared} prompts compared");
    assert_eq!(compared, COMPARED_PROMPTS);
}

/// 640 + 160 + 2 * 75 prompts, without those whose answers are not in the data.
const COMPARED_PROMPTS: usize = 950;

#[test]
fn published_scores_are_read_from_the_judges_words() {
    let Some(directory) = reference("mt_bench") else { return };
    let mut read = 0;
    for file in ["single_orpo", "single_phi3_dpo"] {
        let path = directory.join(format!("judgments/{file}.jsonl.gz"));
        let Judgments::Single(judgments) = Judgments::read(&path).unwrap() else { panic!("pairs") };
        for (line, judgment) in judgments {
            // Neither rule finds anything else in these real replies.
            for rule in [Rule::Official, Rule::Strict] {
                let score = verdict::score(&judgment.judgment, rule).unwrap_or(-1.0);
                assert_eq!(score, judgment.score, "{file}:{line}");
            }
            read += 1;
        }
    }
    let path = directory.join("judgments/pair_phi3_vs_phi3_dpo.jsonl.gz");
    let Judgments::Pair(judgments) = Judgments::read(&path).unwrap() else { panic!("single") };
    for (line, judgment) in judgments {
        let winner = |text: &str, swapped| GameWinner::of(verdict::winner(text, Format::Letter), swapped);
        assert_eq!(winner(&judgment.g1_judgment, false), judgment.g1_winner, "{line}");
        assert_eq!(winner(&judgment.g2_judgment, true), judgment.g2_winner, "{line}");
        read += 2;
    }
    assert_eq!(read, 800 + 160 + 150);
}

fn imported(path: &Path) -> Selected {
    let selection =
        Selection { judge_model: None, rule: Rule::Official, duplicates: Duplicates::Refuse, questions: None };
    import(path, Judgments::read(path).unwrap(), &selection).unwrap().judgments
}

fn close(ours: f64, expected: &Value) {
    let expected = expected.as_f64().unwrap();
    assert!((ours - expected).abs() < 1e-12, "{ours} here, {expected} officially");
}

#[test]
fn aggregates_of_single_judgments() {
    let Some(directory) = reference("mt_bench") else { return };
    let expected = json(&directory.join("expected_results.json"));
    let mut averages = BTreeMap::new();
    for (file, models) in expected["single"].as_object().unwrap() {
        let Selected::Single(items) = imported(&directory.join(format!("judgments/{file}.jsonl.gz"))) else {
            panic!("pairs")
        };
        assert_eq!(items.len(), models.as_object().unwrap().len());
        for (model, items) in items {
            let scores = single::scores(&items, |id| category::of_official(id).map(str::to_owned));
            let expected = &models[&model];
            close(scores.means.first_turn.value.unwrap(), &expected["first_turn"]);
            close(scores.means.second_turn.value.unwrap(), &expected["second_turn"]);
            close(scores.means.average.value.unwrap(), &expected["average"]);
            assert_eq!(scores.scored + scores.unscored, expected["n_rows"].as_u64().unwrap() as usize);
            assert_eq!(scores.losses.no_verdict, expected["n_dropped"].as_u64().unwrap() as usize);
            assert_eq!(scores.by_category.len(), 8);
            let by_category: usize = scores.by_category.values().map(|means| means.average.n).sum();
            assert_eq!(by_category, scores.scored);
            let [low, high] = scores.means.average.ci95.unwrap();
            assert!(
                low < scores.means.average.value.unwrap()
                    && scores.means.average.value.unwrap() < high
                    && high - low < 1.5
            );
            averages.insert(model, scores.means.average.value.unwrap());
        }
    }
    let published = [
        ("mistral-orpo", 5.8589),
        ("mistral-orpo-capybara", 6.81875),
        ("mistral-orpo-mix", 6.0031),
        ("mistral-orpo-trl", 7.1656),
        ("phi-3-dpo", 8.2),
    ];
    assert_eq!(averages.len(), published.len());
    for (model, average) in published {
        assert!((averages[model] - average).abs() < 5e-5, "{model}: {}", averages[model]);
    }
}

#[test]
fn aggregates_of_pairs() {
    let Some(directory) = reference("mt_bench") else { return };
    let expected = json(&directory.join("expected_results.json"));
    let mut tables = 0;
    for (file, modes) in expected["pairwise"].as_object().unwrap() {
        let Selected::Pair(pairs) = imported(&directory.join(format!("judgments/{file}.jsonl.gz"))) else {
            panic!("single")
        };
        for (mode, models) in modes.as_object().unwrap() {
            let standings = pairwise::standings(&pairs, mode.strip_prefix("baseline="));
            let names: Vec<&String> = standings.keys().collect();
            assert_eq!(names, models.as_object().unwrap().keys().collect::<Vec<_>>(), "{file} {mode}");
            for (model, standing) in &standings {
                let expected = &models[model];
                for (ours, name) in [(standing.win, "win"), (standing.loss, "loss"), (standing.tie, "tie")] {
                    assert_eq!(ours as u64, expected[name].as_u64().unwrap(), "{file} {mode} {model} {name}");
                }
                close(standing.win_rate.value.unwrap(), &expected["win_rate"]);
                close(standing.loss_rate.value.unwrap(), &expected["loss_rate"]);
                close(standing.win_rate_adjusted.value.unwrap(), &expected["win_rate_adjusted"]);
            }
            tables += 1;
        }
    }
    assert_eq!(tables, 4);
}

#[test]
fn constants() {
    let Some(directory) = reference("mt_bench") else { return };
    let constants = json(&directory.join("constants.json"));
    let temperatures = constants["temperature_by_category"].as_object().unwrap();
    assert_eq!(temperatures.len(), 9);
    let mut referenced = Vec::new();
    for (name, temperature) in temperatures {
        assert_eq!(category::temperature(name), temperature.as_f64().unwrap(), "{name}");
        referenced.extend(category::needs_reference(name).then_some(name.as_str()));
    }
    referenced.sort_unstable();
    let mut expected: Vec<&str> =
        constants["need_reference_categories"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    expected.sort_unstable();
    assert_eq!(referenced, expected);
    assert_eq!(category::temperature("other"), constants["unknown_category_temperature"].as_f64().unwrap());
    assert_eq!(u64::from(render::JUDGE_MAX_TOKENS), constants["judge_max_tokens"].as_u64().unwrap());
    assert_eq!(orpo_eval::mt_bench::answer::OFFICIAL_FAILURE, constants["api_error_output"].as_str().unwrap());
}

#[test]
fn the_official_ids_have_the_official_categories() {
    let Some(directory) = reference("mt_bench") else { return };
    for (id, question) in Official::read(&directory).questions {
        assert_eq!(category::of_official(&id), Some(question.category.as_str()));
    }
}

/// What the cache of the hub holds needs no network.
#[test]
fn the_official_questions_are_taken_from_the_cache() {
    let Some(directory) = reference("mt_bench") else { return };
    let cache = tempfile::tempdir().unwrap();
    let snapshot = cache.path().join("spaces--lmsys--mt-bench/snapshots").join(OFFICIAL.revision);
    std::fs::create_dir_all(snapshot.join("data/mt_bench")).unwrap();
    let bytes = jsonl::read(&directory.join("question.jsonl")).unwrap();
    std::fs::write(snapshot.join(OFFICIAL.file), bytes).unwrap();
    let questions = Questions::official(&Hub::new("http://127.0.0.1:9", cache.path(), None)).unwrap();
    assert_eq!((questions.list.len(), questions.source.sha256.as_str()), (80, OFFICIAL.sha256));
}

fn mt_bench(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_orpo-eval")).arg("mt-bench").args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_program_aggregates_published_judgments() {
    let Some(directory) = reference("mt_bench") else { return };
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let out = tempfile::tempdir().unwrap();
    let out = out.path().join("out");

    // One model was judged twice into the same file: that is said, not averaged in silence.
    let orpo = path("judgments/single_orpo.jsonl.gz");
    let (code, stdout, stderr) = mt_bench(&["--judgments", &orpo]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(
        stderr.contains("single_orpo.jsonl.gz:") && stderr.contains("already judged by `gpt-4` on line"),
        "{stderr}"
    );
    let (code, stdout, _) = mt_bench(&["--judgments", &orpo, "--official", "--json"]);
    assert_eq!(code, Some(0));
    let results: Value = serde_json::from_str(&stdout).unwrap();
    close(results["metrics"]["mistral-orpo/average"]["value"].as_f64().unwrap(), &Value::from(5.858_934_169_278_997));
    assert_eq!(results["counts"]["duplicates"], 160);
    assert_eq!(results["counts"]["no_verdict"], 1);
    let (code, stdout, _) = mt_bench(&["--judgments", &orpo, "--duplicates", "average", "--json"]);
    assert_eq!(code, Some(0));
    let results: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(results["by_model"]["mistral-orpo"]["average"]["n"], 160);
    close(results["metrics"]["mistral-orpo-trl/average"]["value"].as_f64().unwrap(), &Value::from(7.165_625));

    let phi = path("judgments/single_phi3_dpo.jsonl.gz");
    let questions = path("question.jsonl");
    let (code, stdout, _) = mt_bench(&["--judgments", &phi, "--questions", &questions, "--out", out.to_str().unwrap()]);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("| phi-3-dpo | ") && stdout.contains(" 8.2000 |"), "{stdout}");
    let results = json(&out.join("results.json"));
    assert_eq!((&results["task"], &results["mode"]), (&"mt-bench".into(), &"single".into()));
    close(results["metrics"]["average"]["value"].as_f64().unwrap(), &Value::from(8.2));
    assert_eq!(results["metrics"]["average"]["n"], 160);
    assert_eq!(results["by_category"].as_object().unwrap().len(), 8);
    assert_eq!(results["counts"]["unscored"], 0);
    assert_eq!(results["judge"]["model"], "gpt-4");
    let samples: Vec<Value> = unpack(&out.join("samples.jsonl"));
    assert_eq!(samples.len(), 160);
    assert!(samples.iter().all(|sample| sample["score"].is_number() && sample["prompt"].is_string()));

    // Two of 75 pairs have no verdict, which is more than one percent.
    let pairs = path("judgments/pair_phi3_vs_phi3_dpo.jsonl.gz");
    let (code, stdout, stderr) = mt_bench(&["--judgments", &pairs, "--json"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("2 of 75 judgments (2.7 %) have no verdict"), "{stderr}");
    let results: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(results["by_model"]["phi-3-dpo"]["win"], 20);
    close(
        results["metrics"]["phi-3-dpo/win_rate_adjusted"]["value"].as_f64().unwrap(),
        &Value::from(0.513_698_630_136_986_4),
    );
    let (code, stdout, _) = mt_bench(&["--judgments", &pairs, "--baseline", "phi-3", "--max-unscored", "3%", "--json"]);
    assert_eq!(code, Some(0));
    let results: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&results["mode"], &results["baseline"]), (&"pairwise-baseline".into(), &"phi-3".into()));
    close(results["metrics"]["win_rate_adjusted"]["value"].as_f64().unwrap(), &Value::from(0.513_698_630_136_986_4));
    let (code, _, stderr) = mt_bench(&["--judgments", &pairs, "--baseline", "phi-4"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("no pair with `phi-4`"), "{stderr}");
    let (code, _, stderr) = mt_bench(&["--judgments", &pairs, "--mode", "single"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("holds judgments on pairs, not on single answers"), "{stderr}");
}
