//! Models in GGUF files, written by candle as llama.cpp's converter lays them out, against the same weights in a checkpoint.

mod support;

use std::f64::consts::PI;
use std::fs::File;
use std::path::PathBuf;

use candle_core::quantized::gguf_file::{self, Value as Entry};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use orpo_model::gguf::{Gguf, GgufError};
use orpo_model::infer::Inference;
use orpo_model::product::Storage;
use orpo_model::{Checkpoint, ModelConfig, Positions};
use serde_json::{Value, json};
use support::*;

/// A model in both forms.
struct Pair {
    dir: tempfile::TempDir,
    checkpoint: Checkpoint,
    architecture: &'static str,
    entries: Vec<(String, Entry)>,
    tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
}

impl Pair {
    fn new(json: &Value, architecture: &'static str) -> Self {
        let (dir, checkpoint) = random_checkpoint(json, "F32");
        let config = &checkpoint.config;
        let tensors = random_weights(config, "F32").into_iter().map(|tensor| converted(config, architecture, tensor));
        let mut pair = Self { tensors: tensors.collect(), entries: entries(config), architecture, dir, checkpoint };
        if json["rope_scaling"]["rope_type"] == "linear" {
            let factor = json["rope_scaling"]["factor"].as_f64().unwrap();
            pair.entries.push(("rope.scaling.type".into(), Entry::String("linear".into())));
            pair.entries.push(("rope.scaling.factor".into(), Entry::F32(factor as f32)));
        } else if !json["rope_scaling"].is_null() {
            let Positions::Rope(rope) = &pair.checkpoint.config.positions else { panic!("it has rotary positions") };
            let factors = llama3_factors(&json["rope_scaling"], rope.theta, rope.rotary_dim);
            pair.tensors.push(("rope_freqs.weight".into(), vec![factors.len()], factors));
        }
        pair
    }

    /// The file, with matrices of a type.
    fn write(&self, kind: GgmlDType) -> PathBuf {
        let path = self.dir.path().join("model.gguf");
        let tensors: Vec<QTensor> = self
            .tensors
            .iter()
            .map(|(_, shape, values)| {
                let tensor = Tensor::from_vec(values.clone(), shape.as_slice(), &Device::Cpu).unwrap();
                QTensor::quantize(&tensor, if shape.len() == 2 { kind } else { GgmlDType::F32 }).unwrap()
            })
            .collect();
        let tensors: Vec<(&str, &QTensor)> =
            self.tensors.iter().zip(&tensors).map(|((name, ..), tensor)| (name.as_str(), tensor)).collect();
        let names: Vec<(String, &Entry)> =
            self.entries.iter().map(|(key, entry)| (format!("{}.{key}", self.architecture), entry)).collect();
        let architecture = Entry::String(self.architecture.into());
        let mut entries: Vec<(&str, &Entry)> = names.iter().map(|(key, entry)| (key.as_str(), *entry)).collect();
        entries.push(("general.architecture", &architecture));
        gguf_file::write(&mut File::create(&path).unwrap(), &entries, &tensors).unwrap();
        path
    }

    fn opened(&self) -> Result<Gguf, GgufError> {
        Gguf::open(&self.write(GgmlDType::F32))
    }
}

/// The metadata that llama.cpp's converter writes.
fn entries(config: &ModelConfig) -> Vec<(String, Entry)> {
    let count = |key: &str, value: usize| (key.to_string(), Entry::U32(value as u32));
    let number = |key: &str, value: f64| (key.to_string(), Entry::F32(value as f32));
    let Positions::Rope(rope) = &config.positions else { panic!("it has rotary positions") };
    let mut entries = vec![
        count("context_length", config.max_position_embeddings),
        count("embedding_length", config.hidden_size),
        count("block_count", config.num_hidden_layers),
        count("feed_forward_length", config.intermediate_size),
        count("attention.head_count", config.num_attention_heads),
        count("attention.head_count_kv", config.num_key_value_heads),
        count("attention.key_length", config.head_dim),
        count("attention.value_length", config.head_dim),
        count("rope.dimension_count", rope.rotary_dim),
        number("rope.freq_base", rope.theta),
        number("attention.layer_norm_epsilon", config.norm_eps),
        number("attention.layer_norm_rms_epsilon", config.norm_eps),
    ];
    entries.extend(config.windows[0].map(|window| count("attention.sliding_window", window)));
    entries.extend(config.attention_softcap.map(|cap| number("attn_logit_softcapping", cap)));
    entries.extend(config.final_softcap.map(|cap| number("final_logit_softcapping", cap)));
    entries
}

