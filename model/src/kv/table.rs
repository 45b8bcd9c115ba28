//! The pages of one sequence.

use super::pages::{PAGE, PageId, Pages};

/// For each group the pages that hold a sequence's tokens, in the order of their positions: the page of index `i` holds
/// the positions from `i * PAGE` on.
///
/// A table holds its pages until [`Table::clear`]; one that is dropped without it leaves them taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// By group and index; none where no later token sees the page and it was given back.
    groups: Vec<Vec<Option<PageId>>>,
    /// For each group how many of its first pages were given back.
    released: Vec<usize>,
}

impl Table {
    /// A table without pages, for sequences in `pages`.
    pub fn new(pages: &Pages) -> Self {
        let groups = pages.groups().len();
        Self { groups: vec![Vec::new(); groups], released: vec![0; groups] }
    }

    /// Tokens for which there are pages, those given back included.
    pub fn capacity(&self) -> usize {
        self.indexes() * PAGE
    }

    /// Pages of each group, those given back included.
    pub fn indexes(&self) -> usize {
        self.groups.first().map_or(0, Vec::len)
    }

    /// How many pages of every group it lacks for `tokens` tokens.
    pub fn lacking(&self, tokens: usize) -> usize {
        tokens.div_ceil(PAGE).saturating_sub(self.indexes())
    }

    /// Allocates what is lacking for `tokens` tokens; false, and nothing is allocated, if a group has too few free pages.
    pub fn grow(&mut self, tokens: usize, pages: &mut Pages) -> bool {
        let lacking = self.lacking(tokens);
        if (0..self.groups.len()).any(|group| pages.free(group) < lacking) {
            return false;
        }
        for (group, held) in self.groups.iter_mut().enumerate() {
            held.extend((0..lacking).map(|_| pages.allocate(group)));
        }
        true
    }

    /// Adds the pages of one more index that another table or an index of prefixes holds too; none for a group whose page
    /// is gone because the sequence will not see it.
    ///
    /// # Panics
    /// If `shared` has not one entry for each group.
    pub fn adopt(&mut self, shared: &[Option<PageId>], pages: &mut Pages) {
        assert_eq!(shared.len(), self.groups.len(), "one page for each group");
        for (group, (held, page)) in self.groups.iter_mut().zip(shared).enumerate() {
            if let Some(page) = page {
                pages.retain(group, *page);
            }
            held.push(*page);
        }
    }

    /// The page of an index; none if it was given back or never there.
    pub fn page(&self, group: usize, index: usize) -> Option<PageId> {
        self.groups.get(group)?.get(index).copied().flatten()
    }

    /// The pages of an index in every group, as [`Table::adopt`] takes them.
    pub fn pages_at(&self, index: usize) -> Vec<Option<PageId>> {
        (0..self.groups.len()).map(|group| self.page(group, index)).collect()
    }

    /// Gives back the pages that no token at `position` or later sees, and returns how many these were.
    pub fn release_unseen(&mut self, position: usize, pages: &mut Pages) -> usize {
        let mut given_back = 0;
        for (group, held) in self.groups.iter_mut().enumerate() {
            let unseen = (pages.groups()[group].first_seen(position) / PAGE).min(held.len());
            for page in held[self.released[group].min(unseen)..unseen].iter_mut().filter_map(Option::take) {
                pages.release(group, page);
                given_back += 1;
            }
            self.released[group] = self.released[group].max(unseen);
        }
        given_back
    }

    /// Gives back every page.
    pub fn clear(&mut self, pages: &mut Pages) {
        for (group, held) in self.groups.iter_mut().enumerate() {
            held.drain(..).flatten().for_each(|page| pages.release(group, page));
        }
        self.released.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ModelConfig;
    use serde_json::json;

    /// A windowed group and a full one, with so many pages each.
    fn pages(count: usize) -> Pages {
        let json = json!({"model_type": "mistral", "hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 10, "max_position_embeddings": 64,
            "sliding_window": 20, "layer_types": ["sliding_attention", "full_attention"]});
        let pages = Pages::new(&ModelConfig::from_json(&json).unwrap(), count * 2 * 2 * 16 * PAGE * 4);
        assert_eq!(pages.total(0), count);
        pages
    }

    #[test]
    fn it_grows_by_whole_pages_or_not_at_all() {
        let mut pages = pages(5);
        let (mut one, mut other) = (Table::new(&pages), Table::new(&pages));
        assert!(one.grow(0, &mut pages) && one.capacity() == 0);
        assert!(one.grow(17, &mut pages) && one.grow(32, &mut pages));
        assert_eq!((one.capacity(), one.lacking(33), pages.free(0), pages.free(1)), (32, 1, 3, 3));
        let before = other.clone();
        assert!(!other.grow(49, &mut pages) && other == before && pages.free(0) == 3);
        assert!(other.grow(48, &mut pages) && pages.free(0) == 0 && pages.free(1) == 0);
        assert!((0..2).all(|group| (0..2).all(|i| (0..3).all(|j| one.page(group, i) != other.page(group, j)))));
        one.clear(&mut pages);
        other.clear(&mut pages);
        assert_eq!((pages.free(0), pages.free(1), one.capacity()), (5, 5, 0));
    }

    #[test]
    fn pages_beyond_the_window_are_given_back_once() {
        let mut pages = pages(5);
        let mut table = Table::new(&pages);
        assert!(table.grow(80, &mut pages));
        // A token at 35 sees 16..=35, one at 34 sees 15 too.
        assert_eq!(table.release_unseen(34, &mut pages), 0);
        assert_eq!(table.release_unseen(35, &mut pages), 1);
        assert_eq!(table.release_unseen(35, &mut pages), 0);
        assert_eq!(table.release_unseen(67, &mut pages), 2);
        assert_eq!((pages.free(0), pages.free(1), table.capacity()), (3, 0, 80));
        assert_eq!(
            (0..5).map(|index| table.page(0, index).is_some()).collect::<Vec<_>>(),
            [false, false, false, true, true]
        );
        assert!((0..5).all(|index| table.page(1, index).is_some()));
        table.clear(&mut pages);
        assert_eq!((pages.free(0), pages.free(1)), (5, 5));
    }

    #[test]
    fn a_shared_page_outlives_the_table_it_came_from() {
        let mut pages = pages(5);
        let (mut one, mut other) = (Table::new(&pages), Table::new(&pages));
        assert!(one.grow(64, &mut pages));
        one.release_unseen(40, &mut pages);
        for index in 0..3 {
            other.adopt(&one.pages_at(index), &mut pages);
        }
        assert_eq!((other.capacity(), other.page(0, 0), other.page(0, 1)), (48, None, one.page(0, 1)));
        one.clear(&mut pages);
        assert_eq!((pages.free(0), pages.free(1)), (3, 2));
        assert!(other.grow(64, &mut pages));
        other.clear(&mut pages);
        assert_eq!((pages.free(0), pages.free(1)), (5, 5));
    }
}
