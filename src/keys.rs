//! `orpo keys`: every key of a pipeline file, what it means and its default, from the types and parsers that read them;
//! with the server's flags also the page `docs/keys.md`.

use std::fmt::Write;

use anyhow::{Result, ensure};
use clap::{Arg, ArgAction, Command, CommandFactory};
use orpo_serve::config::ServeArgs;

use crate::pipeline::file::OWN_KEYS;
use crate::pipeline::options::{ALPACA, COMPARE, IFEVAL, JUDGE, MT_BENCH, SERVE, Section};

/// What a person should know about a key or a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub meaning: String,
    /// What holds where it is not set; empty for nothing.
    pub default: String,
}

/// The sections of a pipeline file, in the order of the README.
const SECTIONS: [&str; 12] =
    ["", "base", "data", "training", "lora", "variants", "serve", "ifeval", "judge", "alpaca", "mt_bench", "compare"];
const REPORT: &str = "report";

/// All sections with their keys; the first one has no name.
fn sections() -> Vec<(&'static str, Vec<Entry>)> {
    SECTIONS.into_iter().chain([REPORT]).map(|name| (name, entries(name))).collect()
}

fn entries(section: &str) -> Vec<Entry> {
    let own = OWN_KEYS.iter().filter(|(of, ..)| *of == section);
    let own = own.map(|&(_, name, meaning, default)| Entry {
        name: name.into(),
        meaning: meaning.into(),
        default: default.into(),
    });
    let flags = match section {
        "serve" => of_flags(&SERVE, &ServeArgs::command()),
        "ifeval" => of_flags(&IFEVAL, &task("ifeval")),
        "alpaca" => of_flags(&ALPACA, &task("alpaca")),
        "mt_bench" => of_flags(&MT_BENCH, &task("mt-bench")),
        "judge" => of_flags(&JUDGE, &task("mt-bench")),
        "compare" => of_flags(&COMPARE, &task("compare")),
        _ => Vec::new(),
    };
    // A key with an entry of its own differs from its flag.
    let own: Vec<Entry> = own.collect();
    let flags = flags.into_iter().filter(|flag| own.iter().all(|entry| entry.name != flag.name));
    own.iter().cloned().chain(flags).collect()
}

/// A command of `orpo eval`.
fn task(name: &str) -> Command {
    let command = orpo_eval::cli::command();
    command.find_subcommand(name).expect("a section stands for a command").clone()
}

fn of_flags(section: &Section, command: &Command) -> Vec<Entry> {
    let flag = |flag: &str| {
        let long = flag.trim_start_matches("--");
        command.get_arguments().find(|arg| arg.get_long() == Some(long)).expect("a key stands for a flag")
    };
    section.flags_of_keys().map(|(key, long)| Entry { name: key.into(), ..of_flag(flag(long)) }).collect()
}

fn of_flag(arg: &Arg) -> Entry {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    // A default that only the help can tell.
    let (mut meaning, told) = match help.rsplit_once(" [default: ").map(|(text, rest)| (text, rest.strip_suffix(']'))) {
        Some((text, Some(default))) => (text.to_owned(), Some(default.to_owned())),
        _ => (help, None),
    };
    let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
    let choices: Vec<String> =
        arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    if !choices.is_empty() && !is_switch {
        let _ = write!(meaning, ": {}", choices.join(", "));
    }
    let values = arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned());
    let default = match told {
        Some(default) => default,
        None if is_switch => "false".into(),
        None => values.collect::<Vec<_>>().join(","),
    };
    let name = arg.get_long().map(|long| format!("--{long}")).unwrap_or_default();
    Entry { name, meaning, default }
}

/// The keys of a section, or of all, for the terminal.
///
/// # Errors
/// When there is no such section.
pub fn text(section: Option<&str>) -> Result<String> {
    let mut sections = sections();
    if let Some(wanted) = section {
        let wanted = wanted.trim_matches(['[', ']']);
        sections.retain(|(name, _)| *name == wanted);
        let names: Vec<&str> = SECTIONS[1..].iter().copied().chain([REPORT]).collect();
        ensure!(
            !sections.is_empty(),
            "a pipeline file has no section `{wanted}`; its sections are {}",
            names.join(", ")
        );
    }
    let mut text = String::new();
    for (name, entries) in sections {
        let separator = if text.is_empty() { "" } else { "\n" };
        let heading = if name.is_empty() { "before the first section".into() } else { format!("[{name}]") };
        let _ = writeln!(text, "{separator}{heading}");
        let width = entries.iter().map(|entry| entry.name.len()).max().unwrap_or(0);
        for Entry { name, meaning, default } in entries {
            let default = if default.is_empty() { String::new() } else { format!(" [{default}]") };
            let _ = writeln!(text, "  {name:<width$}  {meaning}{default}");
        }
    }
    Ok(text.trim_end().to_owned())
}

