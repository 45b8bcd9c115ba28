//! AlpacaEval's numbers against those of the official program.
//!
//! The reference data is not part of the repository: `$ORPO_SHARED`, by default `../../shared`, says where it lies.
//! Without it these tests print that they are skipped.

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use orpo_eval::alpaca::gamed::{read_difficulty, read_gamed};
use orpo_eval::alpaca::length_controlled::{LengthRegression, Row};
use orpo_eval::alpaca::metrics::WinRate;
use orpo_eval::alpaca::{FoldLayout, is_switched};
use orpo_eval::judge::Reply;
use orpo_eval::judge::annotator::Annotator;
use orpo_eval::judge::template::{Templating, Texts};
use serde::Deserialize;
use serde_json::{Value, json};
use support::{reference, unpack};

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn read_annotator(directory: &Path, name: &str) -> Annotator {
    Annotator::read(&directory.join("evaluators_configs").join(name)).unwrap()
}

#[derive(Deserialize)]
struct Annotation {
    index: usize,
    eval_index: Option<usize>,
    len_1: usize,
    len_2: usize,
    same_output: bool,
    preference: Option<f64>,
    is_switched: bool,
    top_logprobs: Option<Vec<(String, f64)>>,
    raw_completion: Option<String>,
    glm_preference: Option<f64>,
}

#[derive(Deserialize)]
struct Instruction {
    instruction: String,
    output: String,
    is_switched: bool,
}

/// The annotations by model.
fn annotations(directory: &Path) -> BTreeMap<String, Vec<Annotation>> {
    let files = std::fs::read_dir(directory.join("annotations")).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().strip_suffix(".jsonl.gz").unwrap().to_owned();
    let all: BTreeMap<_, _> = files.map(|path| (name(&path), unpack(&path))).collect();
    assert_eq!(all.len(), 13);
    all
}

fn regression(directory: &Path, rows: &[Annotation]) -> LengthRegression {
    let (gamed, carried) = read_gamed(&directory.join("df_gamed_reconstructed.csv.gz")).unwrap();
    let difficulty = read_difficulty(&directory.join("instruction_difficulty_recovered.csv")).unwrap();
    assert_eq!((gamed.len(), carried.len(), difficulty.len()), (1610, 805, 805));
    for (index, row) in rows.iter().enumerate() {
        assert_eq!(row.index, index);
    }
    let row = |row: &Annotation| Row { preference: row.preference, length_1: row.len_1, length_2: row.len_2 };
    LengthRegression::new(&rows.iter().map(row).collect::<Vec<_>>(), &gamed, &difficulty).unwrap()
}

fn close(ours: f64, official: &Value, tolerance: f64, what: &str) {
    let official = official.as_f64().unwrap();
    assert!((ours - official).abs() <= tolerance, "{what}: {ours} here, {official} officially");
}

#[test]
fn win_rates() {
    let Some(directory) = reference("alpaca_eval") else { return };
    let expected = read_json(&directory.join("expected_metrics.json"));
    for (model, rows) in annotations(&directory) {
        let expected = &expected[&model];
        let rate = WinRate::of(rows.iter().map(|row| row.preference.unwrap()));
        close(rate.win_rate.unwrap(), &expected["win_rate"], 1e-9, &model);
        close(rate.standard_error.unwrap(), &expected["standard_error"], 1e-9, &model);
        close(rate.discrete_win_rate.unwrap(), &expected["discrete_win_rate"], 1e-9, &model);
        for (name, count) in [
            ("n_wins", rate.n_wins),
            ("n_wins_base", rate.n_wins_base),
            ("n_draws", rate.n_draws),
            ("n_total", rate.n_total),
        ] {
            assert_eq!(expected[name], count, "{model} {name}");
        }
        let mean_length = rows.iter().map(|row| row.len_2).sum::<usize>() / rows.len();
        assert_eq!(expected["avg_length"], mean_length, "{model}");
    }
}

