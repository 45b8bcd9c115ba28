//! What all cases have: a working copy of the folder, the program, a server, and models with one thing changed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::blocking::Client;
use serde_json::{Map, Value, json};

/// The root of the reference data, if it is at hand.
fn shared() -> Option<PathBuf> {
    let named = std::env::var_os("ORPO_SHARED").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let root = named.or_else(|| Some(beside).filter(|path| path.join("cases").is_dir()))?;
    Some(root.canonicalize().unwrap_or_else(|error| panic!("ORPO_SHARED `{}`: {error}", root.display())))
}

/// A working copy of a case.
pub struct Case {
    dir: tempfile::TempDir,
    shared: PathBuf,
}

/// How a command ended, and what it said.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Case {
    /// The case of this folder, or nothing where the reference data is absent.
    pub fn open(folder: &str) -> Option<Self> {
        let Some(shared) = shared() else {
            eprintln!("SKIPPED {folder}: set ORPO_SHARED to the reference data");
            return None;
        };
        let case = Self { dir: tempfile::tempdir().unwrap(), shared };
        let from = case.shared("cases").join(folder);
        for entry in fs::read_dir(&from).unwrap_or_else(|error| panic!("{}: {error}", from.display())) {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            match String::from_utf8(bytes) {
                Ok(text) => case.write(name, text.replace("@SHARED@", case.shared.to_str().unwrap())),
                Err(error) => case.write(name, error.into_bytes()),
            };
        }
        Some(case)
    }

    pub fn shared(&self, path: &str) -> PathBuf {
        self.shared.join(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.text(name)).unwrap()
    }

    /// The rows of a JSONL file.
    pub fn rows(&self, name: &str) -> Vec<Value> {
        self.text(name).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orpo"));
        for key in ["OPENAI_API_KEY", "ORPO_EVAL_API_KEY", "ORPO_JUDGE_API_KEY"] {
            command.env_remove(key);
        }
        command.args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    pub fn orpo(&self, args: &[&str]) -> Said {
        let output = self.command(args).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// What `orpo train check` says of a recipe that it takes.
    pub fn check(&self, recipe: &str, more: &[&str]) -> Report {
        let said = self.try_check(recipe, more);
        assert_eq!(said.code, Some(0), "{recipe}: {}", said.stderr);
        Report { json: serde_json::from_str(&said.stdout).unwrap() }
    }

    /// What it says of one that it refuses.
    pub fn refused(&self, recipe: &str, more: &[&str]) -> String {
        let said = self.try_check(recipe, more);
        assert_eq!(said.code, Some(2), "{recipe} is taken: {}", said.stdout);
        assert_eq!(said.stderr.matches("error:").count(), 1, "one message is enough:\n{}", said.stderr);
        said.stderr
    }

    fn try_check(&self, recipe: &str, more: &[&str]) -> Said {
        self.orpo(&[&["train", "check", recipe, "--json", "--preview", "1"], more].concat())
    }

    /// Serves a model as `m`.
    pub fn serve(&self, model: &Path, more: &[&str]) -> Server {
        self.try_serve(model, more).unwrap_or_else(|log| panic!("{}:\n{log}", model.display()))
    }

    /// The same for one that may be refused: then what the server said.
    pub fn try_serve(&self, model: &Path, more: &[&str]) -> Result<Server, String> {
        let log = self.path("server.log");
        let mut command = self.command(&["serve", "--served-model-name", "m", "--port", "0", "--model"]);
        command.arg(model).args(more).stdout(Stdio::piped()).stderr(fs::File::create(&log).unwrap());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        match lines.find_map(|line| line.strip_prefix("listening on ").map(str::to_owned)) {
            Some(url) => Ok(Server { child, url, client: client() }),
            None => {
                assert_eq!(child.wait().unwrap().code(), Some(2));
                Err(fs::read_to_string(log).unwrap())
            }
        }
    }

    /// A copy of the golden Llama checkpoint, to be changed.
    pub fn llama(&self, name: &str) -> Model {
        let from = self.shared("train/golden/llama/model");
        for entry in fs::read_dir(&from).unwrap() {
            let path = entry.unwrap().path();
            self.write(&format!("{name}/{}", path.file_name().unwrap().to_str().unwrap()), fs::read(&path).unwrap());
        }
        Model { dir: self.path(name) }
    }
}

fn client() -> Client {
    Client::builder().no_proxy().timeout(Duration::from_secs(120)).build().unwrap()
}

impl Said {
    /// Panics unless stderr has all `words`.
    pub fn names(&self, words: &[&str]) {
        names(&self.stderr, words);
    }
}

/// Panics unless a text has all `words`.
pub fn names(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no `{word}` in\n{text}");
    }
}

/// What a check found.
pub struct Report {
    pub json: Value,
}

impl Report {
    pub fn rows_used(&self) -> u64 {
        self.json["data"][0]["rows_used"].as_u64().unwrap()
    }

    /// How many rows were dropped for a reason that has these words.
    pub fn dropped(&self, words: &str) -> u64 {
        let reasons = self.json["data"][0]["rows_dropped"].as_object().unwrap();
        reasons.iter().filter(|(reason, _)| reason.contains(words)).filter_map(|(_, count)| count.as_u64()).sum()
    }

