//! Which files of a repository are the data that was asked for.

use std::collections::BTreeSet;

use crate::data::is_glob;

/// The names that `path` chooses; without one all data files, if they are parts of one.
pub(super) fn choose_data<'n>(names: &[&'n str], path: Option<&str>) -> Result<Vec<&'n str>, String> {
    const DATA: [&str; 5] = [".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet"];
    const TABLES: [&str; 4] = [".csv", ".csv.gz", ".tsv", ".tsv.gz"];
    let ending = |ends: &[&str]| -> Vec<&'n str> {
        let is_data = |name: &&str| ends.iter().any(|end| name.ends_with(end)) && !name.starts_with('.');
        names.iter().copied().filter(is_data).collect()
    };
    // Beside other data a table is often about it.
    let data = Some(ending(&DATA)).filter(|data| !data.is_empty()).unwrap_or_else(|| ending(&TABLES));
    let Some(path) = path else {
        let stems: BTreeSet<&str> = data.iter().map(|name| without_part(name)).collect();
        return match stems.len() {
            0 => Err("it holds no JSON, JSONL, CSV or parquet file; name one as hub:owner/name:path".into()),
            1 => Ok(data),
            _ => Err(format!("it holds several data files; name one, or a glob, after `:`; there are {}", list(&data))),
        };
    };
    if names.contains(&path) || !is_glob(path) {
        let found = names.iter().copied().find(|name| *name == path);
        return found
            .map(|name| vec![name])
            .ok_or_else(|| format!("it has no such file; its data files: {}", list(&data)));
    }
    let pattern = glob::Pattern::new(path).map_err(|e| format!("not a pattern: {e}"))?;
    let chosen: Vec<&str> = names.iter().copied().filter(|name| pattern.matches(name)).collect();
    if chosen.is_empty() {
        Err(format!("no file matches this pattern; its data files: {}", list(&data)))
    } else {
        Ok(chosen)
    }
}

/// A file's name without `-00003-of-00012`.
fn without_part(name: &str) -> &str {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let stem = name.split_once('.').map_or(name, |(stem, _)| stem);
    stem.rsplit_once("-of-")
        .filter(|(_, count)| digits(count))
        .and_then(|(rest, _)| rest.rsplit_once('-'))
        .filter(|(_, part)| digits(part))
        .map_or(name, |(rest, _)| rest)
}

fn list(names: &[&str]) -> String {
    const SHOWN: usize = 12;
    let more = if names.len() > SHOWN { format!(" and {} more", names.len() - SHOWN) } else { String::new() };
    if names.is_empty() { "none".into() } else { names[..names.len().min(SHOWN)].join(", ") + &more }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_files_are_chosen_only_where_the_choice_is_clear() {
        let parts = ["README.md", "data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"];
        assert_eq!(choose_data(&parts, None).unwrap(), parts[1..]);
        let splits = ["data/test-00000-of-00001.parquet", "data/train-00000-of-00001.parquet", ".x.json"];
        assert!(choose_data(&splits, None).unwrap_err().contains("data/test-"));
        assert_eq!(choose_data(&splits, Some("data/train-*")).unwrap(), splits[1..2]);
        assert_eq!(choose_data(&splits, Some(".x.json")).unwrap(), splits[2..]);
        assert!(choose_data(&splits, Some("x.json")).unwrap_err().contains("no such file"));
        assert!(choose_data(&splits, Some("*.csv")).unwrap_err().contains("no file matches"));
        assert_eq!(choose_data(&["meta.csv", "pairs.jsonl"], None).unwrap(), ["pairs.jsonl"]);
        assert_eq!(choose_data(&["README.md", "pairs.csv"], None).unwrap(), ["pairs.csv"]);
        assert!(choose_data(&["README.md"], None).unwrap_err().contains("no JSON"));
    }
}
