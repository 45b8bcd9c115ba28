//! How often something happens in a run.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// In a recipe a number of steps (0 for never) or `"epoch"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interval {
    /// Every so many steps; never where it is 0.
    Steps(usize),
    /// After each pass over the data.
    Epoch,
}

impl Interval {
    /// Whether it is time after `step` steps, the last of which does or does not end an epoch.
    pub fn is_due(self, step: usize, ends_epoch: bool) -> bool {
        match self {
            Self::Steps(0) => false,
            Self::Steps(steps) => step.is_multiple_of(steps),
            Self::Epoch => ends_epoch,
        }
    }
}

impl Serialize for Interval {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Steps(steps) => steps.serialize(serializer),
            Self::Epoch => serializer.serialize_str("epoch"),
        }
    }
}

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IntervalVisitor)
    }
}

struct IntervalVisitor;

impl Visitor<'_> for IntervalVisitor {
    type Value = Interval;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of steps or \"epoch\"")
    }

    fn visit_u64<E: Error>(self, steps: u64) -> Result<Interval, E> {
        usize::try_from(steps).map(Interval::Steps).map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, steps: i64) -> Result<Interval, E> {
        usize::try_from(steps).map(Interval::Steps).map_err(E::custom)
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<Interval, E> {
        if word == "epoch" {
            Ok(Interval::Epoch)
        } else {
            Err(E::invalid_value(serde::de::Unexpected::Str(word), &self))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_the_word_epoch() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Holder {
            every: Interval,
        }
        for (text, interval) in [("every = 3\n", Interval::Steps(3)), ("every = \"epoch\"\n", Interval::Epoch)] {
            let holder: Holder = toml::from_str(text).unwrap();
            assert_eq!(holder.every, interval);
            assert_eq!(toml::to_string(&holder).unwrap(), text);
        }
        let error = toml::from_str::<Holder>("every = \"day\"").unwrap_err().to_string();
        assert!(error.contains("a number of steps or \"epoch\""), "{error}");
        assert!(toml::from_str::<Holder>("every = -1").is_err());
    }

    #[test]
    fn when_it_is_due() {
        let due = |interval: Interval| -> Vec<usize> {
            (1..=6).filter(|step| interval.is_due(*step, step.is_multiple_of(4))).collect()
        };
        assert_eq!(due(Interval::Steps(2)), [2, 4, 6]);
        assert_eq!(due(Interval::Epoch), [4]);
        assert!(due(Interval::Steps(0)).is_empty());
    }
}
