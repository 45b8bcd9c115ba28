//! Finished pages that outlive their sequences, found again by all tokens up to their end.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};

use super::pages::{PAGE, PageId, Pages};
use super::table::Table;
use crate::infer::AdapterId;

/// Stands for all tokens from the beginning of a text to the end of one of its pages, and for the adapter that computed
/// them. 128 bits from two hashes with secret keys, so that nobody can make two texts meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageKey(u64, u64);

/// Prefixes of texts whose keys and values are still in pages. It holds each of its pages once; [`Index::evict`] gives
/// back the one that was not used for the longest time.
#[derive(Debug, Default)]
pub struct Index {
    hashers: [RandomState; 2],
    entries: HashMap<PageKey, Entry>,
    /// By the time of the last use.
    by_use: BTreeMap<u64, PageKey>,
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    /// By group; none where the page was given back.
    pages: Vec<Option<PageId>>,
    used: u64,
}

impl Index {
    /// The key of the page with the tokens `ids` after the page `before`, or at the beginning of a text.
    pub fn key(&self, before: Option<PageKey>, adapter: Option<AdapterId>, ids: &[u32]) -> PageKey {
        let [first, second] = &self.hashers;
        PageKey(first.hash_one((before, adapter, ids)), second.hash_one((before, adapter, ids)))
    }

    /// How many of a text's first pages are here, so that a sequence can go on after them. A windowed group needs only
    /// the pages that the next token sees.
    pub fn known(&self, keys: &[PageKey], pages: &Pages) -> usize {
        let mut known = 0;
        // For each group: how many pages up to this one are here without a gap.
        let mut runs = vec![0; pages.groups().len()];
        for (index, key) in keys.iter().enumerate() {
            let Some(entry) = self.entries.get(key) else { break };
            for (run, page) in runs.iter_mut().zip(&entry.pages) {
                *run = if page.is_some() { *run + 1 } else { 0 };
            }
            let end = index + 1;
            let seen = |group: usize| end - pages.groups()[group].first_seen(end * PAGE) / PAGE;
            if runs.iter().enumerate().all(|(group, run)| *run >= seen(group)) {
                known = end;
            }
        }
        known
    }

    /// A table with the pages of a text that are here, and counts that as a use.
    pub fn find(&mut self, keys: &[PageKey], pages: &mut Pages) -> Table {
        let known = self.known(keys, pages);
        let first: Vec<usize> = pages.groups().iter().map(|group| group.first_seen(known * PAGE) / PAGE).collect();
        let mut table = Table::new(pages);
        for (index, key) in keys[..known].iter().enumerate() {
            let shared = self.entries[key].pages.iter().zip(&first);
            let shared: Vec<_> = shared.map(|(page, first)| page.filter(|_| index >= *first)).collect();
            table.adopt(&shared, pages);
        }
        self.touch(&keys[..known]);
        table
    }

    /// Remembers a finished page of `table`. Where another sequence has computed the same before, its page stays.
    pub fn insert(&mut self, key: PageKey, table: &Table, index: usize, pages: &mut Pages) {
        let groups = pages.groups().len();
        let entry = self.entries.entry(key).or_insert_with(|| {
            self.clock += 1;
            self.by_use.insert(self.clock, key);
            Entry { pages: vec![None; groups], used: self.clock }
        });
        for (group, known) in entry.pages.iter_mut().enumerate() {
            if let (None, Some(page)) = (&known, table.page(group, index)) {
                pages.retain(group, page);
                *known = Some(page);
            }
        }
    }

    /// Counts as a use of a text's pages. Its first pages are the last to go, as without them the others cannot be found.
    pub fn touch(&mut self, keys: &[PageKey]) {
        for key in keys.iter().rev() {
            if let Some(entry) = self.entries.get_mut(key) {
                self.clock += 1;
                self.by_use.remove(&entry.used);
                self.by_use.insert(self.clock, *key);
                entry.used = self.clock;
            }
        }
    }