#[test]
fn length_controlled_win_rates() {
    let Some(directory) = reference("alpaca_eval") else { return };
    let expected = read_json(&directory.join("expected_metrics.json"));
    let (mut same, mut of, mut predictions) = (0, 0, 0);
    let mut furthest = [0.0_f64; 3];
    for (model, rows) in annotations(&directory) {
        let expected = &expected[&model];
        if model == "gpt4_1106_preview" {
            continue;
        }
        let regression = regression(&directory, &rows);
        for (c, exact) in LengthRegression::strengths().into_iter().zip(expected["lc_exact_by_C"].as_array().unwrap()) {
            close(c, &exact["C"], 1e-9 * c, &model);
            let found = regression.with_strength(c);
            close(found.win_rate, &exact["length_controlled_winrate"], 1e-4, &format!("{model}, C {c}"));
            close(found.standard_error, &exact["lc_standard_error"], 1e-4, &format!("{model}, C {c}"));
            for (ours, official) in found.coef.iter().zip(exact["coef"].as_array().unwrap()) {
                close(*ours, official, 1e-5, &format!("{model}, C {c}"));
            }
            furthest[0] =
                furthest[0].max((found.win_rate - exact["length_controlled_winrate"].as_f64().unwrap()).abs());
        }
        for (layout, name) in [(FoldLayout::NumpyArgsort, "numpy_argsort"), (FoldLayout::Mod5, "mod5")] {
            let official = &expected["lc"][name];
            let c = official["C"].as_f64().unwrap();
            let what = format!("{model}, {name}");
            let at_same_c = regression.with_strength(c);
            close(at_same_c.win_rate, &official["length_controlled_winrate"], 0.02, &what);
            let scores = regression.scores(layout);
            let found = regression.with_strength(LengthRegression::best(&scores));
            close(found.win_rate, &official["length_controlled_winrate"], 0.11, &what);
            for (ours, official) in scores.iter().zip(official["cv_score_sum_by_C"].as_array().unwrap()) {
                // The official folds are solved to a tolerance of 1e-4.
                close(*ours, official, 1e-4, &what);
            }
            of += 1;
            same += usize::from((found.c / c - 1.0).abs() < 1e-9);
            let official = official["length_controlled_winrate"].as_f64().unwrap();
            furthest[1] = furthest[1].max((at_same_c.win_rate - official).abs());
            furthest[2] = furthest[2].max((found.win_rate - official).abs());
        }
        let weights = expected["leaderboard_weights"].as_array().unwrap();
        let weights: [f64; 3] = std::array::from_fn(|index| weights[index].as_f64().unwrap());
        for (row, prediction) in rows.iter().zip(regression.predict(&weights)) {
            if let Some(official) = row.glm_preference {
                predictions += 1;
                assert!((prediction - official).abs() < 1e-6, "{model} {}: {prediction} {official}", row.index);
            }
        }
    }
    println!("{predictions} published predictions");
    assert!(predictions >= 805);
    println!(
        "exact to {:e}; at the official C within {:.4}, overall within {:.4}; the same C in {same} of {of} cases",
        furthest[0], furthest[1], furthest[2]
    );
}

#[test]
fn the_same_pairs_are_switched() {
    let Some(directory) = reference("alpaca_eval") else { return };
    let instructions: Vec<Instruction> = unpack(&directory.join("eval_set.jsonl.gz"));
    assert_eq!(instructions.len(), 805);
    for row in &instructions {
        assert_eq!(is_switched(&row.instruction, 0), row.is_switched, "{}", row.instruction);
    }
    for (model, rows) in annotations(&directory) {
        for row in rows {
            let instruction = &instructions[row.eval_index.unwrap_or(row.index)];
            assert_eq!(row.is_switched, instruction.is_switched, "{model} {}", row.index);
            // The published set of one model had other outputs of the baseline.
            if row.len_1 != instruction.output.chars().count() {
                println!("{model} {}: another baseline", row.index);
            }
        }
    }
}

/// A judge's reply with these likeliest first tokens.
fn reply(top_logprobs: &[(String, f64)]) -> Reply {
    let top: Vec<Value> =
        top_logprobs.iter().map(|(token, logprob)| json!({"token": token, "logprob": logprob})).collect();
    let choice = json!({
        "message": {"role": "assistant", "content": top_logprobs[0].0},
        "logprobs": {"content": [{"token": top_logprobs[0].0, "top_logprobs": top}]}
    });
    Reply::try_from(json!({"choices": [choice]})).unwrap()
}

fn unswitched(preference: f64, is_switched: bool) -> f64 {
    if is_switched { 3.0 - preference } else { preference }
}

#[test]
fn published_log_probabilities_give_the_published_preferences() {
    let Some(directory) = reference("alpaca_eval") else { return };
    let annotator = read_annotator(&directory, "weighted_alpaca_eval_gpt4_turbo");
    let mut compared = 0;
    for (model, rows) in annotations(&directory) {
        for row in rows.iter().filter(|row| !row.same_output) {
            let Some(top_logprobs) = &row.top_logprobs else { continue };
            let preference = annotator.parser.parse(&reply(top_logprobs)).unwrap();
            let preference = unswitched(preference, row.is_switched);
            assert!((preference - row.preference.unwrap()).abs() < 1e-9, "{model} {}: {preference}", row.index);
            compared += 1;
        }
    }
    println!("{compared} preferences");
    assert!(compared > 7000);
}

#[derive(Deserialize)]
struct JudgeRequest {
    instruction: String,
    output_1: String,
    output_2: String,
    is_switched: bool,
    request: Option<OfficialRequest>,
    #[serde(default)]
    top_logprobs: Vec<(String, f64)>,
    preference: Option<f64>,
    hazard: Option<String>,
}

