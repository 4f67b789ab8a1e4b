//! The console in a browser. What it looks like is put below `target/console`, for people to look at.

use std::io::Read;

use mainstay::local::wait_until;
use serde_json::json;

use super::{TOKEN, look, order};
use crate::instance::browser::Browser;
use crate::instance::client::{Connection, head};
use crate::instance::probe::{Probe, echo};
use crate::instance::{Instance, Plan};
use crate::support::{Cluster, PATIENCE};

const ROUTES: &str = concat!(
    echo!(),
    r#"
[[route]]
path = "/public/a-rather-long-name-of-a-route/that-somebody/has-thought-of/{with}/{some}/{parameters}"
handler = "probe"
params = [
  { name = "with", in = "path", type = "text" },
  { name = "some", in = "path", type = "text" },
  { name = "parameters", in = "path", type = "text" },
]
[route.cache]
ttl = "1h"
"#
);

const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";
const SPACE: &str = " ";

/// What every page must have: labels, names, one order of headings, and colours that can be read.
const FLAWS: &str = r#"
const flaws = [];
const shown = (node) => node.checkVisibility({ checkVisibilityCSS: true }) && node.getClientRects().length;
for (const field of document.querySelectorAll('input, select, textarea'))
  if (shown(field) && !field.labels.length && !field.ariaLabel) flaws.push(`no label: ${field.outerHTML}`);
for (const button of document.querySelectorAll('button, a, summary'))
  if (shown(button) && !button.textContent.trim() && !button.ariaLabel) flaws.push(`no name: ${button.outerHTML}`);
for (const image of document.querySelectorAll('img')) if (!image.hasAttribute('alt')) flaws.push(`no alt: ${image.outerHTML}`);
for (const drawing of document.querySelectorAll('svg[role=img]')) if (!drawing.getAttribute('aria-label')) flaws.push('a chart says nothing');
for (const id of new Set([...document.querySelectorAll('[id]')].map((node) => node.id)))
  if (document.querySelectorAll(`#${CSS.escape(id)}`).length > 1) flaws.push(`twice: ${id}`);
let level = 0;
for (const heading of document.querySelectorAll('h1, h2, h3')) {
  if (!shown(heading)) continue;
  const own = Number(heading.tagName[1]);
  if (own > level + 1) flaws.push(`a heading too deep: ${heading.textContent}`);
  level = own;
}
if ([...document.querySelectorAll('main')].filter(shown).length !== 1) flaws.push('not one main');
const rgb = (color) => color.match(/[\d.]+/g).map(Number);
const light = (color) => rgb(color).slice(0, 3).map((part) => part / 255)
  .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
  .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
const ground = (node) => {
  for (; node; node = node.parentElement) {
    const color = getComputedStyle(node).backgroundColor;
    if ((rgb(color)[3] ?? 1) > 0.5) return color;
  }
  return 'rgb(255, 255, 255)';
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !shown(node) || node.closest('svg, [disabled]')) continue;
  const style = getComputedStyle(node);
  const [one, other] = [light(style.color), light(ground(node))];
  const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
  if (contrast < (large ? 3 : 4.5)) flaws.push(`contrast ${contrast.toFixed(2)}: ${walker.currentNode.data.trim().slice(0, 40)}`);
}
return flaws;
"#;

/// Whether anything sticks out to the right, which a phone would have to be moved for.
const STICKS_OUT: &str = "return document.documentElement.scrollWidth > document.documentElement.clientWidth";

fn console(instance: &Instance) -> String {
    format!("http://{}/", instance.admin)
}

fn sign_in(browser: &Browser, instance: &Instance) {
    browser.open(&console(instance));
    browser.wait_for("#door h1", "Mainstay console");
    browser.click("#token");
    browser.type_in(&format!("{TOKEN}{ENTER}"));
    browser.wait_for("#link", "Live");
}

/// Looks at a page in both colours, and on a desk and a phone.
fn inspect(browser: &Browser, name: &str) {
    for (is_dark, colour) in [(false, "light"), (true, "dark")] {
        browser.dark(is_dark);
        for (width, height, place) in [(360, 740, "phone"), (1400, 1000, "desk")] {
            browser.resize(width, height);
            assert_eq!(browser.run(STICKS_OUT), json!(false), "{name} on a {place} has to be moved sideways");
            assert_eq!(browser.run(FLAWS), json!([]), "{name}, {colour}, {place}");
            browser.picture(&format!("{name}-{colour}-{place}"));
        }
    }
    browser.dark(false);
}