    /// Frees the page of a group that was not used for the longest time and that no sequence holds; false if there is none.
    pub fn evict(&mut self, group: usize, pages: &mut Pages) -> bool {
        let is_idle =
            |key: &&PageKey| self.entries[*key].pages[group].is_some_and(|page| pages.holders(group, page) == 1);
        let Some(key) = self.by_use.values().find(is_idle).copied() else { return false };
        let entry = self.entries.get_mut(&key).expect("every key in the order has an entry");
        // Without a page of an unlimited group nothing can be done with those of the others.
        let whole = pages.groups()[group].window.is_none();
        for (other, held) in entry.pages.iter_mut().enumerate() {
            if let Some(page) = held.take_if(|_| whole || other == group) {
                pages.release(other, page);
            }
        }
        if entry.pages.iter().all(Option::is_none) {
            self.by_use.remove(&entry.used);
            self.entries.remove(&key);
        }
        true
    }

    /// How many pages of a group [`Index::evict`] could free.
    pub fn evictable(&self, group: usize, pages: &Pages) -> usize {
        let held = self.entries.values().filter_map(|entry| entry.pages[group]);
        held.filter(|page| pages.holders(group, *page) == 1).count()
    }

    /// Forgets every page without giving it back, for pages that are gone themselves. Keys stay what they are.
    pub fn forget(&mut self) {
        self.entries.clear();
        self.by_use.clear();
    }

