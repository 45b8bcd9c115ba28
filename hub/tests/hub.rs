//! Listing, cache and download against a server of this test, and everything that can go wrong.

mod stand_in;

use std::fs;

use orpo_hub::{Hub, HubError, Kind, RepoId, Repository};
use stand_in::{COMMIT, Fault, StandIn};

const FILES: [(&str, &[u8]); 3] = [("README.md", b"pairs"), ("data/a.jsonl", b"{}\n"), ("data/b.jsonl", b"[]\n")];
const ID: RepoId<'_> = RepoId { kind: Kind::Dataset, name: "acme/pairs", revision: "main" };

fn start() -> StandIn {
    StandIn::start("datasets/acme/pairs", &FILES)
}

fn refused(hub: &Hub, id: &RepoId<'_>) -> HubError {
    Repository::open(hub, id).err().expect("no such repository is open to us")
}

#[test]
fn a_revision_stays_at_the_commit_of_its_first_listing() {
    let (server, cache) = (start(), tempfile::tempdir().unwrap());
    let hub = server.hub(cache.path());
    let first = Repository::open(&hub, &ID).unwrap();
    assert_eq!(first.names(), ["README.md", "data/a.jsonl", "data/b.jsonl"]);
    assert_eq!((first.size("data/a.jsonl"), first.cached("data/a.jsonl")), (Some(3), None));
    let path = first.file("data/a.jsonl").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"{}\n");
    assert_eq!(first.cached("data/a.jsonl"), Some(path.clone()));

    let newer = "abcdef0123456789abcdef0123456789abcdef01";
    server.add_at("datasets/acme/pairs", newer, &[("data/a.jsonl", b"new\n")]);
    let requests = server.requests();
    let again = Repository::open(&hub, &ID).unwrap();
    assert_eq!((again.names(), again.file("data/a.jsonl").unwrap()), (first.names(), path.clone()));
    assert_eq!((hub.cached(&ID, "data/a.jsonl"), hub.cached(&ID, "data/b.jsonl")), (Some(path), None));
    assert_eq!(server.requests(), requests);

    let named = Repository::open(&hub, &RepoId { revision: newer, ..ID }).unwrap();
    assert_eq!(fs::read(named.file("data/a.jsonl").unwrap()).unwrap(), b"new\n");
}

#[test]
fn offline_the_cache_is_all_there_is() {
    let (server, cache) = (start(), tempfile::tempdir().unwrap());
    let offline = server.hub(cache.path()).offline();
    let error = refused(&offline, &ID);
    assert!(matches!(error, HubError::Offline) && error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
    assert!(matches!(offline.fetch(&ID, "README.md"), Err(HubError::Offline)));
    assert_eq!(server.requests(), 0);

    let online = server.hub(cache.path());
    let path = Repository::open(&online, &ID).unwrap().file("data/b.jsonl").unwrap();
    let requests = server.requests();
    let repository = Repository::open(&offline, &ID).unwrap();
    assert_eq!((repository.file("data/b.jsonl").unwrap(), repository.notice()), (path.clone(), None));
    let error = repository.file("README.md").unwrap_err().to_string();
    assert!(error.contains("`README.md`") && error.contains("HF_HUB_OFFLINE"), "{error}");

    // A cache that another program filled has no listing.
    fs::remove_dir_all(cache.path().join("datasets--acme--pairs/orpo-listings")).unwrap();
    let repository = Repository::open(&offline, &ID).unwrap();
    assert_eq!((repository.names(), repository.file("data/b.jsonl").unwrap()), (vec!["data/b.jsonl"], path));
    let notice = repository.notice().unwrap();
    assert!(notice.contains("HF_HUB_OFFLINE") && notice.contains("the files that the cache holds"), "{notice}");
    assert_eq!(server.requests(), requests);
}

#[test]
fn every_refusal_says_what_to_do() {
    let (server, cache) = (start(), tempfile::tempdir().unwrap());
    let hub = server.hub(cache.path());
    let message = |id: &RepoId<'_>| refused(&hub, id).to_string();
    for id in [RepoId { name: "acme/other", ..ID }, RepoId { revision: "v2", ..ID }, RepoId { kind: Kind::Space, ..ID }]
    {
        let expected = format!("{} has no such repository or revision (404); check the name", server.url());
        assert_eq!(message(&id), expected);
    }
    let pinned = RepoId { revision: COMMIT, ..ID };
    let error = hub.fetch(&pinned, "none").unwrap_err().to_string();
    assert_eq!(error, format!("{} has no such file (404); check HF_ENDPOINT", server.url()));
    server.set(Fault::Token("secret"));
    assert!(message(&ID).contains("401") && message(&ID).contains("HF_TOKEN"), "{}", message(&ID));
    server.set(Fault::Down);
    assert_eq!(message(&ID), format!("{} answers 503; try again later", server.url()));
    server.set(Fault::None);
    let error = Repository::open(&hub, &ID).unwrap().file("none").unwrap_err().to_string();
    assert_eq!(error, "`none`: the repository has no such file");
    drop(server);
    let other = RepoId { name: "acme/other", ..ID };
    assert!(message(&other).contains("check the network and HF_ENDPOINT"), "{}", message(&other));
}

#[test]
fn a_file_that_came_in_part_is_none() {
    for fault in [Fault::BreakOff, Fault::TooShort] {
        let (server, cache) = (start(), tempfile::tempdir().unwrap());
        let hub = server.hub(cache.path());
        let repository = Repository::open(&hub, &ID).unwrap();
        server.set(fault);
        let error = repository.file("README.md").unwrap_err().to_string();
        assert!(error.starts_with("`README.md`: ") && error.contains("run again"), "{error}");
        assert_eq!(repository.cached("README.md"), None);
        server.set(Fault::None);
        assert_eq!(fs::read(repository.file("README.md").unwrap()).unwrap(), b"pairs");
    }
}

#[test]
fn weights_are_one_file_or_the_shards_of_the_index() {
    const INDEX: &str = "model.safetensors.index.json";
    let (server, cache) = (start(), tempfile::tempdir().unwrap());
    let hub = server.hub(cache.path());
    let index = br#"{"weight_map": {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}}"#;
    let weights = |name: &str, files: &[(&str, &[u8])]| {
        server.add(name, files);
        let repository = Repository::open(&hub, &RepoId { kind: Kind::Model, name, revision: "main" }).unwrap();
        repository.weights().map_err(|error| error.to_string())
    };
    assert_eq!(weights("a/both", &[("model.safetensors", b""), (INDEX, index)]).unwrap(), ["model.safetensors"]);
    assert_eq!(weights("a/shards", &[(INDEX, index)]).unwrap(), [INDEX, "1.safetensors", "2.safetensors"]);
    assert!(weights("a/none", &[("pytorch_model.bin", b"")]).unwrap_err().contains("no safetensors"));
    for (name, wrong) in [("a/empty", &b"{}"[..]), ("a/text", b"weights")] {
        let error = weights(name, &[(INDEX, wrong)]).unwrap_err();
        assert!(error.contains(INDEX) && !error.contains("HF_ENDPOINT"), "{error}");
    }
}
