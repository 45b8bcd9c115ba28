//! The forward pass against transformers' numbers.

mod cases;
mod support;

use std::path::Path;

use orpo_model::infer::{Adapter, AdapterId, Inference};
use orpo_model::{Checkpoint, WeightFiles};
use serde_json::Value;
use support::*;

const MODELS: [&str; 9] = ["llama", "llama3", "mistral", "qwen2", "qwen3", "gemma2", "phi", "opt", "opt350"];

fn load(dir: &Path) -> Inference {
    Inference::load(&Checkpoint::open(dir).unwrap(), None).unwrap()
}

/// The rows of the first batch, without padding.
fn first_batch(dir: &Path) -> Vec<Vec<u32>> {
    let batches = read_json(dir.join("batches.json"));
    let batch = batches.get(0).unwrap_or(&batches["batches"][0]);
    let rows = batch["input_ids"].as_array().unwrap().iter().zip(batch["attention_mask"].as_array().unwrap());
    let real = |(ids_of_row, mask)| {
        let mask = ids(mask);
        ids(ids_of_row).into_iter().zip(mask).filter(|(_, mask)| *mask == 1).map(|(id, _)| id).collect()
    };
    rows.map(real).collect()
}

#[test]
fn logits_equal_transformers() {
    for family in MODELS {
        let Some(dir) = golden(family) else { continue };
        let model = load(&dir.join("model"));
        let rows = first_batch(&dir);
        let count: usize = rows.iter().map(Vec::len).sum();
        let file = WeightFiles::open_file(&dir.join("forward.safetensors")).unwrap();
        let (_, bytes) = file.read("logits", &[count, model.config().vocab_size]).unwrap();
        let expected: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        // All rows in one pass, as a batch of sequences.
        let mut runner = Runner::new(&model);
        let mut sequences: Vec<Sequence> = rows.iter().map(|ids| runner.sequence(ids)).collect();
        runner.step(
            &mut sequences.iter_mut().zip(&rows).map(|(sequence, ids)| (sequence, ids.len())).collect::<Vec<_>>(),
        );
        let found: Vec<f32> = sequences.iter().flat_map(|sequence| sequence.logits.clone()).collect();
        let distance = distance(&found, &expected);
        println!("{family}: {distance:e} over {count} rows");
        assert!(distance < 1e-4, "{family}: {distance}");
    }
}

/// The greedy continuation of a prompt.
fn greedy(runner: &mut Runner<'_>, prompt: &[u32], count: usize, adapter: Option<AdapterId>) -> Vec<u32> {
    let vocab_size = runner.model.config().vocab_size;
    let mut sequence = Sequence { adapter, ..runner.sequence(prompt) };
    runner.step(&mut [(&mut sequence, prompt.len())]);
    while sequence.ids.len() < prompt.len() + count {
        let next = argmax(&sequence.logits[sequence.logits.len() - vocab_size..]);
        sequence.ids.push(next);
        runner.step(&mut [(&mut sequence, 1)]);
    }
    sequence.table.clear(&mut runner.pages);
    sequence.ids.split_off(prompt.len())
}

/// Of the base and of the adapters that PEFT wrote.
#[test]
fn greedy_tokens_equal_transformers() {
    for family in MODELS {
        let Some(dir) = golden(family) else { continue };
        let mut model = load(&dir.join("model"));
        let generation = read_json(dir.join("generation.json"));
        let runs: Vec<(Option<AdapterId>, &Value)> = (generation["runs"].as_object().unwrap().iter())
            .map(|(name, run)| {
                let adapter = (name != "base").then(|| model.load_adapter(&dir.join(name)).unwrap());
                (adapter, run)
            })
            .collect();
        assert_eq!(runs.len(), 3);
        let mut runner = Runner { releases: true, ..Runner::new(&model) };
        for (adapter, run) in runs {
            for case in run.as_array().unwrap() {
                let expected = ids(&case["output_ids"]);
                let found = greedy(&mut runner, &ids(&case["prompt_input_ids"]), expected.len(), adapter);
                assert_eq!(found, expected, "{family}, {adapter:?}");
            }
        }
        for group in 0..runner.pages.groups().len() {
            assert_eq!(runner.pages.free(group), runner.pages.total(group), "{family}: pages are lost");
        }
    }
}

#[test]
fn an_adapter_for_another_model_is_refused() {
    let (Some(llama), Some(phi)) = (golden("llama"), golden("phi")) else { return };
    let config = Checkpoint::open(&phi.join("model")).unwrap().config;
    let error = Adapter::open(&config, &llama.join("lora/adapter")).unwrap_err().to_string();
    assert!(error.contains("the adapter has a layer `model.layers.0."), "{error}");
}

#[test]
fn checkpoints_of_other_programs_score_as_with_transformers() {
    let all = cases::cases(&MODELS);
    let mut scored = 0;
    for (case, model) in &all {
        let Some((count, expected)) = case.expected(cases::ids().len()) else { continue };
        let dir = tempfile::tempdir().unwrap();
        case.write(model, &dir.path().join("model"));
        let model = load(&dir.path().join("model"));
        let vocab_size = model.config().vocab_size;
        let ids = &cases::ids()[..count];
        let logits = logits(&model, ids);
        let logp = |(row, id): (&[f32], &u32)| {
            let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
            f64::from(row[*id as usize]) - sum.ln()
        };
        let found: f64 = logits.chunks_exact(vocab_size).zip(&ids[1..]).map(logp).sum();
        assert!((found - expected).abs() < 2e-3, "{}: {found}, not {expected}", case.name());
        scored += 1;
    }
    assert!(all.is_empty() || scored == 98, "{scored} cases");
}