/// A tensor under llama.cpp's name and in its order.
fn converted(
    config: &ModelConfig,
    architecture: &str,
    (name, shape, mut values): (String, Vec<usize>, Vec<f32>),
) -> (String, Vec<usize>, Vec<f32>) {
    let norms = match architecture {
        "gemma2" => [("post_attention_layernorm", "post_attention_norm"), ("pre_feedforward_layernorm", "ffn_norm")],
        _ => [("post_attention_layernorm", "ffn_norm"), ("final_layernorm", "output_norm")],
    };
    let names = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("model.output_norm", "output_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.dense", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("mlp.fc1", "ffn_up"),
        ("mlp.fc2", "ffn_down"),
    ];
    if architecture == "gemma2" && name.contains("norm") {
        values.iter_mut().for_each(|weight| *weight += 1.0);
    }
    if architecture == "llama" && (name.contains("q_proj") || name.contains("k_proj")) {
        // Row `half * width / 2 + pair` of a head goes to `2 * pair + half`.
        let (width, columns) = (config.head_dim, values.len() / shape[0]);
        let rows = (0..shape[0]).map(|row| row / width * width + row % 2 * (width / 2) + row % width / 2);
        values = rows.flat_map(|row| values[row * columns..(row + 1) * columns].to_vec()).collect();
    }
    let name = norms.iter().chain(&names).fold(name, |name, (from, to)| name.replace(from, to));
    (name, shape, values)
}

