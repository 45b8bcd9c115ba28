//! What `/metrics` shows: Prometheus' text format, with vLLM's names for what it has, too, after the prefix
//! `orpo_serve_`; what an engine tells that schedules its requests itself also under vLLM's own prefix.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::Occupancy;
use crate::process::{self, Sample};

/// Upper bounds in seconds, vLLM's.
const FIRST_TOKEN_BOUNDS: [f64; 21] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0,
];
const PER_TOKEN_BOUNDS: [f64; 18] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0];
const REQUEST_BOUNDS: [f64; 19] =
    [0.005, 0.05, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 240.0, 960.0];

/// Labels with their values, in the order in which they are shown.
type Labels = Vec<(&'static str, String)>;

/// All counters and histograms of a server.
#[derive(Debug, Default)]
pub struct Metrics {
    families: Mutex<Families>,
}

#[derive(Debug, Default)]
struct Families {
    requests: BTreeMap<Labels, u64>,
    errors: BTreeMap<Labels, u64>,
    durations: BTreeMap<Labels, Histogram>,
    models: BTreeMap<String, ModelFamilies>,
}

#[derive(Debug)]
struct ModelFamilies {
    prompt_tokens: u64,
    generation_tokens: u64,
    engine_failures: u64,
    first_token: Histogram,
    per_token: Histogram,
}

impl Default for ModelFamilies {
    fn default() -> Self {
        Self {
            prompt_tokens: 0,
            generation_tokens: 0,
            engine_failures: 0,
            first_token: Histogram::new(&FIRST_TOKEN_BOUNDS),
            per_token: Histogram::new(&PER_TOKEN_BOUNDS),
        }
    }
}

/// Counts of observations by upper bound.
#[derive(Debug)]
struct Histogram {
    bounds: &'static [f64],
    /// One more than bounds: the last is for what is above all.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    fn observe(&mut self, value: Duration) {
        let value = value.as_secs_f64();
        self.counts[self.bounds.partition_point(|&bound| bound < value)] += 1;
        self.sum += value;
    }
}

/// What the server as a whole is doing at the moment of asking.
#[derive(Debug, Clone)]
pub struct Gauges {
    /// Requests that generate.
    pub running: usize,
    /// Requests that wait for a slot.
    pub waiting: usize,
    /// The longest that the line may become.
    pub max_queue: usize,
    /// Whether `/ready` says yes.
    pub ready: bool,
    /// The first name of the base.
    pub model: Option<String>,
    /// What its engine does, if it schedules its requests itself.
    pub occupancy: Option<Occupancy>,
}

/// A request that has ended.
pub(crate) struct Answer<'a> {
    pub(crate) route: &'a str,
    pub(crate) method: &'a str,
    /// The name of the API key, or nothing.
    pub(crate) key: &'a str,
    pub(crate) arrived: Instant,
    pub(crate) status: u16,
    /// `code` of the error object.
    pub(crate) error: Option<&'static str>,
}

/// How long a token took.
pub(crate) enum Wait {
    /// From the request's arrival to the first.
    First(Duration),
    /// From the one before.
    Next(Duration),
}

impl Metrics {
    /// Counts a finished request: where, how, whose, and after how long it ended.
    pub(crate) fn request(&self, answer: &Answer<'_>) {
        let route = || ("route", answer.route.to_string());
        let mut labels = vec![route(), ("method", answer.method.to_string()), ("status", answer.status.to_string())];
        self.change(|families| {
            if let Some(code) = answer.error {
                *families.errors.entry(vec![route(), ("code", code.to_string())]).or_default() += 1;
            }
            // Refusals take no time: among the others they would make an overloaded server look fast.
            if (200..300).contains(&answer.status) {
                let durations = families.durations.entry(vec![route()]);
                durations.or_insert_with(|| Histogram::new(&REQUEST_BOUNDS)).observe(answer.arrived.elapsed());
            }
            labels.push(("api_key", answer.key.to_string()));
            *families.requests.entry(labels).or_default() += 1;
        });
    }

    /// Counts the tokens of a prompt.
    pub(crate) fn prompt(&self, model: &str, tokens: usize) {
        self.model(model, |families| families.prompt_tokens += tokens as u64);
    }

    /// Counts a generated token, and how long it took.
    pub(crate) fn token(&self, model: &str, wait: Wait) {
        self.model(model, |families| {
            families.generation_tokens += 1;
            match wait {
                Wait::First(time) => families.first_token.observe(time),
                Wait::Next(time) => families.per_token.observe(time),
            }
        });
    }

    /// Counts a generation that the engine broke off.
    pub(crate) fn failure(&self, model: &str) {
        self.model(model, |families| families.engine_failures += 1);
    }

