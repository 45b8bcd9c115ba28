//! A model directory, checked before an engine sees it: a truncated file or a tensor that is not there must be an error
//! message, not a crash inside a memory map.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use orpo_model::{Family, ModelConfig, ModelError, WeightFiles};
use serde_json::{Map, Value};

/// Why a directory cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// There is no such directory.
    #[error("model directory `{}` does not exist; give --model the directory of a Hugging Face \
             checkpoint, or a hub id: owner/name", .0.display())]
    NoDirectory(PathBuf),
    /// The directory holds only an adapter.
    #[error(
        "`{}` holds a LoRA adapter, not a model; give its base model to --model and serve it by --adapter NAME=DIR",
        .0.display()
    )]
    Adapter(PathBuf),
    /// A required file is absent.
    #[error("`{}` is missing; a checkpoint directory needs config.json, tokenizer.json and model.safetensors", .0.display())]
    Missing(PathBuf),
    /// A file cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file is not what its name promises.
    #[error("`{}` is corrupt or incomplete: {reason}; copy or export it again", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The config or the weights cannot be used.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// A checked Hugging Face model directory.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The directory.
    pub dir: PathBuf,
    /// `config.json`.
    pub config: Map<String, Value>,
    /// What it describes, of a family that the trainer knows, too, with the head that the weights have.
    pub model: Option<ModelConfig>,
    /// The weight files, in the order of their names.
    pub weights: Vec<PathBuf>,
    /// Tensors that the files have under another name, with the name that `transformers` gives them.
    pub renamed: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Checks `dir`: every weight file is whole, every indexed tensor is where the index says, and the model of
    /// `config.json` has the tensors that it needs.
    ///
    /// # Errors
    /// [`CheckpointError`] with the file.
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        if !dir.is_dir() {
            return Err(CheckpointError::NoDirectory(dir.to_path_buf()));
        }
        let config_path = dir.join("config.json");
        if !config_path.exists() && dir.join("adapter_config.json").exists() {
            return Err(CheckpointError::Adapter(dir.to_path_buf()));
        }
        let config = read_object(&config_path)?;
        let tokenizer = dir.join("tokenizer.json");
        if !tokenizer.exists() {
            return Err(CheckpointError::Missing(tokenizer));
        }
        let json = Value::Object(config.clone());
        let weights = WeightFiles::open(dir)?;
        let paths = weights.files().iter().map(|file| file.path().to_path_buf()).collect();
        let mut checkpoint =
            Self { dir: dir.to_path_buf(), config, model: None, weights: paths, renamed: BTreeMap::new() };
        if Family::of(&json).is_err() {
            // Engines serve families that the trainer does not know: of these only the types are looked at.
            for file in weights.files() {
                for (name, info) in file.tensors() {
                    file.float_type(&name, info)?;
                }
            }
            return Ok(checkpoint);
        }
        let model =
            ModelConfig::from_json(&json).map_err(|reason| ModelError::Invalid { path: config_path, reason })?;
        let known = orpo_model::Checkpoint::of(model, json, weights)?;
        known.check_weights()?;
        if let Some(note) = known.note() {
            tracing::warn!("{note}");
        }
        checkpoint.renamed = known.renamed();
        checkpoint.model = Some(known.config);
        Ok(checkpoint)
    }
}

/// Copies a safetensors file with the tensors that `renamed` lists under their new names.
///
/// # Errors
/// Those of the file system.
pub fn copy_renaming(source: &Path, target: &Path, renamed: &BTreeMap<String, String>) -> std::io::Result<()> {
    let mut input = File::open(source)?;
    let mut length = [0; 8];
    input.read_exact(&mut length)?;
    let mut header = vec![0; u64::from_le_bytes(length) as usize];
    input.read_exact(&mut header)?;
    let header: Map<String, Value> = serde_json::from_slice(&header)?;
    let rename = |(name, info): (String, Value)| (renamed.get(&name).cloned().unwrap_or(name), info);
    let mut header = serde_json::to_vec(&header.into_iter().map(rename).collect::<Map<String, Value>>())?;
    // The format wants the data to begin at a multiple of 8.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut output = File::create(target)?;
    output.write_all(&(header.len() as u64).to_le_bytes())?;
    output.write_all(&header)?;
    std::io::copy(&mut input, &mut output).map(drop)
}

/// A JSON file that holds an object, with or without a byte order mark.
pub(crate) fn read_object(path: &Path) -> Result<Map<String, Value>, CheckpointError> {
    let bytes = std::fs::read(path).map_err(|source| unreadable(path, source))?;
    serde_json::from_slice(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes))
        .map_err(|error| CheckpointError::Corrupt { path: path.to_path_buf(), reason: error.to_string() })
}

