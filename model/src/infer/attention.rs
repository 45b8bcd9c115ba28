//! Causal grouped-query attention over pages.
//!
//! For a row at position `p`, its queries of one head `q` and the positions `j` from the first that it sees to `p`:
//!
//! - `score[j]` is `scale` times the sum of `q[c] * key[j][c]` over ascending `c`, by sequential fused multiply-adds that
//!   start at 0; with a soft limit it becomes `cap * tanh(score / cap)`;
//! - `weight[j]` is `exp(score[j] - largest)`; the weights are summed in 16 lanes by `j % 16`, ascending, and the lanes
//!   pairwise: lane `i` and `i + 8`, then `i + 4`, `i + 2`, `i + 1`;
//! - `out[c]` is the sum of `weight[j] * value[j][c]` over ascending `j`, by sequential fused multiply-adds that start at 0,
//!   divided by the sum of the weights.
//!
//! Nothing of this depends on what else is computed. Vector registers hold 16 positions of a page for the scores and 16
//! columns for the values, so that no order changes with their width.

use std::cell::RefCell;

use rayon::prelude::*;

use super::batch::Part;
use crate::formulas::soft_cap;
use crate::kernels::math::exp;
use crate::kv::{HeadPage, PAGE, Pages};
#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512};
use crate::lanes::{Isa, Lanes, Portable};

/// Queries of a tile in the loops over keys and values.
const TILE: usize = 4;
/// Rows times the heads that share a key-value head, which share one reading of the keys; more would not fit into the cache
/// with their scores.
const QUERIES: usize = 16;
/// Below so many multiplications the threads are not asked.
const SERIAL: usize = 1 << 16;

/// One layer's attention.
pub(super) struct Attention<'a> {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub scale: f32,
    pub softcap: Option<f32>,
    /// The group of layers, and the layer's index in it.
    pub group: usize,
    pub layer: usize,
    pub pages: &'a Pages,
    pub parts: &'a [Part<'a>],
    pub isa: Isa,
}

/// Scores and sums of one task; a thread keeps them.
#[derive(Default)]
pub(crate) struct Scratch {
    /// `(queries, positions)`, from the first page on.
    scores: Vec<f32>,
    /// `(queries, width)`.
    sums: Vec<f32>,
    /// Of each query.
    pub totals: Vec<Total>,
}

/// The weights of a query: `e^(score - largest)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Total {
    /// The largest score.
    pub largest: f32,
    /// Of the weights.
    pub sum: f32,
}

