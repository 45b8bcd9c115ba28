//! Child processes that never outlive the pipeline.
//!
//! Each runs in a process group of its own, so that Ctrl-C on the terminal reaches the pipeline alone, which then tells
//! its child once: a trainer that was told twice would not save. It is told by the end of its standard input, which also
//! comes when the pipeline is killed.

use std::ffi::OsString;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::shell::describe;

/// How long a child may take to stop after it was told to.
const GRACE: Duration = Duration::from_secs(10);
/// How often a child and the stop flag are looked at.
const POLL: Duration = Duration::from_millis(30);
/// Set in the environment of children that are to stop when their standard input ends.
const STOP_WITH_STDIN: &str = "ORPO_STOP_WITH_STDIN";
/// The servers of the pipeline are what its file says, whatever the environment says of others.
const SERVER_VARIABLES: &str = "ORPO_SERVE_";

/// Stops this process, as SIGTERM would, when its standard input ends, if it was started to do so.
pub fn stop_with_parent() {
    if std::env::var_os(STOP_WITH_STDIN).is_none() {
        return;
    }
    std::thread::spawn(|| {
        // An input that cannot be read has ended, too.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        // This process is there.
        let _ = kill(Pid::this(), Signal::SIGTERM);
    });
}

/// The error of a run that a signal stopped.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Starts and stops children; SIGINT, SIGTERM and SIGHUP end the one that runs.
#[derive(Debug)]
pub struct Children {
    program: PathBuf,
    stop: Arc<AtomicBool>,
}

impl Children {
    /// Installs the signal handler of the process.
    ///
    /// # Errors
    /// When the handler cannot be installed or the program does not know its own path.
    pub fn new() -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed)).context("cannot handle signals")?;
        let program = std::env::current_exe().context("cannot find the path of this program")?;
        Ok(Self { program, stop })
    }

    /// The error of a run that was told to stop, or nothing.
    ///
    /// # Errors
    /// [`Interrupted`].
    pub fn check(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Interrupted.into()) } else { Ok(()) }
    }

    /// Runs `orpo ARGS` to its end and returns its exit status and stdout. What it says on stderr goes to stderr and, like
    /// its stdout, to the end of the file `log`.
    ///
    /// # Errors
    /// When it cannot be started, the log cannot be written, or [`Interrupted`].
    pub fn run(&self, args: &[OsString], log: &Path) -> Result<(ExitStatus, String)> {
        self.check()?;
        let unwritten = || format!("cannot write `{}`", log.display());
        let mut log_file = OpenOptions::new().create(true).append(true).open(log).with_context(unwritten)?;
        writeln!(log_file, "$ {}", describe(args)).with_context(unwritten)?;
        let mut command = self.command(args);
        command.env(STOP_WITH_STDIN, "1").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Running(command.spawn().with_context(|| format!("cannot start `{}`", describe(args)))?);
        let stdout = child.0.stdout.take().expect("stdout is piped");
        let stderr = child.0.stderr.take().expect("stderr is piped");
        let reader = std::thread::spawn(move || io::read_to_string(stdout));
        let passed = log_file.try_clone().with_context(unwritten)?;
        let passing = std::thread::spawn(move || pass_on(stderr, passed));
        let status = loop {
            if let Some(status) = child.0.try_wait()? {
                break status;
            }
            self.check()?;
            std::thread::sleep(POLL);
        };
        let stdout = reader.join().expect("reading a pipe does not panic").context("cannot read a child's output")?;
        passing.join().expect("copying does not panic").with_context(unwritten)?;
        log_file.write_all(stdout.as_bytes()).with_context(unwritten)?;
        Ok((status, stdout))
    }

    /// Starts a server, `orpo ARGS`, which stops when it is dropped, and waits until it says where it listens. Its log goes to `log`.
    ///
    /// # Errors
    /// When it cannot be started, ends before it listens (with the end of its log), or [`Interrupted`].
    pub fn serve(&self, args: &[OsString], log: &Path) -> Result<Server> {
        self.check()?;
        let log_file = File::create(log).with_context(|| format!("cannot write `{}`", log.display()))?;
        let args = &[args, &["--exit-with-stdin".into()]].concat();
        let mut command = self.command(args);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with(SERVER_VARIABLES)) {
            command.env_remove(name);
        }
        // The server ends when this pipe closes, however this process ends.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log_file);
        let mut child = Running(command.spawn().with_context(|| format!("cannot start `{}`", describe(args)))?);
        let stdout = child.0.stdout.take().expect("stdout is piped");
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Nobody listens any more when the server is being dropped.
                let _ = sender.send(line);
            }
        });
        loop {
            match receiver.recv_timeout(POLL) {
                Ok(line) => {
                    if let Some(url) = line.strip_prefix("listening on ") {
                        return Ok(Server { _child: child, url: url.to_string() });
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.check()?,
                Err(RecvTimeoutError::Disconnected) => {
                    let text = std::fs::read_to_string(log).unwrap_or_default();
                    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing").to_string();
                    bail!(
                        "`{}` ended before it listened; its log `{}` ends with: {last}",
                        describe(args),
                        log.display()
                    );
                }
            }
        }
    }

    fn command(&self, args: &[OsString]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).process_group(0);
        command
    }
}

/// Copies what a child says to stderr and into its log.
fn pass_on(mut from: impl Read, mut log: File) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let count = match from.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            count => count?,
        };
        if count == 0 {
            return Ok(());
        }
        // Without a terminal the log still has it.
        let _ = io::stderr().write_all(&buffer[..count]);
        log.write_all(&buffer[..count])?;
    }
}

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct Server {
    _child: Running,
    /// Where it listens.
    pub url: String,
}

/// A child that is told to stop, and in the end killed, when it is dropped.
#[derive(Debug)]
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        if !matches!(self.0.try_wait(), Ok(None)) {
            return;
        }
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(POLL);
        }
        // The same: it may have ended by now.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
