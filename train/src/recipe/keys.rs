//! The reference of all keys, from the types themselves: doc comments are the meanings, and attributes beside the fields
//! say range, unit and TRL's name.

use std::fmt::Write;

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::Recipe;

/// A key of a recipe.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// Its section: `training`; empty for keys before the first section.
    pub section: String,
    /// Its name in the section.
    pub name: String,
    /// What it does.
    pub meaning: String,
    /// The kind of its value, with the range and the unit.
    pub value: String,
    /// Its default as TOML; none where it must be given, or can be left unset.
    pub default: Option<String>,
    /// True if a section with this key needs it.
    pub required: bool,
    /// Names it has in TRL, transformers and PEFT.
    pub trl: Vec<String>,
    /// Its values and their meanings, where it is one of a few.
    pub choices: Vec<(String, String)>,
    range: Range,
}

/// Bounds of a number.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Range {
    minimum: Option<f64>,
    above: Option<f64>,
    maximum: Option<f64>,
    below: Option<f64>,
}

impl Range {
    fn of(schema: &Value) -> Self {
        let bound = |name: &str| schema[name].as_f64();
        Self {
            minimum: bound("minimum"),
            above: bound("exclusiveMinimum"),
            maximum: bound("maximum"),
            below: bound("exclusiveMaximum"),
        }
    }

    fn contains(self, value: f64) -> bool {
        value.is_finite()
            && self.minimum.is_none_or(|bound| value >= bound)
            && self.above.is_none_or(|bound| value > bound)
            && self.maximum.is_none_or(|bound| value <= bound)
            && self.below.is_none_or(|bound| value < bound)
    }

    /// "at least 0 and below 1"; empty without bounds.
    fn describe(self) -> String {
        let bounds =
            [("at least", self.minimum), ("above", self.above), ("at most", self.maximum), ("below", self.below)];
        let bounds = bounds.into_iter().filter_map(|(words, bound)| bound.map(|bound| format!("{words} {bound}")));
        bounds.collect::<Vec<_>>().join(" and ")
    }
}

impl Key {
    /// Section and name: `training.beta`.
    pub fn path(&self) -> String {
        if self.section.is_empty() { self.name.clone() } else { format!("{}.{}", self.section, self.name) }
    }

    /// Where it belongs, in words.
    pub(super) fn place(&self) -> String {
        if self.section.is_empty() { "before the first section".into() } else { format!("in [{}]", self.section) }
    }

    /// The title of its section, in quotes if it has a name.
    fn heading(&self, quote: &str) -> String {
        match self.section.as_str() {
            "" => "Before the first section".into(),
            section => format!("{quote}[{section}]{quote}"),
        }
    }

    fn from_schema(section: &str, name: &str, schema: &Value, required: bool) -> Self {
        let text = |field: &str| schema[field].as_str().map(str::to_owned);
        let range = Range::of(schema);
        let choices = choices(schema);
        let unit = text("unit").map(|unit| format!(", {unit}")).unwrap_or_default();
        let bounds = match range.describe() {
            // Of a whole number that goes without saying.
            bounds if bounds.is_empty() || bounds == "at least 0" && kind(schema) == "whole number" => String::new(),
            bounds => format!(" {bounds}"),
        };
        let value = if choices.is_empty() { format!("{}{bounds}{unit}", kind(schema)) } else { "a choice".into() };
        let words = text("description").unwrap_or_default();
        Self {
            section: section.into(),
            name: name.into(),
            meaning: words.split_whitespace().collect::<Vec<_>>().join(" "),
            value,
            default: default(&schema["default"]),
            required: required && schema["default"].is_null(),
            trl: text("trl").map(|names| names.split(", ").map(str::to_owned).collect()).unwrap_or_default(),
            choices,
            range,
        }
    }
}

