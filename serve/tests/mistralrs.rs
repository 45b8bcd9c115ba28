//! The real engine on small checkpoints, against tokens and log-probabilities computed by `transformers` in f32.
#![cfg(feature = "mistralrs")]

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use orpo_chat::ChatTokenizer;
use orpo_serve::checkpoint::Checkpoint;
use orpo_serve::engine::{self, Engine, EngineChoice, EngineError, Finish, GenerateRequest, Sampling, Step};
use serde_json::Value;

const TOLERANCE: f64 = 1e-3;

/// A shared checkpoint, or a printed line why there is none.
fn shared_model(name: &str) -> Option<PathBuf> {
    let shared = std::env::var_os("ORPO_SHARED").map_or_else(|| PathBuf::from("../../shared"), PathBuf::from);
    let dir = shared.join("data/models").join(name);
    if !dir.is_dir() {
        println!("skipped: no `{}`", dir.display());
        return None;
    }
    Some(dir)
}

async fn load(dir: &std::path::Path) -> Arc<dyn Engine> {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let tokenizer = ChatTokenizer::from_dir(dir).unwrap();
    let selected = engine::choice::select(EngineChoice::Mistralrs, &checkpoint.config).unwrap();
    let prepared = selected.prepare(&checkpoint, tokenizer.eos_ids()).unwrap();
    engine::load(prepared, &tokenizer, NonZeroUsize::MIN).await.unwrap()
}

