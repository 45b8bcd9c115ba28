//! Adapters beside the base: several in one pass, each as if it were merged.

mod support;

use orpo_model::infer::{Adapter, AdapterId, Batch, BatchError, Inference, LowRank, Part, Workspace};
use orpo_model::kv::{Pages, Table};
use orpo_model::{Checkpoint, ModelConfig};
use serde_json::Value;
use support::*;

const RANK: usize = 4;
const SCALE: f32 = 0.5;

/// Random matrices for every linear layer, or for every second one.
fn low_ranks(config: &ModelConfig, seed: u64, every: usize) -> Vec<LowRank> {
    let tensors = config
        .tensors()
        .into_iter()
        .filter(|(name, shape)| shape.len() == 2 && !name.contains("embed_") && !name.starts_with("lm_head"));
    let layer = |(i, (name, shape)): (usize, (String, Vec<usize>))| LowRank {
        module: name.strip_suffix(".weight").unwrap().into(),
        rank: RANK,
        a: random(RANK * shape[1], seed + 2 * i as u64).iter().map(|x| x / 4.0).collect(),
        b: random(shape[0] * RANK, seed + 2 * i as u64 + 1).iter().map(|x| x / 4.0).collect(),
        scale: SCALE,
    };
    tensors.enumerate().filter(|(i, _)| i % every == 0).map(layer).collect()
}

/// The base with the adapter added to its weights.
fn merged(json: &Value, layers: &[LowRank]) -> Inference {
    let config = ModelConfig::from_json(json).unwrap();
    let mut weights = random_weights(&config, "F32");
    for LowRank { module, a, b, .. } in layers {
        let (_, shape, weight) = weights.iter_mut().find(|(name, ..)| *name == format!("{module}.weight")).unwrap();
        for (i, weight) in weight.iter_mut().enumerate() {
            let (output, input) = (i / shape[1], i % shape[1]);
            let sum: f64 =
                (0..RANK).map(|k| f64::from(b[output * RANK + k]) * f64::from(a[k * shape[1] + input])).sum();
            *weight = (f64::from(*weight) + f64::from(SCALE) * sum) as f32;
        }
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), json.to_string()).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), safetensors(&weights, "F32")).unwrap();
    Inference::load(&Checkpoint::open(dir.path()).unwrap(), None).unwrap()
}

#[test]
fn several_in_one_pass_equal_the_merged_models() {
    for (i, json) in configs().into_iter().enumerate() {
        let mut model = random_model(&json);
        let config = model.config().clone();
        let layers = [low_ranks(&config, 100, 1), low_ranks(&config, 200, 2)];
        let adapters = layers.clone().map(|layers| model.add_adapter(Adapter::new(&config, layers).unwrap()));
        let asked = [None, Some(adapters[0]), Some(adapters[1]), Some(adapters[1]), None, Some(adapters[0])];
        let all: Vec<Vec<u32>> = (0..6).map(|k| random_ids(20 + k, config.vocab_size, k as u64)).collect();
        let mut runner = Runner::new(&model);
        let mut sequences: Vec<Sequence> =
            (all.iter().zip(asked)).map(|(ids, adapter)| Sequence { adapter, ..runner.sequence(ids) }).collect();
        runner.step(&mut sequences.iter_mut().zip(&all).map(|(s, ids)| (s, ids.len() - 1)).collect::<Vec<_>>());
        runner.step(&mut sequences.iter_mut().map(|sequence| (sequence, 1)).collect::<Vec<_>>());
        let merged = layers.map(|layers| merged(&json, &layers));
        for ((sequence, ids), adapter) in sequences.iter().zip(&all).zip(asked) {
            let alone = Runner::new(&model).logits(ids, 7, adapter);
            assert_same_bits(&sequence.logits, &alone, &format!("model {i}, {adapter:?}"));
            let base = logits(&model, ids);
            match adapter {
                None => assert_same_bits(&sequence.logits, &base, &format!("model {i}, base")),
                Some(adapter) => {
                    let expected = logits(&merged[usize::from(adapter == adapters[1])], ids);
                    let largest = expected.iter().fold(1f32, |m, x| m.max(x.abs()));
                    let distance = distance(&sequence.logits, &expected) / largest;
                    assert!(distance < 1e-5, "model {i}, {adapter:?}: {distance}");
                    assert!(support::distance(&base, &expected) > 1e-2, "model {i}: the adapter does nothing");
                }
            }
        }
    }
}

#[test]
fn an_adapter_that_does_not_fit_is_refused_by_its_layer() {
    let model = random_model(&configs()[0]);
    let refused = |change: &dyn Fn(&mut LowRank)| {
        let mut layers = low_ranks(model.config(), 1, 1);
        change(&mut layers[2]);
        Adapter::new(model.config(), layers).unwrap_err()
    };
    let error = refused(&|layer| layer.module = "lm_head".into());
    assert!(error.contains("`lm_head`"), "{error}");
    let changes: [fn(&mut LowRank); 3] = [|layer| layer.rank = 3, |layer| layer.rank = 0, |layer| layer.b.truncate(7)];
    for change in changes {
        let error = refused(&change);
        assert!(error.contains("`model.layers.0.self_attn.v_proj`"), "{error}");
    }
}

#[test]
fn an_unloaded_adapter_is_not_given_again() {
    let mut model = random_model(&configs()[0]);
    let config = model.config().clone();
    let mut add = |seed| -> AdapterId {
        let adapter = Adapter::new(&config, low_ranks(&config, seed, 1)).unwrap();
        assert!(adapter.bytes() > 0);
        model.add_adapter(adapter)
    };
    let (first, second) = (add(1), add(2));
    assert!(model.unload(first) && !model.unload(first));
    let mut pages = Pages::new(&config, 1 << 20);
    let mut table = Table::new(&pages);
    assert!(table.grow(1, &mut pages));
    let part = Part { rows: 0..1, start: 0, table: &table, adapter: Some(first) };
    let batch = Batch { ids: vec![1], parts: vec![part], wanted: vec![] };
    let error = model.forward(&batch, &mut pages, &mut Workspace::default(), &mut Vec::new()).unwrap_err();
    assert_eq!(error, BatchError::Adapter { part: 0, adapter: first });
    let third = model.add_adapter(Adapter::new(&config, []).unwrap());
    assert!(first != second && third != first && third != second);
    let mut runner = Runner::new(&model);
    let ids = random_ids(20, 97, 1);
    assert_same_bits(&runner.logits(&ids, 20, Some(third)), &logits(&model, &ids), "an empty adapter");
}
