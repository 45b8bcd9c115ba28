//! The decoder against candle-transformers' forward pass, and its gradients against nothing but themselves.

mod support;

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, qwen3};
use orpo_model::{Decoder, LlamaShape, ModelConfig, PackedRows, Trained};
use orpo_train::data::{Example, Sequence, collate};
use orpo_train::loss::NllTarget;
use orpo_train::step::{Objective, forward, forward_backward, weighted_forward_backward};
use serde_json::json;
use support::tensor;

fn config(tie_word_embeddings: bool) -> ModelConfig {
    ModelConfig::llama(&LlamaShape {
        hidden_size: 32,
        intermediate_size: 48,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        vocab_size: 40,
        max_position_embeddings: 64,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        tie_word_embeddings,
        // Larger than usual, so that attention is not close to uniform.
        initializer_range: 0.2,
    })
}

fn vars(decoder: &Decoder) -> VarBuilder<'static> {
    let tensors: HashMap<String, Tensor> = decoder.params().iter().map(|p| (p.name().to_string(), tensor(p))).collect();
    VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu)
}

fn input(ids: &[u32]) -> Tensor {
    Tensor::new(ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap()
}

/// Logits of the last position by candle-transformers' Llama.
fn llama(decoder: &Decoder, rope_scaling: Option<llama::Llama3RopeConfig>, ids: &[u32]) -> Vec<f32> {
    let config = decoder.config();
    let theirs = llama::Config {
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        vocab_size: config.vocab_size,
        num_hidden_layers: config.num_hidden_layers,
        num_attention_heads: config.num_attention_heads,
        num_key_value_heads: config.num_key_value_heads,
        use_flash_attn: false,
        rms_norm_eps: config.norm_eps,
        rope_theta: 10_000.0,
        bos_token_id: None,
        eos_token_id: None,
        rope_scaling,
        max_position_embeddings: config.max_position_embeddings,
        tie_word_embeddings: config.tie_word_embeddings,
    };
    let mut cache = llama::Cache::new(false, DType::F32, &theirs, &Device::Cpu).unwrap();
    let model = llama::Llama::load(vars(decoder), &theirs).unwrap();
    model.forward(&input(ids), 0, &mut cache).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Compares the logits of some positions of a sequence with those that `oracle` gives for the sequence up to there.
fn assert_logits(decoder: &Decoder, oracle: impl Fn(&[u32]) -> Vec<f32>) {
    let ids: Vec<u32> = (0..30).map(|i| (i * 7 + 3) % 40).collect();
    let ours = decoder.logits(&PackedRows::single(ids.clone())).unwrap();
    for length in [1, 2, 30] {
        for (a, b) in ours.row(length - 1).iter().zip(oracle(&ids[..length])) {
            assert!((a - b).abs() < 1e-5, "{a} against {b}");
        }
    }
}

#[test]
fn logits_equal_candle_transformers() {
    for tied in [false, true] {
        let decoder = Decoder::random(&config(tied), 1).unwrap();
        assert_logits(&decoder, |ids| llama(&decoder, None, ids));
    }
}

#[test]
fn llama_3_rope_scaling_equals_candle_transformers() {
    let json = json!({
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 40, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "initializer_range": 0.2,
        // Of the four wave lengths (6, 63, 628, 6283) one is kept, two are stretched and one lies between.
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 128},
    });
    let decoder = Decoder::random(&ModelConfig::from_json(&json).unwrap(), 1).unwrap();
    let scaling = || llama::Llama3RopeConfig {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 128,
        rope_type: llama::Llama3RopeType::Llama3,
    };
    assert_logits(&decoder, |ids| llama(&decoder, Some(scaling()), ids));
    let unscaled = llama(&decoder, None, &(0..30).collect::<Vec<_>>());
    let scaled = llama(&decoder, Some(scaling()), &(0..30).collect::<Vec<_>>());
    assert!(unscaled.iter().zip(&scaled).any(|(a, b)| (a - b).abs() > 1e-2), "scaling must matter for this test");
}

#[test]
fn qwen3_equals_candle_transformers() {
    let json = json!({
        "model_type": "qwen3", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 12,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 40, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6, "initializer_range": 0.2, "rope_theta": 1e6, "tie_word_embeddings": true,
    });
    let decoder = Decoder::random(&ModelConfig::from_json(&json).unwrap(), 1).unwrap();
    for param in decoder.params().iter().filter(|param| param.name().contains("_norm.weight")) {
        // Norms of a new model are 1, which would hide a mistake.
        let values: Vec<f32> = (0..param.elem_count()).map(|i| 0.5 + 0.1 * i as f32).collect();
        param.assign(&values).unwrap();
    }
    let theirs = qwen3::Config {
        vocab_size: 40,
        hidden_size: 32,
        intermediate_size: 48,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        head_dim: 12,
        attention_bias: false,
        num_key_value_heads: 2,
        max_position_embeddings: 64,
        sliding_window: None,
        max_window_layers: 0,
        tie_word_embeddings: true,
        rope_theta: 1e6,
        rms_norm_eps: 1e-6,
        use_sliding_window: false,
        hidden_act: candle_nn::Activation::Silu,
    };
    assert_logits(&decoder, |ids| {
        let mut model = qwen3::ModelForCausalLM::new(&theirs, vars(&decoder)).unwrap();
        model.forward(&input(ids), 0).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    });
    assert_eq!(decoder.params().len(), 2 + 2 * 11);
}

fn example(line: usize, prompt: &[u32], chosen: &[u32], rejected: &[u32]) -> Example {
    let sequence = |response: &[u32]| Sequence { ids: [prompt, response].concat(), prompt_len: prompt.len() };
    Example::pair(line, sequence(chosen), sequence(rejected))
}

fn examples() -> Vec<Example> {
    vec![
        example(1, &[1, 2, 3, 4], &[5, 6, 7], &[8, 9]),
        // Every id of the vocabulary occurs, so that every row of an untied embedding gets a gradient.
        example(2, &(10..25).collect::<Vec<_>>(), &(25..40).collect::<Vec<_>>(), &[0, 1]),
    ]
}

fn objective() -> Objective {
    Objective::Orpo { beta: 0.5, nll: NllTarget::Full }
}

#[test]
fn every_trainable_parameter_gets_a_gradient() {
    for tied in [false, true] {
        let decoder = Decoder::random(&config(tied), 1).unwrap();
        let examples = examples();
        let batch = collate(&examples.iter().collect::<Vec<_>>());
        forward_backward(&decoder, &batch, &objective()).unwrap();
        assert_eq!(decoder.params().len(), if tied { 20 } else { 21 });
        for param in decoder.params() {
            let slot = param.slot();
            let zero = slot.grad.iter().filter(|g| **g == 0.0).count();
            // The last token of a sequence is never an input: its embedding alone may have none.
            let allowed = if param.name() == "model.embed_tokens.weight" { slot.grad.len() / 8 } else { 0 };
            assert!(zero <= allowed, "{}: {zero} of {} elements have no gradient", param.name(), slot.grad.len());
        }
    }
}

#[test]
fn the_gradient_of_the_loss_equals_difference_quotients() {
    let decoder = Decoder::random(&config(true), 1).unwrap();
    let examples = examples();
    let batch = collate(&examples.iter().collect::<Vec<_>>());
    forward_backward(&decoder, &batch, &objective()).unwrap();
    for param in decoder.params() {
        let grad = param.slot().grad.clone();
        let values = param.values().unwrap();
        // Along the gradient itself, where the quotient is largest.
        let norm = grad.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        let loss_at = |step: f64| {
            let moved: Vec<f32> =
                values.iter().zip(&grad).map(|(w, g)| w + (step * f64::from(*g) / norm) as f32).collect();
            param.assign(&moved).unwrap();
            forward(&decoder, &batch, &objective()).unwrap().loss
        };
        let quotient = (loss_at(1e-2) - loss_at(-1e-2)) / 2e-2;
        param.assign(&values).unwrap();
        assert!((quotient - norm).abs() < 5e-3 * norm.max(0.05), "{}: {quotient} against {norm}", param.name());
    }
}

#[test]
fn packing_changes_nothing() {
    // The same pairs one by one, unshared: each side as a document of its own.
    let decoder = Decoder::random(&config(false), 1).unwrap();
    let examples = examples();
    let together = forward(&decoder, &collate(&examples.iter().collect::<Vec<_>>()), &objective()).unwrap();
    let mut logps = (0.0, 0.0);
    for example in &examples {
        for (sequence, sum) in [(&example.chosen, &mut logps.0), (example.rejected.as_ref().unwrap(), &mut logps.1)] {
            let logits = decoder.logits(&PackedRows::single(sequence.ids.clone())).unwrap();
            let logits = Tensor::from_slice(logits.values(), logits.shape(), &Device::Cpu).unwrap();
            let logps = candle_nn::ops::log_softmax(&logits, 1).unwrap().to_vec2::<f32>().unwrap();
            let response = sequence.prompt_len..sequence.ids.len();
            let total: f32 = response.clone().map(|at| logps[at - 1][sequence.ids[at] as usize]).sum();
            *sum += f64::from(total) / response.len() as f64 / examples.len() as f64;
        }
    }
    assert!((together.logps_chosen - logps.0).abs() < 1e-5 && (together.logps_rejected - logps.1).abs() < 1e-5);
}

#[test]
fn gradients_of_micro_batches_add_up_and_are_repeatable() {
    let gradients = |batches: &[&[Example]]| -> Vec<Vec<f32>> {
        let decoder = Decoder::random(&config(true), 1).unwrap();
        for examples in batches {
            forward_backward(&decoder, &collate(&examples.iter().collect::<Vec<_>>()), &objective()).unwrap();
        }
        decoder.params().iter().map(|param| param.slot().grad.clone()).collect()
    };
    let examples = examples();
    let once = gradients(&[&examples]);
    assert_eq!(once, gradients(&[&examples]), "the same computation gives the same bits");
    for (once, twice) in once.iter().flatten().zip(gradients(&[&examples, &examples]).iter().flatten()) {
        assert!((2.0 * once - twice).abs() <= 1e-5 * once.abs().max(1e-3), "{once} {twice}");
    }
}

/// With a likelihood that is a mean over pairs, a pair then counts the same whichever micro-batch it is in.
#[test]
fn micro_batches_weighted_by_their_examples_make_the_gradient_of_one_batch() {
    let objective = Objective::Orpo { beta: 0.5, nll: NllTarget::ResponseSequences };
    let examples: Vec<Example> =
        (0..3).map(|i| example(i, &[1, 2, 3], &[4 + i as u32, 5], &[6, 7 + i as u32])).collect();
    let gradients = |decoder: &Decoder, scale: f32| -> Vec<f32> {
        decoder.params().iter().flat_map(|p| p.slot().grad.iter().map(|g| g * scale).collect::<Vec<_>>()).collect()
    };
    let whole = Decoder::random(&config(true), 1).unwrap();
    forward_backward(&whole, &collate(&examples.iter().collect::<Vec<_>>()), &objective).unwrap();
    let parts = Decoder::random(&config(true), 1).unwrap();
    for part in [&examples[..1], &examples[1..]] {
        let batch = collate(&part.iter().collect::<Vec<_>>());
        weighted_forward_backward(&parts, &batch, &objective, part.len() as f64).unwrap();
    }
    for (a, b) in gradients(&whole, 1.0).into_iter().zip(gradients(&parts, 1.0 / 3.0)) {
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }
}

#[test]
fn a_frozen_decoder_scores_the_same() {
    let trainable = Decoder::random(&config(true), 1).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let tensors: HashMap<String, Tensor> =
        trainable.params().iter().map(|p| (p.name().to_string(), tensor(p))).collect();
    candle_core::safetensors::save(&tensors, dir.path().join("model.safetensors")).unwrap();
    let files = orpo_model::WeightFiles::open(dir.path()).unwrap();
    let frozen = Decoder::load(&config(true), &files, Trained::Nothing).unwrap();
    let examples = examples();
    let batch = collate(&examples.iter().collect::<Vec<_>>());
    let score = |decoder: &Decoder| forward(decoder, &batch, &objective()).unwrap();
    assert_eq!(score(&frozen), score(&trainable));
    assert!(frozen.params().iter().all(|param: &Arc<_>| param.slot().grad.is_empty()));
}