thread_local! {
    pub(crate) static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Attention<'_> {
    /// Queries `(rows, heads, head_dim)` to `out` of the same shape; `blocks` is kept between calls.
    pub(super) fn forward(&self, q: &[f32], out: &mut [f32], blocks: &mut Vec<f32>) {
        let row = self.heads * self.head_dim;
        let rows = q.len() / row;
        let shared = self.heads / self.kv_heads;
        // Tasks write pieces of their own: by key-value head, then by so many rows.
        let block_rows = (TILE * (QUERIES / TILE / shared).max(1)).min(rows);
        let per_head = rows.div_ceil(block_rows);
        let (group_len, block_len) = (shared * self.head_dim, block_rows * shared * self.head_dim);
        blocks.resize(self.kv_heads * per_head * block_len, 0.0);
        let task = |(i, block): (usize, &mut [f32])| {
            let (kv_head, first) = (i / per_head, i % per_head * block_rows);
            self.block(q, kv_head, first..(first + block_rows).min(rows), block);
        };
        let seen = |part: &Part<'_>| {
            let end = part.start + part.rows.len();
            part.rows.len() * (end - self.pages.groups()[self.group].first_seen(end - 1))
        };
        match self.parts.iter().map(seen).sum::<usize>() * row < SERIAL {
            true => blocks.chunks_exact_mut(block_len).enumerate().for_each(task),
            false => blocks.par_chunks_exact_mut(block_len).enumerate().for_each(task),
        }
        for (r, to) in out.chunks_exact_mut(row).enumerate() {
            for (kv_head, to) in to.chunks_exact_mut(group_len).enumerate() {
                let at = (kv_head * per_head + r / block_rows) * block_len + r % block_rows * group_len;
                to.copy_from_slice(&blocks[at..at + group_len]);
            }
        }
    }

    /// Some rows, and all heads that share one key-value head; `out` is `(rows, shared heads, head_dim)`.
    fn block(&self, q: &[f32], kv_head: usize, rows: std::ops::Range<usize>, out: &mut [f32]) {
        let shared = self.heads / self.kv_heads;
        let first_part = self.parts.partition_point(|part| part.rows.end <= rows.start);
        for part in &self.parts[first_part..] {
            let (from, to) = (part.rows.start.max(rows.start), part.rows.end.min(rows.end));
            if from >= to {
                break;
            }
            let run = Run { attention: self, part, kv_head, q, first_row: from, queries: (to - from) * shared };
            let at = (from - rows.start) * shared * self.head_dim;
            let out = &mut out[at..at + run.queries * self.head_dim];
            SCRATCH.with_borrow_mut(|scratch| run.attend(self.isa, scratch, out));
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn attend_avx2<'a>(queries: &impl Queries<'a>, scratch: &mut Scratch, out: &mut [f32]) {
    // SAFETY: the features are those of the type.
    unsafe { queries.forward::<Avx2>(scratch, out) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
fn attend_avx512<'a>(queries: &impl Queries<'a>, scratch: &mut Scratch, out: &mut [f32]) {
    // SAFETY: the features are those of the type.
    unsafe { queries.forward::<Avx512>(scratch, out) }
}

/// Consecutive rows of one sequence, and the queries of the heads that share a key-value head; query `i` is that of row
/// `i / shared`.
struct Run<'a> {
    attention: &'a Attention<'a>,
    part: &'a Part<'a>,
    kv_head: usize,
    q: &'a [f32],
    first_row: usize,
    queries: usize,
}

impl<'a> Queries<'a> for Run<'a> {
    fn settings(&self) -> Settings {
        let Attention { head_dim, scale, softcap, pages, .. } = *self.attention;
        Settings { head_dim, width: pages.width(), scale, softcap }
    }

    fn count(&self) -> usize {
        self.queries
    }

    fn query(&self, i: usize) -> &'a [f32] {
        let Attention { heads, kv_heads, head_dim, .. } = *self.attention;
        let shared = heads / kv_heads;
        let at = (self.first_row + i / shared) * heads + self.kv_head * shared + i % shared;
        &self.q[at * head_dim..(at + 1) * head_dim]
    }

    fn seen(&self, i: usize) -> std::ops::Range<usize> {
        let shared = self.attention.heads / self.attention.kv_heads;
        let own = self.part.start + self.first_row - self.part.rows.start + i / shared;
        self.attention.pages.groups()[self.attention.group].first_seen(own)..own + 1
    }

    fn page(&self, index: usize) -> HeadPage<'a> {
        let Attention { group, layer, pages, .. } = *self.attention;
        let page = self.part.table.page(group, index).expect("the batch was checked");
        pages.head(group, page, layer, self.kv_head)
    }
}

/// What the formula is made of besides queries, keys and values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub head_dim: usize,
    /// Columns of a value row: `head_dim` rounded up to a multiple of 16.
    pub width: usize,
    pub scale: f32,
    pub softcap: Option<f32>,
}

