//! The real engine on small checkpoints, against tokens and log-probabilities computed by `transformers` in f32.
#![cfg(feature = "mistralrs")]

#[path = "../../model/tests/cases/mod.rs"]
mod cases;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::Device;
use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use orpo_chat::ChatTokenizer;
use orpo_model::adapter::Adapter;
use orpo_serve::checkpoint::Checkpoint;
use orpo_serve::engine::stage::{engine_config, stage, stage_gguf};
use orpo_serve::engine::{self, Engine, EngineError, Finish, GenerateRequest, Prepared, Sampling, Step};
use orpo_serve::load::gguf::StagedGguf;
use orpo_serve::load::merge;
use orpo_serve::quantization::Quantization;
use serde_json::Value;

const TOLERANCE: f64 = 1e-3;

/// A shared checkpoint, or a printed line why there is none.
fn shared_model(name: &str) -> Option<PathBuf> {
    shared_dir(&format!("data/models/{name}"))
}

fn shared_dir(path: &str) -> Option<PathBuf> {
    let shared = std::env::var_os("ORPO_SHARED").map_or_else(|| PathBuf::from("../../shared"), PathBuf::from);
    let dir = shared.join(path);
    if !dir.is_dir() {
        println!("skipped: no `{}`", dir.display());
        return None;
    }
    Some(dir)
}

async fn load(dir: &Path) -> Arc<dyn Engine> {
    load_quantized(dir, None).await
}

