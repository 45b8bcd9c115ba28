//! A tiny model with random weights, made anew for each test: Llama's layers, the double's tokenizer.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use crate::common::{EOS, TEMPLATE, VOCABULARY, write_tokenizer};

const HIDDEN: usize = 32;
const INTERMEDIATE: usize = 64;
const LAYERS: usize = 2;
const HEADS: usize = 4;

/// Writes a checkpoint with its weights in `dtype`, the same values in each. `extra` goes into its config.
pub fn write(dir: &Path, dtype: DType, extra: Value) {
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
    candle_core::safetensors::save(&weights(dtype), dir.join("model.safetensors")).unwrap();
}

fn weights(dtype: DType) -> HashMap<String, Tensor> {
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
    let tensor = |(name, shape): (String, Vec<usize>)| {
        // Norms near 1, matrices within plus and minus a half.
        let offset = if shape.len() == 1 { 1.0 } else { 0.0 };
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                offset + (state >> 40) as f32 / (1_u64 << 24) as f32 - 0.5
            })
            .collect();
        // By way of bf16: f16 and f32 have these values, too.
        let rounded = Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(DType::BF16).unwrap();
        (name, rounded.to_dtype(dtype).unwrap())
    };
    shapes.into_iter().map(tensor).collect()
}
