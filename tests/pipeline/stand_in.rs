//! A server in the place of models and judges: what it is asked is counted, what it says is a function.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

/// What a model says to the messages, one behind the other.
type Says = dyn Fn(&str, &str) -> String + Send + Sync;

#[derive(Clone)]
pub struct StandIn {
    pub url: String,
    says: Arc<Says>,
    delay: Duration,
    /// How often each model was asked each last message.
    asked: Arc<Mutex<HashMap<(String, String), usize>>>,
}

impl StandIn {
    /// Starts one; `says` gets the model's name and all messages. Every reply takes `delay`.
    pub fn start(delay: Duration, says: impl Fn(&str, &str) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stand_in = Self { url, says: Arc::new(says), delay, asked: Arc::default() };
        let own = stand_in.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let server = own.clone();
                std::thread::spawn(move || {
                    // A client that goes away in the middle is no concern of the server's.
                    let _ = server.answer(stream.unwrap());
                });
            }
        });
        stand_in
    }

    pub fn asked(&self, model: &str) -> HashMap<String, usize> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|((of, _), _)| of == model).map(|((_, prompt), n)| (prompt.clone(), *n)).collect()
    }

    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
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
        let reply = if head.starts_with("GET /v1/models") {
            json!({"data": [{"id": "any"}]})
        } else {
            let body: Value = serde_json::from_slice(&body).unwrap();
            let model = body["model"].as_str().unwrap().to_owned();
            let messages = body["messages"].as_array().unwrap().iter();
            let messages: Vec<&str> = messages.map(|message| message["content"].as_str().unwrap()).collect();
            let content = (self.says)(&model, &messages.join("\n"));
            let prompt = messages.last().unwrap().to_string();
            *self.asked.lock().unwrap().entry((model, prompt)).or_default() += 1;
            std::thread::sleep(self.delay);
            // A judge of AlpacaEval is asked for these.
            let top = json!([{"token": "m", "logprob": -0.1}, {"token": "M", "logprob": -2.4}]);
            let logprobs = json!({"content": [{"token": "m", "top_logprobs": top}]});
            json!({"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": "stop",
                                "logprobs": logprobs}],
                   "usage": {"prompt_tokens": 10, "completion_tokens": 2}})
        };
        let reply = reply.to_string();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length:";
        stream.write_all(format!("{head} {}\r\n\r\n{reply}", reply.len()).as_bytes())
    }
}
