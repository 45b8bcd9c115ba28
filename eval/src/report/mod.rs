//! One page about everything that was trained and measured: a single HTML file that asks for nothing else.
//!
//! [`write`] searches directories for what the other commands leave in them: `results.json` with `samples.jsonl`,
//! `metrics.jsonl` and `orpo_manifest.json` of training runs, and a pipeline's `summary.json`, `orpo_manifest.json` and
//! `stages/*.json`. The same files make the same page.
//!
//! Files become data in `collect`; `sections` are functions from that data to blocks of the page (`view`), with charts drawn in
//! `charts`; the template turns blocks into HTML. Whatever came from a file is text: the template escapes it, and the
//! script puts samples into the page as text only. The page's own policy (CSP) runs its one script and nothing else.

mod charts;
mod collect;
mod evaluation;
mod find;
mod published;
mod render;
mod samples;
mod sections;
mod size;
mod training;
mod view;

use std::path::{Path, PathBuf};

use orpo_files::write_file;

use crate::jsonl::InputError;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file or directory.
    #[error(transparent)]
    File(#[from] InputError),
    /// There is nothing to report.
    #[error(
        "no results.json and no metrics.jsonl in {searched}, nor below it; give directories that `orpo-eval --out` or \
             `orpo-train run` have written"
    )]
    Nothing {
        /// The directories.
        searched: String,
    },
}

/// What a report is about.
#[derive(Debug)]
pub struct Report {
    /// The number of evaluations.
    pub evaluations: usize,
    /// The number of training runs.
    pub runs: usize,
    /// The number of prompts that can be browsed.
    pub samples: usize,
    /// What was not used, and why.
    pub left_out: Vec<String>,
    /// Files that should have been used and cannot be.
    pub broken: Vec<InputError>,
}

/// Writes a report on what is in these directories. The page appears under its name only when it is whole. A broken file
/// does not keep the others out of it.
///
/// # Errors
/// When there is nothing to report, or the page cannot be written.
pub fn write(directories: &[PathBuf], out: &Path, title: &str) -> Result<Report, ReportError> {
    let mut collected = collect::collect(directories)?;
    if collected.evaluations.is_empty() && collected.runs.is_empty() {
        if !collected.broken.is_empty() {
            return Err(collected.broken.swap_remove(0).into());
        }
        let searched: Vec<String> = directories.iter().map(|path| format!("`{}`", path.display())).collect();
        return Err(ReportError::Nothing { searched: searched.join(", ") });
    }
    let samples = samples::Samples::read(&collected);
    let page = render::page(title, &collected, &samples);
    write_file(out, page.as_bytes()).map_err(InputError::from)?;
    let left_out = collected.left_out.iter().chain(&samples.left_out).cloned().collect();
    Ok(Report {
        evaluations: collected.evaluations.len(),
        runs: collected.runs.len(),
        samples: samples.rows.len(),
        left_out,
        broken: collected.broken.into_iter().chain(samples.broken).collect(),
    })
}
