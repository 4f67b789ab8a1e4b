//! The table of metrics, its page, and what `/metrics` shows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use mainstay::local::{Proxy, wait_until};
use mainstay::telemetry::metrics::Metrics;
use mainstay::telemetry::metrics::declare::Metric;
use mainstay::telemetry::metrics::labels::{Label, Values};
use mainstay::telemetry::metrics::table::SECTIONS;
use mainstay::{Code, Error};

use crate::admin;
use crate::coherence::fleet::{Fleet, Member};
use crate::instance::client::{Connection, head};
use crate::instance::probe::{Probe, echo};
use crate::instance::{Instance, Plan};
use crate::support::{Cluster, PATIENCE};

/// All metrics that are declared.
pub fn declared() -> impl Iterator<Item = &'static Metric> {
    SECTIONS.iter().flat_map(|section| section.metrics)
}

/// The metric that a sample, or an expression, names.
pub fn declaration(name: &str) -> Option<&'static Metric> {
    let of_histogram = |metric: &Metric| {
        metric.kind == "histogram"
            && ["_bucket", "_sum", "_count"].iter().any(|part| name.strip_suffix(part) == Some(metric.name))
    };
    declared().find(|metric| metric.name == name || of_histogram(metric))
}

/// Whether a metric may have a label with such a value; without a value, whether it may have the label.
pub fn may_have(metric: &Metric, label: &str, value: Option<&str>) -> bool {
    let is_bucket = label == "le" && metric.kind == "histogram";
    let declared = metric.labels.iter().find(|declared| declared.name == label);
    is_bucket
        || declared.is_some_and(|declared| match (declared.values, value) {
            (Values::Listed(values), Some(value)) => values.contains(&value),
            _ => true,
        })
}

/// Holds that all that an instance says is declared: names, labels, and values where they are listed.
pub fn check(text: &str) {
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap());
        if name.starts_with("process_") {
            continue;
        }
        let metric = declaration(name).unwrap_or_else(|| panic!("{name} is not declared"));
        let labels = rest.strip_prefix('{').and_then(|rest| rest.rsplit_once("} ")).map_or("", |(labels, _)| labels);
        for pair in labels.split("\",").filter(|pair| !pair.is_empty()) {
            let (label, value) = pair.trim_end_matches('"').split_once("=\"").unwrap();
            assert!(may_have(metric, label, Some(value)), "{line}: {label} is not declared so");
        }
    }
}

/// The names of all series, with their labels.
fn series(text: &str) -> BTreeSet<String> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
}

fn cell(label: &Label, are_explained: &BTreeMap<&str, &str>) -> String {
    match label.values {
        Values::Listed(values) => format!("`{}`: {}", label.name, values.join(", ")),
        Values::Bounded(by) if are_explained.get(label.name) == Some(&by) => format!("`{}`", label.name),
        Values::Bounded(by) => format!("`{}`: {by}", label.name),
    }
}

/// Labels whose values nobody can list, and which more than one metric has.
fn shared_labels() -> BTreeMap<&'static str, &'static str> {
    let mut uses: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for label in declared().flat_map(|metric| metric.labels) {
        if let Values::Bounded(by) = label.values {
            *uses.entry((label.name, by)).or_default() += 1;
        }
    }
    uses.into_iter().filter(|(_, uses)| *uses > 1).map(|(label, _)| label).collect()
}

fn page() -> String {
    let mut page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/telemetry/metrics.md")).unwrap();
    let shared = shared_labels();
    page += "\n| label | what bounds its values |\n|---|---|\n";
    shared.iter().for_each(|(name, by)| page += &format!("| `{name}` | {by} |\n"));
    for section in SECTIONS {
        page += &format!("\n## {}\n\n| metric | kind, unit | labels | |\n|---|---|---|---|\n", section.title);
        for Metric { name, kind, unit, labels, help } in section.metrics {
            let labels = labels.iter().map(|label| cell(label, &shared)).collect::<Vec<_>>().join("; ");
            page += &format!("| `{name}` | {kind}, {unit} | {labels} | {help} |\n");
        }
    }
    page
}

