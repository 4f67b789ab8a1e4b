//! The client of the admin listener, which `purge`, `status`, `warm` and others share.

use std::time::Duration;

use clap::Args;
use serde_json::Value;
use ureq::http::{Method, Request, Response};
use ureq::{Agent, AsSendBody, Body};

use super::{Failure, FolderArgs};
use crate::config::units::Secret;

/// Longer than a batch of warming takes where every path runs into its deadline.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Of what is answered from memory: whoever waits for an answer at three in the morning waits no longer.
pub(super) const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of an answer.
const ANSWER_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Where the admin listener is, and what to make of its answer.
#[derive(Args)]
pub(super) struct AdminArgs {
    /// The admin listener; default: server.admin_addr of the configuration (ADMIN_ADDR), as http.
    #[arg(long = "admin", value_name = "URL")]
    url: Option<String>,
    /// Print the answer as JSON.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    folder: FolderArgs,
}

/// A client of one admin listener.
pub(super) struct Client {
    base: String,
    token: Option<Secret>,
    agent: Agent,
    timeout: Duration,
}

impl AdminArgs {
    /// The client of the listener that the arguments or the settings name, with the token of the settings.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        let settings = self.folder.settings(Vec::new())?;
        let token = settings.server.admin_token.list().into_iter().next();
        let address = super::reached_at(settings.server.admin_addr);
        Client::new(self.url.as_deref().unwrap_or(&address.to_string()), token)
    }
}

impl Client {
    fn new(url: &str, token: Option<Secret>) -> Result<Self, Failure> {
        let base = match url.split_once("://") {
            None => format!("http://{url}"),
            Some(("http", _)) => url.to_owned(),
            Some((scheme, _)) => {
                let sentence =
                    format!("{url}: the admin listener speaks http, not {scheme}; reach it through a tunnel");
                return Err(Failure::Arguments(sentence));
            }
        };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            // What stands between is no business of a proxy for the outside.
            .proxy(None);
        Ok(Self { base: base.trim_end_matches('/').to_owned(), token, agent: config.build().into(), timeout: TIMEOUT })
    }

    /// The same client, which waits no longer than this for an answer.
    pub(super) fn within(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// A client of another listener with the same token.
    pub(super) fn at(&self, url: &str) -> Result<Self, Failure> {
        Self::new(url, self.token.clone())
    }

    pub(super) fn get(&self, path: &str) -> Result<Value, Failure> {
        self.ask(&Method::GET, path, Vec::new())
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body).map_err(Failure::new)? };
        self.ask(&Method::POST, path, body)
    }

    pub(super) fn put(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.ask(&Method::PUT, path, serde_json::to_vec(body).map_err(Failure::new)?)
    }

    pub(super) fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.ask(&Method::DELETE, path, Vec::new())
    }

    fn ask(&self, method: &Method, path: &str, body: Vec<u8>) -> Result<Value, Failure> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {}", token.expose()));
        }
        let no_request = |error| Failure::new(format!("{}: {error}", self.base));
        let answer = if body.is_empty() && *method != Method::POST {
            self.run(request.body(()).map_err(no_request)?)
        } else {
            self.run(request.body(body).map_err(no_request)?)
        };
        let mut answer = answer.map_err(|error| self.unreachable(&error))?;
        let status = answer.status().as_u16();
        let read = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        let text = read.map_err(|error| self.unreachable(&error))?;
        let document: Option<Value> = serde_json::from_slice(&text).ok();
        match document {
            Some(document) if status == 200 => Ok(document),
            document => Err(self.refused(status, document.as_ref())),
        }
    }

    fn run(&self, request: Request<impl AsSendBody>) -> Result<Response<Body>, ureq::Error> {
        let request = self.agent.configure_request(request).timeout_global(Some(self.timeout)).build();
        self.agent.run(request)
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        if matches!(error, ureq::Error::Timeout(_)) {
            return Failure::new(format!(
                "{}: no answer within {} s; if nothing is on the way that swallows it, the instance hangs",
                self.base,
                self.timeout.as_secs()
            ));
        }
        Failure::new(format!(
            "{}: {error}; is `mainstay serve` running there, and is that its ADMIN_ADDR? --admin URL names another",
            self.base
        ))
    }

    fn refused(&self, status: u16, document: Option<&Value>) -> Failure {
        let member = |name: &str| document.and_then(|document| document.get(name)).and_then(Value::as_str);
        let Some(code) = member("code") else {
            return Failure::new(format!(
                "{} answers {status} and no Mainstay document; is that its ADMIN_ADDR, not the public one?",
                self.base
            ));
        };
        let detail = member("detail").unwrap_or_default();
        let hint = match (status, &self.token) {
            (401, None) => "; set ADMIN_TOKEN, or ADMIN_TOKEN_FILE, to the server's",
            (401, Some(_)) => "; ADMIN_TOKEN is set here, and is none of the server's",
            (429, _) => "; wait a minute, and look who tries",
            (404, _) if document.is_some_and(|document| document.get("routes").is_some()) => {
                "; this is the public listener, --admin wants the other one"
            }
            _ => "",
        };
        let sentence = format!("{}: {code}: {detail}{hint}", self.base);
        if status == 401 { Failure::Unauthorized(sentence) } else { Failure::Failed(sentence) }
    }
}

/// A member of an answer as text: what is missing or null as a dash.
pub(super) fn text(document: &Value, pointer: &str) -> String {
    match document.pointer(pointer) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => {
            let items: Vec<String> = items.iter().map(|item| text(item, "")).collect();
            if items.is_empty() { "-".to_owned() } else { items.join(", ") }
        }
        Some(other) => other.to_string(),
    }
}

/// Prints an answer as JSON.
pub(super) fn print_json(document: &Value) -> Result<(), Failure> {
    say!("{}", serde_json::to_string_pretty(document).map_err(Failure::new)?);
    Ok(())
}