#[derive(Deserialize)]
struct OfficialRequest {
    messages: Value,
    params: serde_json::Map<String, Value>,
}

#[test]
fn judge_requests() {
    let Some(directory) = reference("alpaca_eval") else { return };
    let annotator = read_annotator(&directory, "weighted_alpaca_eval_gpt4_turbo");
    let rows: Vec<JudgeRequest> = unpack(&directory.join("judge_requests.jsonl.gz"));
    assert_eq!(rows.len(), 54);
    let (mut hazards, mut hijacked) = (0, 0);
    for row in &rows {
        let switched = is_switched(&row.instruction, 0);
        assert_eq!(switched, row.is_switched, "{}", row.instruction);
        let Some(official) = &row.request else {
            assert_eq!((&row.output_1, row.preference), (&row.output_2, Some(1.5)));
            continue;
        };
        let (output_1, output_2) =
            if switched { (&row.output_2, &row.output_1) } else { (&row.output_1, &row.output_2) };
        let texts = Texts { instruction: &row.instruction, output_1, output_2 };
        let mut expected = official.params.clone();
        expected.insert("messages".into(), official.messages.clone());
        let expected = Value::Object(expected);
        let model = official.params["model"].as_str().unwrap();
        assert_eq!(annotator.request(model, texts, Templating::Official).unwrap(), expected);
        let safe = annotator.request(model, texts, Templating::Safe).unwrap();
        if row.hazard.is_none() {
            assert_eq!(safe, expected);
        } else {
            hazards += 1;
            hijacked += usize::from(safe != expected);
            assert_eq!(safe["messages"].as_array().unwrap().len(), 2);
        }
        let preference = annotator.parser.parse(&reply(&row.top_logprobs)).ok();
        let preference = preference.map(|preference| unswitched(preference, switched));
        match (preference, row.preference) {
            (Some(ours), Some(official)) => assert!((ours - official).abs() < 1e-12, "{ours} {official}"),
            (ours, official) => assert_eq!(ours, official, "{}", row.instruction),
        }
    }
    // One text holds a placeholder that is no more when its turn comes.
    assert_eq!((hazards, hijacked), (5, 4));
}

#[test]
fn an_orpo_model_on_alpaca_eval_1() {
    let Some(directory) = reference("alpaca_eval") else { return };
    let annotator = read_annotator(&directory, "alpaca_eval_gpt4");
    let directory = directory.join("annotations_v1");
    let rows: Vec<Annotation> = unpack(&directory.join("mistral-orpo-beta_alpaca_eval_gpt4.jsonl.gz"));
    let preference = |row: &Annotation| {
        if row.same_output {
            return Some(1.5);
        }
        let message = json!({"content": row.raw_completion.as_deref()?});
        let reply = Reply::try_from(json!({"choices": [{"message": message}]})).unwrap();
        Some(unswitched(annotator.parser.parse(&reply).ok()?, row.is_switched))
    };
    let preferences: Vec<Option<f64>> = rows.iter().map(preference).collect();
    for (row, preference) in rows.iter().zip(&preferences) {
        assert_eq!(*preference, row.preference, "{}", row.index);
    }
    let rate = WinRate::of(preferences.into_iter().flatten());
    assert_eq!((rate.n_wins, rate.n_wins_base, rate.n_draws, rate.n_total), (731, 70, 2, 803));
    let expected = read_json(&directory.join("expected_metrics.json"));
    let expected = expected.as_object().unwrap().values().next().unwrap();
    close(rate.win_rate.unwrap(), &expected["win_rate"], 1e-9, "win rate");
    close(rate.standard_error.unwrap(), &expected["standard_error"], 1e-9, "standard error");
    close(rate.discrete_win_rate.unwrap(), &expected["discrete_win_rate"], 1e-9, "discrete win rate");
}

#[test]
fn every_official_annotator_is_understood() {
    let Some(directory) = reference("alpaca_eval") else { return };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory.join("evaluators_configs")).unwrap() {
        let path = entry.unwrap().path();
        let annotator = Annotator::read(&path).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(Some(annotator.name.as_str()), path.file_name().unwrap().to_str());
        assert!(annotator.model.is_some());
        assert_eq!(Annotator::read(&path.join("configs.yaml")).unwrap().parameters, annotator.parameters);
        let texts = Texts { instruction: "i", output_1: "a", output_2: "b" };
        let safe = annotator.request("m", texts, Templating::Safe).unwrap();
        assert_eq!(safe, annotator.request("m", texts, Templating::Official).unwrap());
        names.push(annotator.name);
    }
    assert_eq!(names.len(), 14);
    let functions = read_annotator(&directory, "alpaca_eval_gpt4_turbo_fn");
    assert_eq!(functions.parameters["tools"][0]["function"]["name"], "make_partial_leaderboard");
    assert_eq!(functions.parameters["tools"][0]["function"]["strict"], true);
}