/// All keys of a recipe, in the order of the sections.
pub fn keys() -> Vec<Key> {
    let settings = SchemaSettings::default().with(|settings| settings.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<Recipe>().to_value();
    let mut keys = Vec::new();
    add_section(&mut keys, "", &schema);
    keys
}

/// Adds the keys of a section, then its subsections.
fn add_section(keys: &mut Vec<Key>, section: &str, schema: &Value) {
    let is_required = |name: &str| schema["required"].as_array().is_some_and(|names| names.iter().any(|n| n == name));
    let properties = schema["properties"].as_object().into_iter().flatten();
    let mut subsections = Vec::new();
    for (name, property) in properties {
        let inner = without_null(property);
        let path = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
        if inner["properties"].is_object() {
            subsections.push((path, inner));
            continue;
        }
        keys.push(Key::from_schema(section, name, &merged(property), is_required(name)));
        if inner["items"]["properties"].is_object() {
            subsections.push((format!("{path}[]"), &inner["items"]));
        }
    }
    for (path, schema) in subsections {
        add_section(keys, &path, schema);
    }
}

/// What an optional value is where it is set.
fn without_null(schema: &Value) -> &Value {
    let mut of_several = schema["anyOf"].as_array().into_iter().flatten();
    of_several.find(|schema| schema["type"] != "null").unwrap_or(schema)
}

/// The attributes of a property and those of its type in one.
fn merged(property: &Value) -> Value {
    let mut schema = without_null(property).clone();
    if let (Value::Object(schema), Value::Object(property)) = (&mut schema, property) {
        schema.extend(property.clone());
    }
    schema
}

/// The kind of a value, in words.
fn kind(schema: &Value) -> &'static str {
    let types: Vec<&str> = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    };
    match types.first().copied() {
        Some("integer") => "whole number",
        Some("number") => "number",
        Some("boolean") => "true or false",
        Some("array") => "list",
        Some("object") => "table",
        _ => "text",
    }
}

/// The values of an enumeration: each with a meaning, or only their names.
fn choices(schema: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    let with_meanings = schema["oneOf"].as_array().into_iter().flatten();
    let with_meanings = with_meanings.map(|choice| (text(&choice["const"]), text(&choice["description"])));
    let names = schema["choices"].as_array().into_iter().flatten().map(|name| (text(name), String::new()));
    with_meanings.chain(names).collect()
}

/// A default as it would be written in TOML; none for an empty table, which is the same as nothing.
fn default(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Object(table) if table.is_empty() => None,
        value => Some(value.to_string()),
    }
}

/// The first value of `recipe` outside the range of its key, in words.
pub(super) fn out_of_range(recipe: &Recipe) -> Option<String> {
    let recipe = toml::Value::try_from(recipe).expect("a recipe is plain data");
    keys().into_iter().find_map(|key| {
        let value = key.path().split('.').try_fold(&recipe, |table, part| table.get(part))?;
        let number = value.as_float().or(value.as_integer().map(|integer| integer as f64))?;
        let bounds = match key.range.describe() {
            bounds if bounds.is_empty() || !number.is_finite() => "a finite number".into(),
            bounds => bounds,
        };
        // As Debug, which writes the smallest numbers without their hundreds of digits.
        let shown = value.as_integer().map_or_else(|| format!("{number:?}"), |integer| integer.to_string());
        (!key.range.contains(number)).then(|| format!("`{}` = {shown} must be {bounds}", key.path()))
    })
}

/// The keys whose path begins with `prefix`, to be read in a terminal.
pub fn listing(prefix: &str) -> String {
    let mut text = String::new();
    let mut section = None;
    for key in chosen(prefix) {
        if section.as_ref() != Some(&key.section) {
            let gap = if section.is_some() { "\n" } else { "" };
            let _ = writeln!(text, "{gap}{}\n", key.heading(""));
            section = Some(key.section.clone());
        }
        let mut facts = vec![key.value.clone()];
        facts.push(match &key.default {
            _ if key.required => "required".into(),
            Some(default) => format!("default {default}"),
            None => "unset".into(),
        });
        if !key.trl.is_empty() {
            facts.push(format!("TRL: {}", key.trl.join(", ")));
        }
        let _ = writeln!(text, "  {}  ({})", key.name, facts.join("; "));
        text += &wrapped(&key.meaning, "      ");
        for (choice, meaning) in &key.choices {
            let line = if meaning.is_empty() { format!("\"{choice}\"") } else { format!("\"{choice}\": {meaning}") };
            text += &wrapped(&line, "        ");
        }
    }
    text
}

