//! What the binary says of traces elsewhere than to a collector.

use crate::support::{Folder, Origin};

#[test]
fn a_line_of_the_log_and_the_problem_document_name_one_trace() {
    let routes = "[[route]]\npath = \"/public/pages\"\nhandler = \"ramp.rates.latest\"\n";
    let folder = Folder::new(routes);
    // Nobody is there: what a request is told and what is logged of it does not depend on the collector.
    let mut origin = Origin::start(folder.path(), &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")]);
    let problem = origin.get("/public/pages").json();
    let trace_id = problem["trace_id"].as_str().unwrap().to_owned();
    let line = origin.program.expect("the line of the request", |text| {
        text.lines().find(|line| line.contains("mainstay::access")).map(str::to_owned)
    });
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((line["trace_id"].as_str(), line["status"].as_u64()), (Some(&*trace_id), Some(503)), "{line}");
    assert_eq!(line["request_id"], problem["request_id"]);
}
