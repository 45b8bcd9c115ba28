//! Where data comes from: paths, globs and hub ids, each with its weight and layout.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use orpo_hub::Hub;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Layout;
use crate::error::TrainError;
use crate::hub;

/// One source of rows. In a recipe a table, or its `source` alone.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Source {
    /// A path, a glob (`data/*.jsonl`), or `hub:owner/name[@revision][:path-or-glob]`. Required.
    pub source: String,
    /// How often each row is used per epoch; a fraction draws that share of the rows. Default 1.
    #[serde(skip_serializing_if = "is_one")]
    #[schemars(extend("exclusiveMinimum" = 0, "default" = 1.0))]
    pub weight: f64,
    /// The layout; by default that of `[data]`, or found from the rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub format: Option<Layout>,
    /// For a field of the layout the name it has in these files; by default those of `[data]`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    pub columns: BTreeMap<String, String>,
    /// The key under which a JSON object has its rows, such as `train` in `{"train": [...], "test": [...]}`. Default: the
    /// only list under a usual name, such as `data`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_one(weight: &f64) -> bool {
    *weight == 1.0
}

impl Source {
    /// All rows of `source` once, with the layout and columns of `[data]`.
    pub fn new(source: impl Into<String>) -> Self {
        Self { source: source.into(), weight: 1.0, format: None, columns: BTreeMap::new(), field: None }
    }

    /// The files, in the order of their names, on this machine; those of the hub are fetched unless they are cached.
    ///
    /// # Errors
    /// When there are none, or the hub does not give them.
    pub fn files(&self) -> Result<Vec<PathBuf>, TrainError> {
        if let Some(id) = hub::id(&self.source) {
            return hub::dataset(&Hub::from_env(), id);
        }
        let path = Path::new(&self.source);
        if let Some(reason) = url(&self.source) {
            return Err(TrainError::invalid(path, reason));
        }
        if path.exists() {
            return Ok(vec![path.to_path_buf()]);
        }
        if !is_glob(&self.source) {
            return Err(TrainError::invalid(path, missing(path)));
        }
        let paths = glob::glob(&self.source).map_err(|e| TrainError::invalid(path, format!("not a pattern: {e}")))?;
        let mut files = Vec::new();
        for found in paths {
            let found = found.map_err(|error| {
                let path = error.path().to_path_buf();
                TrainError::read(&path, error.into())
            })?;
            if found.is_file() {
                files.push(found);
            }
        }
        files.sort();
        if files.is_empty() {
            return Err(TrainError::invalid(path, "there is no such file, nor one that matches it as a pattern"));
        }
        Ok(files)
    }

    fn resolve(&mut self, dir: &Path) {
        if hub::id(&self.source).is_some() || url(&self.source).is_some() {
            return;
        }
        let joined = dir.join(&self.source);
        let resolved = if is_glob(&self.source) && !joined.exists() && Path::new(&self.source).is_relative() {
            Path::new(&glob::Pattern::escape(&dir.to_string_lossy())).join(&self.source)
        } else {
            joined
        };
        self.source = resolved.to_string_lossy().into_owned();
    }
}

/// What to do with a URL, if `source` is one.
fn url(source: &str) -> Option<String> {
    let (scheme, rest) = source.split_once("://")?;
    if !matches!(scheme, "http" | "https" | "hf" | "s3" | "gs") {
        return None;
    }
    // As the hub's pages and its own file system write it.
    let id = rest.split_once("datasets/").map(|(_, id)| id.split('/').take(2).collect::<Vec<_>>().join("/"));
    Some(match id.filter(|id| id.contains('/')) {
        Some(id) => format!("it is a URL; a data set of the Hugging Face hub is written `hub:{id}`"),
        None => "it is a URL; download the file, or name a data set of the Hugging Face hub as `hub:owner/name`".into(),
    })
}

