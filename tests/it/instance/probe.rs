//! A handler that counts its calls, can be held at a gate, and answers what a test tells it to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mainstay::{Answer, Call, Error};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::watch;

use crate::support::PATIENCE;

/// A cached route that a probe answers, as a text that can be put together with others.
macro_rules! echo {
    () => {
        r#"
[[route]]
path = "/public/echo"
handler = "probe"
params = [{ name = "q", in = "query", type = "text", optional = true }]
[route.cache]
ttl = "1h"
stale_if_error = "1d"
tags = ["echo", "echo:{q}"]
"#
    };
}
pub(crate) use echo;

type Script = Arc<dyn Fn(&Call, usize) -> Result<Answer, Error> + Send + Sync>;

/// An answer that needs nothing of its test.
pub type Told = fn(&Call, usize) -> Result<Answer, Error>;

/// The handler, and the test's hold on it.
#[derive(Clone)]
pub struct Probe(Arc<State>);

struct State {
    calls: AtomicUsize,
    finished: AtomicUsize,
    gate: watch::Sender<bool>,
    script: Mutex<Script>,
}

impl Default for Probe {
    /// Answers the number of the call and its parameter `q`.
    fn default() -> Self {
        let script: Script =
            Arc::new(|call, number| Answer::json(&json!({ "call": number, "q": call.params.text("q") })));
        let state = State {
            calls: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
            gate: watch::Sender::new(true),
            script: Mutex::new(script),
        };
        Self(Arc::new(state))
    }
}

impl Probe {
    /// A probe with an answer of its own; the number counts calls from 1.
    pub fn answering(script: impl Fn(&Call, usize) -> Result<Answer, Error> + Send + Sync + 'static) -> Self {
        let probe = Self::default();
        probe.answer(script);
        probe
    }

    /// Changes the answer from now on.
    pub fn answer(&self, script: impl Fn(&Call, usize) -> Result<Answer, Error> + Send + Sync + 'static) {
        *self.0.script.lock() = Arc::new(script);
    }

    /// Holds every call from now on, until [`Probe::open`].
    pub fn close(&self) {
        self.0.gate.send_replace(false);
    }

    /// Lets all calls go on.
    pub fn open(&self) {
        self.0.gate.send_replace(true);
    }

    /// Calls that have begun.
    pub fn calls(&self) -> usize {
        self.0.calls.load(Ordering::SeqCst)
    }

    /// Waits until so many calls have begun.
    pub fn wait_calls(&self, calls: usize) {
        assert!(mainstay::local::wait_until(PATIENCE, || self.calls() >= calls), "{} of {calls} calls", self.calls());
    }

    /// Waits until so many calls have answered.
    pub fn wait_finished(&self, calls: usize) {
        let finished = || self.0.finished.load(Ordering::SeqCst);
        assert!(mainstay::local::wait_until(PATIENCE, || finished() >= calls), "{} of {calls} answers", finished());
    }

    /// The handler.
    pub async fn run(self, call: Call) -> Result<Answer, Error> {
        let number = self.0.calls.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.gate.subscribe().wait_for(|open| *open).await.unwrap();
        let script = self.0.script.lock().clone();
        let answer = script(&call, number);
        self.0.finished.fetch_add(1, Ordering::SeqCst);
        answer
    }
}
