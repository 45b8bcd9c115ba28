//! The hub, played by a server of this test: download, cache, and everything that can go wrong.

#[path = "../../hub/tests/stand_in/mod.rs"]
mod stand_in;

use std::path::Path;
use std::process::Command;

use orpo_hub::Hub;
use orpo_train::hub;
use serde_json::json;
use stand_in::{Fault, StandIn};

const PAIR: &str = "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n";

fn dataset() -> StandIn {
    StandIn::start(
        "datasets/acme/pairs",
        &[
            ("README.md", b"pairs"),
            ("data/train-00000-of-00002.jsonl", PAIR.as_bytes()),
            ("data/train-00001-of-00002.jsonl", PAIR.as_bytes()),
        ],
    )
}

#[test]
fn a_dataset_is_fetched_once_and_then_needs_no_server() {
    let cache = tempfile::tempdir().unwrap();
    let server = dataset();
    let hub = server.hub(cache.path());
    for id in ["acme/pairs", "acme/pairs:data/*.jsonl", "acme/pairs@main:data/train-00000-of-00002.jsonl"] {
        let files = hub::dataset(&hub, id).unwrap();
        assert_eq!(files.len(), if id.ends_with("of-00002.jsonl") { 1 } else { 2 }, "{id}");
        assert_eq!(std::fs::read_to_string(&files[0]).unwrap(), PAIR);
    }
    // A listing, and for each file its size and its bytes.
    assert_eq!(server.requests(), 1 + 2 * 2);
    drop(server);
    assert_eq!(hub::dataset(&hub, "acme/pairs:data/*").unwrap().len(), 2);
    assert_eq!(hub::dataset(&hub, &format!("acme/pairs@{}", stand_in::COMMIT)).unwrap().len(), 2);
    // What was never fetched is not there.
    let error = hub::dataset(&hub, "acme/pairs:README.md").unwrap_err().to_string();
    assert!(error.contains("hub:acme/pairs:README.md") && error.contains("HF_ENDPOINT"), "{error}");
    let error = hub::dataset(&hub, "acme/other").unwrap_err().to_string();
    assert!(error.contains("hub:acme/other") && error.contains("HF_ENDPOINT"), "{error}");
}

#[test]
fn a_cache_that_another_program_filled_is_enough() {
    let cache = tempfile::tempdir().unwrap();
    let server = dataset();
    let hub = server.hub(cache.path());
    hub::dataset(&hub, "acme/pairs").unwrap();
    drop(server);
    std::fs::remove_dir_all(cache.path().join("datasets--acme--pairs/orpo-listings")).unwrap();
    assert_eq!(hub::dataset(&hub, "acme/pairs:data/train-00001-of-00002.jsonl").unwrap().len(), 1);
    assert_eq!(hub::dataset(&hub, "acme/pairs").unwrap().len(), 2);
}

#[test]
fn what_the_hub_refuses_is_said_with_the_id_and_what_to_do() {
    let cache = tempfile::tempdir().unwrap();
    let server = dataset();
    let hub = server.hub(cache.path());
    let error = hub::dataset(&hub, "acme/nothing").unwrap_err().to_string();
    assert!(error.contains("`hub:acme/nothing`") && error.contains("404"), "{error}");
    let error = hub::dataset(&hub, "acme/pairs:missing.jsonl").unwrap_err().to_string();
    assert!(error.contains("no such file") && error.contains("data/train-00000-of-00002.jsonl"), "{error}");

    server.set(Fault::Token("secret"));
    let closed = server.hub(&cache.path().join("other"));
    let error = hub::dataset(&closed, "acme/pairs").unwrap_err().to_string();
    assert!(error.contains("`hub:acme/pairs`") && error.contains("401") && error.contains("HF_TOKEN"), "{error}");
    let open = Hub::new(&server.url(), &cache.path().join("other"), Some("secret".into()));
    assert_eq!(hub::dataset(&open, "acme/pairs").unwrap().len(), 2);
}