/// What is said of a path that does not exist. Without an ending it may be meant for the hub.
fn missing(path: &Path) -> String {
    const NO_FILE: &str = "there is no such file";
    let names = path.parent().and_then(Path::file_name).zip(path.file_name());
    match names.filter(|_| path.extension().is_none()) {
        Some((owner, name)) => format!(
            "{NO_FILE}; a data set of the Hugging Face hub is written `hub:owner/name`, here perhaps `hub:{}/{}`",
            owner.to_string_lossy(),
            name.to_string_lossy()
        ),
        None => NO_FILE.into(),
    }
}

/// Whether a path is a pattern, as shells and `glob` write it.
pub(crate) fn is_glob(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// The sources of a data set: in a recipe a string, a table `{source, weight, format, columns, field}`, or a list of these.
#[derive(Debug, Clone, PartialEq)]
pub struct Sources(pub Vec<Source>);

impl Sources {
    /// Makes relative paths relative to `dir`.
    pub fn resolve(&mut self, dir: &Path) {
        self.0.iter_mut().for_each(|source| source.resolve(dir));
    }

    /// What is wrong with them, if anything: none at all, or a weight that is not positive.
    ///
    /// # Errors
    /// With what is wrong.
    pub fn check(&self) -> Result<(), String> {
        if self.0.is_empty() {
            return Err("at least one source is needed".into());
        }
        match self.0.iter().find(|source| !(source.weight > 0.0 && source.weight.is_finite())) {
            Some(source) => Err(format!("`weight` = {} of `{}` must be above 0", source.weight, source.source)),
            None => Ok(()),
        }
    }
}

impl From<&Path> for Sources {
    fn from(path: &Path) -> Self {
        Self(vec![Source::new(path.to_string_lossy())])
    }
}

impl From<PathBuf> for Sources {
    fn from(path: PathBuf) -> Self {
        path.as_path().into()
    }
}

impl Serialize for Sources {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0[..] {
            [only] if *only == Source::new(&*only.source) => serializer.serialize_str(&only.source),
            all => all.serialize(serializer),
        }
    }
}

// By hand and not as untagged enums, whose errors name neither key nor line.
impl<'de> Deserialize<'de> for Sources {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SourcesVisitor)
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SourceVisitor)
    }
}

struct SourceVisitor;

impl<'de> Visitor<'de> for SourceVisitor {
    type Value = Source;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a path, a glob, a hub id, or a table with `source`")
    }

    fn visit_str<E: serde::de::Error>(self, source: &str) -> Result<Source, E> {
        Ok(Source::new(source))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Source, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            source: String,
            #[serde(default = "one")]
            weight: f64,
            format: Option<Layout>,
            #[serde(default)]
            columns: BTreeMap<String, String>,
            field: Option<String>,
        }
        fn one() -> f64 {
            1.0
        }
        let Table { source, weight, format, columns, field } = Table::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Source { source, weight, format, columns, field })
    }
}

struct SourcesVisitor;