fn unreadable(path: &Path, source: std::io::Error) -> CheckpointError {
    let path = path.to_path_buf();
    if source.kind() == std::io::ErrorKind::NotFound {
        return CheckpointError::Missing(path);
    }
    CheckpointError::Read { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Values beyond a header, in the order of the names: every tensor is filled with its number.
    fn write_weights(path: &Path, tensors: &[(String, Vec<usize>)], dtype: &str, width: usize) {
        let mut header = Map::new();
        let mut data = Vec::new();
        for (number, (name, shape)) in tensors.iter().enumerate() {
            let from = data.len();
            data.resize(from + width * shape.iter().product::<usize>(), number as u8);
            header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [from, data.len()]}));
        }
        let header = Value::Object(header).to_string();
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
        std::fs::write(path, bytes).unwrap();
    }

    fn config(changes: &Value) -> Value {
        let mut config = json!({
            "model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 2, "max_position_embeddings": 16, "vocab_size": 4
        });
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    }

    /// A directory with the tensors of the config with `changes`, which `change` may alter.
    fn directory(changes: Value, change: impl Fn(&mut Vec<(String, Vec<usize>)>)) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&changes);
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
        let mut tensors = ModelConfig::from_json(&config).map(|model| model.tensors()).unwrap_or_default();
        change(&mut tensors);
        write_weights(&dir.path().join("model.safetensors"), &tensors, "F32", 4);
        dir
    }

    fn refused(dir: &tempfile::TempDir) -> String {
        Checkpoint::open(dir.path()).unwrap_err().to_string()
    }

    #[test]
    fn a_whole_directory_is_accepted_under_any_of_its_names() {
        let dir = directory(json!({}), |_| {});
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(checkpoint.weights, [dir.path().join("model.safetensors")]);
        assert!(checkpoint.renamed.is_empty());

        let without_model = directory(json!({}), |tensors| {
            for (name, _) in tensors {
                *name = name.trim_start_matches("model.").to_string();
            }
        });
        let renamed = Checkpoint::open(without_model.path()).unwrap().renamed;
        assert_eq!(renamed["embed_tokens.weight"], "model.embed_tokens.weight");
        assert!(!renamed.contains_key("lm_head.weight"));
        // A copy has them under the usual names, and the same bytes.
        let copy = directory(json!({}), |_| {});
        let target = copy.path().join("model.safetensors");
        copy_renaming(&without_model.path().join("model.safetensors"), &target, &renamed).unwrap();
        assert!(Checkpoint::open(copy.path()).unwrap().renamed.is_empty());
        let norm = WeightFiles::open_file(&target).unwrap().read("model.norm.weight", &[8]).unwrap().1;
        let read = WeightFiles::open(dir.path()).unwrap().read("model.norm.weight", &[8]).unwrap().1;
        assert_eq!(norm, read);
    }

    #[test]
    fn a_head_of_its_own_is_used_whatever_the_config_says() {
        let tied = json!({"tie_word_embeddings": true});
        let is_tied =
            |dir: &tempfile::TempDir| Checkpoint::open(dir.path()).unwrap().model.unwrap().tie_word_embeddings;
        let head = || ("lm_head.weight".to_string(), vec![4, 8]);
        assert!(is_tied(&directory(tied.clone(), |_| {})));
        // The last tensor has other values than the first.
        assert!(!is_tied(&directory(tied.clone(), |tensors| tensors.push(head()))));
        // Only the head's name for the one matrix.
        let lone = directory(tied, |tensors| tensors[0].0 = "lm_head.weight".into());
        assert!(is_tied(&lone));
        let renamed = Checkpoint::open(lone.path()).unwrap().renamed;
        assert_eq!(
            renamed.into_iter().collect::<Vec<_>>(),
            [("lm_head.weight".into(), "model.embed_tokens.weight".into())]
        );
    }

    #[test]
    fn what_an_engine_would_stumble_over_is_named() {
        let missing =
            |name: &'static str| directory(json!({}), move |tensors| tensors.retain(|(tensor, _)| tensor != name));
        for (dir, words) in [
            (missing("lm_head.weight"), "`lm_head.weight`, the head, and config.json does not tie it"),
            (missing("model.layers.0.mlp.up_proj.weight"), "no tensor `model.layers.0.mlp.up_proj.weight`"),
            (directory(json!({}), |tensors| tensors.push(("score.weight".into(), vec![1, 8]))), "`score.weight`"),
            (directory(json!({}), |tensors| tensors[0].1 = vec![5, 8]), "[5, 8], the configuration asks for [4, 8]"),
            (
                directory(json!({}), |tensors| {
                    for (name, _) in tensors {
                        *name = format!("_orig_mod.{name}");
                    }
                }),
                "no tensor `model.embed_tokens.weight`",
            ),
            (directory(json!({"hidden_act": "gelu"}), |_| {}), "`hidden_act` is \"gelu\""),
            (directory(json!({"rms_norm_eps": "1e-05"}), |_| {}), "`rms_norm_eps` must be a number"),
        ] {
            let refused = refused(&dir);
            assert!(refused.contains(words), "{refused}");
        }
        for (dtype, width) in [("F64", 8), ("F8_E4M3", 1)] {
            let dir = directory(json!({}), |_| {});
            let tensors = ModelConfig::from_json(&config(&json!({}))).unwrap().tensors();
            write_weights(&dir.path().join("model.safetensors"), &tensors, dtype, width);
            let refused = refused(&dir);
            assert!(refused.contains(&format!("has type {dtype}")) && !refused.contains("corrupt"), "{refused}");
        }
    }

    #[test]
    fn missing_files_are_named() {
        let absent = Checkpoint::open(Path::new("/nonexistent/model")).unwrap_err().to_string();
        assert!(absent.contains("/nonexistent/model"), "{absent}");
        let dir = directory(json!({}), |_| {});
        std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
        assert!(refused(&dir).contains("no `model.safetensors`"));
        std::fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
        assert!(refused(&dir).contains("tokenizer.json` is missing"));
        std::fs::remove_file(dir.path().join("config.json")).unwrap();
        assert!(refused(&dir).contains("config.json` is missing"));
        std::fs::write(dir.path().join("adapter_config.json"), "{}").unwrap();
        assert!(refused(&dir).contains("adapter"));
    }
}
