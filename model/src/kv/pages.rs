//! Pages of keys and values, and how many hold each.

use crate::config::ModelConfig;

/// Tokens in a page; also the lanes of the attention's score loop.
pub const PAGE: usize = 16;

/// A page within its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageId(u32);

/// Layers that see the same positions. They share pages: one page holds the keys and values of [`PAGE`] tokens for all of
/// the group's layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The layers, ascending.
    pub layers: Vec<usize>,
    /// How many positions a token sees, itself included; none for all.
    pub window: Option<usize>,
}

impl Group {
    /// The groups of a model, in the order of their first layers.
    pub fn of(config: &ModelConfig) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        for (layer, window) in config.windows.iter().enumerate() {
            match groups.iter_mut().find(|group| group.window == *window) {
                Some(group) => group.layers.push(layer),
                None => groups.push(Self { layers: vec![layer], window: *window }),
            }
        }
        groups
    }

    /// The first position that a token at `position` sees.
    pub fn first_seen(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }
}

/// Every page of the cache, in f32. Groups have equally many, so that each can hold the same number of tokens.
///
/// A page that was never used takes no memory, because the system gives none until it is written to; free pages are used
/// again, the last one returned first.
#[derive(Debug)]
pub struct Pages {
    groups: Vec<Group>,
    arenas: Vec<Arena>,
    /// Key-value heads.
    heads: usize,
    head_dim: usize,
    /// Columns of a value row.
    width: usize,
}

#[derive(Debug)]
struct Arena {
    values: Vec<f32>,
    /// Where the first page begins in `values`, so that it lies at a multiple of 64 bytes.
    first: usize,
    page_len: usize,
    /// How many hold each page.
    holders: Vec<u32>,
    /// The last one is the next to be given out.
    free: Vec<u32>,
}

/// Where the keys and values of one page, layer and head are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadPage<'a> {
    /// `(head_dim, PAGE)`: a column for each token, so that a query meets all tokens of the page at once.
    pub keys: &'a [f32],
    /// `(PAGE, width)`, where `width` is `head_dim` rounded up to a multiple of 16; the rest is zero.
    pub values: &'a [f32],
}

impl Pages {
    /// As many pages as fit into `bytes`; none if not even one does.
    pub fn new(config: &ModelConfig, bytes: usize) -> Self {
        let groups = Group::of(config);
        let (heads, head_dim) = (config.num_key_value_heads, config.head_dim);
        let width = head_dim.next_multiple_of(16);
        let page_len = |group: &Group| group.layers.len() * heads * (head_dim + width) * PAGE;
        let all_groups: usize = groups.iter().map(|group| page_len(group) * size_of::<f32>()).sum();
        let count = (bytes / all_groups.max(1)).min(u32::MAX as usize);
        let arenas = groups.iter().map(|group| Arena::new(page_len(group), count)).collect();
        Self { groups, arenas, heads, head_dim, width }
    }

    /// The groups, by whose index everything else is asked for.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// A page that nobody held, now held once; none if all are held. What it contained before is never read.
    pub fn allocate(&mut self, group: usize) -> Option<PageId> {
        let arena = &mut self.arenas[group];
        let page = arena.free.pop()?;
        arena.holders[page as usize] = 1;
        Some(PageId(page))
    }

    /// Holds a page once more.
    ///
    /// # Panics
    /// If nobody holds it.
    pub fn retain(&mut self, group: usize, page: PageId) {
        let holders = &mut self.arenas[group].holders[page.0 as usize];
        assert!(*holders > 0, "page {} of group {group} is free", page.0);
        *holders += 1;
    }

    /// Holds a page once less; the last holder frees it.
    ///
    /// # Panics
    /// If nobody holds it.
    pub fn release(&mut self, group: usize, page: PageId) {
        let arena = &mut self.arenas[group];
        let holders = &mut arena.holders[page.0 as usize];
        assert!(*holders > 0, "page {} of group {group} is free already", page.0);
        *holders -= 1;
        if *holders == 0 {
            arena.free.push(page.0);
        }
    }

    /// How many hold a page.
    pub fn holders(&self, group: usize, page: PageId) -> u32 {
        self.arenas[group].holders[page.0 as usize]
    }

    /// Pages of a group that nobody holds.
    pub fn free(&self, group: usize) -> usize {
        self.arenas[group].free.len()
    }

    /// Pages of a group.
    pub fn total(&self, group: usize) -> usize {
        self.arenas[group].holders.len()
    }

    /// Bytes of one page of a group.
    pub fn bytes_per_page(&self, group: usize) -> usize {
        self.arenas[group].page_len * size_of::<f32>()
    }

    /// True if the pages have the shape that `config` asks for.
    pub(crate) fn fit(&self, config: &ModelConfig) -> bool {
        self.groups == Group::of(config) && (self.heads, self.head_dim) == (config.num_key_value_heads, config.head_dim)
    }