/// All keys as Markdown: one table per section.
pub fn markdown() -> String {
    let mut text = String::new();
    let mut section = None;
    for key in keys() {
        if section.as_ref() != Some(&key.section) {
            let gap = if section.is_some() { "\n" } else { "" };
            let head = "| key | value | default | TRL | meaning |\n| --- | --- | --- | --- | --- |";
            let _ = writeln!(text, "{gap}### {}\n\n{head}", key.heading("`"));
            section = Some(key.section.clone());
        }
        let default = match &key.default {
            _ if key.required => "required".into(),
            Some(default) => format!("`{default}`"),
            None => String::new(),
        };
        let trl: Vec<String> = key.trl.iter().map(|name| format!("`{name}`")).collect();
        let mut meaning = key.meaning.clone();
        for (choice, words) in &key.choices {
            let words = if words.is_empty() { String::new() } else { format!(": {words}") };
            let _ = write!(meaning, "<br>`\"{choice}\"`{words}");
        }
        let cells = [format!("`{}`", key.name), key.value, default, trl.join(", "), meaning];
        let _ = writeln!(text, "| {} |", cells.map(|cell| cell.replace('|', "\\|")).join(" | "));
    }
    text
}

fn chosen(prefix: &str) -> Vec<Key> {
    let begins = |key: &Key| {
        let path = key.path();
        path.strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || prefix.is_empty() || rest.starts_with(['.', '[']))
            || key.name == prefix
    };
    keys().into_iter().filter(begins).collect()
}

