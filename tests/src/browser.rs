//! A real Chromium in one of the lab's namespaces, driven over WebDriver (W3C, `chromedriver`).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http_body_util::BodyExt;
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use crate::process::{Process, Spec};
use crate::{Lab, Netns, wait};

const LISTEN: &str = "127.0.0.1:9515";
const REPLY_LIMIT: Duration = Duration::from_secs(60);
const READY_LIMIT: Duration = Duration::from_secs(30);

/// A browser with one window.
#[derive(Debug)]
pub struct Browser {
    netns: Arc<Netns>,
    session: String,
    _driver: Process,
}

impl Browser {
    /// Starts it in `netns` with a window of this size in CSS pixels. The lab runs as root, where Chromium has no sandbox.
    pub fn start(lab: &Lab, netns: &Arc<Netns>, (width, height): (u32, u32)) -> Result<Self> {
        let log = lab.log("chromedriver")?;
        let spec = Spec::new("chromedriver", "/usr/bin/chromedriver", &log).inside(netns);
        let driver = spec.arg("--port=9515").start().context("cargo xtask setup installs chromium-driver")?;
        wait::until_true("chromedriver ready", READY_LIMIT, || {
            Ok(exchange(netns, "GET", "/status", None)?["ready"] == true)
        })?;
        let profile = lab.subdirectory("chromium")?;
        let args = [
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-background-networking".to_owned(),
            "--hide-scrollbars".to_owned(),
            format!("--window-size={width},{height}"),
            format!("--user-data-dir={}", profile.display()),
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": "/usr/bin/chromium", "args": args},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let session = exchange(netns, "POST", "/session", Some(&wanted)).context("no session with Chromium")?;
        let session = session["sessionId"].as_str().context("no session id")?.to_owned();
        Ok(Self { netns: Arc::clone(netns), session, _driver: driver })
    }

    fn ask(&self, method: &str, command: &str, body: Option<&Value>) -> Result<Value> {
        exchange(&self.netns, method, &format!("/session/{}{command}", self.session), body)
    }

    /// Opens an address and waits until the document has been loaded.
    pub fn open(&self, url: &str) -> Result<()> {
        self.ask("POST", "/url", Some(&json!({ "url": url }))).map(drop)
    }

    /// The value of a JavaScript expression.
    pub fn value(&self, expression: &str) -> Result<Value> {
        let script = json!({"script": format!("return ({expression});"), "args": []});
        self.ask("POST", "/execute/sync", Some(&script)).with_context(|| expression.to_owned())
    }

    /// The text of the first element that a CSS selector finds, as a reader sees it.
    pub fn text(&self, selector: &str) -> Result<String> {
        let value = self.value(&format!("document.querySelector({})?.innerText ?? null", json!(selector)))?;
        Ok(value.as_str().with_context(|| format!("there is no {selector}"))?.to_owned())
    }

    /// Presses and releases keys, one after another, wherever the focus is. Special keys as WebDriver has them: `\u{E007}` is
    /// Enter.
    pub fn press(&self, keys: &str) -> Result<()> {
        let strokes = keys.chars().flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key})));
        let strokes: Vec<_> = strokes.collect();
        let actions = json!({"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]});
        self.ask("POST", "/actions", Some(&actions)).map(drop)
    }

    /// Clicks the first element that a CSS selector finds; fails where something else covers it.
    pub fn click(&self, selector: &str) -> Result<()> {
        let found = self.ask("POST", "/element", Some(&json!({"using": "css selector", "value": selector})))?;
        let id = found.as_object().and_then(|element| element.values().next()).and_then(Value::as_str);
        let id = id.with_context(|| format!("no element {selector}: {found}"))?;
        self.ask("POST", &format!("/element/{id}/click"), Some(&json!({}))).map(drop)
    }

    /// A command of the DevTools protocol.
    pub fn devtools(&self, command: &str, parameters: &Value) -> Result<Value> {
        self.ask("POST", "/goog/cdp/execute", Some(&json!({"cmd": command, "params": parameters})))
    }

    /// What the page has complained of since the last call: errors, and what its policy forbade.
    pub fn complaints(&self) -> Result<Vec<String>> {
        let log = self.ask("POST", "/se/log", Some(&json!({"type": "browser"})))?;
        let entries = log.as_array().context("no log")?;
        Ok(entries.iter().map(|entry| format!("{}: {}", entry["level"], entry["message"])).collect())
    }

    /// Writes a picture of the window as PNG.
    pub fn picture(&self, file: &Path) -> Result<()> {
        let picture = self.ask("GET", "/screenshot", None)?;
        let picture = BASE64_STANDARD.decode(picture.as_str().context("no picture")?)?;
        std::fs::write(file, picture).with_context(|| format!("writing {}", file.display()))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Chromium ends with its session; the driver alone would leave it behind.
        drop(self.ask("DELETE", "", None));
    }
}

fn exchange(netns: &Netns, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
    let request = Request::builder().method(method).uri(format!("http://{LISTEN}{path}"));
    let request = request.body(body.map(Value::to_string).unwrap_or_default())?;
    let (status, body) = netns.run(|| -> Result<_> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let asked = async {
            let client = Client::builder(TokioExecutor::new()).build_http::<String>();
            let reply = client.request(request).await?;
            let status = reply.status();
            Ok((status, reply.into_body().collect().await?.to_bytes()))
        };
        runtime.block_on(async { tokio::time::timeout(REPLY_LIMIT, asked).await })?
    })??;
    let reply: Value = serde_json::from_slice(&body).with_context(|| format!("{method} {path}: {body:?}"))?;
    ensure!(status.is_success(), "{method} {path}: {}", reply["value"]["message"]);
    Ok(reply["value"].clone())
}