const INTRODUCTION: &str = "\
# Keys and flags

Written by `orpo keys --markdown > docs/keys.md` from the code that reads them; do not edit it by hand.

- [Recipe](#recipe): what `orpo train` reads. `orpo train keys SECTION` prints one section.
- [Pipeline file](#pipeline-file): what `orpo run` and `orpo plan` read. `orpo keys SECTION` prints one section.
- [Server](#server): flags of `orpo serve`, each with an environment variable.

A value out of range, or a key that does not exist, stops a program before it does anything, with the range or the key
that was probably meant. Precedence is flag, then environment variable, then default.

## Recipe

";

/// The page `docs/keys.md`.
pub fn page() -> String {
    let mut page = INTRODUCTION.to_owned() + &orpo_train::recipe::markdown() + "\n## Pipeline file\n";
    for (name, entries) in sections() {
        if !name.is_empty() {
            let _ = write!(page, "\n### [{name}]\n");
        }
        table(&mut page, "key", &entries);
    }
    page += "\n## Server\n\nThe environment variable of a flag is `ORPO_SERVE_` and its name: `ORPO_SERVE_MAX_QUEUE` for `--max-queue`.\n";
    let command = ServeArgs::command();
    let flags = command.get_arguments().filter(|arg| arg.get_env().is_some());
    table(&mut page, "flag", &flags.map(of_flag).collect::<Vec<_>>());
    page
}

fn table(page: &mut String, kind: &str, entries: &[Entry]) {
    let _ = write!(page, "\n| {kind} | meaning | default |\n|---|---|---|\n");
    for Entry { name, meaning, default } in entries {
        let cell = |text: &str| text.replace('|', "\\|").replace('<', "&lt;").replace('\n', " ");
        let _ = writeln!(page, "| `{name}` | {} | {} |", cell(meaning), cell(default));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::file::known_keys;

    #[test]
    fn every_key_that_a_pipeline_file_may_have_is_told() {
        for (section, keys) in known_keys() {
            let told = entries(section);
            // Sections are told as such.
            let keys = keys.iter().filter(|key| !SECTIONS.contains(&key.as_str()) && *key != REPORT);
            for key in keys {
                assert!(told.iter().any(|entry| entry.name == *key), "[{section}] {key} is not in the reference");
            }
        }
        for (section, entries) in sections() {
            assert!(!entries.is_empty(), "[{section}] has no keys");
            for Entry { name, meaning, .. } in entries {
                assert!(meaning.len() > 10, "[{section}] {name} says only `{meaning}`");
            }
        }
    }

    #[test]
    fn a_flag_tells_its_default_and_its_choices() {
        let find = |section: &str, name: &str| entries(section).into_iter().find(|entry| entry.name == name).unwrap();
        assert_eq!(find("judge", "retries").default, "5");
        assert_eq!(find("alpaca", "max_tokens").default, "2048");
        // The pipeline's own default, not the flag's.
        assert_eq!(find("ifeval", "max_tokens").default, "256");
        assert_eq!(find("mt_bench", "official").default, "false");
        assert!(find("serve", "engine").meaning.contains("`mistralrs`"), "{:?}", find("serve", "engine"));
        assert_eq!(find("ifeval", "system").default, "none");
    }

    #[test]
    fn a_section_can_be_asked_for_alone() {
        let serve = text(Some("serve")).unwrap();
        assert!(serve.starts_with("[serve]\n  quantize") && !serve.contains("[judge]"), "{serve}");
        assert!(text(Some("served")).unwrap_err().to_string().contains("mt_bench"));
        assert!(text(None).unwrap().contains("\n\n[report]\n"));
    }

    #[test]
    fn the_page_says_what_the_program_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/keys.md");
        let written = std::fs::read_to_string(path).unwrap();
        assert!(written == page(), "docs/keys.md is out of date: run `orpo keys --markdown > docs/keys.md`");
    }
}