/// A paragraph in lines of a terminal's width, each after `indent`.
fn wrapped(text: &str, indent: &str) -> String {
    const WIDTH: usize = 100;
    let mut lines = String::new();
    let mut line = String::from(indent);
    for word in text.split_whitespace() {
        if line.len() > indent.len() && line.chars().count() + word.chars().count() >= WIDTH {
            let _ = writeln!(lines, "{}", line.trim_end());
            line = indent.into();
        }
        line += word;
        line.push(' ');
    }
    lines + line.trim_end() + "\n"
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const MINIMAL: &str = "output_dir = \"out\"\n[model]\npath = \"base\"\n[data]\ntrain = \"train.jsonl\"\n";
    const INIT: &str = "output_dir = \"out\"\n[model]\ntokenizer = \"t\"\n[model.init]\nhidden_size = 8\nintermediate_size = 8\n\
                        num_hidden_layers = 1\nnum_attention_heads = 1\nnum_key_value_heads = 1\n\
                        max_position_embeddings = 8\n[data]\ntrain = \"train.jsonl\"\n";

    /// The keys that the parser accepts in a section, from its own error.
    fn accepted(text: &str) -> BTreeSet<String> {
        let error = toml::from_str::<Recipe>(text).unwrap_err();
        let (_, names) = error.message().split_once("expected").unwrap();
        names.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn the_keys_are_those_that_the_parser_accepts() {
        let sections = [
            ("", format!("nosuch = 1\n{MINIMAL}")),
            ("model", MINIMAL.replace("path", "nosuch = 1\npath")),
            ("model.init", INIT.replace("hidden_size", "nosuch = 1\nhidden_size")),
            ("data", format!("{MINIMAL}nosuch = 1\n")),
            ("data.train[]", MINIMAL.replace("\"train.jsonl\"", "[{ nosuch = 1 }]")),
            ("lora", format!("{MINIMAL}[lora]\nnosuch = 1\n")),
            ("training", format!("{MINIMAL}[training]\nnosuch = 1\n")),
            ("training.lr_scheduler_kwargs", format!("{MINIMAL}[training.lr_scheduler_kwargs]\nnosuch = 1\n")),
            ("export", format!("{MINIMAL}[export]\nnosuch = 1\n")),
        ];
        let keys = keys();
        let listed: BTreeSet<&str> = keys.iter().map(|key| key.section.as_str()).collect();
        assert_eq!(listed, sections.iter().map(|(section, _)| *section).collect::<BTreeSet<_>>());
        for (section, text) in sections {
            let mut accepted = accepted(&text);
            // Sections are listed as such, and one key has a second name.
            accepted.retain(|name| name != "lr_scheduler_type" && !sections_within(section).contains(&name.as_str()));
            let names: BTreeSet<String> =
                keys.iter().filter(|key| key.section == section).map(|key| key.name.clone()).collect();
            assert_eq!(accepted, names, "[{section}]");
        }
    }

    fn sections_within(section: &str) -> &'static [&'static str] {
        match section {
            "" => &["model", "data", "lora", "training", "export"],
            "model" => &["init"],
            "training" => &["lr_scheduler_kwargs"],
            _ => &[],
        }
    }

    /// The minimal recipe with a section for adapters and with `key` at a value in TOML.
    fn with_key(key: &Key, value: &str) -> Value {
        let mut table: toml::Table = format!("{MINIMAL}[lora]\n").parse().unwrap();
        let mut value: toml::Table = format!("value = {value}").parse().unwrap();
        let section = table[&key.section].as_table_mut().unwrap();
        section.insert(key.name.clone(), value.remove("value").unwrap());
        serde_json::to_value(table.try_into::<Recipe>().unwrap()).unwrap()
    }

    #[test]
    fn the_defaults_are_those_that_the_parser_gives() {
        let parsed = |text: &str| serde_json::to_value(toml::from_str::<Recipe>(text).unwrap()).unwrap();
        let with_lora = parsed(&format!("{MINIMAL}[lora]\n"));
        let with_init = parsed(INIT);
        for key in keys() {
            if key.section == "data.train[]" || key.required {
                continue;
            }
            let pointer = format!("/{}", key.path().replace('.', "/"));
            let value = with_lora.pointer(&pointer).or(with_init.pointer(&pointer));
            let value = value.filter(|_| !["model.path", "model.tokenizer"].contains(&&*key.path()));
            let found = match value {
                Some(value) => default(value),
                // Left out where it is the default.
                None => key.default.clone().filter(|default| with_key(&key, default) == with_lora),
            };
            assert_eq!(key.default, found, "{}", key.path());
            // A meaning that names the default names the same.
            if let Some((_, said)) = key.meaning.split_once("Default ") {
                let said = said.split([',', ';']).next().unwrap().trim_matches(['`', '.', ' ']);
                let same = said.parse::<f64>().ok().zip(key.default.as_ref().and_then(|d| d.parse::<f64>().ok()));
                let same = same.map_or(key.default.as_deref() == Some(said), |(a, b)| a == b);
                assert!(same, "{}: {said} and {:?}", key.path(), key.default);
            }
        }
    }

    #[test]
    fn required_keys_are_those_without_which_the_parser_stops() {
        for key in keys().into_iter().filter(|key| key.section != "data.train[]") {
            let mut table: toml::Table = INIT.parse().unwrap();
            table.insert("lora".into(), toml::Table::new().into());
            let mut section = key.section.split('.').filter(|part| !part.is_empty());
            let inner = section.try_fold(&mut table, |table, part| table.get_mut(part)?.as_table_mut());
            if let Some(inner) = inner {
                inner.remove(&key.name);
            }
            assert_eq!(table.try_into::<Recipe>().is_err(), key.required, "{}", key.path());
        }
    }

    #[test]
    fn every_key_has_a_meaning_and_every_range_holds() {
        for key in keys() {
            assert!(key.meaning.len() > 4 && key.meaning.ends_with('.'), "{}: {}", key.path(), key.meaning);
            assert!(key.choices.len() != 1, "{}", key.path());
        }
        let refused = |text: &str| {
            let recipe: Recipe = toml::from_str(&format!("{MINIMAL}{text}")).unwrap();
            out_of_range(&recipe).unwrap_or_else(|| panic!("{text} is accepted"))
        };
        assert_eq!(refused("[training]\nlearning_rate = 0.0"), "`training.learning_rate` = 0.0 must be above 0");
        assert_eq!(
            refused("[training]\nadam_beta2 = 1.0"),
            "`training.adam_beta2` = 1.0 must be at least 0 and below 1"
        );
        assert_eq!(refused("[training]\nbatch_size = 0"), "`training.batch_size` = 0 must be at least 1");
        assert_eq!(refused("[training]\nsimpo_gamma = nan"), "`training.simpo_gamma` = NaN must be a finite number");
        assert_eq!(refused("[lora]\nlora_dropout = 1.0"), "`lora.lora_dropout` = 1.0 must be at least 0 and below 1");
    }

    #[test]
    fn both_forms_name_every_key() {
        let (listing, markdown) = (listing(""), markdown());
        for key in keys() {
            assert!(listing.contains(&format!("  {}  (", key.name)), "{}", key.path());
            assert!(markdown.contains(&format!("| `{}` | ", key.name)), "{}", key.path());
        }
        assert!(listing.lines().all(|line| line.chars().count() <= 160 && !line.ends_with(' ')));
        let beta = super::listing("training.beta");
        assert!(beta.starts_with("[training]\n\n  beta  (number at least 0; default 0.1; TRL: beta)\n"), "{beta}");
        assert!(super::listing("no.such.key").is_empty());
    }
}
