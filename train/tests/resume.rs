//! The real program, ended in every way: a resumed run ends in the same bytes as one that was never interrupted.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use support::write_tokenizer;

/// A directory with a byte-level tokenizer, pairs of many lengths and a recipe.
struct Setting {
    dir: tempfile::TempDir,
}

const RECIPE: &str = "\
output_dir = \"OUT\"
[model]
tokenizer = \"tokenizer\"
[model.init]
hidden_size = 64
intermediate_size = 128
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
max_position_embeddings = 256
[data]
train = \"train.jsonl\"
validation = \"validation.jsonl\"
[training]
beta = 0.5
learning_rate = 3e-3
warmup_steps = 2
max_steps = 20
max_tokens_per_batch = 200
group_by_length = true
gradient_accumulation_steps = 2
logging_steps = 2
eval_steps = 4
sample_prompts = 1
sample_max_new_tokens = 4
save_steps = 3
save_total_limit = 2
load_best_model_at_end = true
early_stopping_patience = 4
";

impl Setting {
    fn new() -> Self {
        let setting = Self { dir: tempfile::tempdir().unwrap() };
        write_tokenizer(&setting.path("tokenizer"));
        let pair = |i: usize| {
            let response = |words: usize, word: &str| vec![word; words].join(" ");
            json!({
                "prompt": format!("Say {i} words: "),
                "chosen": response(1 + i % 7, "sun"),
                "rejected": response(1 + i % 5, "Rain"),
            })
        };
        let lines = |rows: std::ops::Range<usize>| rows.map(|i| format!("{}\n", pair(i))).collect::<String>();
        setting.write("train.jsonl", &lines(0..40));
        setting.write("validation.jsonl", &lines(40..46));
        setting
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).unwrap();
    }

    /// The run `name` of the recipe with `more` after it.
    fn command(&self, name: &str, more: &[&str]) -> Command {
        self.write("recipe.toml", &RECIPE.replace("OUT", "unused"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_orpo-train"));
        command.args(["run", "recipe.toml", "--set", &format!("output_dir={name}")]).args(more);
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    fn succeed(&self, name: &str, more: &[&str]) -> Output {
        let output = self.command(name, more).output().unwrap();
        assert!(output.status.success(), "{name} {more:?}:\n{}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// The run must end with exit code 2 and one message that has all `words`.
    fn refuse(&self, name: &str, more: &[&str], words: &[&str]) {
        let output = self.command(name, more).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{name} {more:?}:\n{stderr}");
        assert_eq!(stderr.matches("error:").count(), 1, "one message is enough:\n{stderr}");
        for word in words {
            assert!(stderr.contains(word), "{name} {more:?} does not say `{word}`:\n{stderr}");
        }
    }

    fn spawn(&self, name: &str, more: &[&str]) -> Child {
        self.command(name, more).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Everything a run leaves that does not depend on time or place, by name.
    fn results(&self, name: &str) -> BTreeMap<String, Vec<u8>> {
        let run = self.path(name);
        let mut results = BTreeMap::new();
        for checkpoint in names(&run.join("checkpoints")) {
            for file in ["model.safetensors", "optimizer.safetensors", "trainer_state.json"] {
                let bytes = fs::read(run.join("checkpoints").join(&checkpoint).join(file)).unwrap();
                results.insert(format!("{checkpoint}/{file}"), bytes);
            }
        }
        for file in ["model/model.safetensors", "samples.jsonl"] {
            results.insert(file.into(), fs::read(run.join(file)).unwrap());
        }
        let mut metrics = String::new();
        for line in self.lines(name, "metrics.jsonl") {
            let mut line = line.as_object().unwrap().clone();
            line.retain(|key, _| !["tokens_per_sec", "rss_bytes", "peak_rss_bytes"].contains(&key.as_str()));
            metrics += &format!("{}\n", Value::from(line));
        }
        results.insert("metrics.jsonl".into(), metrics.into_bytes());
        let manifest: Value = serde_json::from_slice(&fs::read(run.join("model/orpo_manifest.json")).unwrap()).unwrap();
        results.insert("step".into(), manifest["step"].to_string().into_bytes());
        results.insert("metrics".into(), manifest["metrics"].to_string().into_bytes());
        results
    }

    fn lines(&self, name: &str, file: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(name).join(file)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn assert_same(&self, name: &str, reference: &BTreeMap<String, Vec<u8>>) {
        let results = self.results(name);
        assert_eq!(results.keys().collect::<Vec<_>>(), reference.keys().collect::<Vec<_>>());
        for (file, bytes) in reference {
            assert!(results[file] == *bytes, "{name}: {file} differs from the run without interruption");
        }
        let left: Vec<String> = [self.path(name), self.path(name).join("checkpoints")]
            .iter()
            .flat_map(|dir| names(dir))
            .filter(|file| file.starts_with('.') && file != ".lock")
            .collect();
        assert!(left.is_empty(), "{name}: left behind {left:?}");
    }
}

/// What a directory holds, sorted.
fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Whether a checkpoint or the final model is being written.
fn is_saving(run: &Path) -> bool {
    let partial = |dir: &Path| names(dir).iter().any(|name| name.ends_with(".partial") && !name.contains("jsonl"));
    partial(run) || partial(&run.join("checkpoints"))
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

/// The schedule over the steps that are made is the same whatever comes after, so that the longer run is exact.
#[test]
fn a_finished_run_can_be_extended() {
    let setting = Setting::new();
    let without_choice =
        ["load_best_model_at_end=false", "early_stopping_patience=99", "eval_steps=0", "warmup_steps=0"];
    let sets: Vec<String> = without_choice.iter().map(|set| format!("training.{set}")).collect();
    let run = |name: &str, steps: usize, scheduler: &str, resume: bool| {
        let mut more = vec!["--set".to_owned(), format!("training.max_steps={steps}")];
        more.extend(["--set".into(), format!("training.lr_scheduler={scheduler}")]);
        more.extend(sets.iter().flat_map(|set| ["--set".into(), set.clone()]));
        more.extend(resume.then(|| "--resume".into()));
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        String::from_utf8(setting.succeed(name, &more).stderr).unwrap()
    };
    let model = |name: &str| fs::read(setting.path(name).join("model/model.safetensors")).unwrap();
    run("whole", 9, "constant", false);
    run("long", 5, "constant", false);
    let said = run("long", 9, "constant", true);
    assert!(said.contains("9 steps instead of 5") && said.contains("ends in the same weights"), "{said}");
    assert!(model("long") == model("whole"), "an extended run ends in the same bits");
    // Nothing is left to do, and nothing is said of an extension.
    let said = run("long", 9, "constant", true);
    assert!(!said.contains("instead of") && model("long") == model("whole"), "{said}");
    assert!(said.contains("finished after step 9; to extend it"), "{said}");

    // Of what it began with nothing is left: it is not trained anew over the model.
    fs::remove_dir_all(setting.path("long/checkpoints")).unwrap();
    setting.refuse("long", &["--resume"], &["a final model, but no checkpoint", "another `output_dir`"]);
    let said = run("new", 5, "constant", true);
    assert!(said.contains("no checkpoint in `") && said.contains("begins anew"), "{said}");

    run("cosine", 5, "cosine", false);
    let before = model("cosine");
    let said = run("cosine", 9, "cosine", true);
    assert!(said.contains("9 steps instead of 5") && said.contains("does not end in the same weights"), "{said}");
    assert!(model("cosine") != before);
    let steps: Vec<u64> =
        setting.lines("cosine", "metrics.jsonl").iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert!(steps.contains(&8) && steps.is_sorted(), "{steps:?}");
    let fewer: Vec<&str> =
        ["--resume", "--set", "training.max_steps=3", "--set", "training.lr_scheduler=cosine"].into();
    let fewer: Vec<&str> = fewer.into_iter().chain(sets.iter().flat_map(|set| ["--set", set.as_str()])).collect();
    setting.refuse("cosine", &fewer, &["9 steps are made", "more than the 3", "training.max_steps"]);
}

#[test]
fn a_run_that_diverges_is_warned_of() {
    let setting = Setting::new();
    let more = [
        "--set",
        "training.learning_rate=30.0",
        "--set",
        "training.max_grad_norm=0",
        "--set",
        "training.warmup_steps=0",
    ];
    let output = setting.command("wild", &more).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr.matches("training diverges, the loss rose from").count(), 1, "{stderr}");
    let said = String::from_utf8(setting.succeed("calm", &[]).stderr).unwrap();
    assert!(!said.contains("diverges"), "{said}");
}

#[test]
fn killed_at_any_moment_it_resumes_to_the_same_bytes() {
    let setting = Setting::new();
    let started = Instant::now();
    setting.succeed("whole", &[]);
    let whole = started.elapsed();
    let reference = setting.results("whole");
    assert!(reference.len() > 6, "{:?}", reference.keys());

    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(20);
    let (mut kills, mut inside_a_save, mut runs) = (0, 0, 0);
    while kills < 20 {
        let name = format!("killed-{runs}");
        loop {
            let mut child = setting.spawn(&name, &["--resume"]);
            // Half of the kills come at a random time, half as soon as a random one of the next saves is seen.
            let deadline = Instant::now() + whole.mul_f64(rng.random_range(0.05..0.6));
            let skipped = Duration::from_micros(rng.random_range(0..2000));
            let wait_for_save = rng.random_bool(0.5);
            let give_up = Instant::now() + Duration::from_secs(30);
            let ended = loop {
                if let Some(status) = child.try_wait().unwrap() {
                    break Some(status);
                }
                assert!(Instant::now() < give_up, "the run hangs");
                if wait_for_save && is_saving(&setting.path(&name)) {
                    std::thread::sleep(skipped);
                    break None;
                }
                if !wait_for_save && Instant::now() >= deadline {
                    break None;
                }
            };
            if let Some(status) = ended {
                assert!(status.success(), "{status}");
                break;
            }
            // SIGKILL.
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
            inside_a_save += usize::from(is_saving(&setting.path(&name)));
            if kills >= 20 {
                setting.succeed(&name, &["--resume"]);
                break;
            }
        }
        setting.assert_same(&name, &reference);
        runs += 1;
    }
    println!("{kills} kills in {runs} runs, {inside_a_save} inside a save; a whole run takes {whole:?}");
    assert!(inside_a_save >= 1, "no kill came inside a save");
}

#[test]
fn asked_to_stop_it_saves_and_resumes_to_the_same_bytes() {
    let setting = Setting::new();
    // Only steps and the end save by themselves: what an interruption saves in between is its own.
    let options =
        ["--set", "training.save_steps=0", "--set", "training.eval_steps=0", "--set", "training.max_steps=60"];
    setting.succeed("whole", &options);
    let reference = setting.results("whole");
    for (name, number) in [("TERM", 5), ("INT", 30)] {
        let mut child = setting.spawn(name, &options);
        let give_up = Instant::now() + Duration::from_secs(30);
        let log = setting.path(name).join("metrics.jsonl");
        while fs::read_to_string(&log).unwrap_or_default().lines().count() < number / 2 {
            assert!(Instant::now() < give_up && child.try_wait().unwrap().is_none(), "no step was made");
        }
        signal(&child, name);
        assert_eq!(child.wait().unwrap().code(), Some(130));
        assert_eq!(names(&setting.path(name).join("checkpoints")).len(), 1);
        assert!(!setting.path(name).join("model").exists());

        setting.refuse(name, &options, &["holds a run already", "--resume"]);
        setting.succeed(name, &[&options[..], &["--resume"]].concat());
        let mut results = setting.results(name);
        // The interruption's checkpoint is one more that is kept.
        results.retain(|file, _| reference.contains_key(file));
        assert!(results == reference, "{name}");
    }
}

#[test]
fn what_may_change_between_the_parts_of_a_run_and_what_may_not() {
    let setting = Setting::new();
    setting.succeed("whole", &["--set", "training.logging_steps=1"]);
    let mut child = setting.spawn("part", &["--set", "training.max_steps=20"]);
    while names(&setting.path("part").join("checkpoints")).iter().all(|name| name.starts_with('.')) {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
    }
    setting.refuse("part", &["--resume"], &["another trainer", &format!("process {}", child.id())]);
    child.kill().unwrap();
    child.wait().unwrap();

    let resume = |more: [&'static str; 2]| [&["--resume"], &more[..]].concat();
    setting.refuse(
        "part",
        &resume(["--set", "training.beta=0.3"]),
        &["another recipe", "`training.beta` was 0.5", "0.3"],
    );
    setting.refuse("part", &resume(["--set", "seed=7"]), &["`seed` was 42 and is now 7"]);
    let data = fs::read_to_string(setting.path("train.jsonl")).unwrap();
    setting.write("train.jsonl", &data.replacen("sun", "moon", 1));
    setting.refuse("part", &["--resume"], &["content, layout or weight of `data.train` has changed"]);
    setting.write("train.jsonl", &data);

    // A run that moved and logs more often ends in the same model.
    fs::rename(setting.path("part"), setting.path("moved")).unwrap();
    setting.succeed("moved", &resume(["--set", "training.logging_steps=1"]));
    assert!(setting.results("moved")["model/model.safetensors"] == setting.results("whole")["model/model.safetensors"]);
}

#[test]
fn the_best_checkpoint_is_kept_and_exported_after_an_early_stop() {
    let setting = Setting::new();
    let options = [
        "--set",
        "training.learning_rate=0.2",
        "--set",
        "training.warmup_steps=8",
        "--set",
        "training.eval_steps=2",
        "--set",
        "training.early_stopping_patience=2",
    ];
    let output = setting.succeed("best", &options);
    let stderr = String::from_utf8(output.stderr).unwrap();
    let evaluations: Vec<(u64, f64)> = setting
        .lines("best", "metrics.jsonl")
        .iter()
        .filter_map(|line| Some((line["step"].as_u64()?, line["eval_loss"].as_f64()?)))
        .collect();
    let (best, _) = evaluations.iter().copied().reduce(|a, b| if b.1 < a.1 { b } else { a }).unwrap();
    let (last, _) = *evaluations.last().unwrap();
    assert_eq!(last, best + 4, "two evaluations without improvement: {evaluations:?}");
    assert!(last < 20 && stderr.contains("eval_loss has not improved for 2 evaluations"), "{stderr}");

    let run = setting.path("best");
    let checkpoint = run.join(format!("checkpoints/step-{best:06}/model.safetensors"));
    let exported = fs::read(run.join("model/model.safetensors")).unwrap();
    assert!(exported == fs::read(checkpoint).unwrap());
    let manifest: Value = serde_json::from_slice(&fs::read(run.join("model/orpo_manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["step"], best);

    // More steps are not what it waits for.
    let output = setting.succeed("best", &[&options[..], &["--resume", "--set", "training.max_steps=40"]].concat());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("has not improved for 2 evaluations; more steps do not continue it"), "{stderr}");

    // Killed before the export, it neither trains on nor chooses another model.
    fs::remove_dir_all(run.join("model")).unwrap();
    let log = fs::read(run.join("metrics.jsonl")).unwrap();
    setting.succeed("best", &[&options[..], &["--resume"]].concat());
    assert!(exported == fs::read(run.join("model/model.safetensors")).unwrap());
    assert!(log == fs::read(run.join("metrics.jsonl")).unwrap());
}

#[test]
fn a_loss_that_is_no_number_names_its_term_and_its_row() {
    let setting = Setting::new();
    let untied = ["--set", "model.init.tie_word_embeddings=false"];
    setting.succeed("base", &untied);
    // The embedding of `#`, which only row 17 has, becomes NaN.
    let base = setting.path("base/model");
    let mut bytes = fs::read(base.join("model.safetensors")).unwrap();
    let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + header_len]).unwrap();
    let offset = header["model.embed_tokens.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    let tokenizer = tokenizers::Tokenizer::from_file(base.join("tokenizer.json")).unwrap();
    let row = tokenizer.token_to_id("#").unwrap() as usize;
    let at = 8 + header_len + offset + row * 64 * 4;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(base.join("model.safetensors"), bytes).unwrap();
    let data = fs::read_to_string(setting.path("train.jsonl")).unwrap();
    setting.write("train.jsonl", &data.replacen("Say 16", "Say #16", 1));

    let recipe = RECIPE
        .replace("OUT", "poisoned")
        .replace("save_steps = 3", "save_steps = 0")
        .replace("eval_steps = 4", "eval_steps = 0");
    let from = recipe.find("tokenizer").unwrap();
    let to = recipe.find("[data]").unwrap();
    setting.write("poisoned.toml", &format!("{}path = \"base/model\"\n{}", &recipe[..from], &recipe[to..]));
    let mut command = Command::new(env!("CARGO_BIN_EXE_orpo-train"));
    let output = command.args(["run", "poisoned.toml"]).current_dir(setting.dir.path()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("nll_loss is NaN, "), "{stderr}");
    assert!(stderr.contains("train.jsonl` line 17)"), "{stderr}");
    assert!(!setting.path("poisoned/model").exists());
}

#[test]
fn weights_that_blow_up_leave_the_checkpoint_before() {
    let setting = Setting::new();
    // With a warm-up of two steps the first has rate 0 and the second half of what f32 cannot hold.
    let options = ["--set", "training.learning_rate=1e39", "--set", "training.save_steps=1"];
    let words = ["step 2", "`model.embed_tokens.weight`", "lower the learning rate", "the last checkpoint is kept"];
    setting.refuse("huge", &options, &words);
    let checkpoints = || names(&setting.path("huge/checkpoints"));
    assert_eq!(checkpoints(), ["step-000001"]);
    // The run goes on from there, to the same end.
    setting.refuse("huge", &[&options[..], &["--resume"]].concat(), &words);
    assert_eq!(checkpoints(), ["step-000001"]);
    let weights = fs::read(setting.path("huge/checkpoints/step-000001/model.safetensors")).unwrap();
    let header_len = u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    let numbers = weights[8 + header_len..].chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
    assert!(numbers.into_iter().all(f32::is_finite));
}
