//! Causal grouped-query attention over packed rows; the backward pass computes the scores again, in blocks of queries, from
//! the log-sum-exp (Dao et al. 2022).

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::attend::{Part, Share};
use super::math::{dot, exp, tanh};
use super::matmul::{Output, Threads, View, ViewMut, matmul};
use super::refuse;
use super::rope::RopeTables;
use crate::array::Array;
use crate::error::ModelError;

/// Queries that the backward pass handles at a time.
const BLOCK: usize = 64;

/// A run of rows that attend causally to one another, and fully to the rows of `prefix` (a shared prompt; may be
/// empty).
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// The rows themselves.
    pub rows: Range<usize>,
    /// Earlier rows that all of them see.
    pub prefix: Range<usize>,
}

/// The geometry of an attention layer and which rows see which.
#[derive(Debug, Clone)]
pub struct AttentionSpec {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; a divisor of `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor on the scores, usually `head_dim^-0.5`.
    pub scale: f32,
    /// A row sees only so many positions, itself included; none for all.
    pub window: Option<usize>,
    /// Scores become `cap * tanh(score / cap)` (Gemma 2).
    pub softcap: Option<f32>,
    /// Rotary positions of queries and keys; none where positions enter elsewhere.
    pub rope: Option<Arc<RopeTables>>,
    /// Groups of segments; a prefix lies in the group of the segment that names it, and groups share no rows.
    pub groups: Arc<Vec<Vec<Segment>>>,
}

impl AttentionSpec {
    /// Queries and keys with their positions.
    fn rotated<'a>(&self, q: &'a [f32], k: &'a [f32]) -> (Cow<'a, [f32]>, Cow<'a, [f32]>) {
        let Some(rope) = &self.rope else { return (Cow::Borrowed(q), Cow::Borrowed(k)) };
        let rotated = |x: &[f32], heads: usize| {
            let mut x = x.to_vec();
            rope.rotate(&mut x, heads, self.head_dim);
            Cow::Owned(x)
        };
        (rotated(q, self.heads), rotated(k, self.kv_heads))
    }
}

/// An attention layer's output `(rows, heads * head_dim)`, and what [`attention_backward`] needs.
#[derive(Debug)]
pub struct Attended {
    /// The output.
    pub output: Array,
    /// Of each row's scores, `(rows, heads)`.
    log_sum_exp: Vec<f32>,
}

impl AttentionSpec {
    fn check(&self, q: &Array, k: &Array, v: &Array) -> Result<(), ModelError> {
        let (rows, heads, head_dim) = (q.rows(), self.heads, self.head_dim);
        let kv_shape = (rows, self.kv_heads * head_dim);
        if q.width() != heads * head_dim || k.shape() != kv_shape || v.shape() != kv_shape {
            return refuse(format!(
                "attention: q {:?}, k {:?}, v {:?} do not fit {heads} heads, {} of keys, of width {head_dim}",
                q.shape(),
                k.shape(),
                v.shape(),
                self.kv_heads
            ));
        }
        if let Some(rope) = &self.rope
            && (rope.rows() != rows || rope.rotary_dim() > head_dim)
        {
            return refuse(format!(
                "attention: {rows} rows of width {head_dim}, rotary tables of {} rows of width {}",
                rope.rows(),
                rope.rotary_dim()
            ));
        }
        if self.window == Some(0) {
            return refuse("attention: a window of no positions".into());
        }
        if self.kv_heads == 0 || heads % self.kv_heads != 0 {
            return refuse(format!("attention: {heads} heads cannot share {} key-value heads", self.kv_heads));
        }
        check_cover(&self.groups, rows)
    }
}

fn check_cover(groups: &[Vec<Segment>], rows: usize) -> Result<(), ModelError> {
    let mut ranges: Vec<&Range<usize>> = groups.iter().flatten().map(|segment| &segment.rows).collect();
    ranges.sort_by_key(|range| range.start);
    let mut next = 0;
    for range in ranges {
        if range.start != next || range.end <= range.start {
            return refuse(format!("attention: segments leave or repeat rows at {next}"));
        }
        next = range.end;
    }
    if next != rows {
        return refuse(format!("attention: segments cover {next} of {rows} rows"));
    }
    for group in groups {
        let span = span(group);
        if group.iter().any(|s| !s.prefix.is_empty() && (s.prefix.start < span.start || s.prefix.end > s.rows.start)) {
            return refuse("attention: a prefix lies outside its group or after its segment".into());
        }
    }
    Ok(())
}

/// All rows of a group.
fn span(group: &[Segment]) -> Range<usize> {
    let start = group.iter().map(|s| s.rows.start).min().unwrap_or(0);
    let end = group.iter().map(|s| s.rows.end).max().unwrap_or(0);
    start..end
}

/// The inputs as slices, with the views that one head of one block needs.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    spec: &'a AttentionSpec,
}

impl<'a> Inputs<'a> {
    /// `rows` of one query head of a `(rows, heads, head_dim)` array: `(rows, head_dim)`.
    fn query_head(&self, array: &'a [f32], rows: Range<usize>, head: usize) -> View<'a> {
        self.view(array, rows, self.spec.heads, head)
    }

    /// `rows` of one key or value head.
    fn kv_head(&self, array: &'a [f32], rows: Range<usize>, kv_head: usize) -> View<'a> {
        self.view(array, rows, self.spec.kv_heads, kv_head)
    }

    fn view(&self, array: &'a [f32], rows: Range<usize>, heads: usize, head: usize) -> View<'a> {
        let width = self.spec.head_dim;
        let first = ((rows.start * heads + head) * width).min(array.len());
        View::strided(&array[first..], rows.len(), width, heads * width)
    }

    /// Writes the products of the block's rows of `a` with the keys or values `b` it may see into `(block, keys)`.
    fn products(&self, out: &mut [f32], block: &Block<'_>, a: &'a [f32], b: &'a [f32], scale: f32) {
        let keys = block.keys();
        let a = self.query_head(a, block.rows.clone(), block.head);
        let kv_head = block.head / (self.spec.heads / self.spec.kv_heads);
        for (column, rows) in block.key_ranges() {
            let count = rows.len();
            if count > 0 {
                let b = self.kv_head(b, rows, kv_head);
                let out = ViewMut::strided(&mut out[column..], block.rows.len(), count, keys);
                matmul(out, Output::Overwrite, scale, a, b.t(), Threads::One);
            }
        }
    }
}

/// Some consecutive rows of a segment, as queries of one head. The keys that any of them sees are the columns of its
/// score matrix, in the order of their positions: rows of the prefix, then the segment's own.
struct Block<'a> {
    segment: &'a Segment,
    rows: Range<usize>,
    head: usize,
    window: Option<usize>,
}

impl Block<'_> {
    /// Number of columns.
    fn keys(&self) -> usize {
        self.end(self.rows.len() - 1) - self.first()
    }

    /// How many positions, counted from the prefix' first, the i-th row could see without a window.
    fn end(&self, i: usize) -> usize {
        self.segment.prefix.len() + self.rows.start + i + 1 - self.segment.rows.start
    }

    /// The first position that the i-th row sees.
    fn begin(&self, i: usize) -> usize {
        self.window.map_or(0, |window| self.end(i).saturating_sub(window))
    }

    /// The position of the first column.
    fn first(&self) -> usize {
        self.begin(0)
    }

    /// The columns that the i-th row sees.
    fn visible(&self, i: usize) -> Range<usize> {
        self.begin(i) - self.first()..self.end(i) - self.first()
    }

    /// The keys: first column and rows, those of the prefix first.
    fn key_ranges(&self) -> [(usize, Range<usize>); 2] {
        let Segment { rows, prefix } = self.segment;
        let skipped = self.first();
        let from_prefix = prefix.start + skipped.min(prefix.len())..prefix.end;
        let own = rows.start + skipped.saturating_sub(prefix.len())..self.rows.end;
        [(0, from_prefix.clone()), (from_prefix.len(), own)]
    }
}

fn blocks<'a>(segment: &'a Segment, head: usize, spec: &AttentionSpec) -> impl Iterator<Item = Block<'a>> + use<'a> {
    let window = spec.window;
    segment.rows.clone().step_by(BLOCK).map(move |first| Block {
        segment,
        rows: first..(first + BLOCK).min(segment.rows.end),
        head,
        window,
    })
}

/// Gradients of one group and one key-value head: queries `(rows, heads / kv_heads * head_dim)`, keys and values
/// `(rows, head_dim)`, for the rows of the group.
struct GroupGrads {
    span: Range<usize>,
    kv_head: usize,
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

fn backward_group(
    inputs: Inputs<'_>,
    group: &[Segment],
    kv_head: usize,
    out: &[f32],
    dout: &[f32],
    log_sum_exp: &[f32],
) -> GroupGrads {
    let spec = inputs.spec;
    let (width, shared) = (spec.head_dim, spec.heads / spec.kv_heads);
    let span = span(group);
    let (mut dq, mut dk, mut dv) =
        (vec![0f32; span.len() * shared * width], vec![0f32; span.len() * width], vec![0f32; span.len() * width]);
    let (mut p, mut ds) = (Vec::new(), Vec::new());
    for segment in group {
        for head in kv_head * shared..(kv_head + 1) * shared {
            for block in blocks(segment, head, spec) {
                let (rows, keys) = (block.rows.len(), block.keys());
                p.resize(rows * keys, 0.0);
                ds.resize(rows * keys, 0.0);
                inputs.products(&mut p, &block, inputs.q, inputs.k, spec.scale);
                inputs.products(&mut ds, &block, dout, inputs.v, 1.0);
                for (i, (p, ds)) in p.chunks_exact_mut(keys).zip(ds.chunks_exact_mut(keys)).enumerate() {
                    let at = (block.rows.start + i) * spec.heads + head;
                    let element = at * width..(at + 1) * width;
                    let mean = dot(&out[element.clone()], &dout[element]);
                    let visible = block.visible(i);
                    for array in [&mut *p, &mut *ds] {
                        array[..visible.start].fill(0.0);
                        array[visible.end..].fill(0.0);
                    }
                    let seen = p[visible.clone()].iter_mut().zip(&mut ds[visible]);
                    // The forward pass rounds the scores otherwise: where they are huge, one could exceed their log-sum-exp.
                    let weight = |score: f32| {
                        let log = score - log_sum_exp[at];
                        exp(if log > 0.0 { 0.0 } else { log })
                    };
                    match spec.softcap {
                        None => seen.for_each(|(p, ds)| {
                            *p = weight(*p);
                            *ds = *p * (*ds - mean) * spec.scale;
                        }),
                        Some(cap) => seen.for_each(|(p, ds)| {
                            let t = tanh(*p / cap);
                            *p = weight(cap * t);
                            *ds = *p * (*ds - mean) * spec.scale * (1.0 - t * t);
                        }),
                    }
                }
                let query = inputs.query_head(inputs.q, block.rows.clone(), head);
                let dout = inputs.query_head(dout, block.rows.clone(), head);
                let first = ((block.rows.start - span.start) * shared + head - kv_head * shared) * width;
                for (column, key_rows) in block.key_ranges() {
                    let count = key_rows.len();
                    if count == 0 {
                        continue;
                    }
                    let p = View::strided(&p[column..], rows, count, keys);
                    let ds = View::strided(&ds[column..], rows, count, keys);
                    let at = (key_rows.start - span.start) * width;
                    let dq = ViewMut::strided(&mut dq[first..], rows, width, shared * width);
                    let key = inputs.kv_head(inputs.k, key_rows, kv_head);
                    matmul(dq, Output::Add, 1.0, ds, key, Threads::One);
                    matmul(ViewMut::new(&mut dk[at..], count, width), Output::Add, 1.0, ds.t(), query, Threads::One);
                    matmul(ViewMut::new(&mut dv[at..], count, width), Output::Add, 1.0, p.t(), dout, Threads::One);
                }
            }
        }
    }
    GroupGrads { span, kv_head, dq, dk, dv }
}

/// Queries `(rows, heads * head_dim)`, keys and values `(rows, kv_heads * head_dim)`.
///
/// # Errors
/// When shapes and specification do not match, or the segments do not cover every row exactly once.
pub fn attention(q: &Array, k: &Array, v: &Array, spec: &AttentionSpec) -> Result<Attended, ModelError> {
    spec.check(q, k, v)?;
    let rows = q.rows();
    let (q, k, v) = (q.values(), k.values(), v.values());
    let segments = spec.groups.iter().flatten();
    let mut shares: Vec<Share<'_>> = segments
        .flat_map(|segment| (0..spec.kv_heads).map(move |kv_head| Share { spec, segment, kv_head, q, k, v }))
        .collect();
    // The longest first, so that no thread is left with one at the end.
    shares.sort_by_key(|share| std::cmp::Reverse(share.cost()));
    let done: Vec<Vec<Part>> = shares.par_iter().with_max_len(1).map(Share::forward).collect();

    let mut output = Array::zeros(rows, spec.heads * spec.head_dim);
    let mut log_sum_exp = vec![0f32; rows * spec.heads];
    let shared = spec.heads / spec.kv_heads;
    let width = shared * spec.head_dim;
    for (share, parts) in shares.iter().zip(done) {
        for part in parts {
            let each = part.out.chunks_exact(width).zip(part.log_sum_exp.chunks_exact(shared));
            for (row, (out, sums)) in part.rows.zip(each) {
                let at = row * spec.kv_heads + share.kv_head;
                output.values_mut()[at * width..(at + 1) * width].copy_from_slice(out);
                log_sum_exp[at * shared..(at + 1) * shared].copy_from_slice(sums);
            }
        }
    }
    Ok(Attended { output, log_sum_exp })
}

/// The gradients of queries, keys and values, given that of the output.
///
/// # Errors
/// When the shapes do not match.
pub fn attention_backward(
    q: &Array,
    k: &Array,
    v: &Array,
    spec: &AttentionSpec,
    attended: &Attended,
    dout: &Array,
) -> Result<[Array; 3], ModelError> {
    spec.check(q, k, v)?;
    if attended.output.shape() != q.shape() || dout.shape() != q.shape() {
        return refuse(format!("attention: a gradient {:?} of {:?}", dout.shape(), q.shape()));
    }
    let mut jobs: Vec<(&Vec<Segment>, usize)> =
        spec.groups.iter().flat_map(|group| (0..spec.kv_heads).map(move |kv_head| (group, kv_head))).collect();
    jobs.sort_by_key(|(group, _)| std::cmp::Reverse(span(group).len()));
    let grads: Vec<GroupGrads> = {
        // Rotated again: queries and keys are kept as they were before.
        let (q, k) = spec.rotated(q.values(), k.values());
        let inputs = Inputs { q: &q, k: &k, v: v.values(), spec };
        let (out, dout) = (attended.output.values(), dout.values());
        jobs.par_iter()
            .map(|(group, kv_head)| backward_group(inputs, group, *kv_head, out, dout, &attended.log_sum_exp))
            .collect()
    };

    let width = spec.head_dim;
    let query_width = spec.heads / spec.kv_heads * width;
    let zeros = |like: &Array| Array::zeros(like.rows(), like.width());
    let (mut dq, mut dk, mut dv) = (zeros(q), zeros(k), zeros(v));
    for GroupGrads { span, kv_head, dq: group_dq, dk: group_dk, dv: group_dv } in grads {
        let (dq, dk, dv) = (dq.values_mut(), dk.values_mut(), dv.values_mut());
        for (i, row) in span.enumerate() {
            let at = row * spec.kv_heads + kv_head;
            dq[at * query_width..][..query_width].copy_from_slice(&group_dq[i * query_width..][..query_width]);
            dk[at * width..][..width].copy_from_slice(&group_dk[i * width..][..width]);
            dv[at * width..][..width].copy_from_slice(&group_dv[i * width..][..width]);
        }
    }
    if let Some(rope) = &spec.rope {
        rope.rotate_back(dq.values_mut(), spec.heads, spec.head_dim);
        rope.rotate_back(dk.values_mut(), spec.kv_heads, spec.head_dim);
    }
    Ok([dq, dk, dv])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    fn spec(heads: usize, kv_heads: usize, groups: Vec<Vec<Segment>>) -> AttentionSpec {
        AttentionSpec {
            heads,
            kv_heads,
            head_dim: 4,
            scale: 0.5,
            window: None,
            softcap: None,
            rope: None,
            groups: Arc::new(groups),
        }
    }

    fn plain(rows: Range<usize>) -> Segment {
        let start = rows.start;
        Segment { rows, prefix: start..start }
    }

    /// A shared prompt of 3 rows with continuations of 2 and 4 rows, then a sequence of its own.
    fn packed() -> Vec<Vec<Segment>> {
        let pair = vec![plain(0..3), Segment { rows: 3..5, prefix: 0..3 }, Segment { rows: 5..9, prefix: 0..3 }];
        vec![pair, vec![plain(9..12)]]
    }

    fn inputs(rows: usize, heads: usize, kv_heads: usize) -> [Array; 3] {
        [random_array(rows, heads * 4, 1), random_array(rows, kv_heads * 4, 2), random_array(rows, kv_heads * 4, 3)]
    }

    fn check(rows: usize, spec: &AttentionSpec) {
        check_gradients(
            &inputs(rows, spec.heads, spec.kv_heads),
            &[],
            |x, _| attention(&x[0], &x[1], &x[2], spec).unwrap().output,
            |x, _, dy| {
                let attended = attention(&x[0], &x[1], &x[2], spec).unwrap();
                attention_backward(&x[0], &x[1], &x[2], spec, &attended, dy).unwrap().into()
            },
        );
    }

    /// Attention of every row by the definition, in f64, with a mask made from the segments.
    fn slow(inputs: &[Array; 3], spec: &AttentionSpec) -> Vec<f64> {
        let [q, k, v] = inputs.each_ref().map(Array::values);
        let (rows, d) = (q.len() / spec.heads / spec.head_dim, spec.head_dim);
        let sees = |i: usize, j: usize| {
            let segment = spec.groups.iter().flatten().find(|s| s.rows.contains(&i)).unwrap();
            if !(segment.prefix.contains(&j) || (segment.rows.contains(&j) && j <= i)) {
                return false;
            }
            let position = |row: usize| match segment.rows.contains(&row) {
                true => segment.prefix.len() + row - segment.rows.start,
                false => row - segment.prefix.start,
            };
            spec.window.is_none_or(|window| position(i) - position(j) < window)
        };
        let mut out = Vec::new();
        for i in 0..rows {
            for head in 0..spec.heads {
                let kv = head / (spec.heads / spec.kv_heads);
                let score = |j: usize| {
                    let products = (0..d).map(|c| {
                        q[(i * spec.heads + head) * d + c] as f64 * k[(j * spec.kv_heads + kv) * d + c] as f64
                    });
                    let score = products.sum::<f64>() * spec.scale as f64;
                    spec.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh()).exp()
                };
                let weights: Vec<f64> = (0..rows).map(|j| if sees(i, j) { score(j) } else { 0.0 }).collect();
                let sum: f64 = weights.iter().sum();
                for c in 0..d {
                    let value = |j: usize| v[(j * spec.kv_heads + kv) * d + c] as f64;
                    out.push((0..rows).map(|j| weights[j] / sum * value(j)).sum());
                }
            }
        }
        out
    }

    fn assert_equals_slow(rows: usize, spec: &AttentionSpec) {
        let x = inputs(rows, spec.heads, spec.kv_heads);
        let ours = attention(&x[0], &x[1], &x[2], spec).unwrap().output;
        for (ours, slow) in ours.values().iter().zip(slow(&x, spec)) {
            assert!((*ours as f64 - slow).abs() < 2e-6, "{ours} against {slow}");
        }
    }

    #[test]
    fn equals_the_definition() {
        assert_equals_slow(12, &spec(4, 2, packed()));
        assert_equals_slow(12, &spec(2, 2, packed()));
        let long = 3 * BLOCK + 5;
        assert_equals_slow(long, &spec(2, 1, vec![vec![plain(0..long)]]));
        let shared = vec![
            plain(0..70),
            Segment { rows: 70..200, prefix: 0..70 },
            Segment { rows: 200..long + 60, prefix: 0..70 },
        ];
        for window in [None, Some(1), Some(40), Some(64), Some(100), Some(1000)] {
            let spec = spec(2, 1, vec![shared.clone()]);
            assert_equals_slow(long + 60, &AttentionSpec { window, ..spec.clone() });
            assert_equals_slow(long + 60, &AttentionSpec { window, softcap: Some(0.7), ..spec });
        }
    }

    #[test]
    fn gradients() {
        for (heads, kv_heads) in [(4, 2), (2, 2), (3, 1)] {
            check(12, &spec(heads, kv_heads, packed()));
        }
        for (window, softcap) in [(None, None), (Some(20), None), (None, Some(0.5)), (Some(3), Some(0.5))] {
            let long = AttentionSpec { window, softcap, ..spec(2, 1, vec![vec![plain(0..BLOCK + 9)]]) };
            check(BLOCK + 9, &long);
            let packed = AttentionSpec { window, softcap, ..spec(4, 2, packed()) };
            check(12, &packed);
        }
    }

    #[test]
    fn gradients_through_rotary_positions() {
        for rotary_dim in [4, 2] {
            let frequencies: Vec<f32> = (0..rotary_dim / 2).map(|i| 0.3f32.powi(i)).collect();
            let positions: Vec<u32> = [0, 1, 2, 3, 4, 3, 4, 5, 6, 0, 1, 2].into();
            let rope = Some(Arc::new(RopeTables::new(&positions, &frequencies)));
            check(12, &AttentionSpec { rope, ..spec(4, 2, packed()) });
        }
    }

    #[test]
    fn tables_of_other_rows_are_refused() {
        let x = inputs(4, 2, 2);
        let rope = Some(Arc::new(RopeTables::new(&[0, 1], &[1.0])));
        let spec = AttentionSpec { rope, ..spec(2, 2, vec![vec![plain(0..4)]]) };
        assert!(attention(&x[0], &x[1], &x[2], &spec).is_err());
    }

    #[test]
    fn segments_must_cover_every_row_once() {
        let x = inputs(4, 2, 2);
        let run = |groups| attention(&x[0], &x[1], &x[2], &spec(2, 2, groups));
        assert!(run(vec![vec![plain(0..4)]]).is_ok());
        for groups in [
            vec![vec![plain(0..3)]],
            vec![vec![plain(0..3), plain(2..4)]],
            vec![vec![plain(0..2)], vec![Segment { rows: 2..4, prefix: 0..2 }]],
        ] {
            assert!(run(groups).is_err());
        }
    }
}
