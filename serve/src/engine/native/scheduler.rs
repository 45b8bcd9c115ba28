//! Decides what each step computes: continuous batching (Yu et al. 2022, "Orca") over paged keys and values.
//!
//! A step has the next tokens of all running sequences and then, under a budget of rows, pieces of prompts. Whoever came
//! first is served first. A sequence begins when there are pages for all of its tokens; where those that run have grown
//! so much that the pages do not suffice, the youngest gives back its own and waits for its turn again. What it had
//! chosen so far stays, and is computed again like a prompt: to the same result, as every row's sums are the same in
//! whatever company they are computed.

use std::collections::HashSet;
use std::ops::Range;

use orpo_model::infer::{AdapterId, Batch, Part};
use orpo_model::kv::{PageKey, Pages};

use super::cache::{Cache, Count};
use super::sequence::{Number, Sequence};

/// What bounds a step.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Sequences that run; at least 1.
    pub sequences: usize,
    /// Rows; at least as many as sequences.
    pub rows: usize,
    /// Rows of scored texts whose logits are wanted; at least 1.
    pub scored: usize,
}

/// A part of a step: consecutive rows of one sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The sequence.
    pub number: Number,
    /// The position of the first row.
    pub start: usize,
    /// How many rows.
    pub rows: usize,
    /// The positions whose logits are wanted.
    pub wanted: Range<usize>,
}

/// Tokens of prompts that were looked up in the index of prefixes, and those that were found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lookups {
    /// Looked up.
    pub queries: u64,
    /// Found.
    pub hits: u64,
}

/// All sequences that are not finished, and the pages they have.
#[derive(Debug)]
pub struct Scheduler {
    cache: Cache,
    bounds: Bounds,
    /// Those that have pages, the oldest first.
    running: Vec<Sequence>,
    /// Those that have none, the oldest first.
    waiting: Vec<Sequence>,
    lookups: Lookups,
}

impl Scheduler {
    /// A scheduler without sequences.
    pub fn new(cache: Cache, bounds: Bounds) -> Self {
        Self { cache, bounds, running: Vec::new(), waiting: Vec::new(), lookups: Lookups::default() }
    }

    /// The cache, which new sequences are made for.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// How many sequences run and how many wait.
    pub fn lengths(&self) -> (usize, usize) {
        (self.running.len(), self.waiting.len())
    }

    /// Lookups since the beginning.
    pub fn lookups(&self) -> Lookups {
        self.lookups
    }

    /// The pages there are.
    pub fn count(&self) -> Count {
        self.cache.count()
    }

    /// A sequence that runs.
    pub fn running(&self, number: Number) -> Option<&Sequence> {
        self.running.iter().find(|sequence| sequence.number() == number)
    }

    /// The sequences that ask for an adapter.
    pub fn with_adapter(&self, adapter: AdapterId) -> Vec<Number> {
        let all = self.running.iter().chain(&self.waiting);
        all.filter(|sequence| sequence.adapter() == Some(adapter)).map(Sequence::number).collect()
    }

    /// The sequence that came first.
    pub fn oldest(&self) -> Option<Number> {
        self.running.first().or(self.waiting.first()).map(Sequence::number)
    }

    /// Puts a new sequence at the end of the line.
    pub fn add(&mut self, sequence: Sequence) {
        insert(&mut self.waiting, sequence);
    }

    /// Ends a sequence; its pages are free again.
    pub fn remove(&mut self, number: Number) {
        self.waiting.retain(|sequence| sequence.number() != number);
        if let Some(at) = self.running.iter().position(|sequence| sequence.number() == number) {
            self.running.remove(at).give_back(&mut self.cache);
        }
    }

    /// The next step. Room for its rows is reserved; without sequences it is empty, and only then.
    pub fn plan(&mut self) -> Vec<Piece> {
        let mut left = self.bounds;
        let shares = self.shares(&mut left);
        let mut pieces = Vec::new();
        let mut at = 0;
        while at < self.running.len() {
            let share = shares[at];
            let mut rows = self.running[at].reserve(share, &mut self.cache);
            while rows == 0 && share > 0 && at + 1 < self.running.len() {
                self.set_back_youngest();
                rows = self.running[at].reserve(share, &mut self.cache);
            }
            if rows > 0 {
                pieces.push(piece(&self.running[at], rows));
            }
            at += 1;
        }
        // Rows that were meant for those set back are not given to others: pages are short.
        if self.running.len() == shares.len() {
            self.admit(left, &mut pieces);
        }
        pieces
    }

