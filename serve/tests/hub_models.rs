//! The hub, played by a server of this test: download, cache, and everything that can go wrong.

#[path = "../../hub/tests/stand_in/mod.rs"]
mod stand_in;

use std::path::Path;
use std::process::Command;

use orpo_hub::Hub;
use orpo_serve::load::hub;
use serde_json::json;
use stand_in::{COMMIT, Fault, StandIn};

const WHOLE: [(&str, &[u8]); 6] = [
    ("config.json", b"{}"),
    ("tokenizer.json", b"{}"),
    ("tokenizer_config.json", b"{}"),
    ("model.safetensors", b"12345678"),
    ("pytorch_model.bin", b"no"),
    ("onnx/model.onnx", b"no"),
];

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_serving_needs_is_fetched_once_and_then_needs_no_server() {
    let cache = tempfile::tempdir().unwrap();
    let server = StandIn::start("acme/tiny", &WHOLE);
    let hub = server.hub(cache.path());
    let dir = hub::model(&hub, "acme/tiny").unwrap();
    assert_eq!(names(&dir), ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]);
    assert_eq!(std::fs::read(dir.join("model.safetensors")).unwrap(), b"12345678");
    let requests = server.requests();
    for id in ["acme/tiny".to_string(), "acme/tiny@main".into(), format!("hub:acme/tiny@{COMMIT}")] {
        assert_eq!(hub::model(&hub, &id).unwrap(), dir, "{id}");
    }
    assert_eq!(server.requests(), requests);
    drop(server);
    assert_eq!(hub::model(&hub, "acme/tiny").unwrap(), dir);
    let error = hub::model(&hub, "acme/other").unwrap_err().to_string();
    assert!(error.contains("`acme/other`") && error.contains("HF_ENDPOINT"), "{error}");

    // A cache that another program filled has no listing.
    std::fs::remove_dir_all(cache.path().join("models--acme--tiny/orpo-listings")).unwrap();
    assert_eq!(hub::model(&hub, "acme/tiny").unwrap(), dir);
}

#[test]
fn shards_are_those_of_the_index() {
    let index = json!({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).to_string();
    let files: [(&str, &[u8]); 6] = [
        ("config.json", b"{}"),
        ("tokenizer.json", b"{}"),
        ("model.safetensors.index.json", index.as_bytes()),
        ("model-1.safetensors", b"1"),
        ("model-3.safetensors", b"3"),
        ("model-2.safetensors", b"2"),
    ];
    let cache = tempfile::tempdir().unwrap();
    let server = StandIn::start("acme/sharded", &files);
    let names = names(&hub::model(&server.hub(cache.path()), "acme/sharded").unwrap());
    assert!(names.contains(&"model-2.safetensors".into()) && !names.contains(&"model-3.safetensors".into()));
    let server = StandIn::start("acme/broken", &files[..5]);
    let error = hub::model(&server.hub(cache.path()), "acme/broken").unwrap_err().to_string();
    assert!(error.contains("`model-2.safetensors`") && error.contains("no such file"), "{error}");
}

#[test]
fn what_the_hub_refuses_is_said_with_the_id_and_what_to_do() {
    let cache = tempfile::tempdir().unwrap();
    let server = StandIn::start("acme/tiny", &WHOLE);
    let error = hub::model(&server.hub(cache.path()), "acme/nothing").unwrap_err().to_string();
    assert!(error.contains("`acme/nothing`") && error.contains("404"), "{error}");
    server.set(Fault::Token("secret"));
    let error = hub::model(&server.hub(cache.path()), "acme/tiny").unwrap_err().to_string();
    assert!(error.contains("401") && error.contains("HF_TOKEN"), "{error}");
    assert!(hub::model(&Hub::new(&server.url(), cache.path(), Some("secret".into())), "acme/tiny").is_ok());

    let server = StandIn::start("acme/old", &[WHOLE[0], WHOLE[1], WHOLE[4]]);
    let error = hub::model(&server.hub(cache.path()), "acme/old").unwrap_err().to_string();
    assert!(error.contains("no safetensors"), "{error}");
}

#[test]
fn a_download_that_breaks_off_is_no_file_and_the_next_run_goes_on() {
    for fault in [Fault::BreakOff, Fault::TooShort] {
        let cache = tempfile::tempdir().unwrap();
        let server = StandIn::start("acme/tiny", &WHOLE);
        let hub = server.hub(cache.path());
        server.set(fault);
        let error = hub::model(&hub, "acme/tiny").unwrap_err().to_string();
        assert!(error.contains("`config.json`") && error.contains("run again"), "{error}");
        server.set(Fault::None);
        let dir = hub::model(&hub, "acme/tiny").unwrap();
        assert_eq!(std::fs::read(dir.join("model.safetensors")).unwrap(), b"12345678");
    }
}

/// The program itself, with the hub's environment variables.
#[test]
fn the_program_takes_an_id_for_the_model() {
    let cache = tempfile::tempdir().unwrap();
    let config = br#"{"architectures": ["BertForMaskedLM"]}"#;
    let header = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let weights = [&(header.len() as u64).to_le_bytes(), &header[..], &[0; 4]].concat();
    let files = [("config.json", &config[..]), WHOLE[1], ("model.safetensors", &weights)];
    let server = StandIn::start("acme/bert", &files);
    let serve = |id: &str, offline: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orpo-serve"));
        command.args(["--port", "0", "--model", id]).env("HF_ENDPOINT", server.url()).env("HF_HOME", cache.path());
        command.env_remove("HF_TOKEN").env("HF_HUB_OFFLINE", offline).env_remove("RUST_LOG");
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    let error = serve("acme/bert", "1");
    assert!(error.contains("no directory `acme/bert`") && error.contains("HF_HUB_OFFLINE"), "{error}");
    assert_eq!(server.requests(), 0);
    // Fetched and read: what is wrong is the model.
    let error = serve("acme/bert", "0");
    assert!(error.contains("BertForMaskedLM") && error.contains("fetching"), "{error}");
    assert!(serve("acme/bert", "1").contains("BertForMaskedLM"));
    assert!(serve("acme/none", "0").contains("404"));
}
