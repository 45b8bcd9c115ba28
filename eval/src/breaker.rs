//! When to stop asking.

use crate::client::ClientError;

/// Stops a run whose server has gone: every further request would fail as slowly.
#[derive(Debug)]
pub struct Breaker {
    failures: usize,
    allowed: usize,
}

impl Breaker {
    /// For a run with so many requests in flight.
    pub fn new(concurrency: usize) -> Self {
        Self { failures: 0, allowed: concurrency.max(3) }
    }

    /// Whether the rest need not be tried: so many requests in a row have found no server, or it wants to be left alone.
    pub fn note<T>(&mut self, reply: &Result<T, ClientError>) -> bool {
        if matches!(reply, Err(ClientError::Later { .. })) {
            return true;
        }
        let unreachable = matches!(reply, Err(ClientError::Unreachable { .. }));
        self.failures = if unreachable { self.failures + 1 } else { 0 };
        self.failures >= self.allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_breaker_opens_after_failures_in_a_row() {
        let unreachable = || Err::<(), _>(ClientError::Unreachable { url: String::new(), problem: String::new() });
        let mut breaker = Breaker::new(1);
        assert!(!breaker.note(&unreachable()));
        assert!(!breaker.note(&unreachable()));
        assert!(!breaker.note(&Ok(())));
        assert!(!breaker.note(&unreachable()));
        assert!(!breaker.note(&unreachable()));
        assert!(breaker.note(&unreachable()));
        let later = Err::<(), _>(ClientError::Later { url: String::new(), status: 429, wait_secs: 3600 });
        assert!(Breaker::new(8).note(&later));
    }
}