/// Queries of consecutive rows that share a key-value head, with the pages of what they see.
pub(crate) trait Queries<'a> {
    fn settings(&self) -> Settings;

    /// How many there are.
    fn count(&self) -> usize;

    fn query(&self, i: usize) -> &'a [f32];

    /// The positions that query `i` sees; neither end comes before that of a query before it.
    fn seen(&self, i: usize) -> std::ops::Range<usize>;

    /// Keys and values of the positions from `index * PAGE` on.
    fn page(&self, index: usize) -> HeadPage<'a>;

    /// Writes the output of every query, `(queries, head_dim)`, and keeps the totals of the weights.
    fn attend(&self, isa: Isa, scratch: &mut Scratch, out: &mut [f32])
    where
        Self: Sized,
    {
        match isa {
            // SAFETY: the portable type needs no feature.
            Isa::Portable => unsafe { self.forward::<Portable>(scratch, out) },
            // SAFETY: `Isa::all` lists what the processor has.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { attend_avx2(self, scratch, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { attend_avx512(self, scratch, out) },
        }
    }

    /// # Safety
    /// The processor has the instructions of `L`.
    #[inline(always)]
    unsafe fn forward<L: Lanes>(&self, scratch: &mut Scratch, out: &mut [f32]) {
        let Scratch { scores, sums, totals } = scratch;
        let Settings { head_dim, width, softcap, .. } = self.settings();
        let pages = self.seen(0).start / PAGE..self.seen(self.count() - 1).end.div_ceil(PAGE);
        let (first, stride) = (pages.start * PAGE, pages.len() * PAGE);
        scores.resize(self.count() * stride, 0.0);
        // SAFETY: the caller vouches for the processor.
        unsafe { self.scores::<L>(scores, pages.clone(), stride) };
        totals.clear();
        for (i, row) in scores.chunks_exact_mut(stride).enumerate() {
            let seen = self.seen(i);
            totals.push(softmax_weights(row, seen.start - first..seen.end - first, softcap));
        }
        sums.clear();
        sums.resize(self.count() * width, 0.0);
        // SAFETY: the caller vouches for the processor.
        unsafe { self.values::<L>(sums, scores, first, stride) };
        for ((out, sum), total) in out.chunks_exact_mut(head_dim).zip(sums.chunks_exact(width)).zip(totals) {
            out.iter_mut().zip(sum).for_each(|(out, sum)| *out = sum / total.sum);
        }
    }

    /// Scaled products of all queries with all keys of the pages.
    ///
    /// # Safety
    /// The processor has the instructions of `L`.
    #[inline(always)]
    unsafe fn scores<L: Lanes>(&self, scores: &mut [f32], pages: std::ops::Range<usize>, stride: usize) {
        let mut index = pages.start;
        while index < pages.end {
            let column = (index - pages.start) * PAGE;
            if index + 4 <= pages.end {
                let keys = [0, 1, 2, 3].map(|i| self.page(index + i).keys);
                // SAFETY: the caller vouches for the processor.
                unsafe {
                    match L::WIDE {
                        true => self.score_pages::<L, 4>(scores, keys, column, stride),
                        false => self.score_pages::<L, 1>(scores, keys, column, stride),
                    }
                }
                index += 4;
            } else {
                // SAFETY: the caller vouches for the processor.
                unsafe { self.score_page::<L>(scores, self.page(index).keys, column, stride) };
                index += 1;
            }
        }
    }

    /// Scores of all queries with four pages, in tiles of `P` pages; what is left of the queries has four pages at once, so
    /// that enough sums are under way.
    ///
    /// # Safety
    /// The processor has the instructions of `L`.
    #[inline(always)]
    unsafe fn score_pages<L: Lanes, const P: usize>(
        &self,
        scores: &mut [f32],
        keys: [&[f32]; 4],
        column: usize,
        stride: usize,
    ) {
        let scale = self.settings().scale;
        let mut i = 0;
        // SAFETY: the caller vouches for the processor.
        unsafe {
            while i + TILE <= self.count() {
                let queries = std::array::from_fn(|k| self.query(i + k));
                for (at, keys) in keys.as_chunks::<P>().0.iter().enumerate() {
                    let scores = &mut scores[i * stride + column + at * P * PAGE..];
                    score_tile::<L, TILE, P>(queries, *keys, scale, scores, stride);
                }
                i += TILE;
            }
            while i < self.count() {
                score_tile::<L, 1, 4>([self.query(i)], keys, scale, &mut scores[i * stride + column..], stride);
                i += 1;
            }
        }
    }

    /// Scores of all queries with one page.
    ///
    /// # Safety
    /// The processor has the instructions of `L`.
    #[inline(always)]
    unsafe fn score_page<L: Lanes>(&self, scores: &mut [f32], keys: &[f32], column: usize, stride: usize) {
        let scale = self.settings().scale;
        let mut i = 0;
        // SAFETY: the caller vouches for the processor.
        unsafe {
            while i + TILE <= self.count() {
                let queries = std::array::from_fn(|k| self.query(i + k));
                score_tile::<L, TILE, 1>(queries, [keys], scale, &mut scores[i * stride + column..], stride);
                i += TILE;
            }
            while i < self.count() {
                score_tile::<L, 1, 1>([self.query(i)], [keys], scale, &mut scores[i * stride + column..], stride);
                i += 1;
            }
        }
    }

    /// Adds the weighted values of every query to its sums.
    ///
    /// # Safety
    /// The processor has the instructions of `L`.
    #[inline(always)]
    unsafe fn values<L: Lanes>(&self, sums: &mut [f32], weights: &[f32], first: usize, stride: usize) {
        // SAFETY: the caller vouches for the processor.
        unsafe {
            match L::WIDE {
                true => self.values_by::<L, 4>(sums, weights, first, stride),
                false => self.values_by::<L, 1>(sums, weights, first, stride),
            }
        }
    }

    /// The same in tiles of `16 * C` columns.
    ///
    /// # Safety
    /// The processor has the instructions of `L`.
    #[inline(always)]
    unsafe fn values_by<L: Lanes, const C: usize>(
        &self,
        sums: &mut [f32],
        weights: &[f32],
        first: usize,
        stride: usize,
    ) {
        let width = self.settings().width;
        let mut i = 0;
        // SAFETY: the caller vouches for the processor.
        unsafe {
            while i < self.count() {
                let count = if i + TILE <= self.count() { TILE } else { 1 };
                let (sums, weights) = (&mut sums[i * width..(i + count) * width], &weights[i * stride..]);
                // What all of them see is read once; before and after it each goes on by itself, in its own order.
                let common = self.seen(i + count - 1).start..self.seen(i).end;
                if count == TILE && !common.is_empty() {
                    for k in 0..count {
                        let before = self.seen(i + k).start..common.start;
                        let sum = &mut sums[k * width..(k + 1) * width];
                        self.value_range::<L, 1, 4>(sum, &weights[k * stride..], first, stride, before);
                    }
                    self.value_range::<L, TILE, C>(sums, weights, first, stride, common.clone());
                    for k in 0..count {
                        let after = common.end..self.seen(i + k).end;
                        let sum = &mut sums[k * width..(k + 1) * width];
                        self.value_range::<L, 1, 4>(sum, &weights[k * stride..], first, stride, after);
                    }
                } else {
                    for k in 0..count {
                        let sum = &mut sums[k * width..(k + 1) * width];
                        self.value_range::<L, 1, 4>(sum, &weights[k * stride..], first, stride, self.seen(i + k));
                    }
                }
                i += count;
            }
        }
    }

    /// The same for `Q` queries that see all of `seen`.
    ///
    /// # Safety
    /// The processor has the instructions of `L`.
    #[inline(always)]
    unsafe fn value_range<L: Lanes, const Q: usize, const C: usize>(
        &self,
        sums: &mut [f32],
        weights: &[f32],
        first: usize,
        stride: usize,
        seen: std::ops::Range<usize>,
    ) {
        let width = self.settings().width;
        let mut at = seen.start;
        while at < seen.end {
            let end = ((at / PAGE + 1) * PAGE).min(seen.end);
            let values = &self.page(at / PAGE).values[at % PAGE * width..];
            let weights = std::array::from_fn(|k| &weights[k * stride + at - first..k * stride + end - first]);
            let mut column = 0;
            // SAFETY: the caller vouches for the processor.
            unsafe {
                while column < width {
                    if column + 16 * C <= width {
                        value_tile::<L, Q, C>(weights, &values[column..], width, &mut sums[column..]);
                        column += 16 * C;
                    } else if C > 1 && column + 48 == width {
                        value_tile::<L, Q, 3>(weights, &values[column..], width, &mut sums[column..]);
                        column += 48;
                    } else if C > 1 && column + 32 == width {
                        value_tile::<L, Q, 2>(weights, &values[column..], width, &mut sums[column..]);
                        column += 32;
                    } else {
                        value_tile::<L, Q, 1>(weights, &values[column..], width, &mut sums[column..]);
                        column += 16;
                    }
                }
            }
            at = end;
        }
    }
}