    /// All notes, one text.
    pub fn notes(&self) -> String {
        let notes = self.json["notes"].as_array().unwrap().iter();
        notes.map(|note| note.as_str().unwrap()).collect::<Vec<_>>().join("\n")
    }

    /// The ids of the first pair's `prompt`, `chosen` or `rejected`.
    pub fn ids(&self, side: &str) -> Vec<u64> {
        let tokens = self.json["preview"][0][side].as_array().unwrap();
        tokens.iter().map(|token| token["id"].as_u64().unwrap()).collect()
    }

    /// The same as a text, with the vocabulary's marks for blanks and newlines read.
    pub fn shown(&self, side: &str) -> String {
        let tokens = self.json["preview"][0][side].as_array().unwrap();
        let text: String = tokens.iter().map(|token| token["text"].as_str().unwrap()).collect();
        text.replace(['▁', 'Ġ'], " ").replace("<0x0A>", "\n").replace('Ċ', "\n")
    }
}

/// A running server; it is stopped when this is dropped.
pub struct Server {
    child: Child,
    pub url: String,
    pub client: Client,
}

impl Server {
    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let reply = self.client.post(format!("{}{path}", self.url)).json(body).send().unwrap();
        let status = reply.status().as_u16();
        (status, reply.json().unwrap_or(Value::Null))
    }

    /// A chat that must be answered.
    pub fn chat(&self, body: &Value) -> Value {
        let (status, reply) = self.post("/v1/chat/completions", body);
        assert_eq!(status, 200, "{body}\n{reply}");
        reply["choices"][0].clone()
    }

    /// A chat that must be refused: the message.
    pub fn refused(&self, body: &Value) -> String {
        let (status, reply) = self.post("/v1/chat/completions", body);
        assert_eq!(status, 400, "{body}\n{reply}");
        reply["error"]["message"].as_str().unwrap().to_owned()
    }

    /// The ids that messages, and what else a chat has, become.
    pub fn tokenize(&self, chat: &Value) -> Vec<u64> {
        let mut body = json!({"model": "m", "add_generation_prompt": true});
        body.as_object_mut().unwrap().extend(chat.as_object().unwrap().clone());
        let (status, reply) = self.post("/tokenize", &body);
        assert_eq!(status, 200, "{body}\n{reply}");
        reply["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
    }

    /// The text of ids.
    pub fn detokenize(&self, ids: &[u64]) -> String {
        let (status, reply) = self.post("/detokenize", &json!({"model": "m", "tokens": ids}));
        assert_eq!(status, 200, "{reply}");
        reply["prompt"].as_str().unwrap().to_owned()
    }

    /// The summed log-probability of ids after the first.
    pub fn log_probability(&self, ids: &[u64]) -> f64 {
        let body = json!({"model": "m", "prompt": ids, "max_tokens": 1, "echo": true, "logprobs": 0, "temperature": 0});
        let (status, reply) = self.post("/v1/completions", &body);
        assert_eq!(status, 200, "{reply}");
        let logprobs = reply["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap();
        logprobs[1..ids.len()].iter().map(|value| value.as_f64().unwrap()).sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// A checkpoint directory to be changed, one thing at a time.
pub struct Model {
    pub dir: PathBuf,
}

impl Model {
    /// Rewrites a JSON file.
    pub fn edit(&self, name: &str, change: impl FnOnce(&mut Map<String, Value>)) -> &Self {
        let path = self.dir.join(name);
        let mut json: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        change(json.as_object_mut().unwrap());
        fs::write(path, json.to_string()).unwrap();
        self
    }

    /// Rewrites the weights: `change` gets each tensor's name, type, shape and bytes, and gives what is written, if anything.
    pub fn weights(&self, change: impl Fn(Tensor) -> Option<Tensor>) -> &Self {
        let path = self.dir.join("model.safetensors");
        let file = fs::read(&path).unwrap();
        let (length, rest) = file.split_at(8);
        let (header, data) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
        let header: Map<String, Value> = serde_json::from_slice(header).unwrap();
        let (mut written, mut bytes) = (Map::new(), Vec::new());
        for (name, entry) in header.into_iter().filter(|(name, _)| name != "__metadata__") {
            let at = |index: usize| entry["data_offsets"][index].as_u64().unwrap() as usize;
            let tensor =
                Tensor { name, dtype: "F32".into(), shape: entry["shape"].clone(), bytes: data[at(0)..at(1)].to_vec() };
            let Some(Tensor { name, dtype, shape, bytes: own }) = change(tensor) else { continue };
            let start = bytes.len();
            bytes.extend(own);
            written.insert(name, json!({"dtype": dtype, "shape": shape, "data_offsets": [start, bytes.len()]}));
        }
        let header = Value::Object(written).to_string();
        let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes].concat();
        fs::write(path, file).unwrap();
        self
    }
}

/// A tensor of a safetensors file.
pub struct Tensor {
    pub name: String,
    pub dtype: String,
    pub shape: Value,
    pub bytes: Vec<u8>,
}
