//! The report, from the files that other commands write to the page in a browser.

#[path = "support/browser.rs"]
mod browser;
mod support;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use browser::Browser;
use serde_json::{Value, json};
use support::{orpo_eval, program, stderr, text};

/// What a model could say to get out of its place.
const HOSTILE: &str =
    "</script><script>window.owned = 1</script><!-- <img src=x onerror='window.owned = 2'> ${1} {{ 1 }}";
/// And what it could be called.
const HOSTILE_NAME: &str = "<img src=x onerror=owned=3>";

/// Everything that a pipeline leaves, for the models `base` and one with a hostile name.
struct Pipeline {
    directory: tempfile::TempDir,
}

impl Pipeline {
    fn new() -> Self {
        let pipeline = Self { directory: tempfile::tempdir().unwrap() };
        let root = pipeline.root();
        let prompts: Vec<String> = (0..30).map(|index| format!("prompt {index}")).collect();
        let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
        let data = support::write_data(&root, &prompts);
        for (model, answers) in [("base", ["a, b", HOSTILE]), (HOSTILE_NAME, ["a b", "c"])] {
            let rows = prompts.iter().enumerate().map(|(index, prompt)| {
                json!({"prompt": prompt, "response": answers[usize::from(index % 3 == 0)]}).to_string() + "\n"
            });
            let responses = root.join("responses.jsonl");
            fs::write(&responses, rows.collect::<String>()).unwrap();
            let out = root.join("out/eval").join(model);
            let [ifeval, alpaca, mt_bench] = ["ifeval", "alpaca", "mt-bench"].map(|task| out.join(task));
            let arguments = ["--responses", text(&responses), "--data", &data, "--out", text(&ifeval)];
            run(orpo_eval(&arguments));
            let annotations = root.join("annotations.json");
            fs::write(&annotations, annotated(model).to_string()).unwrap();
            let arguments = ["--annotations", text(&annotations), "--out", text(&alpaca)];
            run(program("alpaca", &arguments).output().unwrap());
            let judgments = root.join("judgments.jsonl");
            fs::write(&judgments, judged(model)).unwrap();
            let arguments = ["--judgments", text(&judgments), "--out", text(&mt_bench)];
            run(program("mt-bench", &arguments).output().unwrap());
        }
        let samples = |model: &str| root.join("out/eval").join(model).join("ifeval/samples.jsonl");
        let (a, b, out) = (samples(HOSTILE_NAME), samples("base"), root.join("out/compare/b-vs-a"));
        let arguments = [text(&a), text(&b), "--judge", "checklist", "--data", &data, "--out", text(&out)];
        run(program("compare", &arguments).output().unwrap());
        pipeline.train("sft");
        pipeline.train("orpo");
        let pairs = json!({"preference_accuracy": 0.75, "mean_log_odds": 1.25, "n": 40});
        write_json(&root.join("out/summary.json"), &json!({"base": {"pairs": pairs}}));
        let stage =
            json!({"command": "orpo train run orpo.toml", "started_at": "2026-01-01T00:00:00Z", "seconds": 9.5});
        write_json(&root.join("out/stages/train-orpo.json"), &stage);
        write_json(&root.join("out/orpo_manifest.json"), &json!({"checkpoint": {"sha256": "c0ffee"}}));
        // What was replaced does not count.
        fs::create_dir_all(root.join("out/eval.previous")).unwrap();
        fs::write(root.join("out/eval.previous/results.json"), "broken").unwrap();
        pipeline
    }