/// What llama.cpp's converter makes of the scaling of Llama 3.
fn llama3_factors(scaling: &Value, theta: f64, width: usize) -> Vec<f32> {
    let number = |key: &str| scaling[key].as_f64().unwrap();
    let [factor, low, high] = ["factor", "low_freq_factor", "high_freq_factor"].map(number);
    let original = number("original_max_position_embeddings");
    let of = |pair: usize| {
        let length = 2.0 * PI * theta.powf(2.0 * pair as f64 / width as f64);
        if length < original / high {
            1.0
        } else if length > original / low {
            factor
        } else {
            let smooth = (original / length - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    (0..width / 2).map(|pair| of(pair) as f32).collect()
}

/// A model of each architecture that is read.
fn pairs() -> Vec<Pair> {
    let mut all = configs();
    all.truncate(6);
    for (json, changes) in all.iter_mut().zip([
        json!({"attention_bias": true}),
        json!({"sliding_window": null, "layer_types": null}),
        json!({}),
        json!({"rope_theta": 12345.6, "rope_scaling": {"rope_type": "linear", "factor": 1.1}}),
        json!({}),
        json!({}),
    ]) {
        json.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    }
    let architectures = ["llama", "llama", "qwen2", "qwen3", "gemma2", "phi2"];
    all.iter().zip(architectures).map(|(json, architecture)| Pair::new(json, architecture)).collect()
}

#[test]
fn every_architecture_computes_what_its_checkpoint_computes() {
    let ids = random_ids(150, 97, 1);
    for (i, pair) in pairs().into_iter().enumerate() {
        let expected = logits(&Inference::load(&pair.checkpoint, None).unwrap(), &ids);
        let gguf = pair.opened().unwrap();
        assert_eq!(gguf.config().max_position_embeddings, 200);
        assert_eq!(gguf.config().tie_word_embeddings, pair.checkpoint.config.tie_word_embeddings);
        let found = logits(&gguf.load().unwrap(), &ids);
        if pair.tensors.iter().any(|(name, ..)| name == "rope_freqs.weight") {
            // The factors are rounded to single precision before they divide.
            let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4, "model {i}: {worst}");
        } else {
            assert_same_bits(&found, &expected, &format!("model {i}"));
        }
    }
}

#[test]
fn queries_keys_and_values_in_one_matrix_are_the_same_model() {
    let mut pair = pairs().remove(5);
    let ids = random_ids(40, 97, 1);
    let expected = logits(&pair.opened().unwrap().load().unwrap(), &ids);
    for layer in 0..3 {
        for kind in ["weight", "bias"] {
            let of = |part: &str| format!("blk.{layer}.attn_{part}.{kind}");
            let parts: Vec<_> = pair
                .tensors
                .extract_if(.., |(name, ..)| ["q", "k", "v"].iter().any(|part| *name == of(part)))
                .collect();
            let mut shape = parts[0].1.clone();
            shape[0] = parts.iter().map(|part| part.1[0]).sum();
            pair.tensors.push((of("qkv"), shape, parts.into_iter().flat_map(|part| part.2).collect()));
        }
    }
    assert_same_bits(&logits(&pair.opened().unwrap().load().unwrap(), &ids), &expected, "one matrix");
}

/// Blocks are used as they are: the same that quantising at load makes.
#[test]
fn quantised_weights_are_those_of_the_file() {
    let json = json!({"model_type": "llama", "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 97, "max_position_embeddings": 200,
        "tie_word_embeddings": true});
    let pair = Pair::new(&json, "llama");
    let ids = random_ids(40, 97, 1);
    for (kind, storage) in [
        (GgmlDType::Q4_0, Storage::Q4_0),
        (GgmlDType::Q5_0, Storage::Q5_0),
        (GgmlDType::Q8_0, Storage::Q8_0),
        (GgmlDType::Q2K, Storage::Q2K),
        (GgmlDType::Q3K, Storage::Q3K),
        (GgmlDType::Q4K, Storage::Q4K),
        (GgmlDType::Q5K, Storage::Q5K),
        (GgmlDType::Q6K, Storage::Q6K),
    ] {
        let file = Gguf::open(&pair.write(kind)).unwrap().load().unwrap();
        let model = Inference::load(&pair.checkpoint, Some(storage)).unwrap();
        assert_eq!(file.bytes(), model.bytes(), "{storage:?}");
        assert_same_bits(&logits(&file, &ids), &logits(&model, &ids), &format!("{storage:?}"));
    }
    for kind in [GgmlDType::BF16, GgmlDType::F16] {
        let exact = logits(&pair.opened().unwrap().load().unwrap(), &ids);
        let narrow = logits(&Gguf::open(&pair.write(kind)).unwrap().load().unwrap(), &ids);
        let worst = narrow.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst > 0.0 && worst < 0.5, "{kind:?}: {worst}");
    }
    let refused = Gguf::open(&pair.write(GgmlDType::Q8K)).unwrap_err();
    assert!(matches!(refused, GgufError::Unsupported { .. }));
    assert!(refused.to_string().contains("`token_embd.weight` has weights of the type 15"), "{refused}");
}

#[test]
fn what_cannot_be_read_is_refused_by_the_tensor() {
    let changed = |change: &dyn Fn(&mut Pair)| {
        let mut pair = pairs().remove(2);
        change(&mut pair);
        pair.opened().unwrap_err()
    };
    let by_name = |pair: &mut Pair, name: &str| pair.tensors.iter().position(|tensor| tensor.0 == name).unwrap();
    let missing = changed(&|pair| {
        let at = by_name(pair, "blk.1.ffn_up.weight");
        pair.tensors.remove(at);
    });
    assert!(missing.to_string().contains("model.gguf`: the tensor `blk.1.ffn_up.weight` is missing"), "{missing}");
    let shape = changed(&|pair| {
        let at = by_name(pair, "blk.1.ffn_up.weight");
        pair.tensors[at].1 = vec![48, 80];
    });
    assert!(shape.to_string().contains("`blk.1.ffn_up.weight` has the shape [48, 80], where the model needs [80, 48]"));
    for fused in [vec![3 * 48 + 1, 48], vec![3 * 48]] {
        let mut pair = pairs().remove(5);
        pair.tensors.push(("blk.0.attn_qkv.weight".into(), fused.clone(), vec![0.0; fused.iter().product()]));
        let refused = pair.opened().unwrap_err().to_string();
        assert!(refused.contains("`blk.0.attn_qkv.weight` has the shape"), "{fused:?}: {refused}");
    }
    let mut scaled = pairs().remove(0);
    scaled.tensors.last_mut().unwrap().1 = vec![4, 2];
    let refused = scaled.opened().unwrap_err().to_string();
    assert!(refused.contains("`rope_freqs.weight` has the shape [4, 2], where the model needs [8]"), "{refused}");
    let unused = changed(&|pair| pair.tensors.push(("blk.0.ffn_gate_inp.weight".into(), vec![2], vec![0.0; 2])));
    assert!(matches!(unused, GgufError::Unsupported { .. }));
    assert!(unused.to_string().contains("a tensor `blk.0.ffn_gate_inp.weight`"), "{unused}");
    let other = changed(&|pair| pair.architecture = "starcoder2");
    assert!(other.to_string().contains("the architecture `starcoder2` is not supported in GGUF; supported: llama, qw"));
    for (key, entry, words) in [
        ("rope.scaling.type", Entry::String("yarn".into()), "`qwen2.rope.scaling.type` = yarn is not supported"),
        ("expert_count", Entry::U32(8), "mixtures of experts"),
        ("attention.head_count", Entry::U32(0), "`qwen2.attention.head_count` is missing, or no positive whole number"),
    ] {
        let refused = changed(&|pair| {
            pair.entries.retain(|(name, _)| name != key);
            pair.entries.push((key.into(), entry.clone()));
        });
        assert!(refused.to_string().contains(words), "{refused}");
    }

    let path = pairs()[2].write(GgmlDType::F32);
    assert!(Gguf::open(&path).unwrap_err().to_string().contains("cannot read"), "its directory is gone");
    let pair = pairs().remove(2);
    let bytes = std::fs::read(pair.write(GgmlDType::F32)).unwrap();
    let path = pair.dir.path().join("short.gguf");
    for (end, words) in
        [(bytes.len() / 2, "is it a whole file?"), (100, "is it a whole GGUF file?"), (0, "is it a whole")]
    {
        std::fs::write(&path, &bytes[..end]).unwrap();
        let refused = Gguf::open(&path).unwrap_err().to_string();
        assert!(refused.contains(words) && refused.contains("short.gguf"), "{end}: {refused}");
    }
}
