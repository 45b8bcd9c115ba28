//! Limits of requests and of tokens per minute.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Spreads requests evenly over time, so that no minute has more of them, or more tokens, than a provider allows.
#[derive(Debug)]
pub struct Pace {
    requests_per_minute: Option<f64>,
    tokens_per_minute: Option<f64>,
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    /// Limits; `None` is no limit.
    pub fn new(requests_per_minute: Option<f64>, tokens_per_minute: Option<f64>) -> Self {
        Self { requests_per_minute, tokens_per_minute, free_at: Mutex::new(None) }
    }

    /// Waits for the turn of a request of so many tokens.
    pub async fn wait(&self, tokens: u64) {
        let now = Instant::now();
        let turn = self.turn(now, tokens);
        if turn > now {
            tokio::time::sleep_until(turn.into()).await;
        }
    }

    /// When a request that comes now may go; the next one waits for what this one takes up.
    fn turn(&self, now: Instant, tokens: u64) -> Instant {
        let of_requests = self.requests_per_minute.map_or(0.0, |limit| 1.0 / limit);
        let of_tokens = self.tokens_per_minute.map_or(0.0, |limit| tokens as f64 / limit);
        let taken = Duration::from_secs_f64(60.0 * of_requests.max(of_tokens));
        let mut free_at = self.free_at.lock().expect("nothing panics while it holds the lock");
        let turn = free_at.map_or(now, |free_at| free_at.max(now));
        *free_at = Some(turn + taken);
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seconds after which each of some requests may go that come at the given seconds.
    fn turns(pace: &Pace, requests: &[(u64, u64)]) -> Vec<u64> {
        let start = Instant::now();
        let turn = |&(second, tokens): &(u64, u64)| pace.turn(start + Duration::from_secs(second), tokens) - start;
        requests.iter().map(turn).map(|wait| wait.as_secs()).collect()
    }

    #[test]
    fn requests_keep_their_distance() {
        assert_eq!(turns(&Pace::new(Some(6.0), None), &[(0, 5), (0, 5), (1, 5), (100, 5)]), [0, 10, 20, 100]);
        assert_eq!(turns(&Pace::new(None, Some(60.0)), &[(0, 5), (0, 30), (6, 1), (6, 1)]), [0, 5, 35, 36]);
        assert_eq!(turns(&Pace::new(Some(6.0), Some(60.0)), &[(0, 5), (0, 30), (0, 1)]), [0, 10, 40]);
        assert_eq!(turns(&Pace::new(None, None), &[(0, 5), (0, 5)]), [0, 0]);
    }
}
