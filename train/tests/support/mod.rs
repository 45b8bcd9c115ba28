//! Reference data (`$ORPO_SHARED`, or `../../shared`) and comparisons with it.

#![allow(dead_code, reason = "every test takes the part that it needs")]

use std::path::{Path, PathBuf};

use serde_json::Value;

/// The path in the reference data, where it is at hand.
pub fn shared(path: &str) -> Option<PathBuf> {
    let root = std::env::var("ORPO_SHARED").unwrap_or_else(|_| "../../shared".into());
    let path = Path::new(&root).join(path);
    if !path.exists() {
        println!("skipped: no `{}`", path.display());
        return None;
    }
    Some(path)
}

pub fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

pub fn close(what: &str, got: f64, want: f64, tolerance: f64) {
    assert!((got - want).abs() <= tolerance, "{what}: {got}, reference {want}, difference {:e}", got - want);
}