fn greedy(prompt_ids: Vec<u32>, max_tokens: usize) -> GenerateRequest {
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    GenerateRequest { prompt_ids, max_tokens, eos_ids: vec![2], sampling, top_logprobs: 2 }
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

#[tokio::test(flavor = "multi_thread")]
async fn greedy_tokens_and_logprobs_are_those_of_transformers() {
    for name in ["stories260k", "tinystories-656k"] {
        let Some(dir) = shared_model(name) else { continue };
        let golden: Value = serde_json::from_slice(&std::fs::read(dir.join("golden.json")).unwrap()).unwrap();
        let engine = load(&dir).await;
        assert_eq!(engine.context_length(), 512);
        let mut worst = 0.0_f64;
        for case in golden["cases"].as_array().unwrap() {
            let (prompt, expected) = (ids(&case["prompt_ids"]), ids(&case["greedy_ids"]));
            let steps = steps(&*engine, greedy(prompt.clone(), expected.len())).await.unwrap();
            assert_eq!(
                steps.iter().map(|step| step.token.id).collect::<Vec<_>>(),
                expected,
                "{name}: {}",
                case["prompt"]
            );
            // The list begins with the log-probabilities of the prompt's second token and on.
            let logprobs = case["token_logprobs"].as_array().unwrap()[prompt.len() - 1..].iter();
            for (step, logprob) in steps.iter().zip(logprobs) {
                worst = worst.max((f64::from(step.token.logprob) - logprob.as_f64().unwrap()).abs());
                assert_eq!(step.token.top[0], (step.token.id, step.token.logprob));
            }
        }
        println!("{name}: largest difference of a log-probability {worst:.1e}");
        assert!(worst < TOLERANCE, "{name}: {worst}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_are_scored_as_by_transformers_also_among_replies() {
    for name in ["stories260k", "tinystories-656k"] {
        let Some(dir) = shared_model(name) else { continue };
        let golden: Value = serde_json::from_slice(&std::fs::read(dir.join("golden.json")).unwrap()).unwrap();
        let engine = load(&dir).await;
        for case in golden["cases"].as_array().unwrap() {
            let prompt = ids(&case["prompt_ids"]);
            let text = [prompt.clone(), ids(&case["greedy_ids"])].concat();
            let expected = case["token_logprobs"].as_array().unwrap();
            let alone = steps(&*engine, greedy(prompt.clone(), 20)).await.unwrap();
            // Raw logits and sampled tokens must not meet in one step of mistralrs.
            let (first, beside, second) = tokio::join!(
                engine.score(text.clone(), 2).unwrap().finish(),
                steps(&*engine, greedy(prompt, 20)),
                engine.score(text.clone(), 2).unwrap().finish(),
            );
            let scores = first.unwrap();
            assert_eq!((beside.unwrap(), second.unwrap()), (alone, scores.clone()));
            assert_eq!(scores.len(), text.len() - 1);
            for ((score, &id), logprob) in scores.iter().zip(&text[1..]).zip(expected) {
                assert_eq!(score.id, id);
                assert!((f64::from(score.logprob) - logprob.as_f64().unwrap()).abs() < TOLERANCE, "{name}: {score:?}");
                assert!(score.top[0].1 >= score.logprob);
            }
        }
        // Cancelled, of one token, of the whole context, and of a token that the model does not have.
        drop(engine.score(vec![1, 2, 3], 0).unwrap());
        assert!(engine.score(vec![1], 0).unwrap().finish().await.unwrap().is_empty());
        let full = (0..512).map(|index| 1 + index % 100).collect();
        assert_eq!(engine.score(full, 0).unwrap().finish().await.unwrap().len(), 511);
        assert!(engine.score(vec![1, 4_000_000], 0).unwrap().finish().await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_outlives_what_goes_wrong() {
    let Some(dir) = shared_model("stories260k") else { return };
    let engine = load(&dir).await;
    let prompt = vec![1, 403, 407, 261, 378];
    let expected = steps(&*engine, greedy(prompt.clone(), 20)).await.unwrap();

    // Cancelled generations: dropped at once, and after a token.
    for tokens_read in [0, 1] {
        let mut generation = engine.generate(greedy(prompt.clone(), 500)).unwrap();
        for _ in 0..tokens_read {
            generation.next().await.unwrap();
        }
        drop(generation);
        assert_eq!(steps(&*engine, greedy(prompt.clone(), 20)).await.unwrap(), expected);
    }
    // Cancelled without an end token to cancel by.
    let request = GenerateRequest { eos_ids: Vec::new(), ..greedy(prompt.clone(), 500) };
    drop(engine.generate(request).unwrap());
    // A token that the model does not have.
    let failed = steps(&*engine, greedy(vec![1, 4_000_000], 5)).await;
    assert!(matches!(failed, Err(EngineError::Failed(_) | EngineError::Stopped)), "{failed:?}");
    let deadline = Instant::now() + Duration::from_secs(10);
    while !engine.is_ready() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(engine.is_ready());
    assert_eq!(steps(&*engine, greedy(prompt.clone(), 20)).await.unwrap(), expected);

    // Several at a time are as good as one.
    let (first, second) = tokio::join!(
        steps(&*engine, greedy(prompt.clone(), 20)),
        steps(
            &*engine,
            GenerateRequest {
                sampling: Sampling { seed: Some(3), ..Sampling::default() },
                ..greedy(prompt.clone(), 20)
            }
        ),
    );
    assert_eq!(first.unwrap(), expected);
    let seeded = GenerateRequest { sampling: Sampling { seed: Some(3), ..Sampling::default() }, ..greedy(prompt, 20) };
    assert_eq!(second.unwrap(), steps(&*engine, seeded).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_context_can_be_used() {
    let Some(dir) = shared_model("stories260k") else { return };
    let engine = load(&dir).await;
    for prompt_tokens in [1, 300, 511] {
        let prompt = std::iter::once(1).chain((0..).map(|index| 300 + index % 100)).take(prompt_tokens).collect();
        let request = GenerateRequest { eos_ids: Vec::new(), ..greedy(prompt, 512 - prompt_tokens) };
        let steps = steps(&*engine, request).await.unwrap();
        assert_eq!(steps.len(), 512 - prompt_tokens);
        assert_eq!(steps.last().unwrap().finish, Some(Finish::Length));
    }
}
