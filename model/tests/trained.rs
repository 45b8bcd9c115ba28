//! What is served is what was trained: the trainer's logits and log-probabilities are those of serving, to the bit.

mod support;

use std::path::Path;
use std::sync::Arc;

use orpo_model::adapter::LoraSetup;
use orpo_model::infer::{AdapterId, Inference};
use orpo_model::kernels::Segment;
use orpo_model::{Checkpoint, Decoder, LogSumExp, PackedRows, Trained};
use support::*;

const FAMILIES: [&str; 9] = ["llama", "llama3", "mistral", "qwen2", "qwen3", "gemma2", "phi", "opt", "opt350"];

/// A model in the trainer and in the server.
struct Both {
    name: String,
    trained: Decoder,
    served: Inference,
    adapter: Option<AdapterId>,
}

impl Both {
    fn open(name: String, checkpoint: &Checkpoint, adapter: Option<&Path>) -> Self {
        let setup = adapter.map(|dir| LoraSetup::from_dir(dir).unwrap());
        let trained = setup.as_ref().map_or(Trained::Everything, Trained::Adapter);
        let trained = Decoder::load(&checkpoint.config, &checkpoint.weights, trained).unwrap();
        let mut served = Inference::load(checkpoint, None).unwrap();
        let adapter = adapter.map(|dir| served.load_adapter(dir).unwrap());
        Self { name, trained, served, adapter }
    }

    /// The server's logits of a sequence, computed in pieces.
    fn served(&self, ids: &[u32]) -> Vec<f32> {
        Runner::new(&self.served).logits(ids, 7, self.adapter)
    }

    /// Compares logits and log-probabilities of a prompt with two responses, and of another sequence, as the trainer packs
    /// them, with those of three sequences by themselves.
    fn compare(&self, prompt: &[u32], responses: [&[u32]; 2], other: &[u32]) {
        let vocab_size = self.trained.config().vocab_size;
        let sequences = [&[prompt, responses[0]].concat()[..], &[prompt, responses[1]].concat(), other];
        let served = sequences.map(|ids| self.served(ids));
        for (ids, served) in sequences.iter().zip(&served) {
            let alone = self.trained.logits(&PackedRows::single(ids.to_vec())).unwrap();
            assert_same_bits(alone.values(), served, &format!("{}, alone", self.name));
        }

        let (first, second) = (sequences[0].len(), sequences[0].len() + responses[1].len());
        let groups = vec![
            vec![Segment { rows: 0..first, prefix: 0..0 }, Segment { rows: first..second, prefix: 0..prompt.len() }],
            vec![Segment { rows: second..second + other.len(), prefix: 0..0 }],
        ];
        let positions = (0..first).chain(prompt.len()..sequences[1].len()).chain(0..other.len());
        let rows = PackedRows {
            ids: [sequences[0], responses[1], other].concat(),
            positions: Arc::new(positions.map(|position| position as u32).collect()),
            groups: Arc::new(groups),
            dropout_seed: None,
        };
        let expected = [&served[0][..], &served[1][prompt.len() * vocab_size..], &served[2]].concat();
        let packed = self.trained.logits(&rows).unwrap();
        assert_same_bits(packed.values(), &expected, &format!("{}, packed", self.name));

        let (hidden, _) = self.trained.forward(&rows).unwrap();
        let predicting: Vec<u32> = (0..rows.ids.len() as u32).collect();
        let labels = random_ids(predicting.len(), vocab_size, 5);
        let scored = self.trained.score(hidden, &predicting, &labels, None).unwrap();
        let expected: Vec<f32> = (expected.chunks_exact(vocab_size).zip(&labels))
            .map(|(logits, label)| LogSumExp::of(logits).log_probability(logits[*label as usize]))
            .collect();
        assert_same_bits(scored.logps(), &expected, &format!("{}, log-probabilities", self.name));
    }

    /// The same with sequences that look random.
    fn compare_random(&self, prompt: usize, responses: [usize; 2], other: usize) {
        let ids = |n, seed| random_ids(n, self.trained.config().vocab_size, seed);
        self.compare(&ids(prompt, 1), [&ids(responses[0], 2), &ids(responses[1], 3)], &ids(other, 4));
    }
}

#[test]
fn every_family_and_its_adapters() {
    for family in FAMILIES {
        let Some(dir) = golden(family) else { continue };
        let checkpoint = Checkpoint::open(&dir.join("model")).unwrap();
        let generation = read_json(dir.join("generation.json"));
        for run in generation["runs"].as_object().unwrap().keys() {
            let adapter = (run != "base").then(|| dir.join(run));
            let both = Both::open(format!("{family}, {run}"), &checkpoint, adapter.as_deref());
            both.compare_random(21, [13, 18], 40);
        }
    }
}

#[test]
fn windows_grouped_queries_and_every_storage() {
    for (i, json) in configs().iter().enumerate() {
        for dtype in ["F32", "BF16", "F16"] {
            let (_dir, checkpoint) = random_checkpoint(json, dtype);
            let both = Both::open(format!("model {i}, {}, {dtype}", json["model_type"]), &checkpoint, None);
            both.compare_random(37, [50, 61], 90);
            both.compare_random(1, [1, 1], 1);
        }
    }
}

#[test]
fn any_number_of_threads() {
    for (i, json) in configs().iter().enumerate() {
        let (_dir, checkpoint) = random_checkpoint(json, "F32");
        for threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let both = Both::open(format!("model {i}, {threads} threads"), &checkpoint, None);
            pool.install(|| both.compare_random(37, [50, 61], 90));
        }
    }
}
