//! The playground in headless Chromium, over the test double. Skipped where there is no `chromedriver`.

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Behaviour, Double, MODEL, Server, limits, says, tokenizer};
use orpo_serve::keys::ApiKeys;
use orpo_serve::served::Served;
use orpo_serve::state::{Access, AppState};
use serde_json::{Value, json};

const ENTER: &str = "\u{E007}";
const ESCAPE: &str = "\u{E00C}";
const ARROW_RIGHT: &str = "\u{E014}";

/// A browser, spoken to by WebDriver (<https://www.w3.org/TR/webdriver2/>).
struct Browser {
    driver: Child,
    client: reqwest::Client,
    session: String,
}

impl Browser {
    async fn start() -> Option<Self> {
        let driver = Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let Ok(mut driver) = driver else {
            println!("skipped: no `chromedriver`");
            return None;
        };
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
        let line = lines.find(|line| line.contains("successfully on port")).expect("it tells its port");
        // Its pipe stays open and is read, or it would break when it writes more.
        std::thread::spawn(move || lines.for_each(drop));
        let port: u16 = line.trim_end_matches('.').rsplit(' ').next().unwrap().parse().unwrap();
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap();
        let mut browser = Self { driver, client, session: format!("http://127.0.0.1:{port}/session") };
        let arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"];
        let options = json!({"args": arguments});
        let wanted =
            json!({"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}});
        let session = browser.post("", json!({"capabilities": {"alwaysMatch": wanted}})).await;
        browser.session = format!("{}/{}", browser.session, session["sessionId"].as_str().unwrap());
        Some(browser)
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let response = self.client.post(format!("{}{path}", self.session)).json(&body).send().await.unwrap();
        let answer: Value = response.json().await.unwrap();
        assert!(answer["value"]["error"].is_null(), "{path}: {answer}");
        answer["value"].clone()
    }

    async fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", json!({"script": script, "args": []})).await
    }

    /// Types where the focus is.
    async fn type_keys(&self, keys: &str) {
        let strokes: Vec<Value> = keys
            .chars()
            .flat_map(|key| [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})])
            .collect();
        self.post("/actions", json!({"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})).await;
    }

    async fn get(&self, path: &str) -> Value {
        let answer: Value =
            self.client.get(format!("{}{path}", self.session)).send().await.unwrap().json().await.unwrap();
        answer["value"].clone()
    }

    /// Shows the page as a phone of this size does, in CSS pixels.
    async fn become_phone(&self, width: u32, height: u32) {
        let params = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": true});
        self.post("/goog/cdp/execute", json!({"cmd": "Emulation.setDeviceMetricsOverride", "params": params})).await;
    }

    async fn wait_for(&self, condition: &str) {
        for _ in 0..300 {
            if self.run(&format!("return Boolean({condition})")).await == true {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("never came true: {condition}; the page: {}", self.run("return document.body.innerText").await);
    }

    /// What the browser complained of, without the answers with a status that are meant.
    async fn complaints(&self) -> Vec<Value> {
        let log = self.post("/se/log", json!({"type": "browser"})).await;
        let entries = log.as_array().unwrap().iter().filter(|entry| entry["level"] != "DEBUG");
        entries.filter(|entry| !entry["message"].as_str().unwrap().contains("status of 401")).cloned().collect()
    }

    async fn end(mut self) {
        let _ = self.client.delete(&self.session).send().await;
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn by_keyboard_from_the_key_to_the_last_token() {
    let Some(browser) = Browser::start().await else { return };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "anna:sk-a\n").unwrap();
    let access = Access { keys: Some(ApiKeys::from_file(file.path()).unwrap()), ..Access::default() };
    let (server, state) = Server::guarded(limits(), access).await;
    state.serve(Served::new(MODEL, Arc::new(Double::new(says("Grüße <b>🦀</b>"))), tokenizer()));
    browser.post("/url", json!({"url": format!("{}/", server.url)})).await;

    // Without a key the page says so and waits in the field.
    browser.wait_for("document.activeElement.id == 'key'").await;
    browser.type_keys("sk-a\t").await;
    browser.wait_for(&format!("document.querySelector('#model0').value == '{MODEL}'")).await;
    browser.run("document.querySelector('#prompt').focus()").await;
    browser.type_keys("hi").await;
    browser.type_keys(ENTER).await;
    browser.wait_for("document.querySelector('.stats').textContent.includes('finished: stop')").await;
    let text = browser.run("return document.querySelector('.message.assistant .text').textContent").await;
    assert_eq!(text, "Grüße <b>🦀</b>");
    let stats = browser.run("return document.querySelector('.stats').textContent").await;
    assert!(stats.as_str().unwrap().starts_with(&format!("{} tokens, ", "Grüße <b>🦀</b>".len() + 1)), "{stats}");
    assert!(stats.as_str().unwrap().contains("tokens/s, first after"), "{stats}");
    // Likely tokens are not coloured, and each tells its alternatives.
    let colours = browser.run("return document.querySelector('.token').style.background").await;
    assert_eq!(colours, "rgba(var(--mid), 0.000)");
    browser.run("document.querySelector('.log').focus()").await;
    browser.type_keys(&ARROW_RIGHT.repeat(2)).await;
    let token = browser.run("return document.querySelector('#token').textContent").await;
    assert!(token.as_str().unwrap().starts_with("This token: r 100.0 % (-0.000)  Most likely: r 100.0 %"), "{token}");
    assert_eq!(browser.complaints().await, Vec::<Value>::new());
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_is_linked_when_it_is_there() {
    let Some(browser) = Browser::start().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.html");
    let state = AppState::new(limits()).with_report(Some(path.clone()));
    let (server, state) = Server::over(state).await;
    state.serve(Served::new(MODEL, Arc::new(Double::new(says("a"))), tokenizer()));
    let page = json!({"url": format!("{}/", server.url)});
    browser.post("/url", page.clone()).await;
    assert_eq!(browser.run("return document.querySelector('#report').checkVisibility()").await, false);
    std::fs::write(&path, "<!doctype html><title>The report</title>").unwrap();
    browser.post("/url", page).await;
    browser.run("document.querySelector('#report').click()").await;
    browser.wait_for("document.title == 'The report'").await;
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_models_side_by_side_and_escape_stops_both() {
    let Some(browser) = Browser::start().await else { return };
    let engine = Double::new(Behaviour::Noise).paced(Duration::from_millis(20));
    let (cancelled, running) = (engine.cancelled.clone(), engine.running.clone());
    let limits = orpo_serve::limits::Limits { max_concurrent: 2, ..limits() };
    let server = Server::with_limits(engine, limits).await;
    browser.post("/url", json!({"url": format!("{}/", server.url)})).await;
    browser.wait_for(&format!("document.querySelector('#model0').value == '{MODEL}'")).await;
    assert_eq!(browser.run("return document.querySelectorAll('.pane')[1].hidden").await, true);
    let choose = format!(
        "const select = document.querySelector('#model1'); select.value = '{MODEL}'; select.dispatchEvent(new Event('change'))"
    );
    browser.run(&choose).await;
    browser.run("document.querySelector('#prompt').focus()").await;
    browser.type_keys("hi").await;
    browser.type_keys(ENTER).await;
    let panes = "[...document.querySelectorAll('.pane')]";
    browser.wait_for(&format!("{panes}.every((pane) => pane.querySelectorAll('.token').length > 3)")).await;
    assert_eq!(running.load(Ordering::SeqCst), 2);
    browser.type_keys(ESCAPE).await;
    browser.wait_for(&format!("{panes}.every((pane) => pane.textContent.includes('stopped'))")).await;
    common::eventually("both are cancelled", || cancelled.load(Ordering::SeqCst) == 2).await;
    // What came so far is part of the conversation, and the next message goes on with it.
    browser.type_keys("more").await;
    browser.type_keys(ENTER).await;
    browser.wait_for(&format!("{panes}.every((pane) => pane.querySelectorAll('.message').length == 4)")).await;
    browser.type_keys(ESCAPE).await;
    browser.wait_for("!document.querySelector('#send').disabled").await;
    assert_eq!(browser.complaints().await, Vec::<Value>::new());
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_keys_the_report_opens_for_who_has_one() {
    let Some(browser) = Browser::start().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    std::fs::write(&keys, "anna:sk-a\n").unwrap();
    // A report as it is written: its policy is escaped, and knows its script by hash.
    let report = dir.path().join("report.html");
    let page = "<!doctype html><meta http-equiv=\"Content-Security-Policy\" content=\"default-src &#x27;none&#x27;; script-src \
                &#x27;sha256-60jVDf7bNbDEKHXLb0m4FCaMG3nraylHQw+Ro9g93Zw=&#x27;\"><title>The report</title>\
                <script>document.title = 'read with a key';</script>";
    std::fs::write(&report, page).unwrap();
    let access = Access { keys: Some(ApiKeys::from_file(&keys).unwrap()), ..Access::default() };
    let (server, state) = Server::over(AppState::with_access(limits(), access).with_report(Some(report))).await;
    state.serve(Served::new(MODEL, Arc::new(Double::new(says("a"))), tokenizer()));
    browser.post("/url", json!({"url": format!("{}/", server.url)})).await;
    let notice = "document.querySelector('#notice').textContent";
    browser.wait_for(&format!("{notice} == 'enter an API key'")).await;
    browser.run("document.querySelector('#notice').textContent = ''").await;
    browser.run("document.querySelector('#report').click()").await;
    browser.wait_for(&format!("{notice} == 'enter an API key'")).await;
    assert_eq!(browser.run("return document.title").await, "orpo-serve playground");
    browser.run("document.querySelector('#key').focus()").await;
    browser.type_keys("sk-b\t").await;
    browser.wait_for(&format!("{notice} == 'this API key is not accepted; enter another one'")).await;
    browser.run("document.querySelector('#key').value = ''; document.querySelector('#key').focus()").await;
    browser.type_keys("sk-a\t").await;
    browser.wait_for(&format!("document.querySelector('#model0').value == '{MODEL}'")).await;
    browser.run("document.querySelector('#report').click()").await;
    let mut windows = Vec::new();
    for _ in 0..100 {
        windows = browser.get("/window/handles").await.as_array().unwrap().clone();
        if windows.len() > 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    browser.post("/window", json!({"handle": windows.last()})).await;
    browser.wait_for("document.title == 'read with a key'").await;
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_is_formatted_copied_asked_again_and_found_later() {
    let Some(browser) = Browser::start().await else { return };
    let reply = "# Bees\n\n- make **honey**\n- <b>buzz</b>\n\n```\na * b\n```\n";
    let server = Server::start(Double::new(says(reply))).await;
    browser.post("/url", json!({"url": format!("{}/", server.url)})).await;
    browser.wait_for(&format!("document.querySelector('#model0').value == '{MODEL}'")).await;
    // An example is a prompt; the first one that is asked takes them away.
    browser.run("document.querySelector('#examples button').click()").await;
    let finished = "document.querySelector('.stats').textContent.includes('finished: stop') && \
                    !document.querySelector('#again').disabled";
    browser.wait_for(finished).await;
    assert_eq!(browser.run("return document.querySelector('#examples').checkVisibility()").await, false);
    assert_eq!(browser.run("return document.querySelector('#legend').checkVisibility()").await, true);
    let tool = |label: &str| {
        format!("[...document.querySelectorAll('.tools button')].find((one) => one.textContent == '{label}').click()")
    };
    browser.run(&tool("Formatted text")).await;
    let shown = "const text = document.querySelector('.message.assistant .text'); return [\
                 text.querySelector('.heading').textContent, [...text.querySelectorAll('li')].map((li) => li.textContent), \
                 text.querySelector('strong').textContent, text.querySelector('pre').textContent, text.querySelectorAll('b').length]";
    let expected = json!(["Bees", ["make honey", "<b>buzz</b>"], "honey", "a * b", 0]);
    assert_eq!(browser.run(shown).await, expected);
    assert_eq!(browser.run("return document.querySelector('#legend').checkVisibility()").await, false);
    browser
        .run(&format!(
            "window.copied = null; navigator.clipboard.writeText = async (text) => {{ copied = text }}; {}",
            tool("Copy")
        ))
        .await;
    browser.wait_for("window.copied !== null").await;
    assert_eq!(browser.run("return copied").await, reply);
    // Regenerating replaces the last turn.
    browser.run("document.querySelector('#again').click()").await;
    browser.wait_for(finished).await;
    assert_eq!(browser.run("return document.querySelectorAll('.message').length").await, 2);
    // What was said is there again, formatted, after a new chat and in a reloaded page.
    browser.run("document.querySelector('#clear').click()").await;
    assert_eq!(browser.run("return document.querySelectorAll('.message').length").await, 0);
    browser.post("/url", json!({"url": format!("{}/", server.url)})).await;
    browser.wait_for(&format!("document.querySelector('#model0').value == '{MODEL}'")).await;
    browser
        .run("const history = document.querySelector('#history'); history.selectedIndex = 1; history.dispatchEvent(new Event('change'))")
        .await;
    assert_eq!(browser.run(shown).await, expected);
    assert_eq!(browser.complaints().await, Vec::<Value>::new());
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_reply_is_not_coloured_and_a_lost_server_is_said_plainly() {
    let Some(browser) = Browser::start().await else { return };
    let long = "word ".repeat(60);
    let server = Server::start(Double::new(says(&long))).await;
    browser.post("/url", json!({"url": format!("{}/", server.url)})).await;
    browser.wait_for(&format!("document.querySelector('#model0').value == '{MODEL}'")).await;
    browser.run("document.querySelector('#max_tokens').value = 400; document.querySelector('#prompt').focus()").await;
    browser.type_keys("hi").await;
    browser.type_keys(ENTER).await;
    browser.wait_for("document.querySelector('.stats').textContent.includes('finished')").await;
    browser.wait_for("document.querySelector('.message.assistant .text p')").await;
    assert_eq!(browser.run("return document.querySelectorAll('.log .token').length").await, 0);
    let text = browser.run("return document.querySelector('.message.assistant .text').textContent").await;
    assert_eq!(text, long.as_str());
    // The colours can still be had.
    browser.run("[...document.querySelectorAll('.tools button')].at(-1).click()").await;
    assert!(browser.run("return document.querySelectorAll('.log .token').length").await.as_u64().unwrap() > 200);
    // On a phone the composer ends where the screen does.
    browser.become_phone(390, 844).await;
    browser.run("document.querySelector('#clear').click()").await;
    let bottom =
        browser.run("return Math.round(document.querySelector('footer').getBoundingClientRect().bottom)").await;
    assert_eq!(bottom, 844);
    let overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
    assert_eq!(browser.run(overflow).await, 0);

    server.stop();
    drop(server);
    tokio::time::sleep(Duration::from_millis(300)).await;
    browser.run("document.querySelector('#prompt').focus()").await;
    browser.type_keys("hi").await;
    browser.type_keys(ENTER).await;
    browser
        .wait_for(
            "document.querySelector('.error')?.textContent == 'the server cannot be reached; check that it is running'",
        )
        .await;
    browser.end().await;
}
