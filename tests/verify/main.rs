//! Schemathesis against the real server: it makes requests out of `/openapi.json`, good ones and bad ones, and holds every answer
//! to what the document says. `make verify` runs it; it comes from PyPI, so that plain `cargo test` leaves it out.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    missing_docs
)]

mod edge;
mod prometheus;
#[allow(dead_code, reason = "shared with the tests of single processes, which need more of it")]
#[path = "../process/support.rs"]
mod support;
mod traces;

use std::path::PathBuf;
use std::process::Command;

use support::{Cluster, Folder, Origin, command, mainstay, repository};

/// Requests that are made of each operation, beside those that probe each rule once.
const EXAMPLES: &str = "50";
/// What answers are held to.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,\
                      response_headers_conformance";

/// A folder with the tools, where `make verify` puts them.
fn tools() -> PathBuf {
    let folder = std::env::var_os("VERIFY_TOOLS").expect("VERIFY_TOOLS names the folder; `make verify` installs it");
    PathBuf::from(folder)
}

/// Runs a tool and shows what it says.
fn run(mut tool: Command) {
    let done = tool.output().unwrap_or_else(|error| panic!("{tool:?}: {error}"));
    println!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{tool:?}: {}", done.status);
}

/// Holds a server to its document, which itself is held to OpenAPI's schema.
fn verify(origin: &Origin, whole: &str, more_checks: &str, headers: &[&str]) {
    // A query of the document is described once its columns are known.
    let document = origin.get_until("/openapi.json", |reply| reply.status == 200 && reply.body.contains(whole));
    let folder = Folder::empty();
    folder.write("openapi.json", &document.body);
    let mut validator = command(tools().join("bin/python"));
    validator.args(["-m", "openapi_spec_validator", "--schema", "3.1"]).arg(folder.join("openapi.json"));
    run(validator);
    let seed = std::env::var("VERIFY_SEED").unwrap_or_else(|_| fastrand::u32(..).to_string());
    println!("verify: again with VERIFY_SEED={seed}");
    let mut schemathesis = command(tools().join("bin/schemathesis"));
    schemathesis
        .args(["run", &format!("{}/openapi.json", origin.base), "--checks", &format!("{CHECKS}{more_checks}")])
        .args(["--phases", "examples,coverage,fuzzing", "--mode", "all", "--max-examples", EXAMPLES, "--seed", &seed])
        .args(["--continue-on-failure", "--no-color"])
        .args(headers.iter().flat_map(|header| ["-H", *header]))
        .current_dir(folder.path());
    run(schemathesis);
}

/// The `Authorization` of a key that a command makes.
fn key(create: &[&str], url: &str) -> String {
    let created = mainstay(create, &[("DATABASE_URL", url)]);
    let created: serde_json::Value = serde_json::from_str(&created.stdout).unwrap_or_else(|_| panic!("{created:?}"));
    format!("Authorization: Bearer {}", created["api_key"].as_str().unwrap())
}

#[test]
#[ignore = "`make verify` runs it"]
fn the_reference_application_answers_as_it_says() {
    let cluster = Cluster::shared();
    let database = cluster.database("");
    let url = cluster.primary.url("postgres", &database);
    let config = repository("config");
    let config = config.to_str().unwrap();
    let rates = repository("data/eurofxref-hist.csv.gz");
    let rates = rates.to_str().unwrap();
    for args in [&["migrate", "--config", config][..], &["import", "rates", rates, "--config", config]] {
        let done = mainstay(args, &[("DATABASE_URL", &url)]);
        assert_eq!(done.code, Some(0), "{args:?}: {done:?}");
    }
    let origin = Origin::start(&repository("config"), &[("DATABASE_URL", &url)]);
    let credential = key(&["accounts", "create", "--name", "verify", "--json"], &url);
    verify(&origin, "updated_at", "", &[&credential]);
}

#[test]
#[ignore = "`make verify` runs it"]
fn parameters_and_columns_of_every_type_are_as_described() {
    let cluster = Cluster::shared();
    let database = cluster.database("CREATE TYPE mood AS ENUM ('sad', 'glad')");
    let url = cluster.primary.url("postgres", &database);
    let folder = Folder::new(include_str!("types.toml"));
    folder.write("counted.json", include_str!("counted.json"));
    let database = [("DATABASE_URL", url.as_str())];
    let migrated = mainstay(&["migrate", "--config", folder.text()], &database);
    assert_eq!(migrated.code, Some(0), "{migrated:?}");
    let create = ["keys", "create", "--json", "--name", "verify", "--scope", "things:read", "--claim", "tenant=42"];
    let credential = key(&create, &url);
    let origin = Origin::start(folder.path(), &database);
    // Here all that a parameter may be is told, so that what is right by the document must be taken.
    verify(&origin, "glad", ",positive_data_acceptance,ignored_auth", &[&credential]);
}
