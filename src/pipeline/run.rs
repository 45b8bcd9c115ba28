//! Running the stages of a pipeline that are not up to date.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use orpo_eval::clock::Clock;
use orpo_files::{DirLock, LockError, recover, remove_dir, write_file, write_json};
use orpo_train::recipe::Recipe;

use super::file::Pipeline;
use super::inputs::{self, Surveyed};
use super::record::{Decision, Record, Status, file_name};
use super::stages::{Kind, Model, Stage, recipe_path};
use super::{Options, manifest, validate};
use crate::children::{Children, Server};
use crate::hash::Hashes;
use crate::shell::describe;
use crate::summary::Summary;

/// How long a server elsewhere may be away before a request to it fails.
const OUTAGE_SECS: u64 = 180;
/// The port that a person is told to serve at, to repeat a stage alone.
const PORT: u16 = 8000;
/// How long a trainer that was told to stop may take to save.
const SAVING: Duration = Duration::from_secs(60);

/// Runs the pipeline of a file.
///
/// # Errors
/// When the file or anything it names is wrong, a stage fails, or a signal came.
pub fn run_file(children: &Children, path: &Path, resume: bool, options: &Options) -> Result<Summary> {
    let pipeline = Pipeline::load(path)?;
    let trained = pipeline.recipes.keys().map(|variant| pipeline.out.join(variant));
    let holds_run = trained.chain([pipeline.out.join("stages")]).any(|path| path.exists());
    ensure!(
        resume || !holds_run,
        "`{}` holds a run already; go on with it by --resume, or name another `out`",
        pipeline.out.display()
    );
    run(children, &pipeline, options, Instant::now())
}

/// Runs the stages that are wanted and not up to date, and sums up what there is then.
///
/// # Errors
/// When something the pipeline names is wrong, a stage fails (with the commands that repeat it), or a signal came.
pub fn run(children: &Children, pipeline: &Pipeline, options: &Options, started: Instant) -> Result<Summary> {
    validate::check(pipeline, options)?;
    let out = &pipeline.out;
    fs::create_dir_all(out.join("logs")).with_context(|| format!("cannot create `{}`", out.display()))?;
    let _lock = lock(out)?;
    let mut hashes = Hashes::default();
    let surveyed = inputs::survey(pipeline, options, &mut hashes)?;
    validate::check_judge(pipeline, &surveyed)?;

    let mut runner = Runner { children, pipeline, options, hashes, server: None };
    let (report, stages): (Vec<Stage>, Vec<Stage>) =
        surveyed.into_iter().map(|surveyed| surveyed.stage).partition(|stage| stage.kind == Kind::Report);
    for stage in stages {
        runner.stage(stage)?;
    }
    runner.server = None;
    // The report shows both.
    manifest::write(pipeline, &mut runner.hashes)?;
    write_summary(pipeline, options, started)?;
    for stage in report {
        runner.stage(stage)?;
    }
    write_summary(pipeline, options, started)
}

fn write_summary(pipeline: &Pipeline, options: &Options, started: Instant) -> Result<Summary> {
    let summary = Summary::read(pipeline, started.elapsed().as_secs_f64(), options.public_url.clone())?;
    write_json(&pipeline.out.join("summary.json"), &summary)?;
    Ok(summary)
}

struct Runner<'a> {
    children: &'a Children,
    pipeline: &'a Pipeline,
    options: &'a Options,
    hashes: Hashes,
    /// The server that runs, and the model that it serves.
    server: Option<(String, Server)>,
}

