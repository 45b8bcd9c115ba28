//! How every number came to be: from data and base to the checkpoint, the server, the judge and the file.

use serde_json::Value;

use crate::report::collect::{Collected, Manifest, Stage, Subject};
use crate::report::view::{Block, Cell, Row, Section, Table};

/// The section.
pub fn section(collected: &Collected) -> Option<Section> {
    let mut blocks: Vec<Block> = collected.models.iter().map(model).collect();
    if !collected.evaluations.is_empty() {
        blocks.push(Block::Table(evaluations(&collected.evaluations)));
        blocks.extend(collected.evaluations.iter().map(conditions));
    }
    blocks.extend(collected.pipelines.iter().map(pipeline));
    if !collected.stages.is_empty() {
        blocks.push(commands(&collected.stages));
    }
    let broken = collected.broken.iter().map(ToString::to_string);
    let not_used: Vec<String> = collected.left_out.iter().cloned().chain(broken).collect();
    if !not_used.is_empty() {
        blocks.push(Block::Text { text: "Not used:".into() });
        blocks.push(Block::Notes { items: not_used });
    }
    (!blocks.is_empty()).then_some(Section { id: "lineage", title: "Lineage", blocks })
}

/// From base and data to the checkpoint.
fn model(Manifest { path, name, parameters, json }: &Manifest) -> Block {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut terms: Vec<(String, String)> = vec![("Manifest".into(), path.display().to_string())];
    let mut add = |name: String, value: &Value| {
        if !value.is_null() {
            terms.push((name, text(value)));
        }
    };
    add("Parameters".into(), &(*parameters).into());
    add("Trainer".into(), &json["orpo_version"]);
    add("Steps".into(), &json["step"]);
    for (label, field) in [("Base", "base"), ("Checkpoint", "files")] {
        for (file, sha256) in json[field].as_object().into_iter().flatten() {
            add(format!("{label}, SHA-256 of {file}"), sha256);
        }
    }
    if json["base"].as_object().is_some_and(serde_json::Map::is_empty) {
        add("Base".into(), &Value::from("random weights"));
    }
    let mut blocks = vec![Block::Terms { items: terms }];
    let data: Vec<Row> = json["data"].as_array().into_iter().flatten().map(data_row).collect();
    if !data.is_empty() {
        let header = ["Split", "file", "layout", "rows used", "rows dropped", "SHA-256"];
        blocks.push(Block::Table(Table::new(format!("Data of {name}"), &header, data)));
    }
    blocks.push(folded("Resolved recipe", &json["recipe"]));
    blocks.push(folded("Last metrics", &json["metrics"]));
    Block::Details { summary: format!("Model {name}: data, base, recipe, checkpoint"), blocks }
}

fn data_row(data: &Value) -> Row {
    let words = |field: &str| Cell::words(data[field].as_str().unwrap_or_default());
    let dropped: u64 = data["rows_dropped"].as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum();
    let cells = vec![
        words("path"),
        words("layout"),
        Cell::number(data["rows_used"].to_string()),
        Cell::number(dropped.to_string()),
        words("sha256"),
    ];
    Row { head: data["split"].as_str().unwrap_or_default().to_owned(), cells }
}

/// One line for each evaluation.
fn evaluations(subjects: &[Subject]) -> Table {
    let row = |subject: &Subject| {
        let common = &subject.evaluation.common;
        let data = common.data.as_ref().map_or_else(Cell::default, |data| {
            let short = data.sha256.get(..12).unwrap_or(&data.sha256);
            Cell { text: data.source.clone(), detail: format!("SHA-256 {short}…"), is_text: true }
        });
        let judge = ["model", "annotator"].iter().find_map(|field| subject.evaluation.judge(field));
        let cells = vec![
            Cell::words(format!("{} {}", common.task, common.task_version)),
            Cell::number(format!("{} of {}", common.counts.scored, common.counts.total)),
            data,
            Cell::words(judge.unwrap_or_default()),
            Cell::words(common.started_at.clone()),
            Cell::number(format!("{:.1}", common.seconds)),
        ];
        Row { head: names(subject), cells }
    };
    let header = ["Model", "task", "scored", "data", "judge", "started", "seconds"];
    Table::new("Evaluations", &header, subjects.iter().map(row).collect())
}

fn names(subject: &Subject) -> String {
    let names: Vec<&str> = subject.models.iter().map(|(_, name)| name.as_str()).collect();
    names.join(", ")
}

/// Under which conditions an evaluation was made: all that its file says, but for the numbers that are shown elsewhere.
fn conditions(subject: &Subject) -> Block {
    const SHOWN: [&str; 6] = ["metrics", "by_category", "by_instruction", "by_model", "by_dataset", "samples"];
    let mut json = subject.evaluation.json.clone();
    if let Some(fields) = json.as_object_mut() {
        fields.retain(|name, value| !SHOWN.contains(&name.as_str()) && !value.is_null());
    }
    let mut items = vec![("file".to_owned(), subject.evaluation.path.display().to_string())];
    flatten("", &json, &mut items);
    let summary = format!("Conditions of {}: {}", subject.evaluation.common.task, names(subject));
    Block::Details { summary, blocks: vec![Block::Terms { items }] }
}

fn pipeline(Manifest { path, name, json, .. }: &Manifest) -> Block {
    let mut items = vec![("file".to_owned(), path.display().to_string())];
    // The stages have files of their own, and their commands are shown.
    let mut json = json.clone();
    json.as_object_mut().map(|fields| fields.remove("stages"));
    flatten("", &json, &mut items);
    Block::Details { summary: format!("Pipeline {name}: manifest"), blocks: vec![Block::Terms { items }] }
}

fn commands(stages: &[Stage]) -> Block {
    let command = |stage: &Stage| {
        let name = stage.path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let took = stage.seconds.map(|seconds| format!(", {seconds:.1} s")).unwrap_or_default();
        let began = if stage.started_at.is_empty() { String::new() } else { format!(", {}", stage.started_at) };
        Block::Code { label: format!("{name}{began}{took}"), text: stage.command.clone() }
    };
    Block::Details { summary: "Commands to reproduce".into(), blocks: stages.iter().map(command).collect() }
}

fn folded(summary: &str, json: &Value) -> Block {
    let mut items = Vec::new();
    flatten("", json, &mut items);
    // Dotted keys are TOML, and what `--set` takes.
    let text: Vec<String> = items.into_iter().map(|(key, value)| format!("{key} = {value}")).collect();
    Block::Details {
        summary: summary.into(),
        blocks: vec![Block::Code { label: String::new(), text: text.join("\n") }],
    }
}

/// Every value under its dotted key; lists stay what they are, and nulls are left out.
fn flatten(key: &str, json: &Value, items: &mut Vec<(String, String)>) {
    match json {
        Value::Null => {}
        Value::Object(fields) => {
            for (name, value) in fields {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                flatten(&key, value, items);
            }
        }
        value => items.push((key.to_owned(), value.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_stand_under_dotted_keys() {
        let mut items = Vec::new();
        flatten("", &json!({"a": {"b": 1, "c": null, "d": ["x", 2]}, "e": "f"}), &mut items);
        let items: Vec<_> = items.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        assert_eq!(items, ["a.b = 1", "a.d = [\"x\",2]", "e = \"f\""]);
    }
}