async fn load_quantized(dir: &Path, quantization: Option<Quantization>) -> Arc<dyn Engine> {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let tokenizer = ChatTokenizer::from_dir(dir).unwrap();
    let staged = stage(&checkpoint, engine_config(&checkpoint).unwrap(), tokenizer.eos_ids()).unwrap();
    let staged = staged.quantized(quantization);
    engine::load(Prepared::Mistralrs(staged), &tokenizer, engine::Options::default()).await.unwrap()
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

/// A base and two adapters that PEFT wrote, all loaded at once.
#[tokio::test(flavor = "multi_thread")]
async fn merged_adapters_say_what_peft_s_say() {
    for name in ["llama", "qwen2"] {
        let Some(golden) = shared_dir(&format!("train/golden/{name}")) else { return };
        let scratch = tempfile::tempdir().unwrap();
        let base = Checkpoint::open(&golden.join("model")).unwrap();
        let generation: Value =
            serde_json::from_slice(&std::fs::read(golden.join("generation.json")).unwrap()).unwrap();
        let mut engines = Vec::new();
        for (run, _) in generation["runs"].as_object().unwrap() {
            let dir = match run.as_str() {
                "base" => base.dir.clone(),
                adapter => {
                    let into = scratch.path().join(adapter.replace('/', "-"));
                    merge(&base, &Adapter::open(&golden.join(adapter)).unwrap(), &into).unwrap().dir
                }
            };
            engines.push((run, load(&dir).await));
        }
        assert_eq!(engines.len(), 3);
        for (run, engine) in &engines {
            for (number, case) in generation["runs"][run].as_array().unwrap().iter().enumerate() {
                let (prompt, expected) = (ids(&case["prompt_input_ids"]), ids(&case["output_ids"]));
                let request = GenerateRequest { eos_ids: Vec::new(), ..greedy(prompt, expected.len()) };
                let steps = steps(&**engine, request).await.unwrap();
                let found: Vec<u32> = steps.iter().map(|step| step.token.id).collect();
                assert_eq!(found, expected, "{name}, {run}, prompt {number}");
            }
        }
    }
}

/// The golden runs of the engine without an adapter.
async fn assert_golden_base(engine: &dyn Engine, golden: &Path) {
    let generation: Value = serde_json::from_slice(&std::fs::read(golden.join("generation.json")).unwrap()).unwrap();
    for (number, case) in generation["runs"]["base"].as_array().unwrap().iter().enumerate() {
        let (prompt, expected) = (ids(&case["prompt_input_ids"]), ids(&case["output_ids"]));
        let request = GenerateRequest { eos_ids: Vec::new(), ..greedy(prompt, expected.len()) };
        let steps = steps(engine, request).await.unwrap();
        let found: Vec<u32> = steps.iter().map(|step| step.token.id).collect();
        assert_eq!(found, expected, "{}, prompt {number}", golden.display());
    }
}

/// A checkpoint in GGUF, in f32, as llama.cpp's converter writes it.
fn write_gguf(model: &Path, architecture: &str, file: &Path) {
    let config: Value = serde_json::from_slice(&std::fs::read(model.join("config.json")).unwrap()).unwrap();
    let number = |key: &str| gguf_file::Value::U32(config[key].as_u64().unwrap() as u32);
    let heads = |key: &str| config[key].as_u64().unwrap() as usize;
    let head_width = heads("hidden_size") / heads("num_attention_heads");
    let theta = config["rope_parameters"]["rope_theta"].as_f64().unwrap() as f32;
    let metadata = [
        ("context_length", number("max_position_embeddings")),
        ("embedding_length", number("hidden_size")),
        ("block_count", number("num_hidden_layers")),
        ("feed_forward_length", number("intermediate_size")),
        ("attention.head_count", number("num_attention_heads")),
        ("attention.head_count_kv", number("num_key_value_heads")),
        ("rope.dimension_count", gguf_file::Value::U32(head_width as u32)),
        ("rope.freq_base", gguf_file::Value::F32(theta)),
        ("attention.layer_norm_rms_epsilon", gguf_file::Value::F32(config["rms_norm_eps"].as_f64().unwrap() as f32)),
    ]
    .map(|(key, value)| (format!("{architecture}.{key}"), value));
    let architecture_value = gguf_file::Value::String(architecture.into());
    let mut entries: Vec<(&str, &gguf_file::Value)> = metadata.iter().map(|(key, value)| (&**key, value)).collect();
    entries.push(("general.architecture", &architecture_value));

    let names = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    let weights = candle_core::safetensors::load(model.join("model.safetensors"), &Device::Cpu).unwrap();
    let mut tensors = Vec::new();
    for (name, tensor) in weights {
        // llama.cpp turns neighbouring pairs where Hugging Face turns halves, for this architecture.
        let permuted = ["q_proj", "k_proj"].iter().position(|part| architecture == "llama" && name.contains(part));
        let tensor = match permuted {
            Some(which) => {
                let count = heads(["num_attention_heads", "num_key_value_heads"][which]);
                let (rows, columns) = tensor.dims2().unwrap();
                let halves = tensor.reshape((count, 2, rows / count / 2, columns)).unwrap();
                halves.transpose(1, 2).unwrap().contiguous().unwrap().reshape((rows, columns)).unwrap()
            }
            None => tensor,
        };
        let name = names.iter().fold(name, |name, (from, to)| name.replace(from, to));
        tensors.push((name, QTensor::quantize(&tensor, GgmlDType::F32).unwrap()));
    }
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (&**name, tensor)).collect();
    gguf_file::write(&mut std::fs::File::create(file).unwrap(), &entries, &tensors).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gguf_file_says_what_its_checkpoint_says() {
    for name in ["llama", "qwen2"] {
        let Some(golden) = shared_dir(&format!("train/golden/{name}")) else { return };
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tiny.gguf");
        write_gguf(&golden.join("model"), name, &file);
        let gguf = StagedGguf::open(&file).unwrap();
        let tokenizer = ChatTokenizer::from_dir(&golden.join("model")).unwrap();
        let staged = stage_gguf(&gguf.file, gguf.context_length, &tokenizer).unwrap();
        let engine = engine::load(Prepared::Mistralrs(staged), &tokenizer, engine::Options::default()).await.unwrap();
        assert_eq!(engine.context_length(), 256);
        assert_golden_base(&*engine, &golden).await;
    }
}

/// In 8 bits the log-probabilities of a small model move in the second decimal; with none they would not move, and
/// without weights they would be anywhere.
#[tokio::test(flavor = "multi_thread")]
async fn quantised_weights_are_near_the_others() {
    let Some(dir) = shared_model("stories260k") else { return };
    let prompt = vec![1, 403, 407, 261, 378];
    let exact = steps(&*load(&dir).await, greedy(prompt.clone(), 1)).await.unwrap();
    for (quantization, tolerance) in [(Quantization::Q8_0, 0.05), (Quantization::Q4_0, 0.5)] {
        let engine = load_quantized(&dir, Some(quantization)).await;
        let near = steps(&*engine, greedy(prompt.clone(), 1)).await.unwrap();
        let difference = (near[0].token.logprob - exact[0].token.logprob).abs();
        println!("{quantization:?}: log-probability differs by {difference:.1e}");
        assert!(difference > 0.0 && difference < tolerance, "{quantization:?}: {difference}");
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

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_of_other_programs_are_scored_as_transformers_does_or_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let families = ["llama", "mistral", "qwen2", "qwen3", "gemma2"];
    for (number, (case, model)) in cases::cases(&families).into_iter().enumerate() {
        let dir = dir.path().join(number.to_string());
        case.write(&model, &dir);
        let checkpoint = match Checkpoint::open(&dir) {
            Ok(checkpoint) => checkpoint,
            Err(refused) => {
                let (refused, words) = (refused.to_string(), case.text("refused"));
                assert!(!words.is_empty() && refused.contains(words), "{}: {refused}", case.name());
                continue;
            }
        };
        if let Err(refused) = engine_config(&checkpoint) {
            let (refused, words) = (refused.to_string(), case.text("mistralrs"));
            assert!(!words.is_empty() && refused.contains(words), "{}: {refused}", case.name());
            continue;
        }
        let engine = load(&dir).await;
        // A model is served as far as its window.
        let Some((count, expected)) = case.expected(engine.context_length()) else {
            assert_eq!(engine.context_length(), 4, "{}", case.name());
            continue;
        };
        let scores = engine.score(cases::ids()[..count].to_vec(), 0).unwrap().finish().await.unwrap();
        let logp: f64 = scores.iter().map(|score| f64::from(score.logprob)).sum();
        assert!((logp - expected).abs() < 5e-3, "{}: {logp}, transformers {expected}", case.name());
    }
}
