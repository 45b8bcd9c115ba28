//! What a run says while it runs: `metrics.jsonl` and one progress line.

mod metrics;
mod progress;

pub(crate) use metrics::metric_fields;
pub use metrics::{MetricsLog, StepRecord};
pub use progress::Progress;

/// Resident memory of this process in bytes; 0 where the system does not tell.
pub fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