/// `scale` times the products of `Q` queries with the keys of `P` pages, each `(head_dim, PAGE)`.
///
/// # Safety
/// The processor has the instructions of `L`.
#[inline(always)]
unsafe fn score_tile<L: Lanes, const Q: usize, const P: usize>(
    queries: [&[f32]; Q],
    keys: [&[f32]; P],
    scale: f32,
    scores: &mut [f32],
    stride: usize,
) {
    let head_dim = queries[0].len();
    let queries = queries.map(|query| &query[..head_dim]);
    let keys = keys.map(|keys| &keys.as_chunks::<PAGE>().0[..head_dim]);
    // SAFETY: the caller vouches for the processor.
    unsafe {
        let mut sums = [[L::splat(0.0); P]; Q];
        for c in 0..head_dim {
            let mut key = [L::splat(0.0); P];
            for p in 0..P {
                key[p] = L::load(&keys[p][c]);
            }
            for i in 0..Q {
                let query = L::splat(queries[i][c]);
                for p in 0..P {
                    sums[i][p] = query.mul_add(key[p], sums[i][p]);
                }
            }
        }
        let scale = L::splat(scale);
        for (i, sums) in sums.iter().enumerate() {
            let row = scores[i * stride..].as_chunks_mut::<PAGE>().0;
            for (p, sum) in sums.iter().enumerate() {
                sum.mul(scale).store(&mut row[p]);
            }
        }
    }
}

