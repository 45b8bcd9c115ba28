//! Results followed back to where they came from, before and after tampering.

use std::fs;

use serde_json::Value;

use crate::setting::{Setting, stdout};

fn trace(setting: &Setting, results: &str, code: i32) -> Vec<Value> {
    let output = setting.orpo(&["trace", results, "--json"]);
    assert_eq!(output.status.code(), Some(code), "{}", stdout(&output));
    let trace: Value = serde_json::from_slice(&output.stdout).unwrap();
    trace["links"].as_array().unwrap().clone()
}

/// The links in one state, as `link name`.
fn in_state(links: &[Value], state: &str) -> Vec<String> {
    let wanted = links.iter().filter(|link| link["state"] == state);
    wanted.map(|link| format!("{} {}", link["link"].as_str().unwrap(), link["name"].as_str().unwrap())).collect()
}

/// Depth and kind of every link.
fn kinds(links: &[Value]) -> Vec<(u64, &str)> {
    links.iter().map(|link| (link["depth"].as_u64().unwrap(), link["link"].as_str().unwrap())).collect()
}

#[test]
fn a_changed_template_or_test_file_is_found() {
    let setting = Setting::with_base();
    let template = "{{ bos_token }}{% for m in messages %}({{ m.role }}) {{ m.content }}{% if m.role == 'assistant' %}\
                    {{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}(assistant) {% endif %}";
    setting.write("chat.jinja", template);
    let text = Setting::pipeline(6).replace("[data]", "chat_template = \"chat.jinja\"\n[data]");
    setting.write("pipeline.toml", &text.replace("beta = 0.5", "beta = 0.5\nobjective = \"orpo_beta\""));
    setting.succeed(&["run", "pipeline.toml"]);
    let results = ["base", "orpo"].map(|model| format!("run/eval/{model}/ifeval/results.json"));
    let scores = ["base", "orpo"].map(|model| format!("run/eval/{model}/score.json"));
    for result in results.iter().chain(&scores) {
        let links = trace(&setting, result, 0);
        assert!(in_state(&links, "verified").iter().any(|link| link.starts_with("template ")), "{links:#?}");
    }
    let text = stdout(&setting.succeed(&["trace", &results[1]]));
    assert!(text.contains("recipe      orpo_beta, beta 0.5"), "{text}");
    setting.write("chat.jinja", &template.replace("(", "["));
    for result in results.iter().chain(&scores) {
        let differs = in_state(&trace(&setting, result, 1), "differs");
        assert!(differs.len() == 1 && differs[0].ends_with("chat.jinja"), "{differs:?}");
    }
    setting.write("chat.jinja", template);
    let pairs = fs::read_to_string(setting.path("test.jsonl")).unwrap();
    setting.write("test.jsonl", &pairs.replace("storm", "stork"));
    let differs = in_state(&trace(&setting, &scores[0], 1), "differs");
    assert!(differs.len() == 1 && differs[0].starts_with("data test"), "{differs:?}");
}

#[test]
fn a_result_is_traced_to_data_and_base_and_tampering_is_found() {
    let setting = Setting::with_base();
    setting.write("pipeline.toml", &(Setting::pipeline(6) + "[compare]\n"));
    setting.succeed(&["run", "pipeline.toml"]);
    let results = "run/eval/orpo/ifeval/results.json";
    let links = trace(&setting, results, 0);
    assert_eq!(in_state(&links, "verified").len(), links.len(), "{links:#?}");
    let expected = [
        (0, "results"),
        (0, "responses"),
        (0, "prompts"),
        (0, "server"),
        (0, "checkpoint"),
        (0, "recipe"),
        (0, "data"),
        (0, "base"),
        // The base is one of our own.
        (1, "checkpoint"),
        (1, "recipe"),
        (1, "data"),
        (1, "base"),
    ];
    assert_eq!(kinds(&links), expected);
    let text = stdout(&setting.succeed(&["trace", results]));
    assert!(
        text.contains("server      orpo-serve") && text.contains("  base        random weights, seed 42"),
        "{text}"
    );
    // Both sides of a comparison, and the base by itself.
    let links = trace(&setting, "run/compare/orpo-vs-base/results.json", 0);
    assert_eq!(in_state(&links, "verified").len(), links.len(), "{links:#?}");
    assert!(links.len() > 20, "{links:#?}");
    trace(&setting, "run/eval/base/ifeval/results.json", 0);
    // Scores of the pipeline, of both models.
    for (model, last) in [("base", (0, "base")), ("orpo", (1, "base"))] {
        let links = trace(&setting, &format!("run/eval/{model}/score.json"), 0);
        assert_eq!(in_state(&links, "verified").len(), links.len(), "{links:#?}");
        let kinds = kinds(&links);
        assert_eq!((&kinds[..3], kinds.last()), (&[(0, "results"), (0, "data"), (0, "checkpoint")][..], Some(&last)));
    }

    // The data are gone: nothing can be said of them. The weights and a response are others: both are named.
    fs::rename(setting.path("pairs.jsonl"), setting.path("moved.jsonl")).unwrap();
    let links = trace(&setting, results, 0);
    let gone = in_state(&links, "not_at_hand");
    assert!(gone.len() == 1 && gone[0].starts_with("data train") && gone[0].ends_with("pairs.jsonl"), "{gone:?}");
    let weights = setting.path("run/orpo/model/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, bytes).unwrap();
    let samples = setting.path("run/eval/orpo/ifeval/samples.jsonl");
    fs::write(&samples, fs::read_to_string(&samples).unwrap().replacen("cloud", "clown", 1)).unwrap();
    let links = trace(&setting, results, 1);
    let differs = in_state(&links, "differs");
    assert_eq!(differs.len(), 2, "{differs:?}");
    assert!(differs[0].starts_with("responses") && differs[0].ends_with("samples.jsonl"), "{differs:?}");
    assert!(differs[1].starts_with("checkpoint") && differs[1].ends_with("model.safetensors"), "{differs:?}");
    let output = setting.orpo(&["trace", results]);
    assert!(stdout(&output).contains("DIFFERS: expected "), "{}", stdout(&output));
    // The pipeline notices, too.
    fs::rename(setting.path("moved.jsonl"), setting.path("pairs.jsonl")).unwrap();
    let plan = stdout(&setting.succeed(&["plan", "pipeline.toml", "--until", "ifeval"]));
    assert!(plan.contains("output orpo/model/model.safetensors was changed"), "{plan}");
    setting.refuse(&["trace", "pipeline.toml"], &["pipeline.toml"]);
}