impl Runner<'_> {
    /// Runs a stage unless it is up to date.
    fn stage(&mut self, stage: Stage) -> Result<()> {
        self.children.check()?;
        let Surveyed { stage, inputs, decision, record } =
            inputs::look_at(self.pipeline, stage, |_| false, &mut self.hashes)?;
        let (reason, goes_on) = match decision {
            Decision::UpToDate => {
                announce(&format!("{}: up to date", stage.name));
                return Ok(());
            }
            Decision::GoOn(reason) => (format!(": {reason}; resuming"), true),
            // A stage that runs for the first time needs no reason.
            Decision::Redo(_) if record.is_none() => (String::new(), false),
            Decision::Redo(reasons) => (format!(": {}", reasons.join(", ")), false),
        };
        announce(&format!("{}{reason}", stage.name));
        let out = &self.pipeline.out;
        let log = Path::new("logs").join(format!("{}.log", file_name(&stage.name)));
        if !goes_on {
            set_aside(&out.join(&stage.place))?;
            set_aside(&out.join(&log))?;
        }
        let clock = Clock::start();
        let mut record = Record {
            stage: stage.name.clone(),
            status: Status::Begun,
            inputs,
            outputs: record.filter(|_| goes_on).map(|record| record.outputs).unwrap_or_default(),
            command: self.command(&stage)?,
            log,
            started_at: clock.started_at(),
            seconds: 0.0,
        };
        record.write(out)?;
        let ended = self.execute(&stage, &record.log);
        record.seconds = clock.seconds();
        record.status = match &ended {
            Ok(status) => *status,
            // It goes on where it was stopped.
            Err(error) if error.is::<crate::children::Interrupted>() => Status::Begun,
            Err(_) => Status::Failed,
        };
        if ended.is_ok() {
            record.outputs = inputs::outputs(out, &stage, &mut self.hashes)?;
        }
        record.write(out)?;
        ended.map(drop)
    }

    /// Runs the command of a stage and says how it ended.
    fn execute(&mut self, stage: &Stage, log: &Path) -> Result<Status> {
        let out = &self.pipeline.out;
        let mut args = stage.args.clone();
        match &stage.asks {
            Some(model) => args.extend(self.address(model)?),
            None => self.server = None,
        }
        let recipes = self.pipeline.recipes.iter();
        let recipes = recipes.map(|(variant, recipe)| (recipe, recipe_path(self.pipeline, variant)));
        for (recipe, path) in recipes.filter(|(_, path)| args.iter().any(|arg| arg == path)) {
            write_recipe(recipe, &path)?;
            wait_for_trainer(&recipe.output_dir)?;
        }
        if let Some(parent) = out.join(&stage.place).parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot create `{}`", parent.display()))?;
        }
        let (ended, stdout) = self.children.run(&args, &out.join(log))?;
        // An evaluation ends with 1 where not everything could be scored; the results say what.
        let status = match ended.code() {
            Some(0) => Status::Done,
            Some(1) if stage.asks.is_some() || stage.kind == Kind::Compare => Status::Incomplete,
            code => {
                let code = code.map_or("killed by a signal".to_owned(), |code| format!("exit code {code}"));
                let lacks_template = stage.kind == Kind::Train && !validate::has_template(self.pipeline)?;
                let hint = if lacks_template { "; `base.chat_template` names the template it lacks" } else { "" };
                bail!(
                    "stage {} failed ({code}); its log is `{}`{hint}; repeat it alone with:\n  {}",
                    stage.name,
                    out.join(log).display(),
                    self.command(stage)?.replace('\n', "\n  ")
                );
            }
        };
        if let Some(file) = &stage.stdout {
            write_file(&out.join(file), stdout.as_bytes())?;
        }
        Ok(status)
    }

    /// The flags with the address of a model: where it is served elsewhere, or at our own server, started if need be.
    fn address(&mut self, name: &str) -> Result<Vec<OsString>> {
        if let Some(url) = self.options.endpoints.get(name) {
            self.server = None;
            return Ok(elsewhere(url));
        }
        if self.server.as_ref().is_none_or(|(served, _)| served != name) {
            // One model at a time: memory is what runs out first.
            self.server = None;
            let args = Model::of(self.pipeline, name)?.serve_args(self.pipeline, 0);
            announce(&format!("serve: {name}"));
            let log = self.pipeline.out.join("logs").join(format!("serve-{name}.log"));
            self.server = Some((name.into(), self.children.serve(&args, &log)?));
        }
        let (_, server) = self.server.as_ref().expect("it was just started");
        Ok(vec!["--endpoint".into(), (&server.url).into()])
    }

    /// What repeats a stage alone, in a shell: its own command, behind that of a server where it needs one.
    fn command(&self, stage: &Stage) -> Result<String> {
        let Some(name) = &stage.asks else { return Ok(describe(&stage.args)) };
        let ask = |url: &str| describe(&[stage.args.clone(), elsewhere(url)].concat());
        if let Some(url) = self.options.endpoints.get(name) {
            return Ok(ask(url));
        }
        let server = Model::of(self.pipeline, name)?.serve_args(self.pipeline, PORT);
        Ok(format!("{} &\n{}", describe(&server), ask(&format!("http://127.0.0.1:{PORT}"))))
    }
}

