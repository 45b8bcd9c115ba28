//! The engine of our own with tiny checkpoints of every family, against numbers computed by `transformers` in float64, and
//! against itself: a reply is bit-identical whatever runs beside it.

#[path = "../../model/tests/cases/mod.rs"]
mod cases;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use orpo_chat::ChatTokenizer;
use orpo_model::adapter::Adapter;
use orpo_serve::checkpoint::Checkpoint;
use orpo_serve::engine::constraint::Grammar;
use orpo_serve::engine::{
    self, Engine, EngineChoice, EngineError, Finish, GenerateRequest, Options, SampledToken, Sampling, Step,
};
use orpo_serve::served::Served;
use serde_json::{Value, json};

const FAMILIES: [&str; 9] = ["llama", "llama3", "mistral", "qwen2", "qwen3", "gemma2", "phi", "opt", "opt350"];
/// Of a log-probability, between single and double precision.
const TOLERANCE: f64 = 1e-4;

/// The folders of golden numbers, or a printed line why there are none.
fn golden(families: &[&str]) -> Vec<PathBuf> {
    let found = || Some(PathBuf::from("../../shared")).filter(|shared| shared.is_dir());
    let Some(shared) = std::env::var_os("ORPO_SHARED").map(PathBuf::from).or_else(found) else {
        println!("skipped: ORPO_SHARED is not set");
        return Vec::new();
    };
    families.iter().map(|name| shared.join("train/golden").join(name)).collect()
}

