//! Sliding windows far beyond the window, against a dense masked computation in f64.

mod support;

use std::collections::BTreeMap;

use orpo_model::infer::Inference;
use orpo_model::kv::PAGE;
use orpo_model::{Checkpoint, ModelConfig, Positions};
use serde_json::{Value, json};
use support::*;

const LENGTH: usize = 150;

fn config() -> Value {
    json!({"model_type": "mistral", "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12, "vocab_size": 97,
        "max_position_embeddings": 200, "sliding_window": 37, "rope_theta": 10000.0, "rms_norm_eps": 1e-5,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]})
}

/// Rows of numbers in f64, the slow and obvious way.
type Rows = Vec<Vec<f64>>;

struct Reference {
    config: ModelConfig,
    weights: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Reference {
    fn linear(&self, x: &Rows, name: &str) -> Rows {
        let (shape, weight) = &self.weights[&format!("{name}.weight")];
        let row = |x: &Vec<f64>| {
            let dot = |w: &[f32]| w.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum();
            weight.chunks_exact(shape[1]).map(dot).collect()
        };
        x.iter().map(row).collect()
    }

    fn norm(&self, x: &Rows, name: &str) -> Rows {
        let weight = &self.weights[&format!("{name}.weight")].1;
        let row = |x: &Vec<f64>| {
            let square = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
            let factor = 1.0 / (square + self.config.norm_eps).sqrt();
            x.iter().zip(weight).map(|(x, w)| x * factor * f64::from(*w)).collect()
        };
        x.iter().map(row).collect()
    }

    fn rotated(&self, x: &Rows) -> Rows {
        let Positions::Rope(rope) = &self.config.positions else { panic!("a Mistral rotates") };
        let (d, half) = (self.config.head_dim, self.config.head_dim / 2);
        let row = |(position, x): (usize, &Vec<f64>)| {
            let mut y = x.clone();
            for head in y.chunks_exact_mut(d) {
                for i in 0..half {
                    let angle = position as f64 * rope.theta.powf(-2.0 * i as f64 / d as f64);
                    let (a, b) = (head[i], head[i + half]);
                    head[i] = a * angle.cos() - b * angle.sin();
                    head[i + half] = b * angle.cos() + a * angle.sin();
                }
            }
            y
        };
        x.iter().enumerate().map(row).collect()
    }

    fn attention(&self, x: &Rows, prefix: &str, window: Option<usize>) -> Rows {
        let (heads, d) = (self.config.num_attention_heads, self.config.head_dim);
        let shared = heads / self.config.num_key_value_heads;
        let [q, k, v] = ["q", "k", "v"].map(|name| self.linear(x, &format!("{prefix}self_attn.{name}_proj")));
        let (q, k) = (self.rotated(&q), self.rotated(&k));
        let mut out = vec![vec![0.0; heads * d]; x.len()];
        for i in 0..x.len() {
            for head in 0..heads {
                let (at, kv) = (head * d, head / shared * d);
                let sees = |j: usize| j <= i && window.is_none_or(|window| i - j < window);
                let score = |j: usize| match sees(j) {
                    true => (0..d).map(|c| q[i][at + c] * k[j][kv + c]).sum::<f64>() / (d as f64).sqrt(),
                    false => f64::NEG_INFINITY,
                };
                let scores: Vec<f64> = (0..x.len()).map(score).collect();
                let sum: f64 = scores.iter().map(|score| score.exp()).sum();
                for c in 0..d {
                    out[i][at + c] = (0..x.len()).map(|j| scores[j].exp() / sum * v[j][kv + c]).sum();
                }
            }
        }
        self.linear(&out, &format!("{prefix}self_attn.o_proj"))
    }

    fn logits(&self, ids: &[u32]) -> Vec<f32> {
        let width = self.config.hidden_size;
        let embedding = &self.weights["model.embed_tokens.weight"].1;
        let embed = |id: &u32| embedding[*id as usize * width..][..width].iter().map(|x| f64::from(*x)).collect();
        let mut x: Rows = ids.iter().map(embed).collect();
        let add = |x: &mut Rows, y: Rows| {
            x.iter_mut().flatten().zip(y.into_iter().flatten()).for_each(|(x, y)| *x += y);
        };
        for (layer, window) in self.config.windows.iter().enumerate() {
            let prefix = format!("model.layers.{layer}.");
            let h = self.norm(&x, &format!("{prefix}input_layernorm"));
            add(&mut x, self.attention(&h, &prefix, *window));
            let h = self.norm(&x, &format!("{prefix}post_attention_layernorm"));
            let mut gate = self.linear(&h, &format!("{prefix}mlp.gate_proj"));
            let up = self.linear(&h, &format!("{prefix}mlp.up_proj"));
            let gated = gate.iter_mut().flatten().zip(up.into_iter().flatten());
            gated.for_each(|(gate, up)| *gate = *gate / (1.0 + (-*gate).exp()) * up);
            add(&mut x, self.linear(&gate, &format!("{prefix}mlp.down_proj")));
        }
        let x = self.linear(&self.norm(&x, "model.norm"), "lm_head");
        x.into_iter().flatten().map(|x| x as f32).collect()
    }
}

fn models() -> (Inference, Reference) {
    let json = config();
    let (dir, checkpoint): (_, Checkpoint) = random_checkpoint(&json, "F32");
    let config = checkpoint.config.clone();
    let weights = random_weights(&config, "F32").into_iter().map(|(name, shape, values)| (name, (shape, values)));
    let reference = Reference { config: config.clone(), weights: weights.collect() };
    let model = Inference::load(&checkpoint, None).unwrap();
    drop(dir);
    (model, reference)
}

#[test]
fn what_a_dense_masked_computation_gives() {
    let (model, reference) = models();
    let ids = random_ids(LENGTH, 97, 3);
    let expected = reference.logits(&ids);
    let distance = distance(&logits(&model, &ids), &expected);
    println!("largest difference {distance:e} of logits up to {:e}", expected.iter().fold(0f32, |m, x| m.max(x.abs())));
    assert!(distance < 2e-4, "{distance}");
    // The window matters: without it the logits are others.
    let mut full = Reference { config: reference.config.clone(), ..reference };
    full.config.windows = vec![None; 3];
    assert!(support::distance(&full.logits(&ids), &expected) > 0.1);
}

#[test]
fn pages_come_back_and_no_bit_changes() {
    let (model, _) = models();
    let ids = random_ids(LENGTH, 97, 3);
    let expected = logits(&model, &ids);
    let mut runner = Runner { releases: true, ..Runner::new(&model) };
    let mut sequence = runner.sequence(&ids);
    runner.step(&mut [(&mut sequence, 20)]);
    let mut most = 0;
    while sequence.done < ids.len() {
        runner.step(&mut [(&mut sequence, 1)]);
        most = most.max(runner.pages.total(0) - runner.pages.free(0));
    }
    assert_same_bits(&sequence.logits, &expected, "released");
    // A window of 37 touches four pages at most.
    assert_eq!(most, 4);
    assert_eq!(runner.pages.total(1) - runner.pages.free(1), LENGTH.div_ceil(PAGE));
    sequence.table.clear(&mut runner.pages);
    assert!((0..2).all(|group| runner.pages.free(group) == runner.pages.total(group)));
}