    /// How many rows each running sequence gets: those that need only one first, then the others by age.
    fn shares(&self, left: &mut Bounds) -> Vec<usize> {
        let mut shares = vec![0; self.running.len()];
        for one_row in [true, false] {
            for (share, sequence) in shares.iter_mut().zip(&self.running) {
                if (sequence.left() == 1) == one_row {
                    *share = take(sequence, left);
                }
            }
        }
        shares
    }

    /// Begins with those whose turn it is, as far as rows and pages are left.
    fn admit(&mut self, mut left: Bounds, pieces: &mut Vec<Piece>) {
        if self.waiting.is_empty() {
            return;
        }
        let mut coming: HashSet<PageKey> = self.running.iter().flat_map(Sequence::coming).copied().collect();
        let mut at = 0;
        while at < self.waiting.len() && self.running.len() < self.bounds.sequences && left.rows > 0 {
            // Another computes its next page just now: to wait for that is less work.
            let findable = self.waiting[at].findable();
            if findable.get(self.cache.known(findable)).is_some_and(|next| coming.contains(next)) {
                at += 1;
                continue;
            }
            let mut sequence = self.waiting.remove(at);
            sequence.look_up(&mut self.cache);
            let all = self.running.iter().chain([&sequence]).map(|sequence| (sequence.table(), sequence.needs()));
            if !self.cache.has_room(all) {
                sequence.give_back(&mut self.cache);
                self.waiting.insert(at, sequence);
                break;
            }
            if sequence.admit() && !sequence.findable().is_empty() {
                self.lookups.queries += sequence.ids().len() as u64;
                self.lookups.hits += sequence.cached() as u64;
            }
            coming.extend(sequence.coming());
            let share = take(&sequence, &mut left);
            let rows = sequence.reserve(share, &mut self.cache);
            if rows > 0 {
                pieces.push(piece(&sequence, rows));
            }
            insert(&mut self.running, sequence);
        }
    }

    fn set_back_youngest(&mut self) {
        if let Some(mut youngest) = self.running.pop() {
            youngest.give_back(&mut self.cache);
            insert(&mut self.waiting, youngest);
        }
    }

    /// The rows of a step for the forward pass, and the pages that it reads and writes.
    pub fn batch(&mut self, pieces: &[Piece]) -> (Batch<'_>, &mut Pages) {
        let mut batch = Batch { ids: Vec::new(), parts: Vec::with_capacity(pieces.len()), wanted: Vec::new() };
        for piece in pieces {
            let sequence = self.running.iter().find(|sequence| sequence.number() == piece.number);
            let Some(sequence) = sequence else { continue };
            let first = batch.ids.len();
            batch.ids.extend(&sequence.ids()[piece.start..piece.start + piece.rows]);
            batch.wanted.extend(piece.wanted.clone().map(|position| first + position - piece.start));
            let rows = first..batch.ids.len();
            batch.parts.push(Part { rows, start: piece.start, table: sequence.table(), adapter: sequence.adapter() });
        }
        (batch, self.cache.pages())
    }

    /// Notes that the rows of a step are computed.
    pub fn advance(&mut self, pieces: &[Piece]) {
        for piece in pieces {
            if let Some((sequence, cache)) = self.sequence(piece.number) {
                sequence.advance(piece.rows, cache);
            }
        }
    }

    /// Appends a chosen token to a running sequence.
    pub fn push(&mut self, number: Number, id: u32) {
        if let Some((sequence, cache)) = self.sequence(number) {
            sequence.push(id, cache);
        }
    }

    /// Notes that so many more rows of a running sequence are scored.
    pub fn scored(&mut self, number: Number, rows: usize) {
        if let Some((sequence, _)) = self.sequence(number) {
            sequence.scored(rows);
        }
    }

