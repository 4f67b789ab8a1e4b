//! The documents say what is so: their examples are read, and the tests, keys and metrics that they name exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use mainstay::config::auth::AccountReads;
use mainstay::config::manifest::{Known, Manifest};

use crate::telemetry::metrics::declared;

const PAGES: [&str; 33] = [
    "README.md",
    "docs/auth.md",
    "docs/caching.md",
    "docs/coherence.md",
    "docs/console.md",
    "docs/decisions/README.md",
    "docs/decisions/edge-purges.md",
    "docs/decisions/fences.md",
    "docs/decisions/flushed-lsn.md",
    "docs/decisions/manifest.md",
    "docs/decisions/sidecar.md",
    "docs/decisions/stale.md",
    "docs/decisions/stream.md",
    "docs/decisions/two-listeners.md",
    "docs/errors.md",
    "docs/failover.md",
    "docs/forwarding.md",
    "docs/ledger.md",
    "docs/logs.md",
    "docs/orders.md",
    "docs/manifest.md",
    "docs/metrics.md",
    "docs/openapi.md",
    "docs/operating.md",
    "docs/overload.md",
    "docs/replicas.md",
    "docs/scale.md",
    "docs/sessions.md",
    "docs/simulate.md",
    "docs/traces.md",
    "docs/upstream.md",
    "docs/webhooks.md",
    "infra/README.md",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// All Rust files below a folder.
fn rust_files(folder: &str) -> Vec<PathBuf> {
    let mut folders = vec![root().join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

/// What stands between backticks in a text.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_manifest_in_the_documents_is_one() {
    let text = read("docs/manifest.md");
    let handlers = ["ramp.fees.quote", "notes.create"];
    let known = Known {
        handlers: &handlers,
        middlewares: &["cors", "demand-key"],
        version: "1",
        account_reads: AccountReads::Strong,
    };
    let examples: Vec<&str> = text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(examples.len() >= 6);
    for example in examples {
        // Files are found beside the manifest.
        let file = root().join("config/routes.toml");
        if let Err(problems) = Manifest::parse(example, &file, &known) {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            panic!("{}\n{example}", problems.join("\n"));
        }
    }
}

#[test]
fn every_test_that_the_documents_name_exists() {
    let files: Vec<(String, String)> = ["src", "tests/it", "tests/process"]
        .into_iter()
        .flat_map(|folder| rust_files(folder).into_iter().map(move |path| (folder, path)))
        .map(|(folder, path)| {
            let inside = path.strip_prefix(root().join(folder)).unwrap().with_extension("");
            let module = inside.to_str().unwrap().replace('/', "::");
            (module.trim_end_matches("::mod").to_owned(), fs::read_to_string(path).unwrap())
        })
        .collect();
    let mut named: Vec<(&str, String)> = in_failures("test").into_iter().map(|test| ("README.md", test)).collect();
    for page in PAGES {
        let text = read(page);
        for paragraph in text.split("\n\n").filter_map(|paragraph| paragraph.trim().strip_prefix("Tests: ")) {
            named.extend(quoted(paragraph).map(|test| (page, test.to_owned())));
        }
    }
    for (page, test) in &named {
        let (module, function) = test.rsplit_once("::").unwrap_or_else(|| panic!("{page}: {test}"));
        let definition = format!("fn {function}(");
        let exists = files.iter().any(|(file, text)| file == module && text.contains(&definition));
        assert!(exists, "{page}: there is no test {test}");
    }
    assert!(named.len() > 80, "{}", named.len());
}

#[test]
fn every_key_that_the_documents_name_exists() {
    let defaults: toml::Table = read("config/default.toml").parse().unwrap();
    let exists = |section: &str, key: &str| {
        let mut names = key.split('.');
        defaults.get(section).and_then(|table| names.try_fold(table, |table, name| table.get(name))).is_some()
    };
    let sections: BTreeSet<&str> =
        defaults.iter().filter(|(_, value)| value.is_table()).map(|(key, _)| key.as_str()).collect();
    for page in PAGES {
        let text = read(page);
        for name in quoted(&text) {
            if let Some((section, key)) = name.strip_prefix("MAINSTAY__").and_then(|name| name.split_once("__")) {
                let (section, key) = (section.to_lowercase(), key.to_lowercase().replace("__", "."));
                assert!(section == "section" || exists(&section, &key), "{page}: {name}");
            }
            let is_key = name.bytes().all(|byte| byte.is_ascii_lowercase() || b"._".contains(&byte));
            if let Some((section, key)) =
                name.split_once('.').filter(|(section, _)| is_key && sections.contains(section))
            {
                assert!(exists(section, key), "{page}: {name}");
            }
        }
    }
}

/// What stands between backticks in a column of the README's table of failures, which is the first one of its section.
fn in_failures(column: &str) -> Vec<String> {
    let readme = read("README.md");
    let table = readme.split("## Guarantees").nth(1).unwrap().split("\n\n").find(|part| part.starts_with('|')).unwrap();
    let mut rows = table.lines().map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
    let column = rows.next().unwrap().iter().position(|name| *name == column).unwrap();
    rows.skip(1).flat_map(|row| quoted(row[column]).map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn every_metric_that_the_documents_name_exists() {
    let text = read("README.md") + &read("docs/operating.md");
    let in_rows = in_failures("metric");
    let named = |name: &str| name.strip_prefix("mainstay_").filter(|name| !name.is_empty()).map(str::to_owned);
    let in_text: Vec<String> = quoted(&text).filter_map(named).collect();
    assert!(in_rows.len() > 8 && in_text.len() > 5, "{in_rows:?} {in_text:?}");
    for name in in_rows.iter().chain(&in_text) {
        let name = name.split('{').next().unwrap();
        let full_name = format!("mainstay_{name}");
        assert!(declared().any(|metric| metric.name == full_name), "the documents name a metric {name}");
    }
}

#[test]
fn every_file_that_the_documents_link_exists() {
    for page in PAGES {
        let folder = root().join(page).parent().map(Path::to_owned).unwrap();
        for link in read(page).split("](").skip(1).map(|rest| rest.split(')').next().unwrap().to_owned()) {
            // What stands behind a `#` is a heading of the file before it, or of this one.
            let (file, heading) = link.split_once('#').map_or((&*link, None), |(file, heading)| (file, Some(heading)));
            let path = if file.is_empty() { root().join(page) } else { folder.join(file) };
            assert!(link.starts_with("https://") || path.exists(), "{page}: {link}");
            if let Some(heading) = heading.filter(|_| path.is_file()) {
                let text = fs::read_to_string(&path).unwrap();
                let anchor = |line: &str| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
                let exists = text.lines().any(|line| line.starts_with('#') && anchor(line) == heading);
                assert!(exists, "{page}: {link}");
            }
        }
    }
}

#[test]
fn diesel_toml_names_the_tables_that_there_are() {
    let settings: toml::Table = read("diesel.toml").parse().unwrap();
    let schema = read(settings["print_schema"]["file"].as_str().unwrap());
    let listed: BTreeSet<String> = settings["print_schema"]["filter"]["only_tables"]
        .as_array()
        .unwrap()
        .iter()
        .map(|table| table.as_str().unwrap().to_owned())
        .collect();
    let tables: BTreeSet<String> = schema
        .split("table! {")
        .skip(1)
        .map(|table| table.lines().find_map(|line| line.trim().split_once(" (")).unwrap().0.to_owned())
        .collect();
    assert_eq!(listed, tables);
    assert!(root().join(settings["migrations_directory"]["dir"].as_str().unwrap()).is_dir());
}
