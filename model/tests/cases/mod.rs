//! Checkpoints as other programs write them, made of the reference models: fields of `config.json` that contradict each
//! other or are missing, and tensors under other names. Trainer and server must read each as `transformers` does.
#![allow(dead_code, reason = "every test binary uses a part of this")]

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// Beginning with the BOS of the reference models.
pub fn ids() -> Vec<u32> {
    std::iter::once(0).chain(60..100).collect()
}

/// One of `cases.json`, where `logp` is the sum of the log-probabilities of [`ids`] from the second on by transformers 5.24
/// in float32 (`attn_implementation="eager"`), `first_16` that of the first 16 ids, for models with a window of 16, and
/// `refused` words of the message where the file contradicts itself or asks
/// for what is not computed; `mistralrs` are words of that engine's refusal.
pub struct Case(Value);

/// The cases of the `families`, each with its reference model; a printed line for a model that is not at hand.
pub fn cases(families: &[&str]) -> Vec<(Case, PathBuf)> {
    let shared = std::env::var_os("ORPO_SHARED").map_or_else(|| PathBuf::from("../../shared"), PathBuf::from);
    let all: Vec<Value> = serde_json::from_str(include_str!("cases.json")).unwrap();
    let mut found = Vec::new();
    for case in all.into_iter().map(Case).filter(|case| families.contains(&case.text("family"))) {
        let model = shared.join("train/golden").join(case.text("family")).join("model");
        if model.is_dir() {
            found.push((case, model));
        } else {
            println!("skipped: no `{}`", model.display());
        }
    }
    found
}

impl Case {
    /// How many ids can be scored where a context has `context_length` of them, and the sum.
    pub fn expected(&self, context_length: usize) -> Option<(usize, f64)> {
        match context_length {
            16 => Some((16, self.number("first_16")?)),
            length => Some((ids().len(), self.number("logp")?)).filter(|(count, _)| *count <= length),
        }
    }

    pub fn text(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap_or_default()
    }

    pub fn number(&self, key: &str) -> Option<f64> {
        self.0[key].as_f64()
    }

    pub fn name(&self) -> String {
        format!("{}, {}", self.text("family"), self.text("case"))
    }

    /// Writes the checkpoint made of `model` to the new directory `dir`.
    pub fn write(&self, model: &Path, dir: &Path) {
        std::fs::create_dir(dir).unwrap();
        for name in ["tokenizer.json", "tokenizer_config.json", "model.safetensors"] {
            std::fs::copy(model.join(name), dir.join(name)).unwrap();
        }
        let mut config: Map<String, Value> =
            serde_json::from_slice(&std::fs::read(model.join("config.json")).unwrap()).unwrap();
        for (field, value) in self.0["set"].as_object().into_iter().flatten() {
            config.insert(field.clone(), value.clone());
        }
        for field in self.0["remove"].as_array().into_iter().flatten() {
            config.remove(field.as_str().unwrap());
        }
        std::fs::write(dir.join("config.json"), Value::Object(config).to_string()).unwrap();
        if !self.text("weights").is_empty() {
            self.change_weights(&dir.join("model.safetensors"));
        }
    }

    /// `without_prefix`: no `model.` before the names; `lone_head`: the embedding under the head's name only; `own_head`: a
    /// head that is the embedding with its rows turned by one.
    fn change_weights(&self, path: &Path) {
        let bytes = std::fs::read(path).unwrap();
        let data_at = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Map<String, Value> = serde_json::from_slice(&bytes[8..data_at]).unwrap();
        let mut data = bytes[data_at..].to_vec();
        let is_embedding = |name: &str| name.ends_with("embed_tokens.weight");
        let embedding = header.iter().find(|(name, _)| is_embedding(name)).unwrap().1.clone();
        let mut changed = Map::new();
        for (name, info) in header {
            let name = match self.text("weights") {
                "without_prefix" => name.trim_start_matches("model.").to_string(),
                "lone_head" if is_embedding(&name) => "lm_head.weight".to_string(),
                // The head that the model has makes room for the other one.
                _ if name == "lm_head.weight" => "model.rotary_emb.inv_freq".to_string(),
                _ => name,
            };
            changed.insert(name, info);
        }
        if self.text("weights") == "own_head" {
            let at = |index: usize| embedding["data_offsets"][index].as_u64().unwrap() as usize;
            let rows = embedding["shape"][0].as_u64().unwrap() as usize;
            let mut head = data[at(0)..at(1)].to_vec();
            let row = head.len() / rows;
            head.rotate_right(row);
            let mut info = embedding.clone();
            info["data_offsets"] = serde_json::json!([data.len(), data.len() + head.len()]);
            changed.insert("lm_head.weight".into(), info);
            data.extend(head);
        }
        let header = Value::Object(changed).to_string();
        std::fs::write(path, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()).unwrap();
    }
}
