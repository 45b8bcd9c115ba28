//! Holds `compose.yaml` and the files of `docker/` to what the program and the workspace are, without a container engine.

use std::fs;
use std::path::Path;

use clap::Parser;
use orpo_serve::config::ServeArgs;

use crate::pipeline::file::Pipeline;
use crate::{Cli, Command};

const MANIFESTS: [&str; 3] = ["docker/k8s/train.yaml", "docker/k8s/serve.yaml", "docker/k8s/eval.yaml"];

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// A compose file as it is where nothing is configured: `${NAME:-DEFAULT}` is its default.
fn with_defaults(text: &str) -> String {
    let mut resolved = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (variable, after) = after.split_once('}').expect("an opened variable is closed");
        let (_, default) = variable.split_once(":-").expect("every variable has a default");
        resolved += before;
        resolved += default;
        rest = after;
    }
    resolved + rest
}

/// The services of the compose file: name and body.
fn services(compose: &str) -> Vec<(String, String)> {
    let (_, rest) = compose.split_once("\nservices:\n").expect("there are services");
    let block = rest.lines().take_while(|line| line.is_empty() || line.starts_with(' '));
    let mut services: Vec<(String, String)> = Vec::new();
    for line in block {
        match line
            .strip_prefix("  ")
            .filter(|line| !line.starts_with([' ', '#']))
            .and_then(|line| line.strip_suffix(':'))
        {
            Some(name) => services.push((name.to_owned(), String::new())),
            None => {
                if let Some((_, body)) = services.last_mut() {
                    *body += line;
                    *body += "\n";
                }
            }
        }
    }
    services
}

/// The value of a service's key, a folded one in one line.
fn value(body: &str, key: &str) -> Option<String> {
    let start = body.find(&format!("    {key}: "))?;
    let mut lines = body[start..].lines();
    let (_, first) = lines.next()?.split_once(": ")?;
    let more = lines.take_while(|line| first == ">-" && line.starts_with("      ")).map(str::trim);
    let words: Vec<&str> = std::iter::once(first).filter(|first| *first != ">-").chain(more).collect();
    Some(words.join(" "))
}

/// The `args` of a manifest's containers.
fn arguments(manifest: &str) -> Vec<Vec<String>> {
    let lists = manifest.split("args: [").skip(1).map(|rest| rest.split(']').next().unwrap_or_default());
    lists
        .map(|list| {
            list.split(',')
                .map(|word| word.trim().trim_matches('"').to_owned())
                .filter(|word| !word.is_empty())
                .collect()
        })
        .collect()
}

/// Panics unless `orpo WORDS` would be understood.
fn assert_understood(words: Vec<String>) {
    let line = words.join(" ");
    let cli = Cli::try_parse_from(std::iter::once("orpo".to_owned()).chain(words));
    let understood =
        match cli.unwrap_or_else(|error| panic!("orpo {line}: {error}")).command.expect("a command is named") {
            Command::Serve { args } => {
                let args = std::iter::once("orpo serve".into()).chain(args);
                ServeArgs::try_parse_from(args).map(drop).map_err(|error| error.to_string())
            }
            Command::Eval { args } => orpo_eval::cli::check(std::iter::once("orpo eval".into()).chain(args)),
            _ => Ok(()),
        };
    assert_eq!(understood, Ok(()), "orpo {line}");
}

#[test]
fn the_program_understands_the_commands_of_every_container() {
    let compose = with_defaults(&read("compose.yaml"));
    let mut seen = 0;
    for (name, body) in services(&compose) {
        if let Some(command) = value(&body, "command") {
            assert_understood(command.split_whitespace().map(str::to_owned).collect());
            seen += 1;
        }
        assert!(body.contains("command: ") || body.contains("orpo "), "service `{name}` runs nothing");
    }
    // The commands in scripts.
    for line in compose.lines().filter_map(|line| line.trim().strip_prefix("exec orpo ")) {
        assert_understood(line.split_whitespace().map(|word| word.trim_matches('"').to_owned()).collect());
    }
    let jobs: Vec<Vec<String>> = MANIFESTS.iter().flat_map(|name| arguments(&read(name))).collect();
    assert!(seen >= 3 && jobs.len() == MANIFESTS.len(), "{seen} commands of services, {} of manifests", jobs.len());
    jobs.into_iter().for_each(assert_understood);
    let pipeline = Pipeline::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/k8s/pipeline.toml")).unwrap();
    let served = format!("--model={}/orpo/model", pipeline.out.display());
    assert!(read("docker/k8s/serve.yaml").contains(&served), "the server does not serve what is trained");
}

#[test]
fn no_container_has_privileges() {
    let compose = read("compose.yaml");
    for word in ["privileged", "cap_add", "docker.sock", "network_mode", "pid:", "user: "] {
        assert!(!compose.contains(word), "compose.yaml has `{word}`");
    }
    let (common, _) = compose.split_once("\nservices:\n").unwrap();
    for setting in ["read_only: true", "cap_drop: [ALL]", "no-new-privileges:true"] {
        assert!(common.contains(setting), "compose.yaml lacks `{setting}`");
    }
    for (name, body) in services(&compose) {
        assert!(body.contains("<<: *orpo") || body.contains("<<: *once"), "service `{name}` has settings of its own");
    }
    for name in MANIFESTS {
        let manifest = read(name);
        let count = |text: &str| manifest.matches(text).count();
        assert_eq!(
            count("image: orpo\n"),
            count("securityContext: &restricted") + count("securityContext: *restricted"),
            "{name}"
        );
        assert_eq!((count("runAsNonRoot: true"), count("privileged")), (1, 0), "{name}");
    }
    assert!(read("docker/Dockerfile").contains("\nUSER 10001:10001\n"));
}

#[test]
fn whoever_stops_the_server_waits_longer_than_it_drains() {
    let number = |text: &str, key: &str| -> u64 {
        let (_, rest) = text.split_once(key).unwrap_or_else(|| panic!("no `{key}`"));
        let digits: String =
            rest.trim_start_matches([' ', '=', ':']).chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or_else(|_| panic!("no number after `{key}`"))
    };
    let (_, serve) = services(&read("compose.yaml")).into_iter().find(|(name, _)| name == "serve").unwrap();
    assert!(number(&serve, "stop_grace_period") > number(&serve, "--drain-timeout-secs"));
    let serve = read("docker/k8s/serve.yaml");
    let (before, drain) = (number(&serve, "command: [sleep, \""), number(&serve, "--drain-timeout-secs"));
    assert!(number(&serve, "terminationGracePeriodSeconds") > before + drain);
}

#[test]
fn a_build_sees_every_crate() {
    let manifest: toml::Table = toml::from_str(&read("Cargo.toml")).unwrap();
    let ignored = read(".dockerignore");
    let seen: Vec<&str> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let members = manifest["workspace"]["members"].as_array().unwrap();
    for needed in members.iter().filter_map(toml::Value::as_str).chain(["src", "Cargo.toml", "Cargo.lock", ".cargo"]) {
        assert!(seen.contains(&needed), ".dockerignore leaves out `{needed}`");
    }
}