#[test]
fn an_operator_sees_what_happens_and_purges() {
    let cluster = Cluster::private("page");
    let name = cluster.database();
    let plan = Plan::probed(ROUTES, &Probe::default()).database(&cluster, &name).set("ADMIN_TOKEN", TOKEN);
    let instance = plan.start();
    instance.wait_healthy();
    let browser = Browser::start();
    browser.open(&console(&instance));
    browser.wait_for("#door h1", "Mainstay console");
    inspect(&browser, "door");
    browser.click("#token");
    browser.type_in(&format!("wrong{ENTER}"));
    browser.wait_for("#sign-in-error", "none of ADMIN_TOKEN");
    sign_in(&browser, &instance);
    browser.wait_for("#sentence", "All is well.");
    for q in ["a", "b", "c"] {
        let mut connection = instance.connect();
        for _ in 0..20 {
            connection.request("GET", &format!("/public/echo?q={q}"), &[]);
        }
    }
    browser.wait_for("#routes", "/public/echo");
    browser.wait_for("#nodes", "replica-1");

    browser.click("#purge-what");
    browser.type_in(&format!("echo:a echo:b{ENTER}"));
    browser.wait_for("#purge-result", "2 of 3 entries");
    assert!(instance.get("/public/echo?q=a").is_hit(), "a preview purges nothing");
    browser.click("#purge-go");
    browser.wait_for("#purge-result", "Purged.");
    assert!(!instance.get("/public/echo?q=a").is_hit() && instance.get("/public/echo?q=c").is_hit());
    browser.wait_for("#journal", "tags echo:a echo:b");
    browser.click("#entry-path");
    browser.type_in(&format!("/public/echo?q=b{ENTER}"));
    browser.wait_for("#entry-result", "purged");
    browser.click("#settings-open summary");
    browser.wait_for("#settings", "server.admin_token");
    browser.click("#settings-changed");
    assert!(!browser.text("#settings").contains("server.workers_max") && browser.text("#settings").contains("***"));
    browser.click("#settings-open summary");
    browser.wait_for("#charts", "answered");
    inspect(&browser, "well");

    cluster.replica.server.kill9();
    browser.wait_for("#degraded", "No replica answers, and the primary reads in their place.");
    browser.wait_for("#sentence", "/health/edge is a 503 (");
    let why = browser.wait_for("#degraded", "replica-1 does not answer.");
    assert!(why.contains("since ") && why.contains("Look whether the server runs"), "{why}");
    inspect(&browser, "replica-down");
    cluster.replica.server.start().unwrap();
    browser.wait_for("#sentence", "All is well.");

    let own = console(&instance);
    // The tab that it opens by itself is made of files of its own, and of what stands in them.
    let is_its_own = |url: &String| url.starts_with("chrome") || url.starts_with("data:");
    let asked: Vec<_> = browser.asked_for().into_iter().filter(|url| !is_its_own(url)).collect();
    assert!(asked.len() > 8 && asked.iter().all(|url| url.starts_with(&own)), "{asked:?}");
    let complaints = browser.said();
    // The wrong token is one.
    let unexpected: Vec<_> = complaints.iter().filter(|line| !line.contains("401")).collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
    let kept =
        browser.run("return document.cookie + JSON.stringify({ ...localStorage, ...sessionStorage })").to_string();
    assert!(!kept.contains("mainstay") && !kept.contains(TOKEN), "{kept}");

    browser.click("#sign-out");
    browser.wait_for("#door h1", "Mainstay console");
    browser.open(&console(&instance));
    browser.wait_for("#door h1", "Mainstay console");
}

#[test]
fn a_keyboard_is_enough() {
    let instance = Plan::probed(ROUTES, &Probe::default()).set("ADMIN_TOKEN", TOKEN).start();
    assert_eq!(instance.get("/public/echo?q=a").status, 200);
    let browser = Browser::start();
    browser.open(&console(&instance));
    browser.wait_for("#door h1", "Mainstay console");
    // The form for the token has the focus, and the sentence after it.
    browser.type_in(&format!("{TOKEN}{ENTER}"));
    browser.wait_for("#link", "Live");
    assert_eq!(browser.run("return document.activeElement.id"), "sentence");
    let focus = |wanted: &str| {
        for _ in 0..40 {
            browser.type_in(TAB);
            let script = "const at = document.activeElement; const line = getComputedStyle(at).outlineStyle; \
                          return [at.id || at.value || at.textContent.trim(), line !== 'none']";
            let at = browser.run(script);
            assert_eq!(at[1], json!(true), "the focus cannot be seen on {at}");
            if at[0] == wanted {
                return;
            }
        }
        panic!("no tab leads to {wanted}");
    };
    focus("purge-what");
    browser.type_in("echo");
    focus("purge-preview");
    browser.type_in(SPACE);
    browser.wait_for("#purge-result", "1 of 1 entries");
    focus("purge-go");
    browser.type_in(SPACE);
    browser.wait_for("#purge-result", "Purged.");
    assert_eq!(look(&instance, "/admin/journal")["events"][0]["what"], "tags echo");
    focus("entry-path");
}

