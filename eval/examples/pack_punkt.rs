//! Packs NLTK's Punkt model of a language into the one file that the sentence splitter embeds:
//!
//!     cargo run -p orpo-eval --example pack_punkt -- nltk_data/tokenizers/punkt_tab/english eval/data/punkt_english.deflate
//!
//! The format is described in `eval/src/ifeval/sentences/model.rs`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use flate2::Compression;
use flate2::write::DeflateEncoder;

/// The files of the model, in the order of the sections, and how many fields a line has.
const FILES: [(&str, usize); 4] =
    [("abbrev_types.txt", 1), ("collocations.tab", 2), ("sent_starters.txt", 1), ("ortho_context.tab", 2)];

fn main() -> ExitCode {
    match pack() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn pack() -> anyhow::Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [directory, out] = arguments.as_slice() else { bail!("usage: pack_punkt DIRECTORY FILE") };
    let sections = FILES.map(|(name, fields)| section(&directory.join(name), fields));
    let sections: Vec<String> = sections.into_iter().collect::<Result<_, _>>()?;
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(sections.join("\n\n").as_bytes())?;
    std::fs::write(out, encoder.finish()?).with_context(|| format!("cannot write {}", out.display()))
}

/// The lines of a file, sorted.
fn section(path: &Path, fields: usize) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut lines: Vec<&str> = text.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        let found = line.split('\t').filter(|field| !field.is_empty()).count();
        ensure!(found == fields, "{}, line {}: {found} fields, {fields} expected", path.display(), index + 1);
    }
    lines.sort_unstable();
    Ok(lines.join("\n"))
}
