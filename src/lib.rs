//! Mainstay: a regional API origin that stays up.
//!
//! # The code map
//!
//! A request comes in at [`http::front`], which answers it from [`cache::memory`] where it can. What it cannot goes on to
//! [`http::pipeline`], which joins or leads a [`cache::fill`]; the fill runs the route's [`source`], which reads through
//! [`database::read`] on a node that [`nodes`] has picked. What a handler writes goes to the primary by [`database::write`], and
//! its session gets a token for it from [`http::session`]. What changes comes the other way: [`database::changes`] reads it
//! from the change feed, [`cache::bus`] carries it through the fleet, and [`cache::fence`] judges by it what is kept in
//! [`cache::memory`] and [`cache::shared`]. [`edge`] tells a CDN what has fallen. Routes come from [`config::manifest`], everything else that can
//! be set from [`config::settings`]. [`app`] wires it up, [`cli`] starts it.
//!
//! # Who may import whom
//!
//! | room | may import |
//! |---|---|
//! | `error` | nothing |
//! | `mode` | nothing |
//! | `position` | nothing |
//! | `identity` | `config` |
//! | `outgoing` | nothing |
//! | `config` | `error`, `mode` |
//! | `telemetry` | `config`, `error`, `mode`, `outgoing` |
//! | `local` | nothing |
//! | `nodes` | `config`, `error`, `telemetry` |
//! | `cache` | `config`, `error`, `mode`, `nodes`, `position`, `telemetry` |
//! | `database` | `config`, `error`, `nodes`, `position`, `telemetry` |
//! | `auth` | `cache`, `config`, `database`, `error`, `identity`, `outgoing`, `position`, `telemetry` |
//! | `edge` | `cache`, `config`, `database`, `outgoing` |
//! | `source` | `config`, `database`, `error`, `identity`, `nodes`, `outgoing`, `position`, `telemetry` |
//! | `ramp` | `config`, `database`, `error`, `identity`, `source`, `telemetry` |
//! | `http` | `auth`, `cache`, `config`, `database`, `error`, `identity`, `mode`, `nodes`, `position`, `source`, `telemetry` |
//! | `admin` | `cache`, `config`, `database`, `error`, `http`, `mode`, `nodes`, `position`, `telemetry` |
//! | `app` | everything but `cli` and `local` |
//! | `cli` | everything |
//!
//! In words: `error`, `config`, `mode` and `telemetry` import nothing above them. `nodes`, `cache` and `database` know neither
//! each other's inside nor HTTP; both others may use `nodes`' breakers, and nothing in `database` names `cache`; the clock that they
//! share is `position`. `ramp`, the reference application, sees of the server what a user's own crate would. `http` and `admin` sit on top. Only [`app`] sees everything,
//! and only `cli` and the tests see `app`.
//!
//! `tests/it/rooms.rs` reads this table and every path in `src/`, and holds the one to the other.

pub mod admin;
pub mod app;
pub mod auth;
pub mod cache;
pub mod cli;
pub mod config;
pub mod database;
pub mod edge;
pub mod error;
pub mod http;
pub mod identity;
pub mod local;
pub mod mode;
pub mod nodes;
pub mod outgoing;
pub mod position;
pub mod ramp;
pub mod source;
pub mod telemetry;

use std::process::ExitCode;

use actix_web::{HttpRequest, HttpResponse};
use futures_util::future::LocalBoxFuture;

pub use database::write::Abort;
pub use error::{Code, Error};
pub use http::middleware::Next;
pub use source::Answer;
pub use source::description;
use source::description::Description;
pub use source::handler::Call;

/// The `mainstay` program with what a user's own crate adds to it.
///
/// ```no_run
/// use mainstay::{Answer, Call, Error};
///
/// async fn hello(call: Call) -> Result<Answer, Error> {
///     Answer::json(&serde_json::json!({ "hello": call.params.text("name") }))
/// }
///
/// fn main() -> std::process::ExitCode {
///     mainstay::Builder::new().handler("hello", hello).main()
/// }
/// ```
#[derive(Default)]
pub struct Builder(app::Parts);

impl Builder {
    /// The program with its built-in handlers and middlewares.
    pub fn new() -> Self {
        let mut parts = app::Parts::default();
        ramp::register(&mut parts.registry);
        Self(parts)
    }

    /// Adds a handler that routes name with `handler = "…"`.
    #[must_use]
    pub fn handler<F, Fut>(mut self, name: &str, handler: F) -> Self
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Answer, Error>> + 'static,
    {
        self.0.registry.add(name, handler);
        self
    }

    /// Says what the handler of a name takes and gives, for `/openapi.json` and `/docs`.
    #[must_use]
    pub fn describe(mut self, name: &str, description: Description) -> Self {
        self.0.registry.describe(name, description);
        self
    }

    /// Adds a middleware that routes name with `middlewares = ["…"]`.
    #[must_use]
    pub fn middleware<F>(mut self, name: &str, middleware: F) -> Self
    where
        F: for<'a> Fn(&'a HttpRequest, Next<'a>) -> LocalBoxFuture<'a, HttpResponse> + Send + Sync + 'static,
    {
        self.0.middlewares.add(name, middleware);
        self
    }

    /// Adds a payment provider, which then has a webhook and takes orders of the reference application.
    #[must_use]
    pub fn provider(mut self, provider: impl ramp::providers::Provider + 'static) -> Self {
        self.0.providers.add(std::sync::Arc::new(provider));
        self
    }

    /// Says which version of the program this is, commonly `env!("CARGO_PKG_VERSION")` of its crate. What handlers of another
    /// version have put into a cache that outlives them is not served.
    #[must_use]
    pub fn version(mut self, version: &str) -> Self {
        self.0.version = Some(version.to_owned());
        self
    }

    /// Runs the command line and returns its exit code.
    pub fn main(self) -> ExitCode {
        cli::main(self.0)
    }
}
