//! Which engine runs a model.

use std::{fmt, io};

use orpo_model::{Family, ModelConfig};

use super::native::{NativeModel, NativeWeights};
use super::stage::{self, EngineConfig, Staged, engine_config};
use super::unsupported::UnsupportedModel;
use crate::checkpoint::Checkpoint;

/// What the user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum EngineChoice {
    /// native for every family that trains, mistralrs for the others
    #[default]
    Auto,
    /// mistralrs, one request at a time; in builds with the feature `mistralrs`
    Mistralrs,
    /// Our own: many requests at a time, each reply the same as alone
    Native,
}

impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Mistralrs => "mistralrs",
            Self::Native => "native",
        })
    }
}

/// An engine, and the model's config as it reads it.
#[derive(Debug, Clone, PartialEq)]
pub enum Selected {
    /// Served by mistralrs.
    Mistralrs(EngineConfig),
    /// Served by the engine of our own.
    Native(Box<ModelConfig>),
}

/// A model ready to be loaded.
#[derive(Debug)]
pub enum Prepared {
    /// A directory for mistralrs.
    Mistralrs(Staged),
    /// The checkpoint itself for the engine of our own.
    Native(Box<NativeModel>),
}

/// Finds the engine for a model.
///
/// # Errors
/// [`UnsupportedModel`] where no engine, or not the one asked for, computes the model rightly.
pub fn select(choice: EngineChoice, checkpoint: &Checkpoint) -> Result<Selected, UnsupportedModel> {
    match (choice, &checkpoint.model) {
        (EngineChoice::Native | EngineChoice::Auto, Some(model)) => Ok(Selected::Native(Box::new(model.clone()))),
        (EngineChoice::Mistralrs, _) => engine_config(checkpoint).map(Selected::Mistralrs),
        (EngineChoice::Native | EngineChoice::Auto, None) => {
            let found = UnsupportedModel::architecture_of(checkpoint);
            if choice == EngineChoice::Auto && stage::ARCHITECTURES.contains(&found.as_str()) {
                return engine_config(checkpoint).map(Selected::Mistralrs);
            }
            let native: Vec<&str> = Family::all().map(Family::architecture).collect();
            let others = stage::ARCHITECTURES.into_iter().filter(|name| !native.contains(name));
            let supported =
                format!("{} by native, {} by mistralrs", native.join(", "), others.collect::<Vec<_>>().join(", "));
            Err(UnsupportedModel::Architecture { found, supported })
        }
    }
}

impl Selected {
    /// The engine.
    pub fn engine(&self) -> EngineChoice {
        match self {
            Self::Mistralrs(_) => EngineChoice::Mistralrs,
            Self::Native(_) => EngineChoice::Native,
        }
    }

    /// Makes what the engine loads from.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn prepare(self, checkpoint: &Checkpoint, eos_ids: &[u32]) -> io::Result<Prepared> {
        Ok(match self {
            Self::Mistralrs(config) => Prepared::Mistralrs(stage::stage(checkpoint, config, eos_ids)?),
            Self::Native(config) => {
                let weights = NativeWeights::Directory(checkpoint.dir.clone());
                Prepared::Native(Box::new(NativeModel { weights, config: *config, quantize: None }))
            }
        })
    }
}

impl Prepared {
    /// The engine.
    pub fn engine(&self) -> EngineChoice {
        match self {
            Self::Mistralrs(_) => EngineChoice::Mistralrs,
            Self::Native(_) => EngineChoice::Native,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orpo_model::ModelConfig;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    fn selected(choice: EngineChoice, named: Value) -> Result<EngineChoice, String> {
        let mut config = json!({
            "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 2,
            "max_position_embeddings": 256, "vocab_size": 512, "intermediate_size": 128, "ffn_dim": 128, "head_dim": 16
        });
        for (key, value) in named.as_object().unwrap() {
            config[key] = value.clone();
        }
        let model = ModelConfig::from_json(&config).ok();
        let config = config.as_object().unwrap().clone();
        let checkpoint =
            Checkpoint { dir: PathBuf::new(), config, model, weights: Vec::new(), renamed: BTreeMap::new() };
        select(choice, &checkpoint).map(|selected| selected.engine()).map_err(|error| error.to_string())
    }

    fn of(architecture: &str) -> Value {
        json!({ "architectures": [architecture] })
    }

    #[test]
    fn each_architecture_finds_its_engine() {
        for family in Family::all() {
            assert_eq!(selected(EngineChoice::Auto, of(family.architecture())), Ok(EngineChoice::Native));
            assert_eq!(selected(EngineChoice::Native, of(family.architecture())), Ok(EngineChoice::Native));
        }
        for architecture in stage::ARCHITECTURES {
            assert_eq!(selected(EngineChoice::Mistralrs, of(architecture)), Ok(EngineChoice::Mistralrs));
        }
        assert_eq!(selected(EngineChoice::Auto, of("Phi3ForCausalLM")), Ok(EngineChoice::Mistralrs));
    }

    #[test]
    fn without_architectures_the_model_type_decides() {
        for (named, engine) in [
            (json!({"model_type": "llama"}), EngineChoice::Native),
            (json!({"model_type": "llama", "architectures": null}), EngineChoice::Native),
            (json!({"model_type": "llama", "architectures": ["LlamaModel"]}), EngineChoice::Native),
            (json!({"model_type": "phi3"}), EngineChoice::Mistralrs),
            (json!({"model_type": "opt", "architectures": ["LlamaForCausalLM"]}), EngineChoice::Native),
        ] {
            assert_eq!(selected(EngineChoice::Auto, named.clone()), Ok(engine), "{named}");
        }
        let refused = selected(EngineChoice::Auto, json!({"model_type": "gpt2"})).unwrap_err();
        assert!(refused.contains("`gpt2` is not supported"), "{refused}");
    }

    #[test]
    fn what_no_engine_or_not_the_wanted_one_can_run_is_refused_with_what_can_be() {
        for (choice, architecture, words) in [
            (EngineChoice::Auto, "GPT2LMHeadModel", "OPTForCausalLM by native, Phi3ForCausalLM by mistralrs"),
            (EngineChoice::Mistralrs, "OPTForCausalLM", "Gemma2ForCausalLM by mistralrs"),
            (EngineChoice::Native, "Phi3ForCausalLM", "OPTForCausalLM by native, Phi3ForCausalLM by mistralrs"),
        ] {
            let refused = selected(choice, of(architecture)).unwrap_err();
            assert!(refused.contains(words) && refused.contains(&format!("`{architecture}` is not supp")), "{refused}");
        }
    }
}
