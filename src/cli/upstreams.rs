//! What `mainstay check` says of upstreams.

use std::net::ToSocketAddrs;

use super::check::Findings;
use crate::config::manifest::Manifest;
use crate::config::manifest::upstream::Upstream;
use crate::database::target::TlsMode;
use crate::database::tls;

/// Whether it can be asked, and whether any route asks it.
pub(super) fn check(upstream: &Upstream, manifest: &Manifest) -> Findings {
    let mut found = Findings { errors: unreachable(upstream), ..Findings::default() };
    if manifest.unused_upstreams().any(|unused| unused.name == upstream.name) {
        found.warnings.push("no route names it".to_owned());
    }
    found
}

/// Which of its endpoints have no address here, and why its roots cannot be read.
pub(super) fn unreachable(upstream: &Upstream) -> Vec<String> {
    let mut reasons = Vec::new();
    for url in &upstream.endpoints {
        let name = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
        // A literal IPv6 address stands in brackets.
        let host = name.0.trim_matches(['[', ']']);
        if let Err(error) = (host, name.1).to_socket_addrs() {
            reasons.push(format!("{host} does not resolve: {error}"));
        }
    }
    if let Some(file) = &upstream.tls_ca_file {
        reasons.extend(tls::client_config(TlsMode::VerifyFull, Some(file)).err());
    }
    reasons
}