    /// Columns of a value row: `head_dim` rounded up to a multiple of 16.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Keys and values of one head in the `layer`-th layer of the group.
    pub(crate) fn head(&self, group: usize, page: PageId, layer: usize, head: usize) -> HeadPage<'_> {
        let at = self.at(group, page, layer, head);
        let all = &self.arenas[group].values[at..at + (self.head_dim + self.width) * PAGE];
        let (keys, values) = all.split_at(self.head_dim * PAGE);
        HeadPage { keys, values }
    }

    /// Writes the key and the value of one token, `(heads, head_dim)` each, into a slot of a page.
    pub(crate) fn write(&mut self, group: usize, page: PageId, layer: usize, slot: usize, key: &[f32], value: &[f32]) {
        let (head_dim, width) = (self.head_dim, self.width);
        for head in 0..self.heads {
            let at = self.at(group, page, layer, head);
            let all = &mut self.arenas[group].values[at..at + (head_dim + width) * PAGE];
            let (keys, values) = all.split_at_mut(head_dim * PAGE);
            let key = &key[head * head_dim..(head + 1) * head_dim];
            keys[slot..].iter_mut().step_by(PAGE).zip(key).for_each(|(to, from)| *to = *from);
            values[slot * width..][..head_dim].copy_from_slice(&value[head * head_dim..(head + 1) * head_dim]);
        }
    }

    fn at(&self, group: usize, page: PageId, layer: usize, head: usize) -> usize {
        let arena = &self.arenas[group];
        let head_len = (self.head_dim + self.width) * PAGE;
        arena.first + page.0 as usize * arena.page_len + (layer * self.heads + head) * head_len
    }
}

impl Arena {
    fn new(page_len: usize, pages: usize) -> Self {
        const LINE: usize = 64 / size_of::<f32>();
        // Zeroed memory comes from the system page by page, when it is touched.
        let values = vec![0f32; page_len * pages + LINE];
        let first = values.as_ptr().align_offset(64).min(LINE);
        Self { values, first, page_len, holders: vec![0; pages], free: (0..pages as u32).rev().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn config(changes: Value) -> ModelConfig {
        let mut json = json!({"model_type": "llama", "hidden_size": 48, "intermediate_size": 16,
            "num_hidden_layers": 4, "num_attention_heads": 2, "vocab_size": 10, "max_position_embeddings": 64});
        json.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        ModelConfig::from_json(&json).unwrap()
    }

    fn windowed() -> ModelConfig {
        config(json!({"model_type": "mistral", "num_key_value_heads": 1, "sliding_window": 20,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"]}))
    }

    #[test]
    fn layers_with_one_window_make_a_group() {
        let pages = Pages::new(&windowed(), 1 << 20);
        let expected = [Group { layers: vec![0, 2, 3], window: Some(20) }, Group { layers: vec![1], window: None }];
        assert_eq!(pages.groups(), expected);
        assert_eq!([19, 20, 50].map(|position| expected[0].first_seen(position)), [0, 1, 31]);
        assert_eq!(expected[1].first_seen(50), 0);
    }

    #[test]
    fn pages_fill_the_bytes_and_each_group_has_equally_many() {
        // Heads of width 24 have value rows of 32.
        let of_layer = (24 + 32) * PAGE * 4;
        let pages = Pages::new(&windowed(), 4 * of_layer * 5 + 1);
        assert_eq!([0, 1].map(|group| pages.total(group)), [5, 5]);
        assert_eq!([0, 1].map(|group| pages.bytes_per_page(group)), [3 * of_layer, of_layer]);
        let mut none = Pages::new(&windowed(), 4 * of_layer - 1);
        assert_eq!((none.total(0), none.allocate(0)), (0, None));
    }

    #[test]
    fn a_page_is_free_again_when_the_last_holder_lets_go() {
        let mut pages = Pages::new(&windowed(), 4 * (24 + 32) * PAGE * 4 * 2);
        let (one, other) = (pages.allocate(0).unwrap(), pages.allocate(0).unwrap());
        assert!(one != other && pages.allocate(0).is_none());
        assert_eq!((pages.free(0), pages.free(1)), (0, 2));
        pages.retain(0, one);
        assert_eq!(pages.holders(0, one), 2);
        pages.release(0, one);
        assert_eq!(pages.free(0), 0);
        pages.release(0, one);
        assert_eq!((pages.free(0), pages.holders(0, one)), (1, 0));
        assert_eq!(pages.allocate(0), Some(one));
    }

    #[test]
    #[should_panic(expected = "is free already")]
    fn releasing_a_free_page_is_a_broken_invariant() {
        let mut pages = Pages::new(&windowed(), 1 << 20);
        let page = pages.allocate(0).unwrap();
        pages.release(0, page);
        pages.release(0, page);
    }

    #[test]
    fn what_is_written_is_found_in_its_slot_and_nowhere_else() {
        let mut pages = Pages::new(&config(json!({})), 1 << 20);
        let (one, other) = (pages.allocate(0).unwrap(), pages.allocate(0).unwrap());
        let key: Vec<f32> = (1..=48).map(|x| x as f32).collect();
        let value: Vec<f32> = key.iter().map(|x| -x).collect();
        pages.write(0, other, 2, 5, &key, &value);
        for (page, layer, head) in [(one, 2, 0), (other, 1, 1), (other, 2, 0), (other, 2, 1), (other, 3, 0)] {
            let HeadPage { keys, values } = pages.head(0, page, layer, head);
            assert_eq!((keys.len(), values.len()), (24 * PAGE, 32 * PAGE));
            assert!(keys.as_ptr().addr() % 64 == 0 && values.as_ptr().addr() % 64 == 0);
            let written = (page, layer) == (other, 2);
            for (i, found) in keys.iter().enumerate() {
                let expected = if written && i % PAGE == 5 { key[head * 24 + i / PAGE] } else { 0.0 };
                assert_eq!(*found, expected);
            }
            for (i, found) in values.iter().enumerate() {
                let (slot, column) = (i / 32, i % 32);
                let expected = if written && slot == 5 && column < 24 { value[head * 24 + column] } else { 0.0 };
                assert_eq!(*found, expected);
            }
        }
    }
}
