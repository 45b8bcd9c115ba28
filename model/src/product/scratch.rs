//! Work arrays that each thread keeps, so that products allocate nothing once they are warm.

use std::cell::RefCell;

use super::lanes::Line;

thread_local! {
    static LINES: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Lends `body` a work array of `count` lines that hold anything.
pub(super) fn with_lines<R>(count: usize, body: impl FnOnce(&mut [Line]) -> R) -> R {
    // Taken out while it is lent: `body` may lend another, as may a product that rayon runs here while `body` waits.
    let mut lines = LINES.with_borrow_mut(Vec::pop).unwrap_or_default();
    if lines.len() < count {
        lines.resize(count, Line::default());
    }
    let result = body(&mut lines[..count]);
    LINES.with_borrow_mut(|kept| kept.push(lines));
    result
}

/// Lends `body` a work array of `count` numbers that hold anything.
pub(super) fn with_numbers<R>(count: usize, body: impl FnOnce(&mut [f32]) -> R) -> R {
    with_lines(count.div_ceil(16), |lines| body(&mut flat(lines)[..count]))
}

/// The numbers of lines.
fn flat(lines: &mut [Line]) -> &mut [f32] {
    // SAFETY: a line is sixteen f32 without padding (its alignment is its size).
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), 16 * lines.len()) }
}
