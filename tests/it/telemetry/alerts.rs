//! The rules, alerts and the dashboard of `infra/` read metrics that there are, and each alert says what to do.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::expressions;
use super::metrics::promtool;

const RULES: &str = "infra/prometheus/mainstay.rules.yml";
const ALERTS: &str = "infra/prometheus/mainstay.alerts.yml";
const TESTS: &str = "infra/prometheus/mainstay_test.yml";

fn path(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name).to_str().unwrap().to_owned()
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The rules of a file: what stands at `key` begins one, and the lines of each up to the next.
fn rules(text: &str, key: &str) -> BTreeMap<String, String> {
    let begin = format!("- {key}: ");
    let rules = text.split(&begin).skip(1).map(|rule| rule.split_once('\n').unwrap());
    rules.map(|(name, rest)| (name.to_owned(), rest.to_owned())).collect()
}

/// What stands at `expr`, in the same line or in those below.
fn expression(rule: &str) -> String {
    let (_, after) = rule.split_once("expr: ").unwrap_or_else(|| panic!("{rule}"));
    match after.strip_prefix("|\n") {
        None => after.lines().next().unwrap().to_owned(),
        Some(block) => {
            let depth = |line: &str| line.len() - line.trim_start().len();
            let inside = depth(block);
            block.lines().take_while(|line| depth(line) >= inside).collect::<Vec<_>>().join("\n")
        }
    }
}

fn recorded() -> BTreeSet<String> {
    rules(&read(RULES), "record").into_keys().collect()
}

#[test]
fn rules_and_alerts_read_metrics_that_there_are() {
    let recorded = recorded();
    let (rules, alerts) = (rules(&read(RULES), "record"), rules(&read(ALERTS), "alert"));
    assert!(rules.len() >= 7 && alerts.len() >= 11, "{rules:?} {alerts:?}");
    for rule in rules.values().chain(alerts.values()) {
        expressions::check(&expression(rule), &recorded);
    }
}

#[test]
fn promtool_finds_rules_and_alerts_right_and_each_rings_when_it_is_to() {
    promtool(&["check", "rules", &path(RULES), &path(ALERTS)], "");
    promtool(&["test", "rules", &path(TESTS)], "");
    let tests = read(TESTS);
    for alert in rules(&read(ALERTS), "alert").into_keys() {
        let begin = format!("- alertname: {alert}\n");
        let outcomes: Vec<bool> = tests
            .split(&begin)
            .skip(1)
            .map(|rest| rest.lines().find(|line| line.contains("exp_alerts:")).unwrap().ends_with("[]"))
            .collect();
        assert!(outcomes.contains(&true), "{alert}: no test in which it does not ring");
        assert!(outcomes.contains(&false), "{alert}: no test in which it rings");
    }
}

#[test]
fn each_alert_says_how_urgent_it_is_and_has_a_section_with_what_to_do() {
    let page = read("docs/operating.md");
    let (_, sections) = page.split_once("\n## When an alert rings\n").unwrap();
    let sections: BTreeMap<&str, &str> =
        sections.split("\n### ").skip(1).map(|section| section.split_once('\n').unwrap()).collect();
    let alerts = rules(&read(ALERTS), "alert");
    for (alert, rule) in &alerts {
        let has = |text: &str| assert!(rule.contains(text), "{alert}: {text}");
        assert!(
            ["critical", "warning"].iter().any(|how| rule.contains(&format!("labels: {{severity: {how}}}"))),
            "{alert}"
        );
        has("summary: \"");
        has("description: \"");
        has(&format!("runbook_url: docs/operating.md#{}\n", alert.to_lowercase()));
        let section = sections.get(alert.as_str()).unwrap_or_else(|| panic!("{alert} has no section"));
        for part in ["*It means:*", "*Users notice:*", "*Escalate:*"] {
            assert!(section.contains(part), "{alert}: its section has no {part}");
        }
        let says_what = section.contains("*Look:*") && section.contains("*Do:*");
        assert!(says_what || section.contains("*Look and do:*"), "{alert}: what is to be done?");
    }
    let left: Vec<&&str> = sections.keys().filter(|section| !alerts.contains_key(**section)).collect();
    assert!(left.is_empty(), "sections of alerts that there are not: {left:?}");
}

/// All values at a key, however deep.
fn at<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get(key));
            members.values().for_each(|member| at(member, key, found));
        }
        Value::Array(items) => items.iter().for_each(|item| at(item, key, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_reads_metrics_that_there_are() {
    let dashboard: Value = serde_json::from_str(&read("infra/grafana/mainstay.json")).unwrap();
    let mut found = Vec::new();
    at(&dashboard, "expr", &mut found);
    assert!(found.len() > 40, "{}", found.len());
    let recorded = recorded();
    for expression in &found {
        expressions::check(expression.as_str().unwrap(), &recorded);
    }
    let mut queries = Vec::new();
    at(&dashboard, "query", &mut queries);
    at(&dashboard, "definition", &mut queries);
    for inside in queries.iter().filter_map(|query| query.as_str()?.strip_prefix("label_values(")) {
        expressions::check(inside.rsplit_once(',').unwrap().0, &recorded);
    }
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    // What an alert reads can be looked at.
    let shown: String = found.iter().map(|expression| expression.as_str().unwrap()).collect();
    for (alert, rule) in rules(&read(ALERTS), "alert") {
        let names = rule.split(|letter: char| !letter.is_ascii_alphanumeric() && !"_:".contains(letter));
        for name in names.filter(|name| name.starts_with("mainstay_")) {
            assert!(shown.contains(name), "{alert} reads {name}, and no panel shows it");
        }
    }
}