#[test]
fn a_download_that_breaks_off_is_no_file_and_the_next_run_goes_on() {
    for fault in [Fault::BreakOff, Fault::TooShort] {
        let cache = tempfile::tempdir().unwrap();
        let server = dataset();
        let hub = server.hub(cache.path());
        server.set(fault);
        let error = hub::dataset(&hub, "acme/pairs").unwrap_err().to_string();
        assert!(error.contains("train-00000") && error.contains("run again"), "{error}");
        server.set(Fault::None);
        for file in hub::dataset(&hub, "acme/pairs").unwrap() {
            assert_eq!(std::fs::read_to_string(file).unwrap(), PAIR);
        }
    }
}

#[test]
fn a_model_is_its_configuration_tokenizer_and_safetensors() {
    let index =
        json!({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}});
    let index = index.to_string();
    let cache = tempfile::tempdir().unwrap();
    let sharded: &[(&str, &[u8])] = &[
        ("config.json", b"{}"),
        ("tokenizer.json", b"{}"),
        ("model.safetensors.index.json", index.as_bytes()),
        ("model-1.safetensors", b"1"),
        ("model-2.safetensors", b"2"),
        ("pytorch_model.bin", b"no"),
        ("onnx/model.onnx", b"no"),
    ];
    let server = StandIn::start("acme/sharded", sharded);
    let dir = hub::model(&server.hub(cache.path()), "acme/sharded").unwrap();
    let mut names: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let expected =
        ["config.json", "model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json", "tokenizer.json"];
    assert_eq!(names, expected);
    let hub = server.hub(cache.path());
    drop(server);
    assert_eq!(hub::model(&hub, "acme/sharded").unwrap(), dir);

    let server = StandIn::start("acme/old", &[("config.json", b"{}"), ("pytorch_model.bin", b"no")]);
    let error = hub::model(&server.hub(cache.path()), "acme/old").unwrap_err().to_string();
    assert!(error.contains("`hub:acme/old`") && error.contains("no safetensors"), "{error}");
    let missing = StandIn::start("acme/broken", &sharded[..4]);
    let error = hub::model(&missing.hub(cache.path()), "acme/broken").unwrap_err().to_string();
    assert!(error.contains("`model-2.safetensors`") && error.contains("no such file"), "{error}");
}

/// The program itself, with the hub's environment variables: model and data by their ids, then again without a server.
#[test]
fn the_program_takes_ids_for_model_and_data() {
    let root = std::env::var("ORPO_SHARED").unwrap_or_else(|_| "../../shared".into());
    let golden = Path::new(&root).join("train/golden/llama");
    if !golden.exists() {
        eprintln!("skipped: no `{}`", golden.display());
        return;
    }
    let read = |path: &Path| std::fs::read(path).unwrap();
    let mut files = Vec::new();
    for entry in std::fs::read_dir(golden.join("model")).unwrap() {
        let path = entry.unwrap().path();
        files.push((path.file_name().unwrap().to_string_lossy().into_owned(), read(&path)));
    }
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
    let model = StandIn::start("acme/tiny", &files);
    let home = tempfile::tempdir().unwrap();
    let pairs = read(&golden.join("pairs.jsonl"));
    model.add("datasets/acme/pairs", &[("pairs.jsonl", &pairs)]);
    model.set(Fault::Token("secret"));
    let score = |token: &str| {
        Command::new(env!("CARGO_BIN_EXE_orpo-train"))
            .args(["score", "--model", "hub:acme/tiny", "--data", "hub:acme/pairs"])
            .env("HF_ENDPOINT", model.url())
            .env("HF_HOME", home.path())
            .env("HF_TOKEN", token)
            .output()
            .unwrap()
    };
    let refused = score("wrong");
    let message = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && message.contains("HF_TOKEN") && message.contains("hub:acme/tiny"),
        "{message}"
    );
    let first = score("secret");
    let message = String::from_utf8_lossy(&first.stderr);
    assert!(first.status.success(), "{message}");
    assert!(message.contains("pairs.jsonl: 20 rows, layout trl_conversational_explicit"), "{message}");
    let requests = model.requests();
    let second = score("wrong");
    assert_eq!((second.stdout, model.requests()), (first.stdout, requests));
}