/// Flags of an evaluation that asks a server which may be restarted meanwhile.
fn elsewhere(url: &str) -> Vec<OsString> {
    vec!["--endpoint".into(), url.into(), "--outage-secs".into(), OUTAGE_SECS.to_string().into()]
}

/// Trains by a recipe, going on with what its directory holds. The recipe is written to `path`.
///
/// # Errors
/// When the trainer fails or a signal came.
pub fn train(children: &Children, recipe: &Recipe, path: &Path, log: &Path) -> Result<()> {
    write_recipe(recipe, path)?;
    wait_for_trainer(&recipe.output_dir)?;
    let args = ["train".into(), "run".into(), path.into(), "--resume".into()];
    let (status, _) = children.run(&args, log)?;
    ensure!(
        status.success(),
        "training failed; its log is `{}`; repeat it alone with:\n  {}",
        log.display(),
        describe(&args)
    );
    Ok(())
}

fn write_recipe(recipe: &Recipe, path: &Path) -> Result<()> {
    let command = describe(&["train".into(), "run".into(), path.into(), "--resume".into()]);
    let text = format!("# {command}\n") + &toml::to_string(recipe).context("a recipe is plain data")?;
    Ok(write_file(path, text.as_bytes())?)
}

/// Waits until a trainer has let go of its directory whose pipeline was killed, and which saves before it ends.
fn wait_for_trainer(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    let deadline = Instant::now() + SAVING;
    loop {
        match DirLock::acquire(dir) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Renames what is at `path` to `NAME.previous`, which takes the place of an older one.
fn set_aside(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".previous");
    let previous = path.with_file_name(name);
    let failed = || format!("cannot rename `{}` to `{}`", path.display(), previous.display());
    if previous.is_dir() {
        remove_dir(&previous)?;
    }
    fs::rename(path, &previous).with_context(failed)
}

/// Holds a pipeline's directory until it is dropped.
fn lock(out: &Path) -> Result<DirLock> {
    let lock = DirLock::acquire(out).map_err(|error| match error {
        LockError::Held { .. } => anyhow!("another run is going on in `{}`; wait for its end", out.display()),
        LockError::File(error) => error.into(),
    })?;
    // What a killed run left half-written or half-removed.
    recover(out)?;
    recover(&out.join("stages"))?;
    Ok(lock)
}

/// Says on stderr what begins.
pub fn announce(what: &str) {
    eprintln!("==> {what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_previous_result_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("ifeval");
        for content in ["one", "two", "three"] {
            set_aside(&place).unwrap();
            fs::create_dir(&place).unwrap();
            fs::write(place.join("f"), content).unwrap();
        }
        assert_eq!(fs::read_to_string(place.join("f")).unwrap(), "three");
        assert_eq!(fs::read_to_string(dir.path().join("ifeval.previous/f")).unwrap(), "two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_directory_has_one_run_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = lock(dir.path()).unwrap();
        assert!(lock(dir.path()).unwrap_err().to_string().contains("another run is going on"));
        drop(first);
        lock(dir.path()).unwrap();
    }
}
