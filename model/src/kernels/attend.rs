//! The forward pass of attention: the formula that serving has, over pages of keys and values that are made of packed rows
//! for as long as it takes.

use std::ops::Range;

use rayon::prelude::*;

use super::attention::{AttentionSpec, Segment};
use crate::formulas;
use crate::infer::attention::{Queries, SCRATCH, Settings};
use crate::kv::{HeadPage, PAGE};
use crate::lanes::Isa;

/// Queries that share one reading of the keys.
const QUERIES: usize = 16;

/// The rows of a segment with the heads that share one key-value head.
pub(super) struct Share<'a> {
    pub spec: &'a AttentionSpec,
    pub segment: &'a Segment,
    pub kv_head: usize,
    /// `(rows, heads, head_dim)`, without positions.
    pub q: &'a [f32],
    /// `(rows, kv_heads, head_dim)`, likewise.
    pub k: &'a [f32],
    /// `(rows, kv_heads, head_dim)`.
    pub v: &'a [f32],
}

/// The output `(rows, shared heads, head_dim)` and the log-sum-exp of the scores `(rows, shared heads)` of consecutive rows.
pub(super) struct Part {
    pub rows: Range<usize>,
    pub out: Vec<f32>,
    pub log_sum_exp: Vec<f32>,
}

impl Share<'_> {
    /// Multiplications that it takes, about.
    pub(super) fn cost(&self) -> usize {
        let Segment { rows, prefix } = self.segment;
        rows.len() * (prefix.len() + rows.len() / 2)
    }

    /// All of its rows.
    pub(super) fn forward(&self) -> Vec<Part> {
        let pages = self.pages();
        let shared = self.spec.heads / self.spec.kv_heads;
        let rows = self.segment.rows.clone();
        let step = (QUERIES / shared).max(1);
        // The last rows see most: they come first, so that no thread is left with them at the end.
        let firsts: Vec<usize> = rows.clone().step_by(step).rev().collect();
        firsts.into_par_iter().map(|first| self.part(&pages, first..rows.end.min(first + step))).collect()
    }

    /// The keys and values of the prefix' and the segment's rows, in the order of their positions.
    fn pages(&self) -> SegmentPages {
        let AttentionSpec { kv_heads, head_dim, rope, .. } = self.spec;
        let Segment { rows, prefix } = self.segment;
        let mut pages = SegmentPages::new(prefix.len() + rows.len(), *head_dim);
        let mut key = vec![0f32; *head_dim];
        for (position, row) in prefix.clone().chain(rows.clone()).enumerate() {
            let at = (row * kv_heads + self.kv_head) * head_dim;
            key.copy_from_slice(&self.k[at..at + head_dim]);
            if let Some(rope) = rope {
                let (cos, sin) = rope.row(row);
                formulas::rotate(&mut key, cos, sin);
            }
            pages.write(position, &key, &self.v[at..at + head_dim]);
        }
        pages
    }

    fn part(&self, pages: &SegmentPages, rows: Range<usize>) -> Part {
        let AttentionSpec { heads, kv_heads, head_dim, .. } = *self.spec;
        let shared = heads / kv_heads;
        let mut q = Vec::with_capacity(rows.len() * shared * head_dim);
        for row in rows.clone() {
            let (start, at) = (q.len(), (row * heads + self.kv_head * shared) * head_dim);
            q.extend_from_slice(&self.q[at..at + shared * head_dim]);
            if let Some(rope) = &self.spec.rope {
                let (cos, sin) = rope.row(row);
                q[start..].chunks_exact_mut(head_dim).for_each(|head| formulas::rotate(head, cos, sin));
            }
        }
        let first = self.segment.prefix.len() + rows.start - self.segment.rows.start;
        let queries = Block { spec: self.spec, pages, q: &q, first };
        let mut out = vec![0f32; q.len()];
        let log_sum_exp = SCRATCH.with_borrow_mut(|scratch| {
            queries.attend(Isa::best(), scratch, &mut out);
            scratch.totals.iter().map(|total| total.largest + total.sum.ln()).collect()
        });
        Part { rows, out, log_sum_exp }
    }
}

/// Some rows of a segment, and what they see.
struct Block<'a> {
    spec: &'a AttentionSpec,
    pages: &'a SegmentPages,
    /// `(rows, shared heads, head_dim)`, with positions.
    q: &'a [f32],
    /// The position of the first row.
    first: usize,
}

impl<'a> Queries<'a> for Block<'a> {
    fn settings(&self) -> Settings {
        let AttentionSpec { head_dim, scale, softcap, .. } = *self.spec;
        Settings { head_dim, width: self.pages.width, scale, softcap }
    }

    fn count(&self) -> usize {
        self.q.len() / self.spec.head_dim
    }

    fn query(&self, i: usize) -> &'a [f32] {
        &self.q[i * self.spec.head_dim..(i + 1) * self.spec.head_dim]
    }

    fn seen(&self, i: usize) -> Range<usize> {
        let end = self.first + i / (self.spec.heads / self.spec.kv_heads) + 1;
        self.spec.window.map_or(0, |window| end.saturating_sub(window))..end
    }

    fn page(&self, index: usize) -> HeadPage<'a> {
        self.pages.page(index)
    }
}

/// Pages of one head, laid out as the cache's.
struct SegmentPages {
    values: Vec<f32>,
    /// Where the first page begins in `values`, so that it lies at a multiple of 64 bytes.
    first: usize,
    head_dim: usize,
    width: usize,
}

impl SegmentPages {
    fn new(positions: usize, head_dim: usize) -> Self {
        const LINE: usize = 64 / size_of::<f32>();
        let width = head_dim.next_multiple_of(16);
        let values = vec![0f32; positions.div_ceil(PAGE) * (head_dim + width) * PAGE + LINE];
        let first = values.as_ptr().align_offset(64).min(LINE);
        Self { values, first, head_dim, width }
    }

    fn at(&self, index: usize) -> Range<usize> {
        let len = (self.head_dim + self.width) * PAGE;
        self.first + index * len..self.first + (index + 1) * len
    }

    fn page(&self, index: usize) -> HeadPage<'_> {
        let (keys, values) = self.values[self.at(index)].split_at(self.head_dim * PAGE);
        HeadPage { keys, values }
    }

    fn write(&mut self, position: usize, key: &[f32], value: &[f32]) {
        let (slot, page) = (position % PAGE, self.at(position / PAGE));
        let (keys, values) = self.values[page].split_at_mut(self.head_dim * PAGE);
        keys[slot..].iter_mut().step_by(PAGE).zip(key).for_each(|(to, from)| *to = *from);
        values[slot * self.width..][..self.head_dim].copy_from_slice(value);
    }
}
