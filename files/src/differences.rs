//! How two settings differ.

use serde_json::Value;

/// Two values under the same key that are not the same. A missing one is null.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference<'a> {
    /// The keys that lead to it, from the outermost.
    pub path: Vec<&'a str>,
    /// The first value.
    pub before: &'a Value,
    /// The second value.
    pub after: &'a Value,
}

impl Difference<'_> {
    /// The keys, joined by dots.
    pub fn key(&self) -> String {
        self.path.join(".")
    }
}

/// Every difference between two settings, in the order of the keys of `before`, then of those that only `after` has.
/// Objects are compared key by key; everything else, lists too, as one value. An object that is missing, null or empty
/// sets nothing, so these are the same.
///
/// ```
/// let before = serde_json::json!({"training": {"beta": 0.1, "epochs": 1}});
/// let after = serde_json::json!({"training": {"beta": 0.5, "epochs": 1}});
/// let differences = orpo_files::differences(&before, &after);
/// assert_eq!(differences.iter().map(|difference| difference.key()).collect::<Vec<_>>(), ["training.beta"]);
/// ```
pub fn differences<'a>(before: &'a Value, after: &'a Value) -> Vec<Difference<'a>> {
    let mut found = Vec::new();
    compare(&mut Vec::new(), before, after, &mut found);
    found
}

fn compare<'a>(path: &mut Vec<&'a str>, before: &'a Value, after: &'a Value, found: &mut Vec<Difference<'a>>) {
    match (before, after) {
        (Value::Object(left), Value::Object(right)) => {
            let only_right = right.keys().filter(|key| !left.contains_key(*key));
            for key in left.keys().chain(only_right) {
                path.push(key);
                compare(path, &before[key.as_str()], &after[key.as_str()], found);
                path.pop();
            }
        }
        _ if before == after || is_unset(before) && is_unset(after) => {}
        _ => found.push(Difference { path: path.clone(), before, after }),
    }
}

fn is_unset(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn described(before: &Value, after: &Value) -> Vec<String> {
        let describe = |found: &Difference<'_>| format!("{}: {} {}", found.key(), found.before, found.after);
        differences(before, after).iter().map(describe).collect()
    }

    #[test]
    fn nested_keys_are_named_in_the_order_of_the_first() {
        let before = json!({"b": {"y": 1, "x": [1, 2]}, "a": 2, "same": {"s": 0}});
        let after = json!({"same": {"s": 0}, "new": false, "b": {"y": 3, "x": [2, 1], "z": 0}});
        let expected = ["b.y: 1 3", "b.x: [1,2] [2,1]", "b.z: null 0", "a: 2 null", "new: null false"];
        assert_eq!(described(&before, &after), expected);
    }

    #[test]
    fn a_section_that_is_added_is_one_difference() {
        let lora = json!({"lora": {"r": 8, "alpha": 16}});
        assert_eq!(described(&json!({}), &lora), ["lora: null {\"r\":8,\"alpha\":16}"]);
        assert_eq!(described(&lora, &json!({"lora": 3})), ["lora: {\"r\":8,\"alpha\":16} 3"]);
    }

    #[test]
    fn what_sets_nothing_is_the_same() {
        assert_eq!(described(&json!({"a": null, "b": {}, "c": {}}), &json!({"b": null})), [""; 0]);
        assert_eq!(described(&json!({"a": []}), &json!({})), ["a: [] null"]);
    }
}
