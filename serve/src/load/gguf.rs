//! GGUF files: which engine computes their model, and rightly.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use orpo_model::gguf::{self, GgufError, Head};

use crate::engine::EngineChoice;

/// Architectures whose tokens by mistralrs were compared with those of `transformers`.
const ARCHITECTURES: [&str; 2] = ["llama", "qwen2"];
/// mistralrs' key-value cache grows by so many positions, and fails when that steps over the context.
const CACHE_STEP: usize = 512;

/// A GGUF file that can be served.
#[derive(Debug, Clone)]
pub enum Gguf {
    /// By the engine of our own.
    Native(Box<gguf::Gguf>),
    /// By mistralrs.
    Mistralrs(StagedGguf),
}

/// A file for mistralrs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedGguf {
    /// The file.
    pub file: PathBuf,
    /// How many tokens prompt and reply may have together.
    pub context_length: usize,
}

impl Gguf {
    /// Reads the head of `file`, and chooses the engine where the choice is open: mistralrs where `native` does not know the
    /// architecture or the type of the weights, and this build has it.
    ///
    /// # Errors
    /// No whole GGUF file, a model that the engine would not compute rightly, or one that needs another build.
    pub fn open(file: &Path, choice: EngineChoice) -> anyhow::Result<Self> {
        let cannot_serve = || format!("cannot serve `{}`", file.display());
        if choice == EngineChoice::Mistralrs {
            return Ok(Self::Mistralrs(StagedGguf::open(file).with_context(cannot_serve)?));
        }
        match gguf::Gguf::open(file) {
            Ok(gguf) => Ok(Self::Native(Box::new(gguf))),
            Err(GgufError::Unsupported { reason, .. })
                if choice == EngineChoice::Auto && cfg!(feature = "mistralrs") =>
            {
                let staged = StagedGguf::open(file).with_context(|| format!("by mistralrs, as for native {reason}"));
                Ok(Self::Mistralrs(staged.with_context(cannot_serve)?))
            }
            Err(GgufError::Unsupported { reason, .. }) if choice == EngineChoice::Auto => bail!(
                "{}: {reason} by native; a build with the feature `mistralrs` may serve it, or serve the safetensors \
                 checkpoint with --quantize",
                cannot_serve()
            ),
            Err(error) => Err(error).with_context(cannot_serve),
        }
    }
}

impl StagedGguf {
    /// Reads the head of `file` for mistralrs, which passes over scaled rotary positions in these files.
    ///
    /// # Errors
    /// No whole GGUF file, or a model that mistralrs would not compute rightly.
    pub fn open(file: &Path) -> anyhow::Result<Self> {
        let head = File::open(file).and_then(|file| Head::read(&mut BufReader::new(file)));
        let head = head.context("is it a whole GGUF file?")?;
        Ok(Self { file: file.to_path_buf(), context_length: context_length(&head)? })
    }
}

fn context_length(head: &Head) -> anyhow::Result<usize> {
    let architecture = head.architecture();
    if !ARCHITECTURES.contains(&architecture) {
        let known = ARCHITECTURES.join(", ");
        bail!("architecture `{architecture}` is not supported in GGUF; supported are {known}");
    }
    if let Some(scaling) = head.text(&format!("{architecture}.rope.scaling.type")).filter(|scaling| *scaling != "none")
    {
        bail!("`rope.scaling.type` = {scaling} is not supported in GGUF");
    }
    if head.tensors().any(|name| name.starts_with("rope_f")) {
        bail!("scaled rotary frequencies (`rope_freqs`) are not supported in GGUF");
    }
    let positions = head.count(&format!("{architecture}.context_length"));
    let positions = positions.with_context(|| format!("`{architecture}.context_length` is missing"))?;
    Ok(if positions > CACHE_STEP { positions / CACHE_STEP * CACHE_STEP } else { positions })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
    }

    fn number(key: &str, value: u32) -> Vec<u8> {
        [string(key), 4_u32.to_le_bytes().to_vec(), value.to_le_bytes().to_vec()].concat()
    }

    fn word(key: &str, value: &str) -> Vec<u8> {
        [string(key), 8_u32.to_le_bytes().to_vec(), string(value)].concat()
    }

    fn file(entries: &[Vec<u8>], tensor: &str) -> Vec<u8> {
        let head = [b"GGUF".to_vec(), 3_u32.to_le_bytes().to_vec(), 1_u64.to_le_bytes().to_vec()].concat();
        let count = (entries.len() as u64).to_le_bytes().to_vec();
        // Two axes, a type, an offset.
        [head, count, entries.concat(), string(tensor), 2_u32.to_le_bytes().to_vec(), vec![0; 28]].concat()
    }

    fn context(bytes: &[u8]) -> Result<usize, String> {
        let head = Head::read(&mut &*bytes).map_err(|error| error.to_string())?;
        context_length(&head).map_err(|error| error.to_string())
    }

    #[test]
    fn the_context_is_what_the_cache_of_mistralrs_can_hold() {
        for (positions, expected) in [(256, 256), (512, 512), (1000, 512), (4096, 4096)] {
            let entries = [word("general.architecture", "llama"), number("llama.context_length", positions)];
            assert_eq!(context(&file(&entries, "output.weight")), Ok(expected));
        }
    }

    #[test]
    fn what_mistralrs_would_compute_wrongly_is_refused() {
        let llama = || vec![word("general.architecture", "llama"), number("llama.context_length", 512)];
        let scaled = [llama(), vec![word("llama.rope.scaling.type", "yarn")]].concat();
        for (bytes, words) in [
            (file(&[word("general.architecture", "gemma2")], "a"), "`gemma2` is not supported"),
            (file(&scaled, "a"), "rope.scaling.type"),
            (file(&llama(), "rope_freqs.weight"), "rope_freqs"),
            (file(&llama()[..1], "a"), "context_length"),
        ] {
            let refused = context(&bytes).unwrap_err();
            assert!(refused.contains(words), "{refused}");
        }
    }

    #[test]
    fn what_no_engine_of_this_build_reads_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        std::fs::write(&path, file(&[word("general.architecture", "mamba")], "a")).unwrap();
        for choice in [EngineChoice::Auto, EngineChoice::Native, EngineChoice::Mistralrs] {
            let refused = format!("{:#}", Gguf::open(&path, choice).unwrap_err());
            assert!(refused.contains("m.gguf") && refused.contains("`mamba` is not supported in GGUF"), "{refused}");
        }
        if cfg!(not(feature = "mistralrs")) {
            let refused = Gguf::open(&path, EngineChoice::Auto).unwrap_err().to_string();
            assert!(refused.contains("a build with the feature `mistralrs` may serve it"), "{refused}");
        }
    }
}
