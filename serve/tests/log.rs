//! What the log tells of a request, and what it does not.

mod common;

use std::io::Write;
use std::sync::{Arc, Mutex};

use common::{Double, MODEL, PROMPT_TOKENS, Server, body, limits, says, tokenizer};
use orpo_serve::keys::ApiKeys;
use orpo_serve::served::Served;
use orpo_serve::state::Access;
use serde_json::{Value, json};

/// What is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Of the whole process, which is why this test is alone in it.
    fn start() -> Self {
        let log = Self::default();
        let writer = log.clone();
        tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || writer.clone()).init();
        log
    }

    /// What was logged since it was last taken.
    fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
    }
}

#[tokio::test]
async fn the_log_tells_who_asked_what_kind_of_thing_but_not_the_words() {
    let log = Log::start();
    for log_prompts in [false, true] {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "anna:sk-secret-a\n").unwrap();
        let keys = ApiKeys::from_file(file.path()).unwrap();
        let access = Access { keys: Some(keys), log_prompts, ..Access::default() };
        let (server, state) = Server::guarded(limits(), access).await;
        state.serve(Served::new(MODEL, Arc::new(Double::new(says("reply-words"))), tokenizer()));
        let words = json!({"messages": [{"role": "user", "content": "prompt-words"}]});
        let request = server.post(&body(words)).bearer_auth("sk-secret-a").header("x-request-id", "id-7");
        request.send().await.unwrap().text().await.unwrap();
        let text = log.take();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let line = lines.into_iter().find(|line| line["message"] == "request").unwrap();
        let completion = "reply-words".len() + 1;
        let prompt = PROMPT_TOKENS - "hi".len() + "prompt-words".len();
        for (field, value) in [
            ("request_id", json!("id-7")),
            ("method", json!("POST")),
            ("route", json!("/v1/chat/completions")),
            ("status", json!(200)),
            ("prompt_tokens", json!(prompt)),
            ("completion_tokens", json!(completion)),
            ("api_key", json!("anna")),
        ] {
            assert_eq!(line[field], value, "{line}");
        }
        assert!(line["milliseconds"].is_u64());
        assert!(line["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
        assert_eq!(text.contains("prompt-words"), log_prompts, "{text}");
        assert!(!text.contains("sk-secret") && !text.contains("reply-words"), "{text}");
    }
}
