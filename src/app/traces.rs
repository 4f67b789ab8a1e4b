//! The export of traces, where an endpoint is set.

use std::path::Path;
use std::sync::Arc;

use crate::config::ConfigError;
use crate::config::settings::Settings;
use crate::database::target::TlsMode;
use crate::database::tls;
use crate::outgoing;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::{Exporter, Resource, Traces};

/// What records and exports by these settings; none where nothing is traced.
pub(super) fn exporter(
    settings: &Settings,
    version: &str,
    metrics: &Arc<Metrics>,
) -> Result<Option<Arc<Exporter>>, ConfigError> {
    let own = &settings.traces;
    if !own.is_set() {
        return Ok(None);
    }
    let roots = Some(Path::new(&own.tls_ca_file)).filter(|file| !file.as_os_str().is_empty());
    let has_tls = own.endpoint.starts_with("https://");
    let tls = if has_tls { tls::client_config(TlsMode::VerifyFull, roots) } else { tls::no_roots() };
    let tls = tls.map_err(|why| ConfigError::new(format!("traces.tls_ca_file: {why}")))?;
    let client = outgoing::client(tls)
        .pool_max_idle_per_host(1)
        .user_agent(concat!("mainstay/", env!("CARGO_PKG_VERSION")))
        .build();
    let client = client.map_err(|error| ConfigError::new(format!("traces.endpoint: {}", error.without_url())))?;
    let resource =
        Resource { region: settings.region.clone(), mode: settings.mode.as_str(), version: version.to_owned() };
    Exporter::new(own, &Traces::new(own, metrics), client, resource).map(Some)
}
