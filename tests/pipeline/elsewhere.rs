//! A model that is served by somebody else, who may be killed and come back.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Stdio};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::setting::{Setting, signal};

/// Starts `orpo serve` at a port and waits until it listens.
fn serve(setting: &Setting, port: &str) -> Child {
    let args = ["serve", "--model", "run/orpo/model", "--served-model-name", "orpo", "--port", port];
    let mut child = setting.command(&args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("listening on "), "{line}");
    child
}

#[test]
fn a_server_that_is_killed_and_comes_back_is_survived() {
    let setting = Setting::with_base();
    let words: Vec<String> = (0..150).map(|number| format!("word {number}")).collect();
    setting.write_prompts(&words);
    setting.write("pipeline.toml", &Setting::pipeline(6).replace("max_tokens = 8", "max_tokens = 40"));
    setting.succeed(&["run", "pipeline.toml", "--until", "score"]);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let mut server = serve(&setting, &port);
    let endpoint = format!("orpo=http://127.0.0.1:{port}");
    let mut run = setting.spawn(&["run", "pipeline.toml", "--resume", "--endpoint", &endpoint]);
    setting.wait_for_lines("run/eval/orpo/ifeval/samples.partial.jsonl", 5, &mut run);
    signal(&server, Signal::SIGKILL);
    server.wait().unwrap();
    assert!(!setting.path("run/eval/orpo/ifeval/results.json").exists(), "there was nothing left to interrupt");
    let mut server = serve(&setting, &port);
    let status = run.wait().unwrap();
    let log = std::fs::read_to_string(setting.path("stderr.log")).unwrap();
    assert!(status.success(), "{log}");
    signal(&server, Signal::SIGTERM);
    server.wait().unwrap();
    let results = setting.json("run/eval/orpo/ifeval/results.json");
    assert_eq!((&results["counts"]["scored"], &results["counts"]["errors"]), (&json!(150), &json!(0)));
    assert!(results["counts"]["retries"].as_u64() > Some(0), "{results}");
    // The base was served by the pipeline itself, and says where it comes from, as the variant does.
    for (model, dir) in [("base", "base/model"), ("orpo", "run/orpo/model")] {
        let lineage = setting.json(&format!("run/eval/{model}/ifeval/results.json"))["lineage"].clone();
        let manifest = setting.path(dir).join("orpo_manifest.json");
        let expected = orpo_files::sha256_file(&manifest).unwrap();
        assert_eq!(lineage["manifest_sha256"], json!(expected), "{lineage}");
        assert_eq!(lineage["server"]["engine"], "native", "{lineage}");
        assert_eq!((&lineage["verified"], &lineage["server"]["quantize"]), (&json!(true), &json!(null)));
    }
}
