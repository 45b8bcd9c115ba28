//! Packs langdetect's profiles into the file that is embedded: `eval/data/langdetect.bin`.
//!
//!     pip download --no-deps --no-binary :all: langdetect==1.0.9 && tar xzf langdetect-1.0.9.tar.gz
//!     cargo run -p orpo-eval --example pack_langdetect -- \
//!         langdetect-1.0.9/langdetect/profiles eval/data/langdetect.bin
//!
//! The module that reads it, `ifeval/language/profiles.rs`, describes the format.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use flate2::Compression;
use flate2::write::DeflateEncoder;
use orpo_eval::ifeval::language::LANGUAGES;

/// A language's n-grams, as they are published.
#[derive(serde::Deserialize)]
struct Profile {
    name: String,
    freq: BTreeMap<String, u32>,
    n_words: [u32; 3],
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> anyhow::Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [directory, out] = arguments.as_slice() else {
        bail!(
            "usage: pack_langdetect PROFILES OUT, where PROFILES is the directory `profiles` of the package langdetect"
        )
    };
    let profiles = LANGUAGES.iter().map(|language| read_profile(directory, language)).collect::<Result<Vec<_>, _>>()?;
    let properties = directory.join("../utils/messages.properties");
    let text = std::fs::read_to_string(&properties).with_context(|| properties.display().to_string())?;
    let packed = pack(&profiles, &kanji_groups(&text)?)?;
    std::fs::write(out, &packed).with_context(|| out.display().to_string())?;
    println!("{}: {} bytes", out.display(), packed.len());
    Ok(())
}

fn read_profile(directory: &Path, language: &str) -> anyhow::Result<Profile> {
    let path = directory.join(language);
    let read = || -> anyhow::Result<Profile> {
        let profile: Profile = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
        ensure!(profile.name == language, "it is the profile of `{}`", profile.name);
        Ok(profile)
    };
    read().with_context(|| path.display().to_string())
}

/// The groups of kanji that count as their first one: lines like `NGram.KANJI_1_0=\u4F7C\u6934`.
fn kanji_groups(properties: &str) -> anyhow::Result<Vec<Vec<u32>>> {
    let groups = properties.lines().filter_map(|line| line.strip_prefix("NGram.KANJI_")?.split_once('='));
    groups
        .map(|(name, escapes)| {
            let codes = escapes.split("\\u").skip(1).map(|code| u32::from_str_radix(code.trim(), 16));
            let group = codes.collect::<Result<Vec<_>, _>>().with_context(|| format!("KANJI_{name}"))?;
            ensure!(!group.is_empty() && group.is_sorted(), "KANJI_{name} is not in ascending order");
            Ok(group)
        })
        .collect()
}

fn pack(profiles: &[Profile], kanji: &[Vec<u32>]) -> anyhow::Result<Vec<u8>> {
    let mut grams: BTreeMap<u64, Vec<(usize, u32)>> = BTreeMap::new();
    for (language, profile) in profiles.iter().enumerate() {
        for (gram, &count) in &profile.freq {
            ensure!((1..=3).contains(&gram.chars().count()), "{}: `{gram}` is no n-gram", profile.name);
            let bits = gram.chars().fold(0, |bits, c| bits << 21 | u64::from(u32::from(c)));
            grams.entry(bits).or_default().push((language, count));
        }
    }
    let mut out = Numbers(DeflateEncoder::new(Vec::new(), Compression::best()));
    for total in profiles.iter().flat_map(|profile| profile.n_words) {
        out.put(total.into())?;
    }
    out.put(grams.len() as u64)?;
    out.put_distances(grams.keys().copied())?;
    for occurrences in grams.values() {
        out.put(occurrences.len() as u64)?;
        out.put_distances(occurrences.iter().map(|&(language, _)| language as u64))?;
    }
    for &(_, count) in grams.values().flatten() {
        out.put(count.into())?;
    }
    out.put(kanji.len() as u64)?;
    for group in kanji {
        out.put(group.len() as u64)?;
        out.put_distances(group.iter().map(|&code| code.into()))?;
    }
    Ok(out.0.finish()?)
}

/// Whole numbers in LEB128, compressed.
struct Numbers(DeflateEncoder<Vec<u8>>);

impl Numbers {
    fn put(&mut self, mut number: u64) -> std::io::Result<()> {
        while number >= 0x80 {
            self.0.write_all(&[number.to_le_bytes()[0] | 0x80])?;
            number >>= 7;
        }
        self.0.write_all(&[number.to_le_bytes()[0]])
    }

    /// Ascending numbers, each as its distance from the one before.
    fn put_distances(&mut self, numbers: impl Iterator<Item = u64>) -> std::io::Result<()> {
        let mut before = 0;
        for number in numbers {
            self.put(number - before)?;
            before = number;
        }
        Ok(())
    }
}
