//! How often, and how patiently, a request is repeated.
//!
//! Where a server says how long to wait (`Retry-After`), that is how long the client waits: to come back earlier is a
//! wasted try, and may prolong the ban. A wait that is longer than [`Retry::patience`] is not begun at all. Where the
//! server says nothing, every pause is twice as long as the one before, with jitter, up to [`Retry::longest`].

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};

/// How often and how patiently a request is repeated.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// The number of further tries after the first. Default: 5.
    pub retries: u32,
    /// The first pause. Default: half a second.
    pub first: Duration,
    /// The longest pause that the client chooses itself. Default: one minute.
    pub longest: Duration,
    /// The longest pause that a server may ask for. Default: five minutes.
    pub patience: Duration,
    /// How long a server may be away (no connection, or 502, 503, 504 of what stands before it), whatever `retries` says.
    /// Default: no longer than the repetitions take.
    pub outage: Duration,
}

/// The number of the repetition whose pause is the longest while a server is away: whoever waits for one to come back looks
/// every few seconds.
const LOOKING: u32 = 4;

impl Default for Retry {
    fn default() -> Self {
        Self {
            retries: 5,
            first: Duration::from_millis(500),
            longest: Duration::from_secs(60),
            patience: Duration::from_secs(300),
            outage: Duration::ZERO,
        }
    }
}

/// What to do before the next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pause {
    /// Wait this long.
    Wait(Duration),
    /// Give up: the server asks for this long.
    TooLong(Duration),
}

impl Retry {
    /// Whether a request is tried again that has been tried again so often, and whose server has been away for so long.
    pub(crate) fn goes_on(&self, repetitions: u32, away: Option<Duration>) -> bool {
        repetitions < self.retries || away.is_some_and(|away| away < self.outage)
    }

    /// The pause while a server is away, given what it asked for.
    pub(crate) fn pause_while_away(&self, number: u32, asked: Option<Duration>) -> Pause {
        self.pause(number.min(LOOKING), asked)
    }

    /// The pause before try `number` (1 is the first repetition), given what the server asked for.
    pub(crate) fn pause(&self, number: u32, asked: Option<Duration>) -> Pause {
        match asked {
            Some(asked) if asked > self.patience => Pause::TooLong(asked),
            Some(asked) => Pause::Wait(asked),
            None => {
                let doubled = self.first.saturating_mul(2u32.saturating_pow(number - 1)).min(self.longest);
                // Half to all of it, so that requests that failed together do not come back together.
                Pause::Wait(doubled.mul_f64(0.5 + 0.5 * random_fraction()))
            }
        }
    }
}

/// A number in [0, 1) from the randomness that the standard library seeds its hash maps with; enough for jitter.
fn random_fraction() -> f64 {
    use std::hash::{BuildHasher, Hasher};
    let bits = std::collections::hash_map::RandomState::new().build_hasher().finish();
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// How long the server asks to be left alone: seconds, or a date.
pub(crate) fn retry_after(headers: &HeaderMap, now: chrono::DateTime<chrono::Utc>) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = chrono::DateTime::parse_from_rfc2822(value).ok()?;
    Some((date.to_utc() - now).to_std().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_are_bounded() {
        let secs = Duration::from_secs;
        let retry = Retry { retries: 9, first: secs(1), longest: secs(10), patience: secs(30), outage: secs(60) };
        for (number, full) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (60, 10)] {
            let Pause::Wait(pause) = retry.pause(number, None) else { panic!("no reason to give up") };
            assert!(secs(full) / 2 <= pause && pause <= secs(full), "{number}: {pause:?}");
        }
        assert_eq!(retry.pause(1, Some(secs(3))), Pause::Wait(secs(3)));
        assert_eq!(retry.pause(1, Some(secs(30))), Pause::Wait(secs(30)));
        assert_eq!(retry.pause(1, Some(secs(31))), Pause::TooLong(secs(31)));
        let Pause::Wait(pause) = retry.pause_while_away(60, None) else { panic!("no reason to give up") };
        assert!(pause <= secs(8), "{pause:?}");
    }

    #[test]
    fn a_server_that_is_away_is_waited_for() {
        let secs = Duration::from_secs;
        let retry = Retry { retries: 2, outage: secs(60), ..Retry::default() };
        assert!(retry.goes_on(1, None) && !retry.goes_on(2, None));
        assert!(retry.goes_on(99, Some(secs(59))) && !retry.goes_on(99, Some(secs(60))));
        assert!(!Retry { outage: secs(0), ..retry }.goes_on(2, Some(secs(0))));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let read = |value: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]), now);
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("0.5"), Some(Duration::from_millis(500)));
        assert_eq!(read("Thu, 01 Jan 2026 00:00:30 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(read("Wed, 31 Dec 2025 00:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(read("soon"), None);
        assert_eq!(read("-1"), None);
    }
}
