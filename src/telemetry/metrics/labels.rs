//! What tells the series of a metric apart. No label has a value that a request chooses: its paths, its headers, who sent it.

/// A label, and what its values can be.
#[derive(Clone, Copy, Debug)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// What its values can be.
    pub values: Values,
}

/// What the values of a label can be.
#[derive(Clone, Copy, Debug)]
pub enum Values {
    /// These alone.
    Listed(&'static [&'static str]),
    /// As many as this says.
    Bounded(&'static str),
}

/// A label with these values alone.
pub const fn listed(name: &'static str, values: &'static [&'static str]) -> Label {
    Label { name, values: Values::Listed(values) }
}

const fn bounded(name: &'static str, by: &'static str) -> Label {
    Label { name, values: Values::Bounded(by) }
}

/// The route.
pub const ROUTE: Label = bounded("route", "the patterns of the manifest; `none` for requests that match none");
/// The status of an answer.
pub const STATUS: Label = bounded("status", "the statuses that are answered");
/// How a credential is shown.
pub const METHOD: Label = listed("method", &["key", "jwt"]);
/// A layer of the cache.
pub const LAYER: Label = listed("layer", &["L1", "L2"]);
/// What running a source came to.
pub const OUTCOME_OF_SOURCE: Label = bounded("outcome", "`ok`, or the code of the error ([errors.md](errors.md))");
/// What kind of source it is.
pub const KIND: Label = bounded("kind", "`fill`, `direct`, `write`, and `upstream NAME` of each upstream");
/// How urgent a source is.
pub const PRIORITY: Label = listed("priority", &["foreground", "revalidate", "early", "background"]);
/// An upstream.
pub const UPSTREAM: Label = bounded("upstream", "the upstreams of the manifest");
/// A node.
pub const NODE: Label = bounded("node", "`primary`, `redis`, the replicas of the settings, the endpoints of upstreams");
/// A pool of connections.
pub const POOL: Label = listed("pool", &["read", "write"]);
/// The version of the program.
pub const VERSION: Label = bounded("version", "that of the program");
/// A table.
pub const TABLE: Label = bounded("table", "the tables that routes watch");
/// A peer.
pub const PEER: Label = bounded("peer", "the peers of the settings");
/// A payment provider.
pub const PROVIDER: Label = bounded("provider", "the payment providers that the program registers");
