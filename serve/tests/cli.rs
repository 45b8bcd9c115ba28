//! The program: what it refuses, what it prints, how it ends.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use orpo_model::ModelConfig;
use serde_json::{Map, Value, json};

fn orpo_serve() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orpo-serve"));
    command.env_remove("RUST_LOG").env_remove("RUST_BACKTRACE").args(["--port", "0"]);
    command
}

/// Exit code and the one line on stderr.
fn refused(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(stdout.is_empty());
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    (status.code(), stderr)
}

/// A directory that passes the checks: a tiny Llama of zeros and a tokenizer of one token per letter.
fn write_model(dir: &Path) {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1,
        "max_position_embeddings": 64, "vocab_size": 4, "intermediate_size": 8
    });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [], "pre_tokenizer": null, "decoder": null,
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "d": 3}, "merges": []}
    });
    let mut header = Map::new();
    let mut end = 0;
    for (name, shape) in ModelConfig::from_json(&config).unwrap().tensors() {
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        header.insert(name, json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]}));
    }
    let header = Value::Object(header).to_string();
    let weights = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; end]].concat();
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(dir.join("tokenizer_config.json"), json!({"chat_template": "x"}).to_string()).unwrap();
    std::fs::write(dir.join("model.safetensors"), weights).unwrap();
}

#[test]
fn a_directory_that_cannot_be_served_is_refused_with_one_line() {
    let (code, line) = refused(orpo_serve().args(["--model", "/nonexistent/model"]));
    assert_eq!(code, Some(2));
    assert!(line.starts_with("error: ") && line.contains("/nonexistent/model"), "{line}");

    let dir = tempfile::tempdir().unwrap();
    let model = dir.path();
    let expect = |words: &str| {
        let (code, line) = refused(orpo_serve().arg("--model").arg(model));
        assert_eq!(code, Some(2));
        assert!(line.contains(words), "{line}");
    };
    expect("config.json` is missing");
    write_model(model);
    let weights = std::fs::read(model.join("model.safetensors")).unwrap();
    std::fs::write(model.join("model.safetensors"), &weights[..weights.len() - 1]).unwrap();
    expect("its header promises");
    write_model(model);
    std::fs::write(model.join("config.json"), r#"{"architectures": ["GPT2LMHeadModel"]}"#).unwrap();
    expect("`GPT2LMHeadModel` is not supported");
    write_model(model);
    // A token that the embedding has no row for would fail each request that has it.
    let tokenizer = std::fs::read_to_string(model.join("tokenizer.json")).unwrap();
    std::fs::write(model.join("tokenizer.json"), tokenizer.replace(r#""d":3"#, r#""d":4"#)).unwrap();
    expect("writes `d` as id 4, but the model's embedding has only 4 rows");
    write_model(model);
    std::fs::write(model.join("model.safetensors"), "version https://git-lfs.github.com/spec/v1\n").unwrap();
    expect("`git lfs pull`");
    write_model(model);
    std::fs::write(model.join("config.json"), r#"{"architectures": ["Phi3ForCausalLM"]}"#).unwrap();
    let (code, line) = refused(orpo_serve().args(["--engine", "native", "--model"]).arg(model));
    assert_eq!(code, Some(2));
    assert!(line.contains("OPTForCausalLM by native, Phi3ForCausalLM by mistralrs"), "{line}");
}

#[test]
fn what_is_not_what_the_manifest_says_or_has_two_meanings_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path();
    write_model(model);
    std::fs::write(model.join("orpo_manifest.json"), json!({"files": {"config.json": "0abc"}}).to_string()).unwrap();
    let with = |more: &[&str]| refused(orpo_serve().arg("--model").arg(model).args(more)).1;
    let line = with(&[]);
    assert!(line.contains("config.json") && line.contains("0abc") && line.contains("--no-verify"), "{line}");
    // Then the next thing that is wrong.
    let line = with(&["--no-verify", "--adapter", "x=/nonexistent"]);
    assert!(line.contains("cannot read `/nonexistent/adapter_config.json`"), "{line}");
    let line = with(&["--served-model-name", "x", "--adapter", "x=/nonexistent"]);
    assert!(line.contains("`x` is given twice"), "{line}");
    let line = with(&["--tokenizer", "."]);
    assert!(line.contains("--tokenizer is for GGUF files"), "{line}");
    let gguf = model.join("tiny.gguf");
    std::fs::write(&gguf, "GGUF").unwrap();
    let with = |more: &[&str]| refused(orpo_serve().arg("--model").arg(&gguf).args(more)).1;
    assert!(with(&[]).contains("is it a whole GGUF file"));
    assert!(with(&["--quantize", "q8_0"]).contains("--quantize needs a checkpoint directory"));
    assert!(with(&["--adapter", "x=y"]).contains("--adapter needs the base as a checkpoint directory"));
}

#[test]
fn a_port_in_use_is_refused_before_the_model_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_orpo-serve"));
    let (code, line) = refused(command.env_remove("RUST_LOG").args(["--port", &port, "--model"]).arg(dir.path()));
    assert_eq!(code, Some(2));
    assert!(line.contains("is in use") && line.contains(&port), "{line}");
}

#[test]
fn keys_and_certificates_that_cannot_be_used_are_refused_before_the_model_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path());
    let file = dir.path().join("keys");
    std::fs::write(&file, "anna:two secret-words\n").unwrap();
    let run = |arguments: &[&str]| refused(orpo_serve().arg("--model").arg(dir.path()).args(arguments));
    let path = file.to_str().unwrap();
    for (arguments, words) in [
        (["--api-key-file", path].as_slice(), "line 1: the key of `anna`"),
        (&["--api-key-file", "/nonexistent/keys"], "/nonexistent/keys"),
        (&["--tls-cert", path, "--tls-key", path], "cannot read --tls-cert"),
    ] {
        let (code, line) = run(arguments);
        assert_eq!(code, Some(2));
        assert!(line.contains(words) && !line.contains("secret"), "{line}");
    }
    for usage in [["--tls-cert", path], ["--cors-origin", "https://example.org/"], ["--log-format", "xml"]] {
        assert_eq!(
            orpo_serve().args(["--model", "."]).args(usage).output().unwrap().status.code(),
            Some(2),
            "{usage:?}"
        );
    }
}

