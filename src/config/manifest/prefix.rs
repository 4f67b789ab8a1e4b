//! What a route does by its path, where the manifest does not say. The built-in API relies on it.

use std::time::Duration;

use super::{CachePolicy, Consistency, OnChange};
use crate::config::auth::AccountReads;

/// What routes of a path prefix do where they do not say.
pub(super) enum Prefix {
    Public,
    Private,
    Other,
}

/// The table of defaults by path. The built-in API relies on it.
pub(super) fn prefix_of(path: &str) -> Prefix {
    const PUBLIC: [&str; 3] = ["/public/", "/api/v1/rates", "/api/v1/fees"];
    const PRIVATE: [&str; 7] = [
        "/account/",
        "/api/v1/onramp",
        "/api/v1/offramp",
        "/api/v1/mint",
        "/api/v1/transaction",
        "/api/v1/transfer",
        "/api/v1/redemption",
    ];
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| path.starts_with(prefix));
    if starts(&PUBLIC) {
        Prefix::Public
    } else if starts(&PRIVATE) {
        Prefix::Private
    } else {
        Prefix::Other
    }
}

/// The consistency of a route that does not say. A setting makes reads of accounts and transactions those of a session; what
/// writes is strong all the same.
pub(super) fn consistency_of(path: &str, account_reads: AccountReads) -> Consistency {
    let is_of_accounts = path.starts_with("/account/") || path.starts_with("/api/v1/transaction");
    match prefix_of(path) {
        Prefix::Private if is_of_accounts && account_reads == AccountReads::Session => Consistency::Session,
        Prefix::Private => Consistency::Strong,
        Prefix::Public | Prefix::Other => Consistency::Eventual,
    }
}

/// The policy of public routes that do not say.
pub(super) fn default_policy() -> CachePolicy {
    let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
    CachePolicy {
        ttl: minutes(5),
        browser_ttl: minutes(5),
        edge_ttl: None,
        stale_while_revalidate: minutes(1),
        stale_if_error: minutes(24 * 60),
        tags: Vec::new(),
        watch: None,
        on_change: OnChange::Purge,
    }
}
