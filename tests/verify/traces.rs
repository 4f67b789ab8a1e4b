//! Traces against Rotel, a collector of OpenTelemetry from PyPI: what it prints of a trace is what was meant, and it may be gone
//! for a while.

use std::net::TcpListener;
use std::path::Path;

use super::support::{Folder, Origin, Program, command};
use super::tools;

const ROUTES: &str = r#"
[[route]]
path = "/public/pages/{slug}"
handler = "ramp.rates.latest"
params = [{ name = "slug", in = "path", type = "text" }]
"#;

/// Where the collector's program is.
fn agent() -> String {
    let mut python = command(tools().join("bin/python"));
    let done =
        python.args(["-c", "import os, rotel; print(os.path.dirname(rotel.__file__), end='')"]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    format!("{}/rotel-agent", String::from_utf8(done.stdout).unwrap())
}

fn collector(folder: &Path, http: &str, grpc: &str) -> Program {
    let mut rotel = command(agent());
    rotel.args(["start", "--exporter", "blackhole", "--debug-log", "traces", "--debug-log-verbosity", "detailed"]);
    rotel.args(["--otlp-http-endpoint", http, "--otlp-grpc-endpoint", grpc]).current_dir(folder);
    let mut program = Program::start(rotel);
    program.expect_text("Starting Rotel");
    program
}

/// The id of the trace of a request that fails, which is what makes it be kept.
fn fail(origin: &Origin) -> String {
    origin.get("/public/pages/terms").json()["trace_id"].as_str().unwrap().to_owned()
}

#[test]
#[ignore = "`make verify` runs it"]
fn a_collector_of_others_takes_traces_and_may_be_gone_for_a_while() {
    let address = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (http, grpc, folder) = (address(), address(), Folder::new(ROUTES));
    let endpoint = format!("http://{http}");
    let mut rotel = collector(folder.path(), &http, &grpc);
    let env = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint), ("MAINSTAY__TRACES__EXPORT_INTERVAL", "100ms")];
    let origin = Origin::start(folder.path(), &env);
    let first = fail(&origin);
    rotel.expect_text(&format!("Trace ID       : {first}"));
    for line in [
        "service.name: Str(mainstay)",
        "Name           : GET /public/pages/{slug}",
        "Kind           : SPAN_KIND_SERVER",
        "http.response.status_code: Int(503)",
        "Status code    : STATUS_CODE_ERROR",
    ] {
        rotel.expect_text(line);
    }
    assert!(!rotel.output().contains("terms"), "{}", rotel.output());
    drop(rotel);
    let meanwhile = fail(&origin);
    let mut rotel = collector(folder.path(), &http, &grpc);
    rotel.expect_text(&format!("Trace ID       : {meanwhile}"));
}