#[test]
fn usage_errors_are_2_and_help_is_0() {
    assert_eq!(orpo_serve().output().unwrap().status.code(), Some(2));
    assert_eq!(orpo_serve().args(["--model", ".", "--max-concurrent", "0"]).output().unwrap().status.code(), Some(2));
    let help = orpo_serve().arg("--help").output().unwrap();
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8(help.stdout).unwrap().contains("ORPO_SERVE_MODEL"));
}

/// With a real model: one line on stdout once it answers, and a clean end when the pipe to stdin is closed or a signal
/// comes.
#[cfg(unix)]
#[test]
fn it_says_where_it_listens_and_stops_cleanly() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    let shared = std::env::var("ORPO_SHARED").unwrap_or_else(|_| "../../shared".into());
    let data = Path::new(&shared).join("data");
    if !data.is_dir() {
        println!("skipped: no `{}`", data.display());
        return;
    }
    for by_signal in [false, true] {
        let mut server = orpo_serve()
            .arg("--exit-with-stdin")
            .arg("--model")
            .arg(data.join("models/stories260k"))
            .arg("--chat-template")
            .arg(data.join("chat_templates/user_bot.jinja"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(server.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("listening on http://").unwrap_or_else(|| panic!("{line}"));
        std::net::TcpStream::connect(address).unwrap();
        if by_signal {
            let kill = Command::new("kill").args(["-TERM", &server.id().to_string()]).status().unwrap();
            assert!(kill.success());
        } else {
            drop(server.stdin.take());
        }
        assert_eq!(server.wait().unwrap().code(), Some(0));
        line.clear();
        assert_eq!(stdout.read_line(&mut line).unwrap(), 0, "{line}");
    }
}
