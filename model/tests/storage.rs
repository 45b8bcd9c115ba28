//! Weights in the types that checkpoints have.

mod support;

use orpo_model::Checkpoint;
use orpo_model::infer::{Inference, Storage};
use support::*;

/// The values that a narrow type holds give the same bits as these values in f32.
#[test]
fn narrow_types_compute_as_their_values_in_f32() {
    for (i, json) in configs().into_iter().enumerate() {
        for dtype in ["BF16", "F16"] {
            let (_narrow_dir, narrow) = random_checkpoint(&json, dtype);
            let wide_dir = tempfile::tempdir().unwrap();
            std::fs::write(wide_dir.path().join("config.json"), json.to_string()).unwrap();
            let weights = safetensors(&random_weights(&narrow.config, dtype), "F32");
            std::fs::write(wide_dir.path().join("model.safetensors"), weights).unwrap();
            let narrow = Inference::load(&narrow, None).unwrap();
            let wide_checkpoint = Checkpoint::open(wide_dir.path()).unwrap();
            let wide = Inference::load(&wide_checkpoint, None).unwrap();
            assert!(narrow.bytes() * 3 < wide.bytes() * 2, "{} of {} bytes", narrow.bytes(), wide.bytes());
            let ids = random_ids(40, 97, 1);
            assert_same_bits(&logits(&narrow, &ids), &logits(&wide, &ids), &format!("model {i}, {dtype}"));
            let storage = if dtype == "BF16" { Storage::Bf16 } else { Storage::F16 };
            let narrowed = Inference::load(&wide_checkpoint, Some(storage)).unwrap();
            assert_eq!(narrowed.bytes(), narrow.bytes());
            assert_same_bits(&logits(&narrowed, &ids), &logits(&wide, &ids), &format!("model {i} to {dtype}"));
        }
    }
}

#[test]
fn shards_are_one_model() {
    let json = &configs()[4];
    let (dir, checkpoint) = random_checkpoint(json, "F32");
    let expected = Inference::load(&checkpoint, None).unwrap();
    let weights = random_weights(&checkpoint.config, "F32");
    let (one, other) = weights.split_at(weights.len() / 2);
    let mut map = serde_json::Map::new();
    for (file, tensors) in [("a.safetensors", one), ("b.safetensors", other)] {
        std::fs::write(dir.path().join(file), safetensors(tensors, "F32")).unwrap();
        map.extend(tensors.iter().map(|(name, ..)| (name.clone(), file.into())));
    }
    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let index = serde_json::json!({ "weight_map": map });
    std::fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    let sharded = Inference::load(&Checkpoint::open(dir.path()).unwrap(), None).unwrap();
    let ids = random_ids(40, 97, 1);
    assert_same_bits(&logits(&sharded, &ids), &logits(&expected, &ids), "shards");
}
