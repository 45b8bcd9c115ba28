//! The tokens of one request and how far they are computed.

use std::ops::Range;

use orpo_model::infer::AdapterId;
use orpo_model::kv::{PAGE, PageKey, Table};

use super::cache::Cache;

/// Whose turn it is: lower numbers came first.
pub type Number = u64;

/// A text in the making, or one whose tokens are scored.
#[derive(Debug)]
pub struct Sequence {
    number: Number,
    adapter: Option<AdapterId>,
    /// Prompt and reply.
    ids: Vec<u32>,
    /// How many of `ids` are computed at most: the last token of a scored text predicts nothing.
    target: usize,
    /// The first row whose logits are still wanted.
    first_wanted: usize,
    /// How many of the first tokens have their keys and values in `table`.
    computed: usize,
    table: Table,
    /// Of the full pages of `ids`.
    keys: Vec<PageKey>,
    /// How many of the first pages the index of prefixes was told of.
    indexed: usize,
    /// How many tokens of the prompt the index had; none before they were looked up.
    cached: Option<usize>,
}

impl Sequence {
    /// A prompt that wants a next token: the logits of its last row.
    ///
    /// # Panics
    /// Without a token.
    pub fn to_continue(number: Number, adapter: Option<AdapterId>, ids: Vec<u32>, cache: &Cache) -> Self {
        let target = ids.len();
        let first_wanted = target.checked_sub(1).expect("a prompt has a token");
        Self::new(number, adapter, ids, target, first_wanted, cache)
    }

    /// A text whose tokens from the second on are scored: the logits of all rows but the last.
    ///
    /// # Panics
    /// With less than two tokens.
    pub fn to_score(number: Number, adapter: Option<AdapterId>, ids: Vec<u32>, cache: &Cache) -> Self {
        assert!(ids.len() > 1, "one token has no score");
        let target = ids.len() - 1;
        Self::new(number, adapter, ids, target, 0, cache)
    }

    fn new(
        number: Number,
        adapter: Option<AdapterId>,
        ids: Vec<u32>,
        target: usize,
        first_wanted: usize,
        cache: &Cache,
    ) -> Self {
        let table = cache.table();
        let (keys, indexed, cached) = (Vec::new(), 0, None);
        let mut new = Self { number, adapter, ids, target, first_wanted, computed: 0, table, keys, indexed, cached };
        new.extend_keys(cache);
        new
    }

    fn extend_keys(&mut self, cache: &Cache) {
        for ids in self.ids[self.keys.len() * PAGE..self.target].chunks_exact(PAGE) {
            self.keys.push(cache.key(self.keys.last().copied(), self.adapter, ids));
        }
    }

    /// Whose turn it is.
    pub fn number(&self) -> Number {
        self.number
    }

    /// The adapter that it asks for.
    pub fn adapter(&self) -> Option<AdapterId> {
        self.adapter
    }

    /// Its pages.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Prompt and reply.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// How many rows are computed.
    pub fn computed(&self) -> usize {
        self.computed
    }

    /// How many rows are still to be computed.
    pub fn left(&self) -> usize {
        self.target - self.computed
    }

    /// The positions of those among the next `rows` rows whose logits are wanted.
    pub fn wanted(&self, rows: usize) -> Range<usize> {
        let end = self.computed + rows;
        self.first_wanted.clamp(self.computed, end)..end
    }

    /// How many of its next rows can be computed if `rows` are at most, of which the logits of `wanted` are wanted.
    pub fn piece(&self, rows: usize, wanted: usize) -> usize {
        let unwanted = self.first_wanted.saturating_sub(self.computed);
        self.left().min(rows).min(unwanted + wanted)
    }

    /// How many tokens it needs pages for now: those it has, and one more.
    pub fn needs(&self) -> usize {
        self.target + 1
    }

    /// How many tokens of the prompt need not have been computed.
    pub fn cached(&self) -> usize {
        self.cached.unwrap_or(0)
    }

    /// The keys of the pages that an index of prefixes may give: the row of the first wanted logits must be computed.
    pub fn findable(&self) -> &[PageKey] {
        &self.keys[..(self.first_wanted / PAGE).min(self.keys.len())]
    }

    /// The keys of the pages that it will compute.
    pub fn coming(&self) -> &[PageKey] {
        self.keys.get(self.computed / PAGE..).unwrap_or_default()
    }

    /// Takes the pages that the index of prefixes has.
    ///
    /// # Panics
    /// If it has pages already.
    pub fn look_up(&mut self, cache: &mut Cache) {
        assert_eq!(self.table.indexes(), 0, "only a sequence without pages looks them up");
        self.table = cache.find(self.findable());
        self.computed = self.table.capacity();
        self.indexed = self.computed / PAGE;
    }

    /// Notes that its turn has come after [`Self::look_up`]; true the first time.
    pub fn admit(&mut self) -> bool {
        let first = self.cached.is_none();
        self.cached.get_or_insert(self.computed);
        first
    }

    /// Makes room for the next `rows` rows, or for as many as there are pages for, and returns how many these are.
    pub fn reserve(&mut self, rows: usize, cache: &mut Cache) -> usize {
        let capacity = cache.grow(&mut self.table, self.computed + rows);
        capacity.saturating_sub(self.computed).min(rows)
    }

    /// Notes that the next `rows` rows were computed: full pages become known, and those that no later row sees are
    /// given back.
    pub fn advance(&mut self, rows: usize, cache: &mut Cache) {
        self.computed += rows;
        let full = self.computed / PAGE;
        for index in self.indexed..full {
            cache.remember(self.keys[index], &self.table, index);
        }
        self.indexed = full;
        cache.release_unseen(&mut self.table, self.computed);
    }

    /// Appends a chosen token, whose row is then to be computed.
    pub fn push(&mut self, id: u32, cache: &Cache) {
        self.ids.push(id);
        self.target += 1;
        self.first_wanted = self.target - 1;
        self.extend_keys(cache);
    }

    /// Notes that the logits of `rows` more rows were used.
    pub fn scored(&mut self, rows: usize) {
        self.first_wanted += rows;
    }

    /// Gives back every page; everything is then to be computed again.
    pub fn give_back(&mut self, cache: &mut Cache) {
        cache.touch(&self.keys[..self.indexed]);
        cache.clear(&mut self.table);
        (self.computed, self.indexed) = (0, 0);
    }

    /// Forgets the pages, which are gone.
    pub fn forget(&mut self, cache: &Cache) {
        self.table = cache.table();
        (self.computed, self.indexed) = (0, 0);
    }
}