impl<'de> Visitor<'de> for SourcesVisitor {
    type Value = Sources;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a path, a glob, a hub id, a table with `source`, or a list of these")
    }

    fn visit_str<E: serde::de::Error>(self, source: &str) -> Result<Sources, E> {
        Ok(Sources(vec![Source::new(source)]))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Sources, A::Error> {
        Ok(Sources(vec![SourceVisitor.visit_map(map)?]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Sources, A::Error> {
        let mut sources = Vec::new();
        while let Some(source) = items.next_element()? {
            sources.push(source);
        }
        Ok(Sources(sources))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Section {
        train: Sources,
        max_length: usize,
    }

    fn sources(text: &str) -> Result<Sources, String> {
        let text = format!("max_length = 3\n{text}");
        let section: Section = toml::from_str(&text).map_err(|e| e.to_string())?;
        let written = toml::to_string(&section).unwrap();
        assert_eq!(toml::from_str::<Section>(&written).unwrap(), section, "{written}");
        Ok(section.train)
    }

    #[test]
    fn every_way_to_write_sources_is_read_and_written() {
        let a = || Source::new("a");
        let b = || Source { weight: 0.5, ..Source::new("b") };
        assert_eq!(sources("train = \"a\"").unwrap(), Sources(vec![a()]));
        assert_eq!(sources("train = [\"a\", { source = \"b\", weight = 0.5 }]").unwrap(), Sources(vec![a(), b()]));
        let tables =
            "[[train]]\nsource = \"a\"\nformat = \"orca_dpo_pairs\"\n[[train]]\nsource = \"b\"\nweight = 0.5\n";
        let parsed = sources(tables).unwrap();
        assert_eq!(parsed.0[0].format, Some(Layout::named("orca_dpo_pairs").unwrap()));
        assert_eq!(parsed.0[1], b());
        assert_eq!(sources("[train]\nsource = \"b\"\nweight = 0.5\n").unwrap(), Sources(vec![b()]));
        let split = Source { field: Some("train".into()), ..a() };
        assert_eq!(sources("train = { source = \"a\", field = \"train\" }").unwrap(), Sources(vec![split]));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, expected) in [
            ("[[train]]\nsource = \"a\"\nwieght = 2.0\n", "wieght"),
            ("[[train]]\nsource = \"a\"\nformat = \"alpaka\"\n", "alpaca_ranking"),
            ("[[train]]\nweight = 2.0\n", "source"),
            ("train = 3\n", "a path, a glob"),
        ] {
            let error = sources(text).unwrap_err();
            assert!(error.contains(expected) && error.contains("line "), "{error}");
        }
        assert!(sources("train = []").unwrap().check().unwrap_err().contains("at least one"));
        for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let sources = Sources(vec![Source { weight, ..Source::new("x") }]);
            assert!(sources.check().unwrap_err().contains("`x`"));
        }
    }

    #[test]
    fn ids_and_urls_of_the_hub_are_told_from_paths() {
        let why = |source: &str| {
            let mut sources = Sources(vec![Source::new(source)]);
            sources.resolve(Path::new("recipes"));
            sources.0[0].files().unwrap_err().to_string()
        };
        for (source, part) in [
            ("acme/pairs", "there is no such file; a data set of the Hugging Face hub is written `hub:owner/name`"),
            ("acme/pairs", "perhaps `hub:acme/pairs`"),
            ("acme/pairs.jsonl", "there is no such file"),
            ("https://hub.example/datasets/acme/pairs/resolve/main/a.jsonl", "`hub:acme/pairs`"),
            ("hf://datasets/acme/pairs/a.parquet", "`hub:acme/pairs`"),
            ("https://example.com/a.jsonl", "download the file"),
        ] {
            assert!(why(source).contains(part), "{source}: {}", why(source));
        }
        assert!(!why("acme/pairs.jsonl").contains("hub:"));
    }

    #[test]
    fn globs_are_sorted_and_must_match() {
        let dir = tempfile::tempdir().unwrap();
        // The directory's own name has a character of patterns in it.
        let dir = dir.path().join("[x]");
        std::fs::create_dir(&dir).unwrap();
        for name in ["b.jsonl", "a.jsonl", "c.json", "literal[1].jsonl"] {
            std::fs::write(dir.join(name), "").unwrap();
        }
        let files = |source: &str| {
            let mut sources = Sources(vec![Source::new(source)]);
            sources.resolve(&dir);
            let files = sources.0[0].files().map_err(|e| e.to_string())?;
            Ok::<_, String>(
                files.iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect::<Vec<_>>(),
            )
        };
        assert_eq!(files("?.jsonl").unwrap(), ["a.jsonl", "b.jsonl"]);
        assert_eq!(files("literal[1].jsonl").unwrap(), ["literal[1].jsonl"]);
        for missing in ["*.parquet", "missing.jsonl"] {
            assert!(files(missing).unwrap_err().contains("there is no such file"), "{missing}");
        }
    }
}
