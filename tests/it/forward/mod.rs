//! Strong requests that an origin far from the primary sends whole to the primary's region.
//!
//! "There" is the origin in the primary's region, or a service that a test puts in its place; "here" is the one that forwards.

mod effects;
mod identity;
mod loops;
mod passing;
mod retries;
mod streaming;

use std::net::TcpListener;

use crate::instance::client::Reply;
use crate::instance::probe::Probe;
use crate::instance::{Instance, Plan};
use crate::source::upstream::server::{Seen, Service, answer};
use crate::support::Cluster;

const ROUTES: &str = r#"
[[route]]
path = "/account/things/{name}"
methods = ["GET", "POST", "PUT", "DELETE"]
handler = "probe"
params = [
  { name = "name", in = "path", type = "text" },
  { name = "q", in = "query", type = "text", optional = true },
  { name = "n", in = "query", type = "integer", default = 1, max = 9 },
]

[[route]]
path = "/public/things"
handler = "probe"

[[route]]
path = "/eventual"
handler = "probe"
"#;

/// Where things are done.
const THING: &str = "/account/things/a";

/// An origin in the primary's region.
fn there(probe: &Probe) -> Plan {
    Plan::probed(ROUTES, probe).set("REGION", "there-1")
}

/// An origin far from it, without a database: what it cannot forward it cannot do.
fn here(probe: &Probe, url: &str) -> Plan {
    Plan::probed(ROUTES, probe)
        .set("PRIMARY_ORIGIN", url)
        .set("nodes.open_time", "60s")
        .set("nodes.open_time_max", "60s")
}

/// The same with a database, so that it can do itself what it cannot forward.
fn here_with_database(probe: &Probe, url: &str) -> Plan {
    let cluster = Cluster::shared();
    here(probe, url).set("DATABASE_URL", &cluster.primary.url("postgres", "postgres"))
}

fn url(instance: &Instance) -> String {
    format!("http://{}", instance.public)
}

/// An address where nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// In the place of the origin there, with what each of its answers says.
fn service() -> Service {
    Service::new(|seen, stream| reply(seen, stream, "200 OK"))
}

fn reply(seen: &Seen, stream: &mut std::net::TcpStream, status: &str) {
    let headers = [("X-Region", "there-1"), ("X-Route-Primary", "true"), ("Content-Type", "text/plain")];
    answer(stream, status, &headers, format!("{} {}", seen.method, seen.target).as_bytes());
}

/// The code of a problem document of any region.
fn code(reply: &Reply) -> String {
    reply.json()["code"].as_str().unwrap().to_owned()
}

fn post(instance: &Instance, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    instance.connect().request_with_body("POST", THING, headers, body)
}

/// How many requests came to such an end.
fn counted(instance: &Instance, outcome: &str) -> f64 {
    instance.metric(&format!("mainstay_forwarded_total{{outcome=\"{outcome}\"}}"))
}
