//! The engine on candle with tiny checkpoints of Phi and OPT, against numbers computed by `transformers` in float64.
#![cfg(feature = "candle")]

#[path = "../../model/tests/cases/mod.rs"]
mod cases;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use orpo_chat::ChatTokenizer;
use orpo_serve::checkpoint::Checkpoint;
use orpo_serve::engine::{self, Engine, EngineChoice, EngineError, Finish, GenerateRequest, Sampling, Step};
use serde_json::{Value, json};

const TOLERANCE: f64 = 1e-3;
/// `max_position_embeddings` of the checkpoints.
const CONTEXT: usize = 256;

/// The folders of golden numbers, or a printed line why there are none.
fn golden() -> Vec<PathBuf> {
    let shared = std::env::var_os("ORPO_SHARED").map_or_else(|| PathBuf::from("../../shared"), PathBuf::from);
    let folders = ["phi", "opt", "opt350"].map(|name| shared.join("train/golden").join(name));
    let (found, absent): (Vec<_>, Vec<_>) = folders.into_iter().partition(|folder| folder.is_dir());
    for folder in absent {
        println!("skipped: no `{}`", folder.display());
    }
    found
}

fn read(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

async fn load(dir: &Path) -> Arc<dyn Engine> {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let tokenizer = ChatTokenizer::from_dir(dir).unwrap();
    let selected = engine::choice::select(EngineChoice::Auto, &checkpoint).unwrap();
    assert_eq!(selected.engine(), EngineChoice::Candle);
    let prepared = selected.prepare(&checkpoint, tokenizer.eos_ids()).unwrap();
    engine::load(prepared, &tokenizer, engine::Options::default()).await.unwrap()
}

fn greedy(prompt_ids: Vec<u32>, max_tokens: usize) -> GenerateRequest {
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    GenerateRequest { prompt_ids, max_tokens, eos_ids: Vec::new(), sampling, top_logprobs: 2 }
}

async fn steps(engine: &dyn Engine, request: GenerateRequest) -> Result<Vec<Step>, EngineError> {
    let mut generation = engine.generate(request)?;
    let mut steps: Vec<Step> = Vec::new();
    while steps.last().is_none_or(|step| step.finish.is_none()) {
        steps.push(generation.next().await?);
    }
    Ok(steps)
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// The prompts of a folder with the greedy replies to them.
fn cases(folder: &Path) -> (Vec<Value>, Vec<u32>) {
    let golden = read(folder.join("generation.json"));
    let eos = golden["eos_token_id"].as_u64().unwrap() as u32;
    (golden["runs"]["base"].as_array().unwrap().clone(), vec![eos])
}

#[tokio::test]
async fn greedy_tokens_and_their_margins_are_those_of_transformers() {
    for folder in golden() {
        let engine = load(&folder.join("model")).await;
        assert_eq!(engine.context_length(), CONTEXT);
        let (cases, eos_ids) = cases(&folder);
        let mut worst = 0.0_f64;
        for case in cases {
            let expected = ids(&case["output_ids"]);
            let prompt_ids = ids(&case["prompt_input_ids"]);
            let request = || GenerateRequest { eos_ids: eos_ids.clone(), ..greedy(prompt_ids.clone(), 24) };
            let reply = steps(&*engine, request()).await.unwrap();
            assert_eq!(reply.iter().map(|step| step.token.id).collect::<Vec<_>>(), expected, "{}", folder.display());
            for (step, margin) in reply.iter().zip(case["margin"].as_array().unwrap()) {
                let [best, second] = step.token.top[..] else { panic!("two were asked for") };
                assert_eq!(best, (step.token.id, step.token.logprob));
                worst = worst.max((f64::from(best.1 - second.1) - margin.as_f64().unwrap()).abs());
            }
            // To the bit, whatever came before.
            assert_eq!(steps(&*engine, request()).await.unwrap(), reply);
        }
        println!("{}: largest difference of a margin {worst:.1e}", folder.display());
        assert!(worst < TOLERANCE, "{}: {worst}", folder.display());
    }
}

#[tokio::test]
async fn scores_are_the_log_probabilities_of_transformers() {
    for folder in golden() {
        let engine = load(&folder.join("model")).await;
        let rows = ids_of_batch(&folder);
        let forward = candle_core::safetensors::load(folder.join("forward.safetensors"), &Device::Cpu).unwrap();
        let expected: Vec<Vec<f64>> = forward["token_logps"].to_vec2().unwrap();
        assert_eq!(rows.len(), expected.len());
        let mut worst = 0.0_f64;
        for (row, expected) in rows.into_iter().zip(expected) {
            let scores = engine.score(row.clone(), 1).unwrap().finish().await.unwrap();
            assert_eq!(scores.iter().map(|score| score.id).collect::<Vec<_>>(), row[1..]);
            for (score, expected) in scores.iter().zip(expected) {
                worst = worst.max((f64::from(score.logprob) - expected).abs());
                assert!(score.top[0].1 > score.logprob || score.top[0] == (score.id, score.logprob));
            }
        }
        println!("{}: largest difference of a log-probability {worst:.1e}", folder.display());
        assert!(worst < TOLERANCE, "{}: {worst}", folder.display());
    }
}

/// The first batch, without padding.
fn ids_of_batch(folder: &Path) -> Vec<Vec<u32>> {
    let batches = read(folder.join("batches.json"));
    let batch = &batches["batches"][0];
    let rows = batch["input_ids"].as_array().unwrap().iter().zip(batch["attention_mask"].as_array().unwrap());
    rows.map(|(row, mask)| ids(row).into_iter().zip(ids(mask)).filter(|pair| pair.1 == 1).map(|pair| pair.0).collect())
        .collect()
}

#[tokio::test]
async fn a_step_with_the_cache_equals_a_pass_over_the_whole_text() {
    for folder in golden() {
        let engine = load(&folder.join("model")).await;
        // More than one pass of OPT, and the last position.
        let prompt: Vec<u32> = (0..200).map(|index| 3 + index * 7 % 500).collect();
        let reply = steps(&*engine, greedy(prompt.clone(), CONTEXT - 200)).await.unwrap();
        assert_eq!(reply.last().unwrap().finish, Some(Finish::Length));
        let text: Vec<u32> = prompt.iter().copied().chain(reply.iter().map(|step| step.token.id)).collect();
        let scores = engine.score(text.clone(), 2).unwrap().finish().await.unwrap();
        assert_eq!(scores.len(), CONTEXT - 1);
        for (index, step) in reply.iter().enumerate() {
            let whole = steps(&*engine, greedy(text[..200 + index].to_vec(), 1)).await.unwrap();
            assert_eq!(scores[199 + index].id, step.token.id);
            for other in [&scores[199 + index], &whole[0].token] {
                assert!((other.logprob - step.token.logprob).abs() < 1e-5, "{index}: {other:?} and {step:?}");
            }
        }
    }
}

#[tokio::test]
async fn one_request_does_not_disturb_another() {
    for folder in golden() {
        let engine = load(&folder.join("model")).await;
        let prompt: Vec<u32> = vec![2, 56, 86, 266];
        let seeded = || {
            let sampling = Sampling { seed: Some(3), ..Sampling::default() };
            GenerateRequest { sampling, ..greedy(prompt.clone(), 20) }
        };
        let expected = steps(&*engine, greedy(prompt.clone(), 20)).await.unwrap();
        let sampled = steps(&*engine, seeded()).await.unwrap();
        assert_ne!(expected, sampled);

        let mut cancelled = engine.generate(greedy(prompt.clone(), CONTEXT - 4)).unwrap();
        cancelled.next().await.unwrap();
        drop(cancelled);
        let unknown = steps(&*engine, greedy(vec![1, 4_000_000], 5)).await;
        assert!(matches!(unknown, Err(EngineError::Failed(_))), "{unknown:?}");
        let too_long = steps(&*engine, greedy(vec![5; CONTEXT + 1], 5)).await;
        assert!(matches!(too_long, Err(EngineError::Failed(_))), "{too_long:?}");

        let (first, scores, second) = tokio::join!(
            steps(&*engine, greedy(prompt.clone(), 20)),
            engine.score(prompt.clone(), 0).unwrap().finish(),
            steps(&*engine, seeded()),
        );
        assert_eq!((first.unwrap(), second.unwrap()), (expected, sampled));
        assert_eq!(scores.unwrap().len(), 3);
        assert!(engine.is_ready());
    }
}

#[tokio::test]
async fn shards_are_read_as_one() {
    for folder in golden() {
        let source = folder.join("model");
        let target = tempfile::tempdir().unwrap();
        for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(source.join(name), target.path().join(name)).unwrap();
        }
        let weights = candle_core::safetensors::load(source.join("model.safetensors"), &Device::Cpu).unwrap();
        let mut names: Vec<&String> = weights.keys().collect();
        names.sort();
        let mut weight_map = serde_json::Map::new();
        for (index, names) in names.chunks(names.len().div_ceil(2)).enumerate() {
            let file = format!("model-0000{}-of-00002.safetensors", index + 1);
            let tensors = names.iter().map(|&name| (name.clone(), weights[name].clone()));
            let tensors: std::collections::HashMap<String, Tensor> = tensors.collect();
            candle_core::safetensors::save(&tensors, target.path().join(&file)).unwrap();
            weight_map.extend(names.iter().map(|&name| (name.clone(), json!(file))));
        }
        let index = json!({"metadata": {}, "weight_map": weight_map}).to_string();
        std::fs::write(target.path().join("model.safetensors.index.json"), index).unwrap();
        let (whole, sharded) = (load(&source).await, load(target.path()).await);
        let request = || greedy(vec![2, 56, 86], 10);
        assert_eq!(steps(&*sharded, request()).await.unwrap(), steps(&*whole, request()).await.unwrap());
    }
}

#[tokio::test]
async fn a_checkpoint_that_lacks_a_tensor_is_refused_by_its_name() {
    for folder in golden() {
        let source = folder.join("model");
        let target = tempfile::tempdir().unwrap();
        for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(source.join(name), target.path().join(name)).unwrap();
        }
        let mut weights = candle_core::safetensors::load(source.join("model.safetensors"), &Device::Cpu).unwrap();
        let removed = weights.keys().find(|name| name.ends_with("layers.1.fc2.bias") || name.ends_with("mlp.fc2.bias"));
        let removed = removed.unwrap().clone();
        weights.remove(&removed);
        candle_core::safetensors::save(&weights, target.path().join("model.safetensors")).unwrap();
        // Before an engine sees it.
        let refused = Checkpoint::open(target.path()).unwrap_err().to_string();
        assert!(refused.contains(&removed), "{refused}");
    }
}

#[tokio::test]
async fn checkpoints_of_other_programs_are_scored_as_transformers_does_or_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    for (number, (case, model)) in cases::cases(&["phi", "opt", "opt350"]).into_iter().enumerate() {
        let dir = dir.path().join(number.to_string());
        case.write(&model, &dir);
        if let Err(refused) = Checkpoint::open(&dir) {
            let (refused, words) = (refused.to_string(), case.text("refused"));
            assert!(!words.is_empty() && refused.contains(words), "{}: {refused}", case.name());
            continue;
        }
        let engine = load(&dir).await;
        let (count, expected) = case.expected(engine.context_length()).unwrap();
        let scores = engine.score(cases::ids()[..count].to_vec(), 0).unwrap().finish().await.unwrap();
        let logp: f64 = scores.iter().map(|score| f64::from(score.logprob)).sum();
        assert!((logp - expected).abs() < 5e-3, "{}: {logp}, transformers {expected}", case.name());
    }
}
