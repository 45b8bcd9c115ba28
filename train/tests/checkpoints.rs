//! Checkpoints of other programs: read as `transformers` reads them, or refused by name.

#[path = "../../model/tests/cases/mod.rs"]
mod cases;

use orpo_model::{Checkpoint, Decoder, ModelConfig, PackedRows, Trained};

fn score(dir: &std::path::Path) -> Result<f64, String> {
    let checkpoint = Checkpoint::open(dir).map_err(|error| error.to_string())?;
    let decoder = Decoder::load(&checkpoint.config, &checkpoint.weights, Trained::Nothing);
    let decoder = decoder.map_err(|error| error.to_string())?;
    // The list of tensors that the server checks a checkpoint by is the model.
    let loaded: std::collections::BTreeMap<String, Vec<usize>> =
        decoder.params().iter().map(|param| (param.name().to_string(), param.shape().to_vec())).collect();
    assert_eq!(loaded, checkpoint.config.tensors().into_iter().collect());
    checkpoint.check_weights().map_err(|error| error.to_string())?;

    let ids = cases::ids();
    let hidden = decoder.hidden_states(&PackedRows::single(ids.clone())).unwrap();
    let predicting: Vec<u32> = (0..ids.len() as u32 - 1).collect();
    let scored = decoder.score(hidden, &predicting, &ids[1..], None).unwrap();
    Ok(scored.logps().iter().copied().map(f64::from).sum())
}

#[test]
fn every_checkpoint_is_scored_as_transformers_does_or_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let families = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "phi", "opt", "opt350"];
    for (number, (case, model)) in cases::cases(&families).into_iter().enumerate() {
        let dir = dir.path().join(number.to_string());
        case.write(&model, &dir);
        match (score(&dir), case.number("logp")) {
            (Ok(logp), Some(expected)) => {
                assert!((logp - expected).abs() < 5e-3, "{}: {logp}, transformers {expected}", case.name());
            }
            (Err(reason), None) => assert!(reason.contains(case.text("refused")), "{}: {reason}", case.name()),
            (result, expected) => panic!("{}: {result:?}, transformers {expected:?}", case.name()),
        }
    }
}

#[test]
fn a_head_of_its_own_is_trained_and_written() {
    let dir = tempfile::tempdir().unwrap();
    for (number, (case, model)) in cases::cases(&["qwen2"]).into_iter().enumerate() {
        if case.text("weights") != "own_head" {
            continue;
        }
        let dir = dir.path().join(number.to_string());
        case.write(&model, &dir);
        assert!(ModelConfig::from_dir(&dir).unwrap().0.tie_word_embeddings);
        let checkpoint = Checkpoint::open(&dir).unwrap();
        assert!(!checkpoint.config.tie_word_embeddings && checkpoint.has_own_head);
        assert_eq!(checkpoint.json["tie_word_embeddings"], false);
        assert!(checkpoint.note().unwrap().contains("different `lm_head.weight`"));
        let decoder = Decoder::load(&checkpoint.config, &checkpoint.weights, Trained::Everything).unwrap();
        assert!(decoder.trainable().iter().any(|param| param.name() == "lm_head.weight"));
    }
}