    /// All of it, as text.
    pub fn render(&self, gauges: Gauges) -> String {
        let mut text = Exposition::default();
        let none = Labels::new();
        text.family("build_info", "gauge", "Always 1; the label tells the version.");
        text.sample("build_info", &vec![("version", env!("CARGO_PKG_VERSION").into())], 1);
        text.family("ready", "gauge", "1 if requests can be expected to succeed.");
        text.sample("ready", &none, u8::from(gauges.ready));
        text.family("num_requests_running", "gauge", "Requests that generate.");
        text.sample("num_requests_running", &none, gauges.running);
        text.family("num_requests_waiting", "gauge", "Requests that wait for a slot.");
        text.sample("num_requests_waiting", &none, gauges.waiting);
        text.family("max_requests_waiting", "gauge", "Requests that may wait; more are answered with 429.");
        text.sample("max_requests_waiting", &none, gauges.max_queue);
        if let (Some(model), Some(occupancy)) = (&gauges.model, gauges.occupancy) {
            text.vllm(model, occupancy);
        }
        self.change(|families| {
            text.family(
                "http_requests_total",
                "counter",
                "Requests by route, status and name of the API key; 499: the client left before the end.",
            );
            families.requests.iter().for_each(|(labels, count)| text.sample("http_requests_total", labels, count));
            text.family("errors_total", "counter", "Error answers by route and `code` of the error object.");
            families.errors.iter().for_each(|(labels, count)| text.sample("errors_total", labels, count));
            let name = "e2e_request_latency_seconds";
            text.family(
                name,
                "histogram",
                "From a request's arrival to the last byte of its answer, of those that succeeded.",
            );
            families.durations.iter().for_each(|(labels, histogram)| text.histogram(name, labels, histogram));

            let models: Vec<(Labels, &ModelFamilies)> =
                families.models.iter().map(|(name, model)| (vec![("model_name", name.clone())], model)).collect();
            type Count = fn(&ModelFamilies) -> u64;
            let counters: [(&str, &str, Count); 3] = [
                ("prompt_tokens_total", "Prompt tokens given to the engine.", |model| model.prompt_tokens),
                ("generation_tokens_total", "Tokens generated.", |model| model.generation_tokens),
                ("engine_failures_total", "Generations that the engine broke off.", |model| model.engine_failures),
            ];
            for (name, help, count) in counters {
                text.family(name, "counter", help);
                models.iter().for_each(|(labels, model)| text.sample(name, labels, count(model)));
            }
            let name = "time_to_first_token_seconds";
            text.family(name, "histogram", "From a request's arrival, waiting included, to its first token.");
            models.iter().for_each(|(labels, model)| text.histogram(name, labels, &model.first_token));
            let name = "time_per_output_token_seconds";
            text.family(name, "histogram", "From one token of a generation to the next.");
            models.iter().for_each(|(labels, model)| text.histogram(name, labels, &model.per_token));
        });
        for Sample { name, kind, help, value } in process::samples() {
            let _ = writeln!(text.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        }
        text.0
    }

    fn change<T>(&self, change: impl FnOnce(&mut Families) -> T) -> T {
        // Every change is whole even if another panicked between two.
        change(&mut self.families.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn model<T>(&self, name: &str, change: impl FnOnce(&mut ModelFamilies) -> T) -> T {
        self.change(|families| {
            if !families.models.contains_key(name) {
                families.models.insert(name.to_string(), ModelFamilies::default());
            }
            change(families.models.get_mut(name).expect("it was just inserted"))
        })
    }
}

/// The text format, version 0.0.4.
#[derive(Default)]
struct Exposition(String);

impl Exposition {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP orpo_serve_{name} {help}\n# TYPE orpo_serve_{name} {kind}");
    }

    /// What an engine that schedules does, under the names that dashboards for vLLM ask for.
    fn vllm(&mut self, model: &str, occupancy: Occupancy) {
        let Occupancy { running, waiting, pages, pages_held, prefix_queries, prefix_hits, .. } = occupancy;
        let usage = pages_held as f64 / pages.max(1) as f64;
        for (name, kind, help, value) in [
            ("num_requests_running", "gauge", "Sequences that run.", running as f64),
            ("num_requests_waiting", "gauge", "Sequences that wait for their turn.", waiting as f64),
            ("kv_cache_usage_perc", "gauge", "Part of the key-value cache that sequences hold; 1 is all of it.", usage),
            ("prefix_cache_queries_total", "counter", "Prompt tokens looked up in the cache.", prefix_queries as f64),
            ("prefix_cache_hits_total", "counter", "Prompt tokens found in the cache.", prefix_hits as f64),
        ] {
            let model = escaped(model);
            let _ = writeln!(
                self.0,
                "# HELP vllm:{name} {help}\n# TYPE vllm:{name} {kind}\nvllm:{name}{{model_name=\"{model}\"}} {value}"
            );
        }
    }

    fn sample(&mut self, name: &str, labels: &Labels, value: impl std::fmt::Display) {
        let _ = write!(self.0, "orpo_serve_{name}");
        if !labels.is_empty() {
            let labels = labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value)));
            let _ = write!(self.0, "{{{}}}", labels.collect::<Vec<_>>().join(","));
        }
        let _ = writeln!(self.0, " {value}");
    }

    fn histogram(&mut self, name: &str, labels: &Labels, histogram: &Histogram) {
        let bounds = histogram.bounds.iter().map(ToString::to_string).chain(["+Inf".to_string()]);
        let mut total = 0;
        for (bound, count) in bounds.zip(&histogram.counts) {
            total += count;
            let labels = [labels.as_slice(), &[("le", bound)]].concat();
            self.sample(&format!("{name}_bucket"), &labels, total);
        }
        self.sample(&format!("{name}_sum"), labels, histogram.sum);
        self.sample(&format!("{name}_count"), labels, total);
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_bounds_inclusive() {
        let mut histogram = Histogram::new(&[0.5, 1.0]);
        for milliseconds in [500, 750, 1000, 4000] {
            histogram.observe(Duration::from_millis(milliseconds));
        }
        let mut text = Exposition::default();
        text.histogram("x", &vec![("model_name", "a\"b\\".into())], &histogram);
        let expected = [
            r#"orpo_serve_x_bucket{model_name="a\"b\\",le="0.5"} 1"#,
            r#"orpo_serve_x_bucket{model_name="a\"b\\",le="1"} 3"#,
            r#"orpo_serve_x_bucket{model_name="a\"b\\",le="+Inf"} 4"#,
            r#"orpo_serve_x_sum{model_name="a\"b\\"} 6.25"#,
            r#"orpo_serve_x_count{model_name="a\"b\\"} 4"#,
        ];
        assert_eq!(text.0.lines().collect::<Vec<_>>(), expected);
    }
}