/// Should it fail, `MAINSTAY_TEST_WRITE=1 cargo test the_page_of_metrics` writes the page anew.
#[test]
fn the_page_of_metrics_is_the_table() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    if std::env::var_os("MAINSTAY_TEST_WRITE").is_some() {
        fs::write(&file, page()).unwrap();
    }
    let written = fs::read_to_string(&file).unwrap();
    assert!(written == page(), "docs/metrics.md is not what the table says: see this test's comment");
}

#[test]
fn names_say_what_prometheus_expects_of_them() {
    let mut names = BTreeSet::new();
    for metric in declared() {
        let Metric { name, kind, unit, labels, help } = metric;
        assert!(names.insert(name), "{name} is declared twice");
        assert!(name.starts_with("mainstay_"), "{name}");
        assert_eq!(name.ends_with("_total"), *kind == "counter", "{name} is a {kind}");
        let base = name.trim_end_matches("_total");
        for of_name in ["seconds", "bytes"] {
            assert_eq!(base.ends_with(&format!("_{of_name}")), *unit == of_name, "{name} is in {unit}");
        }
        assert!(help.ends_with('.') && !help.contains('\n') && !help.contains('|'), "{name}: {help:?}");
        let distinct: BTreeSet<&str> = labels.iter().map(|label| label.name).collect();
        assert_eq!(distinct.len(), labels.len(), "{name}");
    }
    // All of them can be registered.
    Metrics::new().unwrap();
}

const ROUTES: &str = concat!(
    echo!(),
    r#"
[[route]]
path = "/things/{id}"
methods = ["GET", "POST"]
handler = "probe"
params = [{ name = "id", in = "path", type = "text" }]
"#
);

/// How many requests of a route were counted in the histogram, by outcome.
fn timed(instance: &Instance, route: &str, outcome: &str) -> f64 {
    let labels = format!("{{outcome=\"{outcome}\",route=\"{route}\"}}");
    instance.metric(&format!("mainstay_http_request_duration_seconds_count{labels}"))
}

#[test]
fn each_request_is_timed_once_by_what_became_of_it() {
    let probe = Probe::default();
    let instance = Instance::probed(ROUTES, &probe);
    for _ in 0..5 {
        assert_eq!(instance.get("/public/echo").status, 200);
    }
    instance.get("/public/echo?x=1");
    instance.get("/things/1");
    instance.request("POST", "/things/1", &[]);
    instance.get("/nowhere");
    instance.get("/health/live");
    probe.answer(|_, _| Err(Error::new(Code::DatabaseUnavailable, "gone")));
    instance.get("/things/2");
    let counted = [
        ("/public/echo", "miss", 1.0),
        ("/public/echo", "hit", 4.0),
        ("/public/echo", "refused", 1.0),
        ("/things/{id}", "bypass", 2.0),
        ("/things/{id}", "error", 1.0),
        ("none", "refused", 1.0),
        ("none", "own", 1.0),
    ];
    for (route, outcome, count) in counted {
        assert_eq!(timed(&instance, route, outcome), count, "{route} {outcome}");
    }
    assert_eq!(instance.metric("mainstay_cache_lookups_total{layer=\"L1\",result=\"hit\"}"), 4.0);
    assert_eq!(instance.metric("mainstay_cache_hits_total{route=\"/public/echo\"}"), 4.0);
    assert_eq!(instance.metric("mainstay_writes_total{outcome=\"ok\",route=\"/things/{id}\"}"), 1.0);
    assert_eq!(instance.metric("mainstay_fill_duration_seconds_count{route=\"/public/echo\"}"), 1.0);
}

