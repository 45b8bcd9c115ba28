//! A forward pass for tests: its logits depend on every token that a row sees, and it sees them only through the pages,
//! so that a wrong page makes a wrong token.

use std::collections::{BTreeMap, HashMap};

use orpo_model::ModelConfig;
use orpo_model::infer::{AdapterId, Batch, LowRank};
use orpo_model::kv::{Group, PAGE, PageId, Pages};
use serde_json::{Value, json};

/// Logits in a row.
pub const VOCABULARY: usize = 50;
/// Prompts and replies have smaller ids.
pub const KNOWN: usize = 48;

/// The tokens in the pages.
#[derive(Debug, Default)]
pub struct Fake {
    slots: HashMap<(usize, PageId, usize), u32>,
    /// What each adapter adds to the tokens that it sees.
    adapters: BTreeMap<AdapterId, u32>,
    next_adapter: u32,
    /// Rows computed so far.
    pub rows: usize,
}

/// A tiny model whose layers all see everything.
pub fn full() -> ModelConfig {
    config(json!({"model_type": "llama"}))
}

/// The same where a layer sees 20 tokens.
pub fn windowed() -> ModelConfig {
    config(
        json!({"model_type": "mistral", "sliding_window": 20, "layer_types": ["sliding_attention", "full_attention"]}),
    )
}

fn config(changes: Value) -> ModelConfig {
    let mut json = json!({"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 1,
        "num_key_value_heads": 1, "vocab_size": VOCABULARY, "max_position_embeddings": 4096});
    json.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    ModelConfig::from_json(&json).unwrap()
}

/// So many pages for each group.
pub fn pages(config: &ModelConfig, count: usize) -> Pages {
    let none = Pages::new(config, 0);
    let of_page: usize = (0..none.groups().len()).map(|group| none.bytes_per_page(group)).sum();
    let pages = Pages::new(config, count * of_page);
    assert_eq!(pages.total(0), count);
    pages
}

impl Fake {
    /// As a `Forward`.
    pub fn forward(&mut self, batch: &Batch<'_>, pages: &mut Pages, logits: &mut Vec<f32>) {
        let mut rows = Vec::new();
        for part in &batch.parts {
            let added = part.adapter.map_or(0, |adapter| self.adapters[&adapter]);
            for (position, row) in (part.start..).zip(part.rows.clone()) {
                for group in 0..pages.groups().len() {
                    let page = part.table.page(group, position / PAGE).expect("a page to write to");
                    assert_eq!(pages.holders(group, page), 1, "a page that is written has one holder");
                    self.slots.insert((group, page, position % PAGE), batch.ids[row] + added);
                }
                rows.push((part, position));
            }
        }
        assert_eq!(rows.len(), batch.ids.len());
        self.rows += rows.len();
        for &row in &batch.wanted {
            let (part, position) = rows[row];
            let seen = |group: usize, position: usize| {
                let page = part.table.page(group, position / PAGE).expect("a page to read from");
                self.slots[&(group, page, position % PAGE)]
            };
            logits.extend(digest(pages.groups(), position, seen));
        }
    }

    /// The scale of the first layer is what it adds; an adapter without layers does not fit.
    pub fn add_adapter(&mut self, layers: &[LowRank]) -> Result<AdapterId, String> {
        let added = layers.first().ok_or("an adapter without layers")?.scale as u32;
        let id = AdapterId::numbered(self.next_adapter);
        self.next_adapter += 1;
        self.adapters.insert(id, added);
        Ok(id)
    }

    /// Forgets it.
    pub fn remove_adapter(&mut self, adapter: AdapterId) {
        self.adapters.remove(&adapter).expect("an adapter is removed once");
    }
}

/// What [`Fake::add_adapter`] takes.
pub fn adapter(added: u32) -> Vec<LowRank> {
    vec![LowRank { module: String::new(), rank: 1, a: Vec::new(), b: Vec::new(), scale: added as f32 }]
}

/// Logits in 0..4 from a hash of what the row at `position` sees.
fn digest(groups: &[Group], position: usize, seen: impl Fn(usize, usize) -> u32) -> Vec<f32> {
    let mut hash = 17_u64;
    for (number, group) in groups.iter().enumerate() {
        for position in group.first_seen(position)..=position {
            hash = hash.wrapping_mul(0x0100_0000_01B3) ^ u64::from(seen(number, position)) ^ position as u64;
        }
    }
    let value = |id: u64| ((hash ^ (id << 7)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) % 1000;
    let known = (0..KNOWN as u64).map(|id| value(id) as f32 / 250.0);
    known.chain([-1.0; VOCABULARY - KNOWN]).collect()
}

/// The logits of the last row of `ids`, without pages.
pub fn logits(config: &ModelConfig, ids: &[u32]) -> Vec<f32> {
    adapted_logits(config, ids, 0)
}

/// The same by an adapter.
fn adapted_logits(config: &ModelConfig, ids: &[u32], added: u32) -> Vec<f32> {
    digest(&Group::of(config), ids.len() - 1, |_, position| ids[position] + added)
}

/// The most likely token.
pub fn best(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, value) in logits.iter().enumerate() {
        if *value > logits[best] {
            best = id;
        }
    }
    best as u32
}

/// The greedy reply of `tokens` tokens to a prompt, without pages.
pub fn reply(config: &ModelConfig, prompt: &[u32], tokens: usize) -> Vec<u32> {
    adapted_reply(config, prompt, tokens, 0)
}

/// The same by an adapter.
pub fn adapted_reply(config: &ModelConfig, prompt: &[u32], tokens: usize, added: u32) -> Vec<u32> {
    let mut ids = prompt.to_vec();
    for _ in 0..tokens {
        ids.push(best(&adapted_logits(config, &ids, added)));
    }
    ids.split_off(prompt.len())
}

/// A prompt of `length` tokens that begins like no other with another seed.
pub fn prompt(seed: u32, length: usize) -> Vec<u32> {
    let token = |index: u32| seed.wrapping_mul(2_654_435_761).wrapping_add(index.wrapping_mul(40_503)) >> 8;
    (0..length as u32).map(|index| token(index) % KNOWN as u32).collect()
}
