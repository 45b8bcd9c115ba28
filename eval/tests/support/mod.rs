//! What the tests of the program have in common.
#![allow(dead_code, reason = "every test takes the part that it needs")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use axum::Router;
use orpo_eval::jsonl;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The reference data of a task, where it is at hand: below `$ORPO_SHARED`, by default `../../shared`. It is not part of the
/// repository; without it a test says that it is skipped.
pub fn reference(task: &str) -> Option<PathBuf> {
    let shared = std::env::var("ORPO_SHARED").unwrap_or_else(|_| "../../shared".into());
    let directory = Path::new(&shared).join("eval").join(task);
    if !directory.is_dir() {
        println!("skipped: no {}", directory.display());
        return None;
    }
    Some(directory)
}

/// The rows of a JSONL file, packed or not.
pub fn unpack<T: DeserializeOwned>(path: &Path) -> Vec<T> {
    let rows = jsonl::rows(path, &jsonl::read(path).unwrap()).unwrap();
    rows.into_iter().map(|(_, row)| row).collect()
}

/// Serves a router on a free port for as long as the test runs, and returns its address.
pub fn serve(router: Router) -> String {
    serve_on(TcpListener::bind("127.0.0.1:0").unwrap(), router)
}

/// The same on a socket that is there.
pub fn serve_on(listener: TcpListener, router: Router) -> String {
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            axum::serve(tokio::net::TcpListener::from_std(listener).unwrap(), router).await.unwrap();
        });
    });
    format!("http://{address}")
}

/// A command of the program, without keys from the environment.
pub fn program(command: &str, arguments: &[&str]) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_orpo-eval"));
    for key in ["OPENAI_API_KEY", "ORPO_EVAL_API_KEY", "ORPO_JUDGE_API_KEY"] {
        program.env_remove(key);
    }
    program.arg(command).args(arguments).stdin(Stdio::null());
    program
}

pub fn orpo_eval(arguments: &[&str]) -> Output {
    program("ifeval", arguments).output().unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A data set in which every prompt asks for no commas.
pub fn write_data(directory: &Path, prompts: &[&str]) -> String {
    let rows = prompts.iter().enumerate().map(|(key, prompt)| {
        json!({"key": key, "prompt": prompt, "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]})
            .to_string()
            + "\n"
    });
    let path = directory.join("data.jsonl");
    std::fs::write(&path, rows.collect::<String>()).unwrap();
    path.to_str().unwrap().to_owned()
}

pub fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

pub fn read_lines(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