    /// Gives back every page.
    pub fn clear(&mut self, pages: &mut Pages) {
        for entry in std::mem::take(&mut self.entries).into_values() {
            for (group, page) in entry.pages.into_iter().enumerate() {
                page.into_iter().for_each(|page| pages.release(group, page));
            }
        }
        self.by_use.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ModelConfig;
    use serde_json::json;

    /// A windowed group (20 positions) and a full one, with so many pages each.
    fn pages(count: usize) -> Pages {
        let json = json!({"model_type": "mistral", "hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 10, "max_position_embeddings": 64,
            "sliding_window": 20, "layer_types": ["sliding_attention", "full_attention"]});
        let config = ModelConfig::from_json(&json).unwrap();
        let one = Pages::new(&config, 1 << 20);
        let pages = Pages::new(&config, count * (one.bytes_per_page(0) + one.bytes_per_page(1)));
        assert_eq!([0, 1].map(|group| pages.total(group)), [count; 2]);
        pages
    }

    /// The keys of the full pages of a text.
    fn keys(index: &Index, text: &[u32]) -> Vec<PageKey> {
        let mut keys: Vec<PageKey> = Vec::new();
        for ids in text.chunks_exact(PAGE) {
            keys.push(index.key(keys.last().copied(), None, ids));
        }
        keys
    }

    /// Computes a text: its pages are in the index, and held by nobody else.
    fn remember(index: &mut Index, text: &[u32], pages: &mut Pages) -> Vec<PageKey> {
        let keys = keys(index, text);
        let mut table = Table::new(pages);
        assert!(table.grow(text.len(), pages));
        for (number, key) in keys.iter().enumerate() {
            index.insert(*key, &table, number, pages);
        }
        index.touch(&keys);
        table.clear(pages);
        keys
    }

    fn text(first: u32, pages: usize) -> Vec<u32> {
        (first..).take(pages * PAGE).collect()
    }

    #[test]
    fn a_key_tells_everything_before_it() {
        let index = Index::default();
        let first = index.key(None, None, &[1, 2]);
        assert_eq!(first, index.key(None, None, &[1, 2]));
        assert_ne!(first, index.key(None, None, &[1, 3]));
        assert_ne!(first, index.key(None, Some(AdapterId::numbered(0)), &[1, 2]));
        assert_ne!(
            index.key(None, Some(AdapterId::numbered(1)), &[1, 2]),
            index.key(None, Some(AdapterId::numbered(0)), &[1, 2])
        );
        assert_ne!(first, index.key(Some(first), None, &[1, 2]));
        // Another server has other keys.
        assert_ne!(first, Index::default().key(None, None, &[1, 2]));
    }

    #[test]
    fn a_text_is_found_as_far_as_it_is_the_same() {
        let (mut index, mut pages) = (Index::default(), pages(8));
        remember(&mut index, &text(100, 3), &mut pages);
        let mut other = text(100, 2);
        other.extend(text(500, 2));
        let other = keys(&index, &other);
        assert_eq!(index.known(&other, &pages), 2);
        let mut table = index.find(&other, &mut pages);
        assert_eq!(table.capacity(), 2 * PAGE);
        // A token at position 32 sees 13..=32 in the windowed group: both pages.
        assert!((0..2).all(|group| (0..2).all(|page| table.page(group, page).is_some())));
        assert_eq!(index.evictable(1, &pages), 1);
        table.clear(&mut pages);
        let longer = keys(&index, &text(100, 5));
        let mut table = index.find(&longer, &mut pages);
        // One at 48 sees 29..=48.
        assert_eq!((table.capacity(), table.page(0, 0), table.page(0, 1).is_some()), (3 * PAGE, None, true));
        assert!(table.page(1, 0).is_some());
        table.clear(&mut pages);
        index.clear(&mut pages);
        assert_eq!((pages.free(0), pages.free(1)), (8, 8));
        assert_eq!(index.known(&longer, &pages), 0);
    }

    #[test]
    fn what_was_not_used_for_the_longest_time_goes_first_and_the_end_of_a_text_before_its_beginning() {
        let (mut index, mut pages) = (Index::default(), pages(8));
        let old = remember(&mut index, &text(100, 2), &mut pages);
        let newer = remember(&mut index, &text(500, 2), &mut pages);
        let mut used = index.find(&old, &mut pages);
        used.clear(&mut pages);
        let known = |index: &Index, pages: &Pages| (index.known(&old, pages), index.known(&newer, pages));
        assert_eq!(known(&index, &pages), (2, 2));
        for expected in [(2, 1), (2, 0), (1, 0), (0, 0)] {
            assert!(index.evict(1, &mut pages));
            assert_eq!(known(&index, &pages), expected);
        }
        assert!(!index.evict(1, &mut pages));
        assert_eq!((pages.free(0), pages.free(1)), (8, 8));
    }

    #[test]
    fn a_page_that_a_sequence_holds_is_not_given_back() {
        let (mut index, mut pages) = (Index::default(), pages(4));
        let held = remember(&mut index, &text(100, 2), &mut pages);
        let mut table = index.find(&held, &mut pages);
        let idle = remember(&mut index, &text(500, 1), &mut pages);
        index.touch(&idle);
        assert_eq!(index.evictable(1, &pages), 1);
        assert!(index.evict(1, &mut pages) && !index.evict(1, &mut pages));
        assert_eq!((index.known(&held, &pages), index.known(&idle, &pages)), (2, 0));
        table.clear(&mut pages);
        assert!(index.evict(1, &mut pages));
        index.clear(&mut pages);
        assert_eq!(pages.free(0), 4);
    }

    #[test]
    fn a_gap_in_a_windowed_group_matters_only_where_it_is_seen() {
        let (mut index, mut pages) = (Index::default(), pages(8));
        let long = remember(&mut index, &text(100, 4), &mut pages);
        // In the windowed group the last page goes first, then the third.
        assert!(index.evict(0, &mut pages));
        assert_eq!(index.known(&long, &pages), 3);
        assert!(index.evict(0, &mut pages));
        assert_eq!((index.known(&long, &pages), pages.free(0), pages.free(1)), (2, 6, 4));
        // Whoever computes the text again fills the gaps.
        remember(&mut index, &text(100, 4), &mut pages);
        assert_eq!((index.known(&long, &pages), pages.free(0), pages.free(1)), (4, 4, 4));
        index.clear(&mut pages);
        assert_eq!((pages.free(0), pages.free(1)), (8, 8));
    }

    #[test]
    fn the_same_text_computed_twice_is_kept_once() {
        let (mut index, mut pages) = (Index::default(), pages(8));
        remember(&mut index, &text(100, 2), &mut pages);
        remember(&mut index, &text(100, 2), &mut pages);
        assert_eq!((pages.free(0), pages.free(1)), (6, 6));
    }
}
