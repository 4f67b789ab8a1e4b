//! What this program's clients of HTTP have in common, whomever they ask: upstreams, peers, collectors, the edge.

use std::error::Error;

use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, retry};
use rustls::ClientConfig;

/// What makes a client that asks whom it is told to, and once: a redirect or a proxy of the environment would take a request, and
/// what it carries, to somebody else, and who asks has retries of its own.
pub fn client(tls: ClientConfig) -> ClientBuilder {
    Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(Policy::none())
        .retry(retry::never())
        .referer(false)
        .no_proxy()
}

/// What went wrong in the end; what it was wrapped in says less. Without the URL, whose user and query are nobody's business in a log.
pub fn reason(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut last: &dyn Error = &error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}