    fn root(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    fn train(&self, run: &str) {
        let directory = self.root().join("out").join(run);
        let mut lines = String::new();
        for step in 1..=50 {
            let (chosen, rejected) = (-2.0 + f64::from(step) / 50.0, -2.0 - f64::from(step) / 25.0);
            let line = json!({"step": step, "loss": 3.0, "nll_loss": 2.0, "logps/chosen": chosen,
                "logps/rejected": rejected, "log_odds_chosen": chosen - rejected, "rewards/margins": 0.1,
                "rewards/accuracies": 1.0, "learning_rate": 1e-5, "grad_norm": 1.0});
            writeln!(lines, "{line}").unwrap();
        }
        writeln!(lines, "{}", json!({"step": 50, "eval_loss": 2.5, "eval_logps/chosen": -1.1})).unwrap();
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("metrics.jsonl"), lines).unwrap();
        let data = json!([{"split": "train", "path": "train.jsonl", "sha256": "da7a", "layout": "trl", "weight": 1.0,
            "rows_used": 2400, "rows_dropped": {"empty": 3}}]);
        let manifest = json!({"recipe": {"training": {"beta": 0.5}}, "base": {"model.safetensors": "ba5e"}, "data": data,
            "step": 50, "metrics": {"loss": 3.0}, "orpo_version": "0.1.0", "files": {"model.safetensors": "f11e"}});
        write_json(&directory.join("model/orpo_manifest.json"), &manifest);
    }

    fn report(&self) -> (Output, PathBuf) {
        let page = self.root().join("report.html");
        let output = report(&[text(&self.root().join("out")), "--out", text(&page), "--title", "A <b>title</b>"]);
        (output, page)
    }
}

/// Annotations of five instructions.
fn annotated(model: &str) -> Value {
    let row = |index: usize| {
        json!({"instruction": format!("instruction {index}"), "output_1": "a baseline", "generator_1": "baseline",
            "output_2": HOSTILE, "generator_2": model, "annotator": "judge", "preference": 1.0 + 0.25 * index as f64})
    };
    (0..5).map(row).collect()
}

/// Judgments on both turns of every other official question.
fn judged(model: &str) -> String {
    let row = |index: usize| {
        json!({"question_id": 81 + index / 2 * 2, "model": model, "judge": ["gpt-4", "single-v1"],
            "turn": 1 + index % 2, "score": 1 + index % 10, "judgment": HOSTILE, "tstamp": 0.0,
            "user_prompt": "p"})
        .to_string()
            + "\n"
    };
    (0..80).map(row).collect()
}

fn write_json(path: &Path, json: &Value) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, json.to_string()).unwrap();
}

fn run(output: Output) {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

fn report(arguments: &[&str]) -> Output {
    program("report", arguments).output().unwrap()
}

#[test]
fn a_pipelines_page_has_every_section_and_the_same_input_makes_the_same_page() {
    let pipeline = Pipeline::new();
    let (output, path) = pipeline.report();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(String::from_utf8(output.stdout.clone()).unwrap().trim(), text(&path));
    assert!(stderr(&output).contains("7 evaluations, 2 training runs, 145 prompts"), "{}", stderr(&output));
    let page = fs::read_to_string(&path).unwrap();
    for section in ["summary", "training", "ifeval", "win-rates", "mt-bench", "published", "samples", "lineage"] {
        assert!(page.contains(&format!("<section id=\"{section}\"")), "{section}");
    }
    // Of IFEval's 30 prompts base follows none of 20 and all of 10; the interval is Wilson's.
    assert!(page.contains("<td>33.3<small>19.2 to 51.2</small></td>"));
    assert!(page.contains("<td>75.0<small>59.8 to 85.8</small></td><td>1.25</td>"), "preference accuracy and log odds");
    assert!(page.contains("Published, not measured here") && page.contains("Mistral-ORPO-β"));
    assert!(page.contains("IFEval on 30 prompts of") && page.contains("not comparable with the published numbers"));
    for fact in ["ba5e", "f11e", "da7a", "c0ffee", "training.beta = 0.5", "orpo train run orpo.toml"] {
        assert!(page.contains(fact), "{fact}");
    }
    // Nothing that a model said, or is called, is markup: neither in the tables nor in the charts nor among the samples.
    assert!(page.contains("&lt;img src=x onerror=owned=3&gt;") && !page.contains("<img"));
    assert_eq!(page.matches("<script").count(), 2);
    assert!(
        page.contains("Content-Security-Policy") && page.contains("<title>A &lt;b&gt;title&lt;"),
        "{}",
        &page[..800]
    );
    let (_, path) = pipeline.report();
    assert!(page == fs::read_to_string(path).unwrap(), "the second page differs");
}

#[test]
fn a_directory_of_one_evaluation_is_enough_and_names_the_model() {
    let directory = tempfile::tempdir().unwrap();
    let data = support::write_data(directory.path(), &["p"]);
    let (responses, out, page) =
        (directory.path().join("r.jsonl"), directory.path().join("my-model"), directory.path().join("page.html"));
    fs::write(&responses, "{\"prompt\": \"p\", \"response\": \"a\"}\n").unwrap();
    run(orpo_eval(&["--responses", text(&responses), "--data", &data, "--out", text(&out)]));
    run(report(&[text(&out), "--out", text(&page)]));
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.contains("<th scope=\"row\">my-model</th>") && html.contains("<section id=\"ifeval\""));
    assert!(!html.contains("<section id=\"training\"") && !html.contains("<section id=\"mt-bench\""));
    // Without its samples there is still a page, which says so.
    fs::remove_file(out.join("samples.jsonl")).unwrap();
    let output = report(&[text(&out), "--out", text(&page)]);
    assert!(stderr(&output).contains("my-model/samples.jsonl: there is no such file"), "{}", stderr(&output));
    assert!(!fs::read_to_string(&page).unwrap().contains("<section id=\"samples\""));
}

