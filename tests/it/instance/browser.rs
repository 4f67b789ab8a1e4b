//! A headless Chromium, driven over the WebDriver protocol: a handful of its commands is all that is needed.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mainstay::local::{free_port, wait_until};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::Connection;
use crate::support::{PATIENCE, say_at_once};

/// A browser with one page, and nothing remembered from any other.
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    _profile: TempDir,
}

/// The member by which WebDriver names an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

impl Browser {
    /// Starts one.
    pub fn start() -> Self {
        say_at_once();
        // Of its own choice it would take a free port of IPv6, and end where that of IPv4 is somebody's.
        let port = free_port().unwrap();
        let mut driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver: `scripts/install-deps test` installs it");
        let said = BufReader::new(driver.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        // What it says later must find somebody who reads it.
        std::thread::spawn(move || {
            for line in said.lines().map_while(Result::ok) {
                let _nobody_waits_any_more = sender.send(line);
            }
        });
        let mut said = Vec::new();
        while !said.last().is_some_and(|line: &String| line.contains("started successfully")) {
            match lines.recv_timeout(PATIENCE) {
                Ok(line) => said.push(line),
                Err(_) => panic!("chromedriver does not start: {said:?}"),
            }
        }
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let profile = tempfile::tempdir().unwrap();
        let mut browser = Self { driver, address, session: String::new(), _profile: profile };
        let flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--window-size=1400,1000",
        ];
        let profile = format!("--user-data-dir={}", browser._profile.path().display());
        let flags: Vec<&str> = flags.into_iter().chain([profile.as_str()]).collect();
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "args": flags, "binary": "/usr/bin/chromium" },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        } } });
        let begun = browser.ask("/session", &wanted);
        browser.session = format!("/session/{}", begun["sessionId"].as_str().unwrap());
        browser
    }

    fn ask(&self, path: &str, body: &Value) -> Value {
        self.answer("POST", path, &body.to_string())
    }

    fn answer(&self, method: &str, path: &str, body: &str) -> Value {
        let (address, length) = (self.address, body.len());
        let mut connection = Connection::open(address);
        connection.send(format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
        let reply = connection.reply(method);
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        reply.json()["value"].take()
    }

    fn look(&self, command: &str) -> Value {
        self.answer("GET", &format!("{}/{command}", self.session), "")
    }

    fn order(&self, command: &str, body: &Value) -> Value {
        self.ask(&format!("{}/{command}", self.session), body)
    }

    /// Opens a page.
    pub fn open(&self, url: &str) {
        self.order("url", &json!({ "url": url }));
    }

    /// Opens another tab and goes there; the one before is hidden by it.
    pub fn tab(&self) {
        let opened = self.order("window/new", &json!({ "type": "tab" }));
        self.order("window", &json!({ "handle": opened["handle"] }));
    }

    /// Opens another window and goes there; the one before can be seen as well.
    pub fn window(&self) -> String {
        let opened = self.order("window/new", &json!({ "type": "window" }));
        let window = opened["handle"].as_str().unwrap().to_owned();
        self.show(&window);
        window
    }

    /// Goes to a window.
    pub fn show(&self, window: &str) {
        self.order("window", &json!({ "handle": window }));
    }

    /// The window that it is at.
    pub fn shown(&self) -> String {
        self.look("window").as_str().unwrap().to_owned()
    }

    /// Runs a script in the page, as the body of a function.
    pub fn run(&self, script: &str) -> Value {
        self.order("execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// A command of Chromium's own.
    pub fn chromium(&self, command: &str, params: &Value) -> Value {
        self.order("goog/cdp/execute", &json!({ "cmd": command, "params": params }))
    }

    /// Clicks on what a selector finds, as a hand would: where it can be seen.
    pub fn click(&self, selector: &str) {
        let found = self.order("element", &json!({ "using": "css selector", "value": selector }));
        self.order(&format!("element/{}/click", found[ELEMENT].as_str().unwrap()), &json!({}));
    }

    /// Types where the focus is, key by key.
    pub fn type_in(&self, text: &str) {
        let press = |key: char| [json!({ "type": "keyDown", "value": key }), json!({ "type": "keyUp", "value": key })];
        let keys: Vec<Value> = text.chars().flat_map(press).collect();
        self.order("actions", &json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": keys }] }));
    }

    /// The text that is shown of what a selector finds; nothing where that is hidden.
    pub fn text(&self, selector: &str) -> String {
        // Of what is hidden, the inner text is all of its text.
        let found = format!("const found = document.querySelector({selector:?});");
        let script = format!("{found} return found?.checkVisibility() ? found.innerText : ''");
        self.run(&script).as_str().unwrap().to_owned()
    }

    /// Waits until what a selector finds shows a text.
    pub fn wait_for(&self, selector: &str, wanted: &str) -> String {
        let mut last = String::new();
        let came = wait_until(PATIENCE, || {
            last = self.text(selector);
            last.contains(wanted)
        });
        assert!(came, "waited in vain for {wanted:?} in {selector}: {last:?}\n{:?}", self.said());
        last
    }

    /// The size of the page's window, in its pixels.
    pub fn resize(&self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.chromium("Emulation.setDeviceMetricsOverride", &size);
    }

    /// Whether the page is to be dark.
    pub fn dark(&self, is_dark: bool) {
        let value = if is_dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": value }] });
        self.chromium("Emulation.setEmulatedMedia", &media);
    }

    /// Puts a picture of the whole page below `target/`, for people to look at.
    pub fn picture(&self, name: &str) {
        self.run("scrollTo(0, 0)");
        let shot = self.chromium("Page.captureScreenshot", &json!({ "captureBeyondViewport": true }));
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/console");
        std::fs::create_dir_all(&folder).unwrap();
        let bytes = STANDARD.decode(shot["data"].as_str().unwrap()).unwrap();
        std::fs::write(folder.join(format!("{name}.png")), bytes).unwrap();
    }

    /// What the page complained of.
    pub fn said(&self) -> Vec<String> {
        let log = self.order("se/log", &json!({ "type": "browser" }));
        log.as_array().unwrap().iter().map(|line| line["message"].as_str().unwrap().to_owned()).collect()
    }

    /// All that it asked for over the network.
    pub fn asked_for(&self) -> Vec<String> {
        let log = self.order("se/log", &json!({ "type": "performance" }));
        let events =
            log.as_array().unwrap().iter().map(|line| {
                serde_json::from_str::<Value>(line["message"].as_str().unwrap()).unwrap()["message"].take()
            });
        let requests = events.filter(|event| event["method"] == "Network.requestWillBeSent");
        requests.map(|event| event["params"]["request"]["url"].as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends the browser, and is ended by us.
        if !self.session.is_empty() {
            let mut connection = Connection::open(self.address);
            connection.send(format!("DELETE {} HTTP/1.1\r\nHost: {}\r\n\r\n", self.session, self.address));
            let _may_be_gone = connection.try_reply("DELETE");
        }
        let _may_be_gone = self.driver.kill();
        let _may_be_gone = self.driver.wait();
    }
}
