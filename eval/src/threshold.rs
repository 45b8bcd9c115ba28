//! Metrics that must not fall below a value.

use std::collections::BTreeMap;

use crate::stats::Metric;

/// The least value that a metric may have.
#[derive(Debug, Clone, PartialEq)]
pub struct Threshold {
    /// The metric's name.
    pub metric: String,
    /// The least value, a fraction.
    pub least: f64,
    written: String,
}

impl Threshold {
    /// Reads `METRIC=VALUE`; the value is a fraction, or a percentage with `%`.
    ///
    /// # Errors
    /// When there is no such metric, or the value is not between 0 and 1.
    pub fn parse(text: &str, metrics: &[&str]) -> Result<Self, String> {
        let Some((metric, value)) = text.split_once('=') else { return Err("METRIC=VALUE is needed".into()) };
        if !metrics.contains(&metric) {
            return Err(format!("no metric is called `{metric}`; the metrics are {}", metrics.join(", ")));
        }
        let least = match value.strip_suffix('%') {
            Some(percent) => percent.trim_end().parse().map(|percent: f64| percent / 100.0),
            None => value.parse(),
        };
        match least {
            Ok(least) if (0.0..=1.0).contains(&least) => {
                Ok(Self { metric: metric.to_owned(), least, written: value.to_owned() })
            }
            _ => Err(format!("`{value}` is neither a fraction between 0 and 1 nor a percentage like 66%")),
        }
    }

    /// What is wrong, for people, if the metric is below the value, or has none.
    pub fn missed(&self, metrics: &BTreeMap<String, Metric>) -> Option<String> {
        let value = metrics.get(&self.metric).and_then(|metric| metric.value);
        let Self { metric, least, written } = self;
        let found = match value {
            Some(value) if value >= *least => return None,
            Some(value) => format!("is {value}"),
            None => "has no value".to_owned(),
        };
        Some(format!("{metric} {found}; --fail-under requires at least {written}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_and_percentages_are_read() {
        let least = |text| Threshold::parse(text, &["a", "b"]).map(|threshold| threshold.least);
        assert_eq!(least("a=0.66"), Ok(0.66));
        assert_eq!(least("b=66%"), Ok(0.66));
        assert_eq!(least("b=1"), Ok(1.0));
        for wrong in ["a", "a=", "a=66", "a=-1%", "a=101%", "a=nan", "a=x"] {
            assert!(least(wrong).is_err(), "{wrong}");
        }
        assert_eq!(least("c=0").unwrap_err(), "no metric is called `c`; the metrics are a, b");
    }

    #[test]
    fn a_value_that_is_reached_is_not_missed() {
        let metrics = BTreeMap::from([("a".to_owned(), Metric::proportion(2, 3))]);
        let missed = |text| Threshold::parse(text, &["a"]).unwrap().missed(&metrics);
        assert_eq!(missed("a=0.6666666666666666"), None);
        assert_eq!(missed("a=67%").unwrap(), "a is 0.6666666666666666; --fail-under requires at least 67%");
        let nothing = BTreeMap::from([("a".to_owned(), Metric::proportion(0, 0))]);
        for least in ["a=0.1", "a=0"] {
            let message = Threshold::parse(least, &["a"]).unwrap().missed(&nothing).unwrap();
            assert!(message.starts_with("a has no value; --fail-under requires at least 0"), "{message}");
        }
    }
}