#[test]
fn a_request_whose_client_goes_away_is_counted_as_gone() {
    let probe = Probe::default();
    let instance = Instance::probed(ROUTES, &probe);
    let proxy = Proxy::start(instance.public).unwrap();
    probe.close();
    for (number, (route, target)) in
        [("/things/{id}", "/things/1"), ("/public/echo", "/public/echo")].iter().enumerate()
    {
        let mut connection = Connection::open(proxy.address());
        connection.send(head("GET", target, &[]));
        probe.wait_calls(number + 1);
        proxy.reset();
        let status = format!("mainstay_http_requests_total{{route=\"{route}\",status=\"499\"}}");
        let counted = || (instance.metric(&status), timed(&instance, route, "gone"));
        assert!(wait_until(PATIENCE, || counted() == (1.0, 1.0)), "{route}: {:?}", counted());
    }
    probe.open();
    instance.wait_for("an answer", "/public/echo", |reply| reply.status == 200);
    assert_eq!(timed(&instance, "/public/echo", "gone"), 1.0, "who is answered is not gone");
}

#[test]
fn what_outside_checks_look_for_is_there_before_it_is_counted() {
    let text = Instance::probed(ROUTES, &Probe::default()).metrics();
    for sample in [
        "http_requests_total{route=\"/things/{id}\",status=\"200\"}",
        "fills_total{outcome=\"ok\",route=\"/public/echo\"}",
        "cache_lookups_total{layer=\"L1\",result=\"miss\"}",
        "cache_lookups_total{layer=\"L1\",result=\"expired\"}",
    ] {
        assert!(text.contains(&format!("\nmainstay_{sample} 0\n")), "{sample}: {text}");
    }
    assert!(text.contains("\nmainstay_http_request_duration_seconds_count{"), "{text}");
}

/// The series of a route that begin with such a name.
fn series_of(text: &str, route: &str, name: &str) -> BTreeSet<String> {
    let (label, name) = (format!("route=\"{route}\""), format!("mainstay_{name}"));
    series(text).into_iter().filter(|series| series.contains(&label) && series.starts_with(&name)).collect()
}

/// With thousands of routes it matters what each one has. Of what it cannot have there is nothing, and of what has many lines not
/// before it is counted.
#[test]
fn a_route_has_the_series_that_it_can_have_and_no_others() {
    let instance = Instance::probed(ROUTES, &Probe::default());
    let (cached, other) = ("/public/echo", "/things/{id}");
    let requests = |route: &str, statuses: &[&str]| -> BTreeSet<String> {
        let series = |status| format!("mainstay_http_requests_total{{route=\"{route}\",status=\"{status}\"}}");
        statuses.iter().map(series).collect()
    };
    let before = instance.metrics();
    assert_eq!(series_of(&before, other, ""), requests(other, &["200", "500", "503"]));
    let mut of_cached = requests(cached, &["200", "304", "500", "503"]);
    of_cached.insert(format!("mainstay_cache_hits_total{{route=\"{cached}\"}}"));
    of_cached.insert(format!("mainstay_fills_total{{outcome=\"ok\",route=\"{cached}\"}}"));
    assert_eq!(series_of(&before, cached, ""), of_cached);
    for _ in 0..2 {
        instance.get("/public/echo");
        instance.get("/things/1");
    }
    let after = instance.metrics();
    for name in ["cache", "fill"] {
        assert_eq!(series_of(&after, other, name), BTreeSet::new(), "{name}");
    }
    let outcomes = |route| -> BTreeSet<String> {
        let counts = series_of(&after, route, "http_request_duration_seconds_count");
        let outcome = |series: String| series.split('"').nth(1).unwrap().to_owned();
        counts.into_iter().map(outcome).collect()
    };
    assert_eq!(outcomes(other), BTreeSet::from(["bypass".to_owned()]));
    assert_eq!(outcomes(cached), BTreeSet::from(["hit".to_owned(), "miss".to_owned()]), "nothing was stale");
}

