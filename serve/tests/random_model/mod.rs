//! A tiny model with random weights, made anew for each test: Llama's layers, the double's tokenizer.

use std::path::Path;

use half::{bf16, f16};
use serde_json::{Map, Value, json};

use crate::common::{EOS, TEMPLATE, VOCABULARY, write_tokenizer};

const HIDDEN: usize = 32;
const INTERMEDIATE: usize = 64;
const LAYERS: usize = 2;
const HEADS: usize = 4;

/// Writes a checkpoint with its weights in `dtype` (`f32`, `bf16`, `f16`), the same values in each. `extra` goes into its
/// config.
pub fn write(dir: &Path, dtype: &str, extra: Value) {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS, "max_position_embeddings": 512, "vocab_size": VOCABULARY, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "tie_word_embeddings": false, "eos_token_id": EOS
    });
    for (key, value) in extra.as_object().unwrap() {
        config[key] = value.clone();
    }
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    write_tokenizer(dir, TEMPLATE, "<s>");
    std::fs::write(dir.join("model.safetensors"), weights(dtype)).unwrap();
}

/// A safetensors file.
fn weights(dtype: &str) -> Vec<u8> {
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_string(), vec![VOCABULARY, HIDDEN]),
        ("model.norm.weight".to_string(), vec![HIDDEN]),
        ("lm_head.weight".to_string(), vec![VOCABULARY, HIDDEN]),
    ];
    for layer in 0..LAYERS {
        let parts: [(&str, &[usize]); 9] = [
            ("input_layernorm", &[HIDDEN]),
            ("post_attention_layernorm", &[HIDDEN]),
            ("self_attn.q_proj", &[HIDDEN, HIDDEN]),
            ("self_attn.k_proj", &[HIDDEN, HIDDEN]),
            ("self_attn.v_proj", &[HIDDEN, HIDDEN]),
            ("self_attn.o_proj", &[HIDDEN, HIDDEN]),
            ("mlp.gate_proj", &[INTERMEDIATE, HIDDEN]),
            ("mlp.up_proj", &[INTERMEDIATE, HIDDEN]),
            ("mlp.down_proj", &[HIDDEN, INTERMEDIATE]),
        ];
        shapes.extend(parts.map(|(name, shape)| (format!("model.layers.{layer}.{name}.weight"), shape.to_vec())));
    }
    let mut state = 1_u64;
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, shape) in shapes {
        // Norms near 1, matrices within plus and minus a half.
        let offset = if shape.len() == 1 { 1.0 } else { 0.0 };
        let from = data.len();
        for _ in 0..shape.iter().product() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Rounded to bf16: f16 and f32 have these values, too.
            let value = bf16::from_f32(offset + (state >> 40) as f32 / (1_u64 << 24) as f32 - 0.5);
            match dtype {
                "f32" => data.extend(value.to_f32().to_le_bytes()),
                "bf16" => data.extend(value.to_le_bytes()),
                "f16" => data.extend(f16::from_f32(value.to_f32()).to_le_bytes()),
                other => panic!("no weights are made in {other}"),
            }
        }
        let offsets = [from, data.len()];
        header.insert(name, json!({"dtype": dtype.to_uppercase(), "shape": shape, "data_offsets": offsets}));
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}