/// Adds the weighted values of some slots of a page to `16 * C` columns of the sums of `Q` queries, whose rows are `width`
/// apart as the values' are.
///
/// # Safety
/// The processor has the instructions of `L`.
#[inline(always)]
unsafe fn value_tile<L: Lanes, const Q: usize, const C: usize>(
    weights: [&[f32]; Q],
    values: &[f32],
    width: usize,
    sums: &mut [f32],
) {
    let slots = weights[0].len();
    let weights = weights.map(|weights| &weights[..slots]);
    // SAFETY: the caller vouches for the processor.
    unsafe {
        let mut tile = [[L::splat(0.0); C]; Q];
        for i in 0..Q {
            let row = &sums[i * width..].as_chunks::<16>().0[..C];
            for c in 0..C {
                tile[i][c] = L::load(&row[c]);
            }
        }
        for slot in 0..slots {
            let row = &values[slot * width..].as_chunks::<16>().0[..C];
            let mut value = [L::splat(0.0); C];
            for c in 0..C {
                value[c] = L::load(&row[c]);
            }
            for i in 0..Q {
                let weight = L::splat(weights[i][slot]);
                for c in 0..C {
                    tile[i][c] = weight.mul_add(value[c], tile[i][c]);
                }
            }
        }
        for (i, tile) in tile.iter().enumerate() {
            let row = &mut sums[i * width..].as_chunks_mut::<16>().0[..C];
            for (c, sum) in tile.iter().enumerate() {
                sum.store(&mut row[c]);
            }
        }
    }
}

