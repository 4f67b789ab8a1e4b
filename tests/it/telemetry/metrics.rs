//! The table of metrics, its page, and what `/metrics` shows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use mainstay::telemetry::metrics::Metrics;
use mainstay::telemetry::metrics::declare::Metric;
use mainstay::telemetry::metrics::labels::{Label, Values};
use mainstay::telemetry::metrics::table::SECTIONS;

/// All metrics that are declared.
pub fn declared() -> impl Iterator<Item = &'static Metric> {
    SECTIONS.iter().flat_map(|section| section.metrics)
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
