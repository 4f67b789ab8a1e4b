//! Signed tokens.

mod asked;
mod claims;
mod forged;
pub mod issuer;
mod keyring;
mod keyset;
mod remembered;
mod vectors;

use std::sync::Arc;

use mainstay::auth::jwt::Tokens;
use mainstay::config::auth::AuthSettings;
use mainstay::telemetry::metrics::Metrics;

use crate::support;

const ISSUER: &str = "https://id.test";
const AUDIENCE: &str = "https://api.test";

/// Settings for tokens of [`ISSUER`], with what else is said of `auth`.
fn settings(more: &[(&str, &str)]) -> AuthSettings {
    let named = |(key, value): &(&str, &str)| (format!("MAINSTAY__AUTH__{}", key.to_uppercase()), (*value).to_owned());
    let ours = [("issuer", ISSUER), ("audience", AUDIENCE)];
    let all: Vec<(String, String)> = ours.iter().chain(more).map(named).collect();
    let all: Vec<(&str, &str)> = all.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    support::settings("", "", &all).auth
}

/// Tokens, and the metrics that they count in.
fn tokens(more: &[(&str, &str)]) -> (Tokens, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new().unwrap());
    let tokens = Tokens::new(&settings(more), &metrics).unwrap().unwrap();
    (tokens, metrics)
}
