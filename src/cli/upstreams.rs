//! What `mainstay check` says of upstreams.

use std::net::ToSocketAddrs;
use std::sync::Arc;

use super::check::Findings;
use crate::config::manifest::upstream::Upstream;
use crate::config::manifest::{Manifest, Route, Source};
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

/// What leads past the `auth` of other routes: a catch-all to the same upstream that asks for none. It takes every path that is not to
/// the letter one of theirs, and the upstream may see less of a difference.
pub(super) fn way_around(route: &Route, manifest: &Manifest) -> Option<String> {
    let (Source::Upstream { upstream, .. }, None, Some((below, _))) =
        (&route.source, &route.access, route.path.split_once("{*"))
    else {
        return None;
    };
    let is_same = |other: &Source| matches!(other, Source::Upstream { upstream: its, .. } if its.name == upstream.name);
    let guarded =
        |other: &&Arc<Route>| other.access.is_some() && is_same(&other.source) && other.path.starts_with(below);
    let paths: Vec<&str> = manifest.routes.iter().filter(guarded).map(|other| other.path.as_str()).collect();
    (!paths.is_empty()).then(|| {
        format!(
            "it has no auth, and leads to the same upstream as {}: whoever asks for that in another spelling (/Admin for /admin) or by \
             a method that is not declared there is passed on by this route; give it auth as well",
            paths.join(", ")
        )
    })
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
