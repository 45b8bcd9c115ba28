//! `orpo-eval report`.

use std::path::PathBuf;

use clap::Args;

use super::{DONE, INCOMPLETE, print};
use crate::report;
use crate::table::count;

/// Writes one HTML page about everything that was trained and evaluated.
///
/// Searches the directories for results.json, metrics.jsonl and what belongs to them, and puts summary, training curves,
/// verdicts by instruction, win rates, MT-Bench, samples and lineage into one file that asks for nothing else. Exit codes: 0
/// done, 1 done but for files that cannot be used, which are named, 2 there is nothing to report.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  orpo-eval report runs/mine --out runs/mine/report.html
  orpo-eval report results/base results/orpo --title 'Base and ORPO'")]
pub(super) struct Report {
    /// Directories to search, such as a pipeline's, a run's, or what --out of other commands named
    #[arg(value_name = "DIR", required = true)]
    directories: Vec<PathBuf>,
    /// The page
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    out: PathBuf,
    /// What stands at its top
    #[arg(long, default_value = "ORPO report")]
    title: String,
}

pub(super) fn run(arguments: &Report) -> anyhow::Result<u8> {
    let found = report::write(&arguments.directories, &arguments.out, &arguments.title)?;
    for note in &found.left_out {
        eprintln!("note: {note}");
    }
    for error in &found.broken {
        eprintln!("error: {error}; the report is without it");
    }
    let code = if found.broken.is_empty() { DONE } else { INCOMPLETE };
    let report::Report { evaluations, runs, samples, .. } = found;
    let found = [(evaluations, "evaluation"), (runs, "training run"), (samples, "prompt")];
    eprintln!("{}", found.map(|(number, thing)| count(number, thing)).join(", "));
    print(&format!("{}\n", arguments.out.display()))?;
    Ok(code)
}
