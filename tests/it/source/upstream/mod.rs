//! HTTP services behind routes.

mod caching;
mod passing;
mod retries;
pub mod server;
mod shadow;
mod streaming;
pub mod tls;

use crate::instance::Plan;
use server::Service;

/// A plan with one upstream called `old`, and routes in which `UPSTREAM` stands for its declaration.
fn plan(services: &[&Service], more: &str, routes: &str) -> Plan {
    let endpoints: Vec<String> = services.iter().map(|service| format!("\"{}\"", service.url())).collect();
    let upstream = format!("[upstream.old]\nendpoints = [{}]\n{more}\n", endpoints.join(", "));
    Plan::new(&format!("{upstream}\n{routes}")).set("nodes.open_time", "60s").set("nodes.open_time_max", "60s")
}

/// A route that passes everything on.
const CATCH_ALL: &str = r#"
[[route]]
path = "/{*path}"
methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
upstream = "old"
"#;

/// A route whose answers are kept.
const CACHED: &str = r#"
[[route]]
path = "/{*path}"
upstream = "old"
  [route.cache]
  ttl = "1m"
  stale_if_error = "1h"
  tags = ["pages"]
"#;
