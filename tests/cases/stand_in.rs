//! A stand-in for a model or a judge: what it answers is a function of the request and its number.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// Status, content type and body.
pub struct Reply(pub u16, pub &'static str, pub String);

impl Reply {
    pub fn json(body: &Value) -> Self {
        Self(200, "application/json", body.to_string())
    }
}

type Answers = dyn Fn(usize, &Value) -> Reply + Send + Sync;

pub struct StandIn {
    pub url: String,
    asked: Arc<Mutex<usize>>,
}

impl StandIn {
    pub fn start(answers: impl Fn(usize, &Value) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (asked, answers): (Arc<Mutex<usize>>, Arc<Answers>) = (Arc::default(), Arc::new(answers));
        let stand_in = Self { url, asked: asked.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (asked, answers) = (asked.clone(), answers.clone());
                std::thread::spawn(move || {
                    // A client that goes away in the middle is no concern of the server's.
                    let _ = answer(stream.unwrap(), &asked, &*answers);
                });
            }
        });
        stand_in
    }

    /// How many chats it was asked for.
    pub fn asked(&self) -> usize {
        *self.asked.lock().unwrap()
    }
}

fn answer(mut stream: TcpStream, asked: &Mutex<usize>, answers: &Answers) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let Reply(status, kind, text) = if head.starts_with("GET ") {
        Reply::json(&json!({"object": "list", "data": [{"id": "stub", "object": "model"}]}))
    } else {
        let number = {
            let mut asked = asked.lock().unwrap();
            *asked += 1;
            *asked - 1
        };
        answers(number, &serde_json::from_slice(&body).unwrap())
    };
    let head =
        format!("HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\nconnection: close\r\ncontent-length: {}", text.len());
    stream.write_all(format!("{head}\r\n\r\n{text}").as_bytes())
}

/// A chat completion.
pub fn completion(content: &str) -> Value {
    json!({"id": "x", "object": "chat.completion", "created": 1, "model": "stub",
           "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
           "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}})
}

/// A verdict of a judge that is asked for log-probabilities.
pub fn verdict(token: &str, alternatives: &[(&str, f64)]) -> Value {
    let tops: Vec<Value> = alternatives
        .iter()
        .map(|(token, logprob)| json!({"token": token, "logprob": logprob, "bytes": null}))
        .collect();
    let mut reply = completion(token);
    reply["choices"][0]["finish_reason"] = "length".into();
    reply["choices"][0]["logprobs"] =
        json!({"content": [{"token": token, "logprob": -0.1, "bytes": null, "top_logprobs": tops}]});
    reply
}
