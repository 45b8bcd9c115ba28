//! Pages and the index of prefixes in them, as the scheduler sees both: what only the index holds is as good as free.

use orpo_model::infer::AdapterId;
use orpo_model::kv::{Index, PAGE, PageKey, Pages, Table};

/// The pages of all sequences.
#[derive(Debug)]
pub struct Cache {
    pages: Pages,
    index: Index,
}

impl Cache {
    /// A cache in which nothing is known.
    pub fn new(pages: Pages) -> Self {
        Self { pages, index: Index::default() }
    }

    /// The pages, for the forward pass.
    pub fn pages(&mut self) -> &mut Pages {
        &mut self.pages
    }

    /// How many tokens one sequence can have.
    pub fn capacity(&self) -> usize {
        let of_group = |group: usize| match self.span(group) {
            Some(span) if self.pages.total(group) >= span => usize::MAX,
            _ => self.pages.total(group) * PAGE,
        };
        self.groups().map(of_group).min().unwrap_or(usize::MAX)
    }

    /// Pages that are seen at most by one row, where a window limits them.
    fn span(&self, group: usize) -> Option<usize> {
        self.pages.groups()[group].window.map(|window| window.saturating_sub(1).div_ceil(PAGE) + 1)
    }

    fn groups(&self) -> std::ops::Range<usize> {
        0..self.pages.groups().len()
    }

    /// A table without pages.
    pub fn table(&self) -> Table {
        Table::new(&self.pages)
    }

    /// As [`Index::key`].
    pub fn key(&self, before: Option<PageKey>, adapter: Option<AdapterId>, ids: &[u32]) -> PageKey {
        self.index.key(before, adapter, ids)
    }

    /// As [`Index::known`].
    pub fn known(&self, keys: &[PageKey]) -> usize {
        self.index.known(keys, &self.pages)
    }

    /// As [`Index::find`].
    pub fn find(&mut self, keys: &[PageKey]) -> Table {
        self.index.find(keys, &mut self.pages)
    }

    /// As [`Index::insert`].
    pub fn remember(&mut self, key: PageKey, table: &Table, index: usize) {
        self.index.insert(key, table, index, &mut self.pages);
    }

    /// As [`Index::touch`].
    pub fn touch(&mut self, keys: &[PageKey]) {
        self.index.touch(keys);
    }

    /// Adds pages for `tokens` tokens, or as many as there are, and returns for how many tokens the table then has pages.
    pub fn grow(&mut self, table: &mut Table, tokens: usize) -> usize {
        let mut lacking = table.lacking(tokens);
        for group in self.groups() {
            while self.pages.free(group) < lacking && self.index.evict(group, &mut self.pages) {}
            lacking = lacking.min(self.pages.free(group));
        }
        let tokens = tokens.min((table.indexes() + lacking) * PAGE);
        let grown = table.grow(tokens, &mut self.pages);
        debug_assert!(grown, "there are {lacking} pages in each group");
        table.capacity()
    }

    /// As [`Table::release_unseen`].
    pub fn release_unseen(&mut self, table: &mut Table, position: usize) {
        table.release_unseen(position, &mut self.pages);
    }

    /// As [`Table::clear`].
    pub fn clear(&mut self, table: &mut Table) {
        table.clear(&mut self.pages);
    }

    /// True if there are pages for sequences with these tables to have so many tokens. In a windowed group they can do
    /// with the pages that one row sees.
    pub fn has_room<'a>(&self, sequences: impl Iterator<Item = (&'a Table, usize)> + Clone) -> bool {
        self.groups().all(|group| {
            let held = |table: &Table| (0..table.indexes()).filter(|index| table.page(group, *index).is_some()).count();
            let needed = sequences.clone().map(|(table, tokens)| match self.span(group) {
                Some(span) => table.lacking(tokens).min(span.saturating_sub(held(table))),
                None => table.lacking(tokens),
            });
            let (needed, free) = (needed.sum::<usize>(), self.pages.free(group));
            needed <= free || needed <= free + self.index.evictable(group, &self.pages)
        })
    }

    /// Begins with new pages, without a look at the old ones.
    pub fn restart(&mut self, pages: Pages) {
        self.pages = pages;
        self.index.forget();
    }

    /// Pages of all groups: how many there are, and how many are free or held by the index alone.
    pub fn count(&self) -> Count {
        let sum = |of_group: &dyn Fn(usize) -> usize| self.groups().map(of_group).sum();
        Count {
            total: sum(&|group| self.pages.total(group)),
            free: sum(&|group| self.pages.free(group)),
            known: sum(&|group| self.index.evictable(group, &self.pages)),
        }
    }
}

/// How many pages there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// All.
    pub total: usize,
    /// Held by nobody.
    pub free: usize,
    /// Held by the index of prefixes alone: free as soon as somebody needs them.
    pub known: usize,
}

impl Count {
    /// Pages that sequences hold.
    pub fn held(&self) -> usize {
        self.total - self.free - self.known
    }
}