/// Keeps the first answer to a preview until `release()`, which returns once the page has made of it what it makes.
const LATE: &str = "
const real = window.fetch;
let is_first = true;
window.fetch = (path, options) => {
  if (!String(path).endsWith('preview') || !is_first) return real(path, options);
  is_first = false;
  return new Promise((answer) => real(path, options).then((early) => early.json()).then((found) => {
    window.release = () => {
      answer({ ok: true, status: 200, json: async () => found });
      return new Promise((done) => setTimeout(done, 0));
    };
  }));
};
";

#[test]
fn a_preview_that_comes_late_orders_nothing() {
    let instance = Plan::probed(ROUTES, &Probe::default()).set("ADMIN_TOKEN", TOKEN).start();
    assert_eq!(instance.get("/public/echo?q=a").status, 200);
    let browser = Browser::start();
    sign_in(&browser, &instance);
    browser.run(LATE);
    browser.click("#purge-what");
    browser.type_in(&format!("echo:a{ENTER}"));
    assert!(wait_until(PATIENCE, || browser.run("return Boolean(window.release)") == json!(true)));
    browser.type_in(" echo:b");
    let is_offered = "return release().then(() => !document.getElementById('purge-go').hidden)";
    assert_eq!(browser.run(is_offered), json!(false), "the button would purge what the form does not say");
    assert_eq!(browser.text("#purge-result"), "");
    browser.type_in(ENTER);
    browser.wait_for("#purge-result", "1 of 1 entries");
    browser.click("#purge-go");
    browser.wait_for("#purge-result", "Purged.");
    assert_eq!(look(&instance, "/admin/journal")["events"][0]["what"], "tags echo:a echo:b");
}

#[test]
fn more_tabs_than_a_browser_has_connections() {
    let instance = Plan::probed(ROUTES, &Probe::default()).set("ADMIN_TOKEN", TOKEN).start();
    let browser = Browser::start();
    sign_in(&browser, &instance);
    for _ in 0..7 {
        browser.tab();
        browser.open(&console(&instance));
        browser.wait_for("#link", "Live");
    }
    browser.click("#purge-what");
    browser.type_in(&format!("echo{ENTER}"));
    browser.wait_for("#purge-result", "0 of 0 entries");
}

/// Side by side all of them are seen, and none may be quiet.
#[test]
fn more_windows_than_a_browser_has_connections() {
    let instance = Plan::probed(ROUTES, &Probe::default()).set("ADMIN_TOKEN", TOKEN).start();
    let browser = Browser::start();
    sign_in(&browser, &instance);
    let mut windows = vec![browser.shown()];
    for _ in 0..6 {
        windows.push(browser.window());
        browser.open(&console(&instance));
        browser.wait_for("#link", "Live");
    }
    // Each has heard of something that came after the last of them was opened.
    order(&instance, "/admin/cache/purge", "{\"tags\":[\"seen-by-all\"]}");
    for window in &windows {
        browser.show(window);
        assert_eq!(browser.run("return document.hidden"), json!(false));
        browser.wait_for("#journal", "seen-by-all");
        assert_eq!(browser.text("#link"), "Live");
    }
    browser.click("#purge-what");
    browser.type_in(&format!("echo{ENTER}"));
    browser.wait_for("#purge-result", "0 of 0 entries");
    // Whoever is signed out in one is in all.
    browser.click("#sign-out");
    for window in &windows {
        browser.show(window);
        browser.wait_for("#door h1", "Mainstay console");
    }
}

/// A first stream that says nothing, as one whose other end is gone without a word; `later` makes it a while ago. The browser is one
/// without shared workers, so that the stream is the page's own.
const SILENT: &str = "
window.SharedWorker = undefined;
const [Real, now] = [window.EventSource, Date.now];
window.streams = 0;
window.EventSource = function (path) {
  streams += 1;
  return streams > 1 ? new Real(path) : Object.assign(new EventTarget(), { readyState: Real.OPEN, close() {} });
};
window.EventSource.CLOSED = Real.CLOSED;
window.later = () => (Date.now = () => now() + 20000);
";

#[test]
fn a_stream_that_fell_silent_is_given_up() {
    let instance = Plan::probed(ROUTES, &Probe::default()).set("ADMIN_TOKEN", TOKEN).start();
    let browser = Browser::start();
    browser.open(&console(&instance));
    browser.wait_for("#door h1", "Mainstay console");
    browser.run(SILENT);
    browser.type_in(&format!("{TOKEN}{ENTER}"));
    assert!(wait_until(PATIENCE, || browser.run("return streams") == json!(1)));
    browser.run("later()");
    browser.wait_for("#link", "Live");
}