/// A counter that appears with its first count has no rate: the first failures of a route would ring nowhere.
#[test]
fn each_failure_that_an_error_is_answered_with_is_counted_from_zero_on() {
    const UPSTREAM: &str = r#"
[upstream.legacy]
endpoints = ["http://127.0.0.1:1"]

[[route]]
path = "/things/{id}"
upstream = "legacy"
params = [{ name = "id", in = "path", type = "text" }]
"#;
    let text = Plan::new(UPSTREAM).start().metrics();
    let errors = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/errors.md")).unwrap();
    let statuses: BTreeSet<&str> = errors
        .split('|')
        .map(str::trim)
        .filter(|cell| cell.len() == 3 && cell.starts_with('5') && cell.bytes().all(|byte| byte.is_ascii_digit()))
        .collect();
    assert!(statuses.contains("500") && statuses.contains("503"), "{statuses:?}");
    // And those that an upstream's gateways say.
    for status in statuses.into_iter().chain(["502", "504"]) {
        let sample = format!("\nmainstay_http_requests_total{{route=\"/things/{{id}}\",status=\"{status}\"}} 0\n");
        assert!(text.contains(&sample), "{status}: {text}");
    }
}

#[test]
fn what_is_stale_is_counted_with_why_it_was_served() {
    let probe = Probe::default();
    let instance = admin::instance(ROUTES, &probe);
    instance.get("/public/echo");
    probe.answer(|_, _| Err(Error::new(Code::DatabaseUnavailable, "gone")));
    admin::order(&instance, "/admin/cache/purge", "{\"tags\":[\"echo\"]}");
    // The first one asks the source, the second one is spared that.
    for _ in 0..2 {
        assert_eq!(instance.get("/public/echo").status, 200);
    }
    assert_eq!(instance.metric("mainstay_stale_served_total{reason=\"source_failed\"}"), 2.0);
    assert_eq!(timed(&instance, "/public/echo", "stale"), 2.0);
    assert_eq!(instance.metric("mainstay_purges_total{kind=\"soft\"}"), 1.0);
}

#[test]
fn hostile_requests_make_no_series() {
    let instance = Instance::probed(ROUTES, &Probe::default());
    let requests = |from: usize, to: usize| {
        for n in from..to {
            instance.get(&format!("/public/echo?q={n}"));
            instance.get(&format!("/public/echo?unknown{n}=1"));
            instance.get(&format!("/things/{n}"));
            instance.get(&format!("/no/such/path/{n}"));
            instance.get_with("/public/echo", &[("host", &format!("h{n}.test")), ("x-request-id", &format!("{n}"))]);
            instance.get_with("/things/1", &[("x-consistency-token", &format!("{n}")), ("x-consistency", "strong")]);
            instance.request(&format!("M{n}"), "/public/echo", &[]);
        }
    };
    requests(0, 3);
    let few = series(&instance.metrics());
    requests(3, 60);
    let many = series(&instance.metrics());
    assert_eq!(many.difference(&few).collect::<Vec<_>>(), Vec::<&String>::new());
}

/// No scrape comes in between: what the routes before have counted is in nobody's hands but theirs.
#[test]
fn a_reload_loses_no_count() {
    let instance = Instance::probed(ROUTES, &Probe::default());
    for _ in 0..4 {
        assert_eq!(instance.get("/public/echo").status, 200);
    }
    instance.reload(ROUTES).unwrap();
    assert_eq!(timed(&instance, "/public/echo", "hit"), 3.0);
    assert_eq!(instance.metric("mainstay_http_requests_total{route=\"/public/echo\",status=\"200\"}"), 4.0);
    assert_eq!(instance.metric("mainstay_cache_lookups_total{layer=\"L1\",result=\"hit\"}"), 3.0);
    assert_eq!(instance.metric("mainstay_cache_hits_total{route=\"/public/echo\"}"), 3.0);
}

#[test]
fn a_reload_drops_the_series_of_routes_that_are_gone() {
    let instance = Instance::probed(ROUTES, &Probe::default());
    instance.get("/public/echo");
    instance.get("/things/1");
    assert!(series(&instance.metrics()).iter().any(|series| series.contains("/things/{id}")));
    let (first_route, _) = ROUTES.split_at(ROUTES.rfind("[[route]]").unwrap());
    instance.reload(first_route).unwrap();
    instance.get("/public/echo");
    let left = series(&instance.metrics());
    assert_eq!(left.iter().filter(|series| series.contains("/things/{id}")).count(), 0, "{left:?}");
    let requests = |status: &str| {
        instance.metric(&format!("mainstay_http_requests_total{{route=\"/public/echo\",status=\"{status}\"}}"))
    };
    assert_eq!(requests("200"), 2.0, "a route that stays goes on counting");
    assert!(instance.reload("not = a manifest").is_err());
    for outcome in ["ok", "refused"] {
        let reloads = format!("mainstay_manifest_reloads_total{{outcome=\"{outcome}\"}}");
        assert_eq!(instance.metric(&reloads), 1.0, "{outcome}");
    }
}