    fn sequence(&mut self, number: Number) -> Option<(&mut Sequence, &mut Cache)> {
        let sequence = self.running.iter_mut().find(|sequence| sequence.number() == number)?;
        Some((sequence, &mut self.cache))
    }

    /// Begins with new pages, as nobody knows what is in the old ones: every sequence waits for its turn again.
    pub fn restart(&mut self, pages: Pages) {
        self.cache.restart(pages);
        self.waiting.append(&mut self.running);
        self.waiting.sort_by_key(Sequence::number);
        self.waiting.iter_mut().for_each(|sequence| sequence.forget(&self.cache));
    }
}

fn insert(sequences: &mut Vec<Sequence>, sequence: Sequence) {
    let at = sequences.partition_point(|other| other.number() < sequence.number());
    sequences.insert(at, sequence);
}

/// Takes a sequence's next rows out of what is left.
fn take(sequence: &Sequence, left: &mut Bounds) -> usize {
    let rows = sequence.piece(left.rows, left.scored);
    left.rows -= rows;
    // The one row of a reply that is wanted is not counted: there are no more of these than sequences.
    left.scored -= sequence.wanted(rows).len().saturating_sub(1).min(left.scored - 1);
    rows
}

fn piece(sequence: &Sequence, rows: usize) -> Piece {
    Piece { number: sequence.number(), start: sequence.computed(), rows, wanted: sequence.wanted(rows) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use orpo_model::ModelConfig;
    use orpo_model::kv::PAGE;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha12Rng;

    use super::*;
    use crate::engine::native::fake::{self, Fake, VOCABULARY, best, prompt, reply};

    const BOUNDS: Bounds = Bounds { sequences: 4, rows: 64, scored: 8 };

    /// A scheduler, a forward pass, and what has come out.
    struct Runs {
        config: ModelConfig,
        scheduler: Scheduler,
        fake: Fake,
        /// How many tokens each reply may still have.
        left: BTreeMap<Number, usize>,
        replies: BTreeMap<Number, Vec<u32>>,
        /// The best token after each scored row.
        scores: BTreeMap<Number, Vec<u32>>,
        next: Number,
    }

    impl Runs {
        fn new(config: ModelConfig, pages: usize, bounds: Bounds) -> Self {
            let scheduler = Scheduler::new(Cache::new(fake::pages(&config, pages)), bounds);
            let (left, replies, scores) = Default::default();
            Self { config, scheduler, fake: Fake::default(), left, replies, scores, next: 0 }
        }

        fn generate(&mut self, prompt: &[u32], tokens: usize) -> Number {
            let sequence = Sequence::to_continue(self.next, None, prompt.to_vec(), self.scheduler.cache());
            self.scheduler.add(sequence);
            self.left.insert(self.next, tokens);
            self.replies.insert(self.next, Vec::new());
            self.next += 1;
            self.next - 1
        }

        fn score(&mut self, text: &[u32]) -> Number {
            let sequence = Sequence::to_score(self.next, None, text.to_vec(), self.scheduler.cache());
            self.scheduler.add(sequence);
            self.left.insert(self.next, text.len() - 1);
            self.scores.insert(self.next, Vec::new());
            self.next += 1;
            self.next - 1
        }

        fn leave(&mut self, number: Number) {
            self.scheduler.remove(number);
            self.left.remove(&number);
        }

        /// One step, greedily; its pieces.
        fn step(&mut self) -> Vec<Piece> {
            let bounds = self.scheduler.bounds;
            let pieces = self.scheduler.plan();
            assert!(pieces.iter().map(|piece| piece.rows).sum::<usize>() <= bounds.rows);
            assert!(self.scheduler.lengths().0 <= bounds.sequences);
            assert_eq!(pieces.is_empty(), self.left.is_empty());
            let mut logits = Vec::new();
            let (batch, pages) = self.scheduler.batch(&pieces);
            assert!(batch.wanted.len() <= bounds.scored + bounds.sequences);
            self.fake.forward(&batch, pages, &mut logits);
            drop(batch);
            self.scheduler.advance(&pieces);
            let mut rows = logits.chunks_exact(VOCABULARY);
            for piece in &pieces {
                let wanted: Vec<u32> = rows.by_ref().take(piece.wanted.len()).map(best).collect();
                if wanted.is_empty() {
                    continue;
                }
                let left = self.left.get_mut(&piece.number).unwrap();
                *left -= wanted.len();
                if *left == 0 {
                    self.left.remove(&piece.number);
                    self.scheduler.remove(piece.number);
                } else if self.replies.contains_key(&piece.number) {
                    self.scheduler.push(piece.number, wanted[0]);
                } else {
                    self.scheduler.scored(piece.number, wanted.len());
                }
                let all = self.replies.get_mut(&piece.number).or(self.scores.get_mut(&piece.number));
                all.unwrap().extend(wanted);
            }
            pieces
        }

        /// Steps until everything is done; how many.
        fn finish(&mut self) -> usize {
            let mut steps = 0;
            while !self.left.is_empty() {
                self.step();
                steps += 1;
                assert!(steps < 100_000, "it does not come to an end");
            }
            assert_eq!(self.scheduler.lengths(), (0, 0));
            assert_eq!(self.scheduler.count().held(), 0, "no page is lost");
            steps
        }

        fn check(&self, number: Number, prompt: &[u32]) {
            let found = &self.replies[&number];
            assert_eq!(*found, reply(&self.config, prompt, found.len()), "sequence {number}");
        }
    }

    fn rows(pieces: &[Piece]) -> Vec<(Number, usize, usize)> {
        pieces.iter().map(|piece| (piece.number, piece.start, piece.rows)).collect()
    }

    #[test]
    fn a_step_has_next_tokens_first_and_then_pieces_of_prompts() {
        let mut runs = Runs::new(fake::full(), 100, BOUNDS);
        let texts = [prompt(0, 10), prompt(1, 100), prompt(2, 30)];
        let numbers = texts.each_ref().map(|text| runs.generate(text, 5));
        assert_eq!(rows(&runs.step()), [(0, 0, 10), (1, 0, 54)]);
        // The first has its next token, the second what is left of the rows; the third waits for rows.
        assert_eq!(rows(&runs.step()), [(0, 10, 1), (1, 54, 46), (2, 0, 17)]);
        assert_eq!(rows(&runs.step()), [(0, 11, 1), (1, 100, 1), (2, 17, 13)]);
        assert_eq!(rows(&runs.step()), [(0, 12, 1), (1, 101, 1), (2, 30, 1)]);
        runs.finish();
        numbers.into_iter().zip(&texts).for_each(|(number, text)| runs.check(number, text));
    }

    #[test]
    fn only_so_many_run_and_whoever_came_first_is_first() {
        let mut runs = Runs::new(fake::full(), 1000, BOUNDS);
        let texts: Vec<_> = (0..200).map(|seed| prompt(seed, 3 + seed as usize % 40)).collect();
        for text in &texts {
            runs.generate(text, 3);
        }
        let mut begun = Vec::new();
        while !runs.left.is_empty() {
            let pieces = runs.step();
            begun.extend(pieces.iter().filter(|piece| piece.start == 0).map(|piece| piece.number));
        }
        assert_eq!(begun, (0..200).collect::<Vec<_>>());
        (0..).zip(&texts).for_each(|(number, text)| runs.check(number, text));
    }

    #[test]
    fn what_does_not_fit_waits_and_nobody_overtakes_it() {
        let mut runs = Runs::new(fake::full(), 8, BOUNDS);
        let (small, large, last) = (prompt(1, 40), prompt(2, 90), prompt(3, 5));
        let first = runs.generate(&small, 4);
        let second = runs.generate(&large, 2);
        let third = runs.generate(&last, 2);
        // Three pages are taken and six would be needed; the last would fit.
        for _ in 0..4 {
            assert!(runs.step().iter().all(|piece| piece.number == first));
        }
        assert_eq!(rows(&runs.step()), [(second, 0, 64)]);
        runs.finish();
        for (number, text) in [(first, &small), (second, &large), (third, &last)] {
            runs.check(number, text);
        }
    }

    #[test]
    fn the_youngest_is_set_back_and_comes_to_the_same_result() {
        let mut runs = Runs::new(fake::full(), 6, BOUNDS);
        let texts = [prompt(1, 30), prompt(2, 30), prompt(3, 14)];
        let numbers = texts.each_ref().map(|text| runs.generate(text, 60));
        let mut set_back = BTreeMap::new();
        let mut before = BTreeMap::new();
        while !runs.left.is_empty() {
            for piece in runs.step() {
                if before.insert(piece.number, piece.start).is_some_and(|before| before >= piece.start) {
                    *set_back.entry(piece.number).or_insert(0) += 1;
                }
            }
        }
        assert!(!set_back.contains_key(&numbers[0]), "the oldest is never set back");
        assert!(set_back.contains_key(&numbers[2]), "{set_back:?}");
        numbers.into_iter().zip(&texts).for_each(|(number, text)| runs.check(number, text));
        assert_eq!(runs.scheduler.count().held(), 0);
    }

    #[test]
    fn a_cache_of_two_pages_serves_all_of_its_context() {
        for config in [fake::full(), fake::windowed()] {
            let pages = if config.windows[0].is_some() { 3 } else { 2 };
            let mut runs = Runs::new(config, pages, BOUNDS);
            assert_eq!(runs.scheduler.cache().capacity(), pages * PAGE);
            let texts = [prompt(1, pages * PAGE - 1), prompt(2, 5), prompt(3, 17)];
            let numbers = texts.each_ref().map(|text| runs.generate(text, pages * PAGE - text.len()));
            runs.finish();
            numbers.into_iter().zip(&texts).for_each(|(number, text)| runs.check(number, text));
        }
    }

    #[test]
    fn a_window_needs_pages_for_itself_only() {
        let mut config = fake::windowed();
        config.windows = vec![Some(20); 2];
        let mut runs = Runs::new(config, 3, BOUNDS);
        assert_eq!(runs.scheduler.cache().capacity(), usize::MAX);
        let texts = [prompt(1, 300), prompt(2, 10), prompt(3, 100)];
        let numbers = texts.each_ref().map(|text| runs.generate(text, 40));
        runs.finish();
        numbers.into_iter().zip(&texts).for_each(|(number, text)| runs.check(number, text));
    }

    #[test]
    fn a_known_beginning_is_not_computed_again() {
        let mut runs = Runs::new(fake::full(), 100, BOUNDS);
        let text = prompt(1, 3 * PAGE);
        let first = runs.generate(&text, 4);
        runs.finish();
        assert_eq!(runs.fake.rows, 3 * PAGE + 3);
        assert_eq!(runs.scheduler.lookups(), Lookups { queries: 48, hits: 0 });
        // The last token's row is computed for its logits, and with it its page.
        let second = runs.generate(&text, 4);
        assert_eq!(rows(&runs.step()), [(second, 2 * PAGE, PAGE)]);
        assert_eq!(runs.scheduler.lookups(), Lookups { queries: 96, hits: 32 });
        assert_eq!(runs.scheduler.running(second).unwrap().cached(), 32);
        runs.finish();
        // A longer text, the reply of the first included; and one that differs early.
        let longer = [text.clone(), runs.replies[&first].clone(), prompt(5, 20)].concat();
        let third = runs.generate(&longer, 4);
        assert_eq!(rows(&runs.step()), [(third, 3 * PAGE, 24)]);
        let mut other = text.clone();
        other[PAGE] ^= 1;
        let fourth = runs.generate(&other, 4);
        assert!(rows(&runs.step()).contains(&(fourth, PAGE, 2 * PAGE)));
        runs.finish();
        for (number, text) in [(first, &text), (second, &text), (third, &longer), (fourth, &other)] {
            runs.check(number, text);
        }
    }

    #[test]
    fn choices_of_one_prompt_compute_it_once() {
        let mut runs = Runs::new(fake::full(), 100, BOUNDS);
        let text = prompt(1, 10 * PAGE + 3);
        let numbers = [(); 4].map(|()| runs.generate(&text, 2));
        let other = runs.generate(&prompt(2, 5), 1);
        let mut begun = Vec::new();
        while !runs.left.is_empty() {
            begun.extend(runs.step().iter().filter(|piece| piece.number == other).map(|piece| piece.start));
        }
        // The prompt, the rest of a page for each other choice, one further token for each, and the other text, which
        // need not wait.
        assert_eq!(runs.fake.rows, text.len() + 3 * 3 + 4 + 5);
        assert_eq!(begun, [0]);
        numbers.into_iter().for_each(|number| runs.check(number, &text));
    }

    #[test]
    fn a_text_is_scored_in_pieces_with_as_many_rows_of_logits_as_may_be() {
        let mut runs = Runs::new(fake::full(), 100, BOUNDS);
        let text = prompt(1, 40);
        let known = runs.generate(&text, 1);
        runs.finish();
        // Known or not, every row is computed, as its logits are wanted.
        let scored = runs.score(&text);
        let beside = runs.generate(&prompt(2, 100), 3);
        let pieces = runs.step();
        assert_eq!(rows(&pieces), [(scored, 0, 8), (beside, 0, 56)]);
        assert_eq!(pieces[0].wanted, 0..8);
        runs.finish();
        runs.check(known, &text);
        runs.check(beside, &prompt(2, 100));
        let expected: Vec<u32> = (1..40).map(|end| best(&fake::logits(&runs.config, &text[..end]))).collect();
        assert_eq!(runs.scores[&scored], expected);
    }

    #[test]
    fn whoever_leaves_frees_the_pages_at_once() {
        let mut runs = Runs::new(fake::full(), 8, BOUNDS);
        let (text, next) = (prompt(1, 100), prompt(2, 100));
        let first = runs.generate(&text, 5);
        let second = runs.generate(&next, 5);
        let third = runs.generate(&text, 5);
        runs.step();
        assert_eq!(runs.scheduler.lengths(), (1, 2));
        runs.leave(first);
        assert_eq!(runs.scheduler.count().held(), 0);
        assert_eq!(rows(&runs.step()), [(second, 0, 64)]);
        runs.leave(third);
        runs.finish();
        runs.check(second, &next);
    }

    #[test]
    fn with_new_pages_everything_is_computed_again() {
        let mut runs = Runs::new(fake::full(), 100, BOUNDS);
        let text = prompt(1, 50);
        let first = runs.generate(&text, 20);
        (0..5).for_each(|_| drop(runs.step()));
        runs.scheduler.restart(fake::pages(&runs.config, 100));
        runs.fake = Fake::default();
        assert_eq!(runs.scheduler.count().free, 100);
        let second = runs.generate(&text, 20);
        runs.finish();
        runs.check(first, &text);
        runs.check(second, &text);
    }

    /// Texts that share beginnings come and go while there are too few pages.
    #[test]
    fn in_any_crowd_every_text_comes_to_the_result_that_it_has_alone() {
        let mut random = ChaCha12Rng::seed_from_u64(5);
        for round in 0..30 {
            let config = if round % 2 == 0 { fake::full() } else { fake::windowed() };
            let pages = random.random_range(4..30);
            let bounds = Bounds {
                sequences: random.random_range(1..9),
                rows: random.random_range(9..100),
                scored: random.random_range(1..20),
            };
            let mut runs = Runs::new(config, pages, bounds);
            let mut texts = BTreeMap::new();
            for _ in 0..60 {
                let length = random.random_range(2..pages * PAGE);
                let mut text = prompt(random.random_range(0..3), length);
                if random.random_bool(0.5) {
                    let at = random.random_range(0..length);
                    text[at] ^= 1;
                }
                let tokens = random.random_range(1..=(pages * PAGE - length).min(40));
                let number = if random.random_bool(0.2) { runs.score(&text) } else { runs.generate(&text, tokens) };
                texts.insert(number, text);
                (0..random.random_range(0..6)).for_each(|_| drop(runs.step()));
                if random.random_bool(0.1) {
                    let gone = random.random_range(0..runs.next);
                    runs.leave(gone);
                }
            }
            runs.finish();
            for (number, text) in &texts {
                match runs.scores.get(number) {
                    None => runs.check(*number, text),
                    Some(scores) => {
                        let expected = (1..=scores.len()).map(|end| best(&fake::logits(&runs.config, &text[..end])));
                        assert!(expected.eq(scores.iter().copied()), "sequence {number}");
                    }
                }
            }
        }
    }
}