#[test]
fn what_cannot_be_used_is_one_message() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let page = root.join("page.html");
    let failure = |arguments: &[&str]| {
        let output = report(arguments);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        stderr(&output)
    };
    let empty = root.join("empty");
    fs::create_dir(&empty).unwrap();
    let message = failure(&[text(&empty), "--out", text(&page)]);
    assert!(message.contains("no results.json and no metrics.jsonl in `") && message.contains("/empty`"), "{message}");
    let message = failure(&[text(&root.join("gone")), "--out", text(&page)]);
    assert!(message.contains("/gone`: No such file"), "{message}");

    let broken = root.join("broken");
    fs::create_dir(&broken).unwrap();
    fs::write(broken.join("results.json"), "{\"task\": \"ifeval\"").unwrap();
    let message = failure(&[text(&broken), "--out", text(&page)]);
    assert!(message.contains("broken/results.json`: not the results of an evaluation: EOF"), "{message}");
    write_json(&broken.join("results.json"), &json!({"task": "ifeval", "metrics": {}}));
    let message = failure(&[text(&broken), "--out", text(&root.join("no/such/page.html"))]);
    assert!(message.contains("cannot use `") && message.contains("no/such/page.html`: "), "{message}");
    assert!(!page.exists());
}

#[test]
fn a_broken_file_is_named_and_the_rest_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let page = root.join("page.html");
    let write = |name: &str, text: &str| {
        let path = root.join("runs").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let good = json!({"task": "ifeval", "model": "good-model", "metrics": {}}).to_string();
    write("good/results.json", &good);
    write("cut/results.json", &good[..20]);
    write("rows/results.json", &good.replace("good", "odd"));
    write("rows/samples.jsonl", "{\"key\": 1}\n");
    write("run/metrics.jsonl", "[1]\n[2]\n");
    write("stages/train.json", "{");
    let output = report(&[text(&root.join("runs")), "--out", text(&page)]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for broken in ["cut/results.json", "rows/samples.jsonl:1: ", "run/metrics.jsonl", "stages/train.json"] {
        let lines: Vec<&str> =
            said.lines().filter(|line| line.starts_with("error: ") && line.contains(broken)).collect();
        assert_eq!(lines.len(), 1, "{broken}: {said}");
    }
    assert!(said.contains("2 evaluations"), "{said}");
    let html = fs::read_to_string(&page).unwrap();
    assert!(
        html.contains("good-model")
            && html.contains("odd-model")
            && html.contains("not the results of an evaluation: EOF")
    );
}

#[test]
fn in_a_browser_every_chart_is_there_the_filters_work_and_nothing_hostile_runs() {
    let Some(browser) = Browser::start() else { return };
    let pipeline = Pipeline::new();
    let (_, page) = pipeline.report();
    browser.open(&page);
    assert_eq!(browser.run("return document.title"), "A <b>title</b>");

    // Two runs' log-probabilities, nine metrics without two, IFEval's overview and one category, three of win rates, two turns.
    let charts = browser.run(
        "return [...document.querySelectorAll('svg.chart')].map((chart) => { const box = chart.getBoundingClientRect(); \
         return [chart.querySelector('title').textContent, box.width > 200 && box.height > 40] })",
    );
    let charts = charts.as_array().unwrap();
    assert!(charts.iter().all(|chart| chart[1] == true), "{charts:?}");
    let titles: Vec<&str> = charts.iter().map(|chart| chart[0].as_str().unwrap()).collect();
    for title in [
        "Log-probabilities, orpo",
        "Log-probabilities, sft",
        "Loss",
        "Learning rate",
        "Instructions followed: punctuation",
        "AlpacaEval win rates",
        "Comparisons of two models",
        "MT-Bench by category, First turn",
        "MT-Bench by category, Second turn",
    ] {
        assert!(titles.contains(&title), "{title} in {titles:?}");
    }
    let ids = "const ids = [...document.querySelectorAll('[id]')].map((one) => one.id); \
               return ids.filter((id, index) => ids.indexOf(id) != index)";
    assert_eq!(browser.run(ids), json!([]), "ids are unique");

    let count = || browser.run("return document.querySelector('#count').textContent");
    let choose = |id: &str, value: &str| {
        browser.run(&format!(
            "const field = document.getElementById('{id}'); field.value = {}; field.dispatchEvent(new Event('input'))",
            json!(value)
        ));
    };
    assert_eq!(count(), "1 to 10 of 145");
    browser.run("document.querySelector('#next').focus()");
    browser.type_keys(" ");
    assert_eq!(count(), "11 to 20 of 145");
    choose("task", "ifeval");
    assert_eq!(count(), "1 to 10 of 30");
    // Both answers stand side by side, each with its verdict.
    let models = "return [...document.querySelector('article').querySelectorAll('h4')].map((head) => head.textContent)";
    assert_eq!(browser.run(models), json!(["base1 of 1 followed", format!("{HOSTILE_NAME}1 of 1 followed")]));
    choose("verdict", "differ");
    assert_eq!(count(), "1 to 10 of 20");
    choose("verdict", "all followed");
    choose("model", "base");
    assert_eq!(count(), "1 to 10 of 10");
    choose("type", "punctuation:no_comma");
    browser.run("document.querySelector('#text').focus()");
    browser.type_keys("Prompt 27");
    assert_eq!(count(), "1 to 1 of 1");
    browser.type_keys("x");
    assert_eq!(count(), "nothing matches");

    // What the model said is read as text, to the letter.
    ["text", "verdict", "model", "type"].iter().for_each(|id| choose(id, ""));
    let answer = browser.run("return document.querySelector('.answer div').textContent");
    assert_eq!(answer, HOSTILE);
    for task in ["alpaca", "mt-bench", "compare"] {
        choose("task", task);
        assert_ne!(count(), "nothing matches", "{task}");
    }
    assert_eq!(browser.run("return typeof window.owned"), "undefined");
    assert_eq!(browser.run("return document.querySelectorAll('img, main script:not([type])').length"), 0);

    // On a phone nothing is wider than the screen but what scrolls in itself.
    browser.become_phone(390);
    let overflow = browser.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth");
    assert_eq!(overflow, 0);

    let complaints = browser.complaints();
    assert!(complaints.is_empty(), "{complaints:?}");
    let foreign: Vec<String> = browser
        .requests()
        .into_iter()
        .filter(|url| *url != format!("file://{}", page.display()) && url != "data:,")
        .collect();
    assert_eq!(foreign, Vec::<String>::new());
    // And the page's policy would stop what got into it after all.
    let inject = "const script = document.createElement('script'); script.textContent = 'window.owned = 4'; \
                  document.body.append(script); return typeof window.owned";
    assert_eq!(browser.run(inject), "undefined");
}
