//! Traces, from requests to a receiver of OTLP.

mod calls;
mod export;
mod propagation;
mod receiver;
mod sampling;
mod structure;

use crate::instance::Plan;
use crate::instance::probe::Probe;
use receiver::Receiver;

const ROUTES: &str = r#"
[[route]]
path = "/public/things/{name}"
handler = "probe"
params = [
  { name = "name", in = "path", type = "text" },
  { name = "q", in = "query", type = "text", optional = true },
]
  [route.cache]
  ttl = "1h"

[[route]]
path = "/account/things"
handler = "probe"
"#;

/// A caller's trace, sampled.
const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const CALLERS_TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLERS_SPAN: &str = "b7ad6b7169203331";

/// A plan that sends its traces to a receiver, soon.
fn traced(plan: Plan, receiver: &Receiver, ratio: &str) -> Plan {
    plan.set("OTEL_EXPORTER_OTLP_ENDPOINT", &receiver.url())
        .set("traces.sample_ratio", ratio)
        .set("traces.export_interval", "10ms")
        .set("traces.slow", "1h")
}

/// A plan with a probe behind all routes.
fn probed(probe: &Probe, receiver: &Receiver, ratio: &str) -> Plan {
    traced(Plan::probed(ROUTES, probe), receiver, ratio)
}