fn read(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

async fn load(dir: &Path) -> Arc<dyn Engine> {
    load_with(dir, Options::default()).await
}

async fn load_with(dir: &Path, options: Options) -> Arc<dyn Engine> {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let tokenizer = ChatTokenizer::from_dir(dir).unwrap();
    let selected = engine::choice::select(EngineChoice::Native, &checkpoint).unwrap();
    let prepared = selected.prepare(&checkpoint, tokenizer.eos_ids()).unwrap();
    engine::load(prepared, &tokenizer, options).await.unwrap()
}

fn options(sequences: usize, kv_cache_bytes: usize) -> Options {
    Options { max_concurrent: NonZeroUsize::new(sequences), kv_cache_bytes: Some(kv_cache_bytes) }
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

async fn scores(engine: &dyn Engine, ids: &[u32], top_logprobs: usize) -> Vec<SampledToken> {
    engine.score(ids.to_vec(), top_logprobs).unwrap().finish().await.unwrap()
}

/// Waits until nothing runs, at most ten seconds, and makes sure that no page is lost.
async fn idle(engine: &dyn Engine) {
    for _ in 0..1000 {
        let occupancy = engine.occupancy().unwrap();
        if (occupancy.running, occupancy.waiting) == (0, 0) {
            assert_eq!(occupancy.pages_held, 0);
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the engine is still at work");
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// A matrix of doubles in a safetensors file.
fn doubles(path: &Path, name: &str) -> Vec<Vec<f64>> {
    let bytes = std::fs::read(path).unwrap();
    let data = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..data]).unwrap();
    let tensor = &header[name];
    assert_eq!(tensor["dtype"], "F64");
    let number = |field: &str, index: usize| tensor[field][index].as_u64().unwrap() as usize;
    let values = bytes[data + number("data_offsets", 0)..data + number("data_offsets", 1)].chunks_exact(8);
    let values: Vec<f64> = values.map(|value| f64::from_le_bytes(value.try_into().unwrap())).collect();
    values.chunks_exact(number("shape", 1)).map(<[f64]>::to_vec).collect()
}

#[tokio::test]
async fn greedy_tokens_and_their_margins_are_those_of_transformers() {
    for folder in golden(&FAMILIES) {
        let engine = load(&folder.join("model")).await;
        let context = read(folder.join("model/config.json"))["max_position_embeddings"].as_u64().unwrap();
        assert_eq!(engine.context_length() as u64, context, "{}", folder.display());
        let golden = read(folder.join("generation.json"));
        let eos_ids = vec![golden["eos_token_id"].as_u64().unwrap() as u32];
        let mut worst = 0.0_f64;
        for case in golden["runs"]["base"].as_array().unwrap() {
            let expected = ids(&case["output_ids"]);
            let request = GenerateRequest { eos_ids: eos_ids.clone(), ..greedy(ids(&case["prompt_input_ids"]), 24) };
            let reply = steps(&*engine, request.clone()).await.unwrap();
            assert_eq!(reply.iter().map(|step| step.token.id).collect::<Vec<_>>(), expected, "{}", folder.display());
            for (step, margin) in reply.iter().zip(case["margin"].as_array().unwrap()) {
                let [best, second] = step.token.top[..] else { panic!("two were asked for") };
                assert_eq!(best, (step.token.id, step.token.logprob));
                worst = worst.max((f64::from(best.1 - second.1) - margin.as_f64().unwrap()).abs());
            }
            assert_eq!(steps(&*engine, request).await.unwrap(), reply);
        }
        println!("{}: largest difference of a margin {worst:.1e}", folder.display());
        assert!(worst < TOLERANCE, "{}: {worst}", folder.display());
    }
}

#[tokio::test]
async fn scores_are_the_log_probabilities_of_transformers() {
    for folder in golden(&FAMILIES) {
        let engine = load(&folder.join("model")).await;
        let rows = ids_of_batch(&folder);
        let expected = doubles(&folder.join("forward.safetensors"), "token_logps");
        assert_eq!(rows.len(), expected.len());
        let mut worst = 0.0_f64;
        for (row, expected) in rows.into_iter().zip(expected) {
            let scores = scores(&*engine, &row, 1).await;
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
async fn a_step_with_the_cache_equals_a_pass_over_the_whole_text_to_the_bit() {
    for folder in golden(&FAMILIES) {
        let engine = load(&folder.join("model")).await;
        let context = engine.context_length();
        let prompt: Vec<u32> = (0..context as u32 - 56).map(|index| 3 + index * 7 % 500).collect();
        let reply = steps(&*engine, greedy(prompt.clone(), 56)).await.unwrap();
        assert_eq!((reply.len(), reply.last().unwrap().finish), (56, Some(Finish::Length)));
        let text: Vec<u32> = prompt.iter().copied().chain(reply.iter().map(|step| step.token.id)).collect();
        let scores = scores(&*engine, &text, 2).await;
        assert_eq!(scores.len(), context - 1);
        for (index, step) in reply.iter().enumerate() {
            assert_eq!(scores[prompt.len() - 1 + index], step.token, "{}, {index}", folder.display());
        }
        idle(&*engine).await;
    }
}

/// The base and two adapters that PEFT wrote, from one copy of the weights and in the same steps.
#[tokio::test(flavor = "multi_thread")]
async fn adapters_say_what_peft_s_say_all_at_once_and_each_alone() {
    for folder in golden(&["llama", "mistral", "qwen2", "phi", "opt350"]) {
        let generation = read(folder.join("generation.json"));
        let base = load(&folder.join("model")).await;
        let with_adapter = async |dir: PathBuf| {
            let (base, layers) = (base.clone(), Adapter::open(&dir).unwrap().low_rank().unwrap());
            tokio::task::spawn_blocking(move || base.with_adapter(layers)).await.unwrap().unwrap()
        };
        let mut asked = Vec::new();
        for (run, cases) in generation["runs"].as_object().unwrap() {
            let engine = if run == "base" { base.clone() } else { with_adapter(folder.join(run)).await };
            for case in cases.as_array().unwrap() {
                let expected = ids(&case["output_ids"]);
                let request = greedy(ids(&case["prompt_input_ids"]), expected.len());
                asked.push((engine.clone(), request, expected));
            }
        }
        assert_eq!(asked.len(), 3 * 4);
        let crowd = join_all(asked.iter().map(|(engine, request, _)| steps(&**engine, request.clone()))).await;
        for (reply, (engine, request, expected)) in crowd.into_iter().zip(&asked) {
            let reply = reply.unwrap();
            let found: Vec<u32> = reply.iter().map(|step| step.token.id).collect();
            assert_eq!(found, *expected, "{}", folder.display());
            assert_eq!(steps(&**engine, request.clone()).await.unwrap(), reply);
        }
        idle(&*base).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_of_another_model_is_refused_by_the_layer() {
    for folder in golden(&["opt350"]) {
        let base = load(&folder.join("model")).await;
        let layers = Adapter::open(&folder.parent().unwrap().join("llama/lora/adapter")).unwrap().low_rank().unwrap();
        let refused = tokio::task::spawn_blocking(move || base.with_adapter(layers)).await.unwrap().err().unwrap();
        assert!(refused.contains("no linear layer of that name"), "{refused}");
    }
}

/// Nine requests of different kinds, some with the same beginning, some bound to a schema.
fn mixed(served: &Served) -> Vec<GenerateRequest> {
    let prompt = |seed: u32, length: u32| -> Vec<u32> {
        (0..length).map(|index| 3 + (index * 7 + seed * (1 + u32::from(index > 40))) % 500).collect()
    };
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}},
                        "required": ["a", "b"], "additionalProperties": false});
    let grammars = served.grammars().unwrap();
    (0..9)
        .map(|number| {
            let request = greedy(prompt(number / 3, 5 + 31 * number % 120), 20 + number as usize);
            let sampling = match number % 3 {
                0 => request.sampling.clone(),
                1 => Sampling { seed: Some(number.into()), presence_penalty: 0.3, ..Sampling::default() },
                _ => Sampling {
                    seed: Some(7),
                    constraint: Some(
                        grammars.constraint(&Grammar::JsonSchema(schema.clone()), request.max_tokens).unwrap(),
                    ),
                    ..Sampling::default()
                },
            };
            let eos_ids = served.tokenizer.eos_ids().to_vec();
            GenerateRequest { sampling, eos_ids, ..request }
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_is_bit_identical_alone_or_among_eight_others_known_or_not_and_set_back_or_not() {
    for folder in golden(&["llama", "mistral", "gemma2", "opt"]) {
        let dir = folder.join("model");
        let tokenizer = ChatTokenizer::from_dir(&dir).unwrap();
        let served = Served::new("m", load(&dir).await, tokenizer);
        let mut alone = Vec::new();
        for request in mixed(&served) {
            // Nothing is known, and nothing runs beside it.
            alone.push(steps(&*load_with(&dir, options(1, 1 << 22)).await, request).await.unwrap());
        }
        let text = (3..200).collect::<Vec<u32>>();
        let scored = scores(&*load(&dir).await, &text, 3).await;
        // The last has pages for less than three of them.
        for (sequences, bytes) in [(16, 1 << 24), (3, 1 << 24), (16, small_cache(&dir))] {
            let engine = load_with(&dir, options(sequences, bytes)).await;
            for _known in 0..2 {
                let crowd = join_all(mixed(&served).into_iter().map(|request| steps(&*engine, request)));
                let (crowd, scores) = tokio::join!(crowd, scores(&*engine, &text, 3));
                for (reply, alone) in crowd.into_iter().zip(&alone) {
                    assert_eq!(reply.unwrap(), *alone, "{}: {sequences}, {bytes}", folder.display());
                }
                assert_eq!(scores, scored, "{}: {sequences}, {bytes}", folder.display());
                idle(&*engine).await;
            }
            assert!(bytes < 1 << 24 || engine.occupancy().unwrap().prefix_hits > 0);
        }
    }
}

/// Bytes of a cache in which the context of one sequence just fits.
fn small_cache(dir: &Path) -> usize {
    use orpo_model::kv::{PAGE, Pages};
    let config = Checkpoint::open(dir).unwrap().model.unwrap();
    let none = Pages::new(&config, 0);
    let of_page: usize = (0..none.groups().len()).map(|group| none.bytes_per_page(group)).sum();
    of_page * config.max_position_embeddings.div_ceil(PAGE)
}

#[tokio::test]
async fn one_request_does_not_disturb_another() {
    for folder in golden(&["llama", "phi"]) {
        let engine = load(&folder.join("model")).await;
        let context = engine.context_length();
        let prompt: Vec<u32> = vec![2, 56, 86, 266];
        let seeded = || {
            let sampling = Sampling { seed: Some(3), ..Sampling::default() };
            GenerateRequest { sampling, ..greedy(prompt.clone(), 20) }
        };
        let expected = steps(&*engine, greedy(prompt.clone(), 20)).await.unwrap();
        let sampled = steps(&*engine, seeded()).await.unwrap();
        assert_ne!(expected, sampled);

        let mut cancelled = engine.generate(greedy(prompt.clone(), context - 4)).unwrap();
        cancelled.next().await.unwrap();
        drop(cancelled);
        let unknown = steps(&*engine, greedy(vec![1, 4_000_000], 5)).await;
        assert!(matches!(unknown, Err(EngineError::Failed(_))), "{unknown:?}");
        let too_long = steps(&*engine, greedy(vec![5; context + 1], 5)).await;
        assert!(matches!(too_long, Err(EngineError::Failed(_))), "{too_long:?}");

        let (first, scores, second) = tokio::join!(
            steps(&*engine, greedy(prompt.clone(), 20)),
            engine.score(prompt.clone(), 0).unwrap().finish(),
            steps(&*engine, seeded()),
        );
        assert_eq!((first.unwrap(), second.unwrap()), (expected, sampled));
        assert_eq!(scores.unwrap().len(), 3);
        assert!(engine.is_ready());
        idle(&*engine).await;
    }
}

#[tokio::test]
async fn checkpoints_of_other_programs_are_scored_as_transformers_does_or_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    for (number, (case, model)) in cases::cases(&FAMILIES).into_iter().enumerate() {
        let dir = dir.path().join(number.to_string());
        case.write(&model, &dir);
        if let Err(refused) = Checkpoint::open(&dir) {
            let (refused, words) = (refused.to_string(), case.text("refused"));
            assert!(!words.is_empty() && refused.contains(words), "{}: {refused}", case.name());
            continue;
        }
        let engine = load(&dir).await;
        // The whole text, whatever window the model has.
        let (count, expected) = case.expected(engine.context_length()).unwrap();
        let scores = scores(&*engine, &cases::ids()[..count], 0).await;
        let logp: f64 = scores.iter().map(|score| f64::from(score.logprob)).sum();
        assert!((logp - expected).abs() < 5e-3, "{}: {logp}, transformers {expected}", case.name());
    }
}