#[test]
fn a_page_that_is_not_let_in_says_why() {
    const PAGES_MAX: usize = 32;
    let instance = Plan::probed(ROUTES, &Probe::default()).set("ADMIN_TOKEN", TOKEN).start();
    let others: Vec<_> = (0..PAGES_MAX)
        .map(|_| {
            let mut connection = Connection::open(instance.admin);
            connection.send(head("GET", "/console/events", &[("Authorization", &format!("Bearer {TOKEN}"))]));
            let mut first = [0; 1];
            connection.stream.read_exact(&mut first).unwrap();
            connection
        })
        .collect();
    let browser = Browser::start();
    browser.open(&console(&instance));
    browser.wait_for("#door h1", "Mainstay console");
    browser.type_in(&format!("{TOKEN}{ENTER}"));
    browser.wait_for("#link", "Not connected: overloaded");
    drop(others);
    browser.wait_for("#link", "Live");
}

/// Streams whose pictures say that nodes come and go, since some hour of today, which is shown without its date: one of two replicas is
/// well just now, and with `all_well()` so are the others. A third one is down and stays so.
const FLAPPING: &str = "
window.SharedWorker = undefined;
let well = null;
window.all_well = () => (well = 7);
const Real = window.EventSource;
window.EventSource = class extends Real {
  addEventListener(name, hear) {
    super.addEventListener(name, ({ data }) => {
      if (name !== 'picture') return hear({ data });
      const picture = JSON.parse(data);
      const today = new Date().toISOString().slice(0, 10);
      const one = (name, times, well_s) => ({ reason: 'replica_down', level: 'warning', detail: `${name} does not answer.`,
        since: today + 'T03:00:00Z', for_s: 90, flapping: { times, well_s }, advice: 'Look at it.' });
      picture.status.degraded = [one('replica-1', 4, 12), one('replica-2', 3, well), { ...one('replica-3'), flapping: undefined },
        { ...one('primary', 5, well && 9), reason: 'primary_down' }];
      hear({ data: JSON.stringify(picture) });
    });
  }
};
";

#[test]
fn what_comes_and_goes_is_one_line_for_all_and_well_only_where_it_is() {
    let instance = Plan::probed(ROUTES, &Probe::default()).set("ADMIN_TOKEN", TOKEN).start();
    let browser = Browser::start();
    browser.open(&console(&instance));
    browser.wait_for("#door h1", "Mainstay console");
    browser.run(FLAPPING);
    browser.click("#token");
    browser.type_in(&format!("{TOKEN}{ENTER}"));
    let said = browser.wait_for("#degraded", "Comes and goes");
    assert!(said.contains("4 times within 5 minutes: 2 replicas do not answer: replica-1, replica-2."), "{said}");
    assert!(said.contains("5 times within 5 minutes: primary does not answer."), "{said}");
    assert!(said.contains("⚠\nreplica-3 does not answer. replica_down"), "{said}");
    assert!(said.contains("since 03:00:00 UTC") && !said.contains("well for"), "{said}");
    browser.run("all_well()");
    let said = browser.wait_for("#degraded", "since 03:00:00 UTC, well for 7 s");
    assert!(said.contains("since 03:00:00 UTC, well for 9 s"), "{said}");
}

/// Whatever can be wrong is, there are many nodes, and everything has a long name; and who stands in for that has nothing.
#[test]
fn the_worst_can_be_read() {
    let nobody = |number: usize| format!("postgres://somebody@127.0.0.1:{number}/a_database_with_a_name");
    let replicas: Vec<String> = (1..=14).map(nobody).collect();
    let plan = Plan::probed(ROUTES, &Probe::default()).set("ADMIN_TOKEN", TOKEN).set("DATABASE_URL", &nobody(15));
    let plan = plan.set("DATABASE_READ_REPLICA_URL", &replicas.join(",")).set("REDIS_URL", "redis://127.0.0.1:1/");
    let broken = plan.set("REGION", "a-region-whose-name-somebody-has-made-up-late-at-night-1").start();
    let browser = Browser::start();
    sign_in(&browser, &broken);
    browser.wait_for("#sentence", "/health/edge is a 503 (primary_down, ");
    browser.wait_for("#degraded", "No database answers");
    browser.wait_for("#degraded", "14 replicas do not answer: replica-1, replica-2, ");
    browser.wait_for("#under", "unhealthy");
    let long = "/public/a-rather-long-name-of-a-route/that-somebody/has-thought-of/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/b/c";
    assert_eq!(broken.get(long).status, 200);
    inspect(&browser, "broken");

    let plan = Plan::probed(ROUTES, &Probe::default()).set("ADMIN_TOKEN", TOKEN).set("MODE", "failover");
    let standing_in = plan.start();
    sign_in(&browser, &standing_in);
    browser.wait_for("#sentence", "There is nothing to serve from.");
    assert_eq!(browser.text("#mode"), "failover");
    inspect(&browser, "failover");
    drop(standing_in);
    browser.wait_for("#link", "Not connected");
}
