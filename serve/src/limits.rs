//! What bounds a request.

use std::time::Duration;

/// What bounds a request.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How many requests generate at a time.
    pub max_concurrent: usize,
    /// How many more may wait.
    pub max_queue: usize,
    /// How long a request may take, waiting included.
    pub request_timeout: Duration,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// How large a body may be.
    pub max_body_bytes: usize,
}