#[test]
fn an_instance_says_what_it_is_and_how_its_nodes_are() {
    let cluster = Cluster::shared();
    let instance = Plan::probed(ROUTES, &Probe::default()).database(cluster, &cluster.database()).start();
    instance.wait_healthy();
    let is = |sample: &str, value: f64| assert_eq!(instance.metric(&format!("mainstay_{sample}")), value, "{sample}");
    is(&format!("build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")), 1.0);
    is("mode{mode=\"regional\"}", 1.0);
    is("mode{mode=\"failover\"}", 0.0);
    is("degraded", 0.0);
    is("degraded_reason{reason=\"replica_down\"}", 0.0);
    is("pool_connections_max{node=\"replica-1\",pool=\"read\"}", 4.0);
    assert!(instance.metric("mainstay_pool_connections_max{node=\"primary\",pool=\"write\"}") > 0.0);
    let text = instance.metrics();
    for name in
        ["replication_lag_bytes{node=\"replica-1\"}", "node_latency_seconds{node=\"primary\"}", "cache_max_bytes"]
    {
        assert!(text.contains(&format!("mainstay_{name} ")), "{name}: {text}");
    }
    promtool(&["check", "metrics"], &text);
}

#[test]
fn what_the_bus_brings_is_timed_and_a_broken_watch_is_said_by_who_looks() {
    let fleet = Fleet::new("metrics-of-the-bus");
    let plan = || fleet.plan().set("changes.watch_interval", "100ms").start();
    let (leader, other) = (plan(), plan());
    assert!(wait_until(PATIENCE, || leader.leads() != other.leads()), "nobody leads");
    let (leader, other) = if leader.leads() { (leader, other) } else { (other, leader) };
    other.wait_hearing("stream");
    let before = other.changes("stream");
    fleet.set(1, 5);
    other.wait_change("stream", before);
    let wait_metric = |instance: &Instance, sample: &str, holds: &dyn Fn(f64) -> bool| {
        assert!(wait_until(PATIENCE, || holds(instance.metric(sample))), "{sample}: {}", instance.metric(sample));
    };
    wait_metric(&other, "mainstay_bus_delay_seconds_count{kind=\"change\"}", &|count| count > 0.0);
    wait_metric(&other, "mainstay_purges_total{kind=\"soft\"}", &|count| count > 0.0);
    assert!(other.metrics().contains("\nmainstay_bus_silence_seconds "));
    // A new table under the old name has no trigger.
    let watch = "mainstay_watch_broken{table=\"items\"}";
    fleet.sql("ALTER TABLE items RENAME TO old_items; CREATE TABLE items (id integer PRIMARY KEY, owner text NOT NULL, value bigint NOT NULL)");
    wait_metric(&leader, watch, &|broken| broken == 1.0);
    assert!(!other.metrics().contains("mainstay_watch_broken"), "it does not look");
    // Who leads no more knows nothing of it.
    let steal = "for _, key in ipairs(redis.call('KEYS', '*:bus:leader')) do redis.call('SET', key, 'thief', 'PX', 60000) end return 'done'";
    fleet.redis.command(&["EVAL", steal, "0"]).unwrap();
    let says_nothing = || !leader.metrics().contains("mainstay_watch_broken{");
    assert!(wait_until(PATIENCE, says_nothing), "{}", leader.metrics());
}

/// Runs promtool with something to read, and holds that it finds nothing wrong.
pub fn promtool(arguments: &[&str], input: &str) {
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.spawn().expect("promtool, which scripts/install-deps test installs");
    running.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = running.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}
