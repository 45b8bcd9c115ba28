//! Which linear layers PEFT means by a name.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::{Value, json};

/// Every linear layer but the head.
pub const ALL_LINEAR: &str = "all-linear";

/// `target_modules`: the layers that get an adapter.
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    /// Layers of these names, or whose names end in one of them; [`ALL_LINEAR`] among them is every layer.
    Names(Vec<String>),
    /// Layers whose whole names the regular expression matches.
    Matching(Pattern),
}

/// A regular expression for names of layers.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.regex.as_str() == other.regex.as_str()
    }
}

impl Pattern {
    /// For whole names.
    pub(super) fn whole(text: &str) -> Result<Self, String> {
        Self::new(text, "")
    }

    /// For the ends of names, from where a part of the name begins.
    pub(super) fn end(text: &str) -> Result<Self, String> {
        Self::new(text, r"(?:.*\.)?")
    }

    fn new(text: &str, before: &str) -> Result<Self, String> {
        let regex = Regex::new(&format!("^{before}(?:{text})$"));
        let regex = regex.map_err(|_| format!("`{text}` is not a regular expression that is supported here"))?;
        Ok(Self { text: text.into(), regex })
    }

    /// As it was written.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn matches(&self, module: &str) -> bool {
        self.regex.is_match(module)
    }
}

impl Targets {
    /// A list holds names or their ends; a string is a regular expression for the whole name, or `all-linear`.
    pub(super) fn parse(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(all) if all == ALL_LINEAR => Ok(Self::Names(vec![all.clone()])),
            Value::String(pattern) => {
                Ok(Self::Matching(Pattern::whole(pattern).map_err(|reason| format!("`target_modules`: {reason}"))?))
            }
            Value::Array(list) if !list.is_empty() => {
                let name = |name: &Value| match name.as_str() {
                    Some(name) => Ok(name.to_string()),
                    None => Err(format!("`target_modules`: {name} is not a name")),
                };
                Ok(Self::Names(list.iter().map(name).collect::<Result<_, _>>()?))
            }
            _ => Err("`target_modules` names no module".into()),
        }
    }

    /// As `adapter_config.json` has them.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Names(names) => json!(names),
            Self::Matching(pattern) => pattern.text().into(),
        }
    }

    /// True if the layer `module` is among them.
    pub fn contain(&self, module: &str) -> bool {
        match self {
            Self::Names(names) => names.iter().any(|name| is_target(name, module)),
            Self::Matching(pattern) => pattern.matches(module),
        }
    }

    /// A target that means none of the layers `modules`, as it was written.
    pub(super) fn without_layer(&self, modules: &BTreeSet<String>) -> Option<&str> {
        match self {
            Self::Names(names) => {
                let has_layer = |name: &&String| modules.iter().any(|module| is_target(name, module));
                names.iter().find(|name| !has_layer(name)).map(String::as_str)
            }
            Self::Matching(pattern) => {
                (!modules.iter().any(|module| pattern.matches(module))).then_some(pattern.text())
            }
        }
    }
}

impl<S: Into<String>> FromIterator<S> for Targets {
    fn from_iter<I: IntoIterator<Item = S>>(names: I) -> Self {
        Self::Names(names.into_iter().map(Into::into).collect())
    }
}

/// True if `target` is the name of `module`, the end of that name, or stands for all.
fn is_target(target: &str, module: &str) -> bool {
    target == ALL_LINEAR || module.strip_suffix(target).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The `target_modules` that give adapters to exactly these of the linear layers `modules`: the last parts of the names
/// where these tell them apart, else whole names.
pub fn target_names(adapted: &BTreeSet<&str>, modules: &BTreeSet<String>) -> Vec<String> {
    let short = last_parts(adapted.iter().copied());
    let is_meant = |module: &&String| short.iter().any(|target| is_target(target, module));
    match modules.iter().filter(is_meant).count() == adapted.len() {
        true => short,
        false => adapted.iter().map(|module| module.to_string()).collect(),
    }
}

/// The last parts of names, sorted, each once.
pub(super) fn last_parts<'a>(modules: impl Iterator<Item = &'a str>) -> Vec<String> {
    let parts: BTreeSet<&str> = modules.map(|module| module.rsplit('.').next().unwrap_or(module)).collect();
    parts.into_iter().map(str::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_chosen_by_the_end_of_their_names() {
        let targets: Targets = ["q_proj", "mlp.up_proj"].into_iter().collect();
        assert!(targets.contain("model.layers.0.self_attn.q_proj") && targets.contain("model.layers.1.mlp.up_proj"));
        assert!(!targets.contain("model.layers.0.self_attn.k_proj") && !targets.contain("model.layers.0.xq_proj"));
        assert!(!targets.contain("model.layers.0.up_proj"));
        let all: Targets = [ALL_LINEAR].into_iter().collect();
        assert!(all.contain("model.layers.0.self_attn.k_proj"));
        let whole: Targets = ["model.layers.0.self_attn.k_proj"].into_iter().collect();
        assert!(whole.contain("model.layers.0.self_attn.k_proj") && !whole.contain("model.layers.1.self_attn.k_proj"));
        let matching = Targets::parse(&json!(".*k_pr.*")).unwrap();
        assert!(matching.contain("model.layers.0.self_attn.k_proj") && !matching.contain("model.layers.0.self_attn.q"));
        // A name in a list is no regular expression.
        assert!(!Targets::parse(&json!([".*k_pr.*"])).unwrap().contain("model.layers.0.self_attn.k_proj"));
    }

    #[test]
    fn targets_are_written_short_where_that_says_the_same() {
        let modules: BTreeSet<String> = ["a.0.q", "a.0.v", "a.1.q", "a.1.v", "out"].map(str::to_string).into();
        assert_eq!(target_names(&["a.0.q", "a.1.q", "out"].into(), &modules), ["out", "q"]);
        assert_eq!(target_names(&["a.0.q", "a.0.v"].into(), &modules), ["a.0.q", "a.0.v"]);
    }
}
