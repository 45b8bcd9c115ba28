//! Official data from a stand-in hub: download, cache, and everything that can go wrong.

#[path = "../../hub/tests/stand_in/mod.rs"]
mod stand_in;
mod support;

use std::net::TcpListener;

use orpo_eval::mt_bench::OFFICIAL as MT_BENCH;
use orpo_eval::official::{Hub, Kind, OfficialFile};
use stand_in::{COMMIT as REVISION, Fault, StandIn};
use support::{stderr, text};

const CONTENT: &[u8] = b"{\"key\": 1}\n{\"key\": 2}\n{\"key\": 3}\n";
const FILE: OfficialFile = OfficialFile {
    kind: Kind::Dataset,
    repository: "acme/prompts",
    revision: REVISION,
    file: "prompts.jsonl",
    // sha256sum of CONTENT
    sha256: "05748e7dc701cf8c3686de48c7d59268a98fa2eac13775ca34646b7e778ea612",
    option: "--data",
};

/// What a hub sends that wants people to log in.
const OTHER: &[u8] = b"<html>Please log in</html>";

fn start() -> StandIn {
    StandIn::start("datasets/acme/prompts", &[("prompts.jsonl", CONTENT)])
}

#[test]
fn a_file_is_fetched_once_and_then_needs_no_server() {
    let (server, cache) = (start(), tempfile::tempdir().unwrap());
    let hub = server.hub(cache.path());
    assert_eq!(FILE.read(&hub).unwrap(), CONTENT);
    let requests = server.requests();
    server.set(Fault::Down);
    assert_eq!(FILE.read(&hub).unwrap(), CONTENT);
    assert_eq!(FILE.read(&Hub::new("http://127.0.0.1:9", cache.path(), None)).unwrap(), CONTENT);
    assert_eq!(server.requests(), requests);
    let other = OfficialFile { file: "other.jsonl", ..FILE };
    let error = other.read(&hub).unwrap_err().to_string();
    let expected = format!("cannot fetch hub:acme/prompts@{REVISION}:other.jsonl: {} answers 503", server.url());
    assert!(error.starts_with(&expected) && error.ends_with("--data FILE reads a local copy"), "{error}");
}

#[test]
fn what_the_hub_refuses_is_said_with_what_to_do() {
    let (server, cache) = (start(), tempfile::tempdir().unwrap());
    let message = |file: &OfficialFile| file.read(&server.hub(cache.path())).unwrap_err().to_string();
    let error = message(&OfficialFile { repository: "acme/nothing", ..FILE });
    assert!(error.contains("has no such file (404); check HF_ENDPOINT"), "{error}");
    server.set(Fault::Token("secret"));
    let error = message(&FILE);
    assert!(error.contains("refuses access (401); HF_TOKEN may hold a token"), "{error}");
    assert_eq!(FILE.read(&Hub::new(&server.url(), cache.path(), Some("secret".into()))).unwrap(), CONTENT);
    let down = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let empty = tempfile::tempdir().unwrap();
    let error = FILE.read(&Hub::new(&down, empty.path(), None)).unwrap_err().to_string();
    assert!(error.contains("check the network and HF_ENDPOINT") && error.contains("--data FILE"), "{error}");
}

#[test]
fn wrong_content_is_refused_with_both_hashes_and_does_not_stay() {
    let (server, cache) = (start(), tempfile::tempdir().unwrap());
    let hub = server.hub(cache.path());
    server.add("datasets/acme/prompts", &[(FILE.file, OTHER)]);
    let error = FILE.read(&hub).unwrap_err().to_string();
    // printf '<html>Please log in</html>' | sha256sum
    let found = "39bb8635d641dc29f401c1a029e80226f00e52eec6aff7e610ffdfd96b4954ab";
    assert!(error.contains(&format!("its SHA-256 is {found}, not {}; run again", FILE.sha256)), "{error}");
    server.add("datasets/acme/prompts", &[(FILE.file, CONTENT)]);
    assert_eq!(FILE.read(&hub).unwrap(), CONTENT);
    // What the cache holds is checked every time.
    let cached = cache.path().join(format!("datasets--acme--prompts/snapshots/{REVISION}/prompts.jsonl"));
    std::fs::write(&cached, "changed").unwrap();
    let error = FILE.read(&hub).unwrap_err().to_string();
    assert!(error.contains(text(&cached)) && error.contains("remove it to fetch it anew"), "{error}");
    std::fs::remove_file(&cached).unwrap();
    assert_eq!(FILE.read(&hub).unwrap(), CONTENT);
}

#[test]
fn a_download_that_is_cut_off_goes_on() {
    let (server, cache) = (start(), tempfile::tempdir().unwrap());
    let hub = server.hub(cache.path());
    server.set(Fault::BreakOff);
    let error = FILE.read(&hub).unwrap_err().to_string();
    assert!(error.contains("run again to go on"), "{error}");
    server.set(Fault::None);
    assert_eq!(FILE.read(&hub).unwrap(), CONTENT);
}

/// The program asks for the published prompts by their pinned commit, and takes no others for them.
#[test]
fn the_program_refuses_other_prompts_than_the_published_ones() {
    let (home, directory) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = start();
    let commit = "966cd89545d6b6acfd7638bc708b98261ca58e84";
    server.add_at("datasets/google/IFEval", commit, &[("ifeval_input_data.jsonl", CONTENT)]);
    server.add_at("spaces/lmsys/mt-bench", MT_BENCH.revision, &[("data/mt_bench/question.jsonl", CONTENT)]);
    let responses = directory.path().join("responses.jsonl");
    std::fs::write(&responses, "{\"key\": 1, \"response\": \"a\"}").unwrap();
    let run = |endpoint: &str, arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_orpo-eval"))
            .args(arguments)
            .env("HF_ENDPOINT", endpoint)
            .env("HF_HOME", home.path())
            .env("HF_TOKEN", "")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
        stderr(&output)
    };
    let ifeval = ["ifeval", "--data", "official", "--responses", text(&responses)];
    let error = run(&server.url(), &ifeval);
    let name = "hub:google/IFEval@966cd89545d6b6acfd7638bc708b98261ca58e84:ifeval_input_data.jsonl";
    let hashes =
        format!("its SHA-256 is {}, not 6a85310ca8ce15eff755aa08a3a4ff931c7e273e7515ebb3c492ea85fd8288f2", FILE.sha256);
    assert!(error.contains(&format!("is not {name}: {hashes}")), "{error}");
    let down = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    assert!(run(&down, &ifeval).starts_with(&format!("error: cannot fetch {name}: ")));

    // MT-Bench's questions come from a space.
    let mt_bench = ["mt-bench", "--questions", "official", "--judgments", text(&responses)];
    let error = run(&server.url(), &mt_bench);
    let hashes = format!("its SHA-256 is {}, not {}", FILE.sha256, MT_BENCH.sha256);
    assert!(error.contains(&hashes) && error.contains("a local copy with --questions FILE"), "{error}");
}