/// Replaces the scores that are seen by their weights, and returns their total; what is not seen becomes 0. The first
/// score is that of a page's first slot.
#[inline(always)]
fn softmax_weights(scores: &mut [f32], seen: std::ops::Range<usize>, softcap: Option<f32>) -> Total {
    if let Some(cap) = softcap {
        soft_cap(&mut scores[seen.clone()], cap);
    }
    // In whole pages, so that every lane keeps its slot.
    scores[..seen.start].fill(f32::NEG_INFINITY);
    scores[seen.end..].fill(f32::NEG_INFINITY);
    let mut lanes = [f32::NEG_INFINITY; PAGE];
    for page in scores.as_chunks::<PAGE>().0 {
        for i in 0..PAGE {
            lanes[i] = if page[i] > lanes[i] { page[i] } else { lanes[i] };
        }
    }
    let largest = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    for page in scores.as_chunks_mut::<PAGE>().0 {
        for score in page.iter_mut() {
            *score = exp(*score - largest);
        }
    }
    scores[..seen.start].fill(0.0);
    scores[seen.end..].fill(0.0);
    let mut lanes = [0f32; PAGE];
    for page in scores.as_chunks::<PAGE>().0 {
        for i in 0..PAGE {
            lanes[i] += page[i];
        }
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    Total { largest, sum: lanes[0] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ModelConfig;
    use crate::kv::Table;
    use serde_json::json;

    fn random(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    /// A geometry with `positions` keys and values.
    struct Setting {
        config: ModelConfig,
        pages: Pages,
        table: Table,
        keys: Vec<f32>,
        values: Vec<f32>,
    }

    fn setting(heads: usize, kv_heads: usize, head_dim: usize, window: Option<usize>, positions: usize) -> Setting {
        let config = ModelConfig::from_json(&json!({"model_type": "mistral", "hidden_size": 32,
            "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": heads,
            "num_key_value_heads": kv_heads, "head_dim": head_dim, "vocab_size": 10,
            "max_position_embeddings": 512, "sliding_window": window}))
        .unwrap();
        let mut pages = Pages::new(&config, 4 << 20);
        let mut table = Table::new(&pages);
        assert!(table.grow(positions, &mut pages));
        let row = kv_heads * head_dim;
        let (keys, values) = (random(positions * row, 1), random(positions * row, 2));
        for position in 0..positions {
            let page = table.page(0, position / PAGE).unwrap();
            let of = |array: &[f32]| array[position * row..(position + 1) * row].to_vec();
            pages.write(0, page, 0, position % PAGE, &of(&keys), &of(&values));
        }
        Setting { config, pages, table, keys, values }
    }

    impl Setting {
        fn run(&self, isa: Isa, q: &[f32], start: usize, softcap: Option<f32>) -> Vec<f32> {
            let ModelConfig { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim, .. } = self.config;
            let rows = q.len() / heads / head_dim;
            let parts = [Part { rows: 0..rows, start, table: &self.table, adapter: None }];
            let (pages, parts) = (&self.pages, &parts[..]);
            let attention =
                Attention { heads, kv_heads, head_dim, scale: 0.7, softcap, group: 0, layer: 0, pages, parts, isa };
            let mut out = vec![f32::NAN; q.len()];
            attention.forward(q, &mut out, &mut Vec::new());
            out
        }

        /// By the definition, for one row and head.
        fn slow(&self, q: &[f32], own: usize, head: usize, softcap: Option<f32>) -> Vec<f64> {
            let ModelConfig { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim, .. } = self.config;
            let kv = head / (heads / kv_heads);
            let at = |position: usize| (position * kv_heads + kv) * head_dim;
            let first = self.config.windows[0].map_or(0, |window| (own + 1).saturating_sub(window));
            let score = |j: usize| {
                let dot: f64 = (0..head_dim).map(|c| f64::from(q[c]) * f64::from(self.keys[at(j) + c])).sum();
                softcap.map(f64::from).map_or(0.7 * dot, |cap| cap * (0.7 * dot / cap).tanh())
            };
            let weights: Vec<f64> = (first..own + 1).map(|j| score(j).exp()).collect();
            let value = |c: usize| {
                let sum: f64 = (first..own + 1).zip(&weights).map(|(j, w)| w * f64::from(self.values[at(j) + c])).sum();
                sum / weights.iter().sum::<f64>()
            };
            (0..head_dim).map(value).collect()
        }
    }

    /// Geometries that reach every tile and every rest.
    const SHAPES: [(usize, usize, usize, Option<usize>); 7] = [
        (3, 1, 64, None),
        (2, 2, 64, Some(40)),
        (4, 2, 24, None),
        (8, 1, 80, Some(7)),
        (2, 1, 8, None),
        (6, 3, 128, Some(100)),
        (20, 1, 16, None),
    ];

    #[test]
    fn every_row_equals_the_definition() {
        for (heads, kv_heads, head_dim, window) in SHAPES {
            let all = setting(heads, kv_heads, head_dim, window, 150);
            for softcap in [None, Some(2.0)] {
                for (start, rows) in [(0, 1), (0, 150), (149, 1), (60, 33)] {
                    let q = random(rows * heads * head_dim, 3);
                    let found = all.run(Isa::best(), &q, start, softcap);
                    for (i, (q, found)) in q.chunks(head_dim).zip(found.chunks(head_dim)).enumerate() {
                        let slow = all.slow(q, start + i / heads, i % heads, softcap);
                        for (found, slow) in found.iter().zip(slow) {
                            assert!((f64::from(*found) - slow).abs() < 2e-5, "{found}, not {slow}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn every_instruction_set_and_every_piece_gives_the_same_bits() {
        for (heads, kv_heads, head_dim, window) in SHAPES {
            let all = setting(heads, kv_heads, head_dim, window, 150);
            let row = heads * head_dim;
            let q = random(150 * row, 3);
            let expected = all.run(Isa::Portable, &q, 0, None);
            for isa in Isa::all() {
                for piece in [150, 64, 17, 1] {
                    let pieces = q.chunks(piece * row).enumerate();
                    let found: Vec<f32> = pieces.flat_map(|(i, q)| all.run(*isa, q, i * piece, None)).collect();
                    let same =
                        found.iter().zip(&expected).all(|(found, expected)| found.to_bits() == expected.to_bits());
                    assert!(same, "{isa:?}, pieces of {piece}, {heads} heads of {head_dim}");
                }
            }
        }
    }

    #[test]
    fn what_lies_in_unseen_slots_does_not_matter() {
        let mut all = setting(3, 1, 24, Some(20), 40);
        let q = random(3 * 24, 3);
        let expected = all.run(Isa::best(), &q, 35, None);
        for (position, nonsense) in [(14, f32::NAN), (15, f32::INFINITY), (36, f32::NAN), (39, f32::INFINITY)] {
            let page = all.table.page(0, position / PAGE).unwrap();
            all.pages.write(0, page, 0, position % PAGE, &[nonsense; 24], &[nonsense; 24]);
        }
        assert_eq!(all.run(Isa::best(), &q, 35, None), expected);
    }
}
