//! When a run began, and how long it takes.

use std::time::Instant;

use chrono::{DateTime, SecondsFormat, Utc};

/// The clock of one run.
#[derive(Debug)]
pub struct Clock {
    now: DateTime<Utc>,
    started: Instant,
}

impl Clock {
    /// Starts it.
    pub fn start() -> Self {
        Self { now: Utc::now(), started: Instant::now() }
    }

    /// When it was started, in UTC (RFC 3339).
    pub fn started_at(&self) -> String {
        self.now.to_rfc3339_opts(SecondsFormat::Secs, true)
    }

    /// Seconds since then.
    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}
