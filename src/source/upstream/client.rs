//! The HTTP client of each worker.
//!
//! A connection belongs to the runtime that opened it and ends with it. Workers end one after another when the server drains;
//! one client for all of them would cut off requests of those that still work. So each thread has its own.

use std::cell::RefCell;
use std::sync::{Arc, Weak};
use std::time::Duration;

use reqwest::Client;
use rustls::ClientConfig;

use crate::config::manifest::upstream::Upstream;
use crate::database::target::TlsMode;
use crate::database::tls;
use crate::outgoing::{self, reason};

/// Idle connections to one endpoint that a worker keeps.
const IDLE_MAX: usize = 64;

/// What clients of one upstream have in common.
pub(super) struct Shape {
    connect_timeout: Duration,
    keep_alive: Duration,
    tls: ClientConfig,
}

thread_local! {
    static CLIENTS: RefCell<Vec<(Weak<Shape>, Client)>> = const { RefCell::new(Vec::new()) };
}

impl Shape {
    /// The shape of clients for an upstream's endpoints.
    ///
    /// # Errors
    /// What is wrong with the roots, in a sentence.
    pub(super) fn new(config: &Upstream) -> Result<Self, String> {
        let Upstream { endpoints, connect_timeout, keep_alive, tls_ca_file, .. } = config;
        let has_tls = endpoints.iter().any(|url| url.scheme() == "https");
        let tls =
            if has_tls { tls::client_config(TlsMode::VerifyFull, tls_ca_file.as_deref())? } else { tls::no_roots()? };
        Ok(Self { connect_timeout: *connect_timeout, keep_alive: *keep_alive, tls })
    }

    /// The client of this thread.
    ///
    /// # Errors
    /// What is wrong, in a sentence.
    pub(super) fn client(self: &Arc<Self>) -> Result<Client, String> {
        CLIENTS.with_borrow_mut(|clients| {
            let is_own = |shape: &Weak<Self>| std::ptr::eq(shape.as_ptr(), Arc::as_ptr(self));
            if let Some((_, client)) = clients.iter().find(|(shape, _)| is_own(shape)) {
                return Ok(client.clone());
            }
            // Those of upstreams that a reload has dropped or changed.
            clients.retain(|(shape, _)| shape.strong_count() > 0);
            let client = self.build().map_err(reason)?;
            clients.push((Arc::downgrade(self), client.clone()));
            Ok(client)
        })
    }

    fn build(&self) -> reqwest::Result<Client> {
        outgoing::client(self.tls.clone())
            .connect_timeout(self.connect_timeout)
            .pool_idle_timeout(self.keep_alive)
            .pool_max_idle_per_host(IDLE_MAX)
            .build()
    }
}
