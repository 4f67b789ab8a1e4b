//! The one stream of all windows, where a browser lets them share none, and where a window is gone without a word.

use mainstay::local::wait_until;
use serde_json::json;

use super::{TOKEN, instance, order};
use crate::instance::Instance;
use crate::instance::browser::Browser;
use crate::instance::probe::Probe;
use crate::support::PATIENCE;

/// Workers that cannot be made, and one whose script does not load. Time stands still: a page that hears nothing for long tries again.
const BROKEN: [&str; 2] = [
    "window.SharedWorker = function () { throw new DOMException('The user has blocked it.', 'SecurityError') }",
    "const now = Date.now();
     Date.now = () => now;
     window.SharedWorker = function () {
       setTimeout(() => this.worker.dispatchEvent(new Event('error')), 0);
       return (this.worker = Object.assign(new EventTarget(), { port: new MessageChannel().port1 }));
     }",
];

/// Runs a script in the page before its worker is made, and signs in.
fn sign_in_after(browser: &Browser, instance: &Instance, script: &str) {
    browser.open(&format!("http://{}/", instance.admin));
    browser.wait_for("#door h1", "Mainstay console");
    browser.run(script);
    browser.click("#token");
    browser.type_in(&format!("{TOKEN}\u{e007}"));
}

#[test]
fn a_page_without_a_worker_has_a_stream_of_its_own() {
    let instance = instance("", &Probe::default());
    let browser = Browser::start();
    for (broken, tag) in BROKEN.into_iter().zip(["thrown", "not-loaded"]) {
        sign_in_after(&browser, &instance, broken);
        browser.wait_for("#link", "Live");
        order(&instance, "/admin/cache/purge", &format!("{{\"tags\":[\"{tag}\"]}}"));
        browser.wait_for("#journal", tag);
        browser.click("#sign-out");
        browser.wait_for("#door h1", "Mainstay console");
    }
}

/// A worker that takes down what it is told, a ping when the test wants one, and time that stands still.
const WORDS: &str = "
const [now, every] = [Date.now(), window.setInterval];
Date.now = () => now;
window.words = [];
window.setInterval = (say, ms) => (ms === 15000 ? (window.ping = say) && 0 : every(say, ms));
window.SharedWorker = function () {
  const { port1: port } = new MessageChannel();
  port.postMessage = (word) => words.push(word);
  return Object.assign(new EventTarget(), { port });
};
";

/// The worker hears of a window's end from the window alone, and gives up one that says nothing.
#[test]
fn a_page_says_that_it_comes_and_goes_and_that_it_is_still_there() {
    let instance = instance("", &Probe::default());
    let browser = Browser::start();
    sign_in_after(&browser, &instance, WORDS);
    let wait_for_words = |expected: &[&str]| {
        let words = || browser.run("return words");
        assert!(wait_until(PATIENCE, || words() == json!(expected)), "{} and not {expected:?}", words());
    };
    wait_for_words(&["join"]);
    browser.run("ping(); dispatchEvent(new PageTransitionEvent('pagehide')); ping()");
    wait_for_words(&["join", "ping", "leave"]);
    browser.run("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))");
    wait_for_words(&["join", "ping", "leave", "join"]);
    browser.run("ping()");
    wait_for_words(&["join", "ping", "leave", "join", "ping"]);
}

/// The worker's script in a page, whose clock and whose streams are the test's.
const WORKER: &str = "
window.streams = [];
window.EventSource = function () {
  streams.push(this);
  return Object.assign(this, { isOpen: true, addEventListener() {}, close() { this.isOpen = false } });
};
let now = 1e6;
Date.now = () => now;
window.setInterval = (look) => (window.look = look);
window.open_after = (ms) => { now += ms; look(); return streams.filter(({ isOpen }) => isOpen).length };
window.says = (name, word) => {
  ports[name].onmessage({ data: word });
  return streams.filter(({ isOpen }) => isOpen).length;
};
window.ports = {};
const port = (name) => (ports[name] = { addEventListener(_, hear) { this.onmessage = hear }, start() {}, postMessage() {} });
return import(location.origin + '/console/worker.js').then(() => {
  for (const name of ['one', 'other']) dispatchEvent(Object.assign(new Event('connect'), { ports: [port(name)] }));
});
";

#[test]
fn windows_that_are_gone_without_a_word_hold_no_stream() {
    let instance = instance("", &Probe::default());
    let browser = Browser::start();
    browser.open(&format!("http://{}/", instance.admin));
    browser.wait_for("#door h1", "Mainstay console");
    browser.run(WORKER);
    let open = |script: &str| browser.run(&format!("return {script}"));
    assert_eq!(open("says('one', 'join')"), json!(1));
    assert_eq!(open("says('other', 'join')"), json!(1), "one for both");
    assert_eq!((open("says('one', 'join')"), open("streams.length")), (json!(1), json!(2)), "it has just begun anew");
    assert_eq!(open("open_after(3000)"), json!(1));
    assert_eq!((open("says('one', 'join')"), open("streams.length")), (json!(1), json!(3)), "it fell silent");
    assert_eq!(open("open_after(50000)"), json!(1));
    assert_eq!(open("says('one', 'ping')"), json!(1));
    assert_eq!(open("open_after(50000)"), json!(1), "of one of them something was heard");
    assert_eq!(open("says('one', 'leave')"), json!(0), "the other is gone");
    assert_eq!(open("says('one', 'join')"), json!(1));
    assert_eq!(open("open_after(61000)"), json!(0));
    assert_eq!(open("says('one', 'ping')"), json!(1), "it was only asleep");
}
