//! What the tests of the program have in common.
#![allow(dead_code, reason = "every test takes the part that it needs")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

/// The reference data, where it is at hand: `$ORPO_SHARED`, by default `../../shared`.
pub fn reference() -> Option<PathBuf> {
    let shared = std::env::var("ORPO_SHARED").unwrap_or_else(|_| "../../shared".into());
    let directory = Path::new(&shared).join("eval/ifeval");
    if !directory.is_dir() {
        println!("skipped: no {}", directory.display());
        return None;
    }
    Some(directory)
}

pub fn orpo_eval(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_orpo-eval"))
        .arg("ifeval")
        .args(arguments)
        .env_remove("OPENAI_API_KEY")
        .env_remove("ORPO_EVAL_API_KEY")
        .output()
        .unwrap()
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
