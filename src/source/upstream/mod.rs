//! `upstream` sources: HTTP services that answer for a route.
//!
//! There are two ways to ask. For the cache an upstream is asked like any source: with nothing of the request but what is in
//! the key, and its answer is taken whole, if it may be shared at all. A request for one caller alone is passed on as it is, and
//! its answer streams back; the HTTP side does that with what is here.

pub mod body;
mod budget;
mod client;
pub mod group;
pub mod headers;
mod role;
mod target;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};

use super::Answer;
use super::handler::Call;
use crate::config::param::Params;
use crate::config::settings::LimitSettings;
use crate::error::{Code, Error};
use crate::outgoing::reason;
use body::Body;
use group::{Ask, Group, Reply};

/// The source of one route.
pub struct UpstreamSource {
    group: Arc<Group>,
    path: String,
    response_bytes_max: usize,
    /// Whether what differs by `Origin` is added after the cache, by the `cors` middleware.
    varies_on_origin: bool,
}

impl UpstreamSource {
    /// The source of a route with this path pattern.
    pub fn new(path: &str, group: Arc<Group>, limits: &LimitSettings, varies_on_origin: bool) -> Self {
        let response_bytes_max = group.config().response_bytes_max.unwrap_or(limits.response_bytes_max);
        Self { group, path: path.to_owned(), response_bytes_max, varies_on_origin }
    }

    /// The endpoints behind it.
    pub fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// The path and query that the upstream is asked for: made of the parameters alone, which are what the key is made of.
    pub fn target(&self, params: &Params) -> String {
        target::of(&self.path, params)
    }

    /// Asks for an answer that may be shared. The request has nothing in it that is not in the cache key.
    ///
    /// # Errors
    /// `not_found` where the upstream says so; `not_shareable` where its answer is for one caller alone, whatever its status;
    /// `upstream_unavailable`, `source_timeout` and `response_too_large`. Cancelling gives the upstream's connection up.
    pub async fn run(&self, call: &Call) -> Result<Answer, Error> {
        let reply = self.get(call).await?;
        let status = reply.response.status();
        if let Some(reason) = headers::private_reason(reply.response.headers(), self.varies_on_origin) {
            return Err(not_shareable(reason));
        }
        match status {
            StatusCode::OK => self.whole(reply, call.deadline()).await,
            StatusCode::NOT_FOUND => Err(Error::new(Code::NotFound, "there is no such thing")),
            // What goes with it, as the target of a redirect does, is in headers, which a kept answer has not.
            _ => Err(not_shareable("its status is neither 200 nor 404")),
        }
    }

    /// Asks the same, and takes any answer but the failures of servers as it is, to be compared and not to be kept.
    ///
    /// # Errors
    /// As [`UpstreamSource::run`], but for what depends on the answer.
    pub async fn any_status(&self, call: &Call) -> Result<Answer, Error> {
        let reply = self.get(call).await?;
        let status = reply.response.status().as_u16();
        Ok(Answer { status, ..self.whole(reply, call.deadline()).await? })
    }

    async fn get(&self, call: &Call) -> Result<Reply, Error> {
        let ask = Ask {
            method: Method::GET,
            target: self.target(&call.params),
            headers: self.fixed_headers(),
            host: None,
            body: Body::Whole(Bytes::new()),
            deadline: call.deadline(),
            upload_time: Duration::ZERO,
        };
        let reply = self.group.ask(&ask).await?;
        let status = reply.response.status();
        if status.is_server_error() {
            return Err(Error::new(Code::UpstreamUnavailable, format!("the upstream answered {}", status.as_u16())));
        }
        Ok(reply)
    }

    /// What every request for the cache says: no header of the client's could make the answer another one.
    fn fixed_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("mainstay/", env!("CARGO_PKG_VERSION"))));
        headers.insert(header::VIA, self.group.via().clone());
        headers
    }

    async fn whole(&self, reply: Reply, deadline: Instant) -> Result<Answer, Error> {
        let Reply { mut response, node } = reply;
        let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content_type = content_type.unwrap_or("application/octet-stream").to_owned();
        let mut body = BytesMut::new();
        loop {
            let patience = self.group.config().idle_timeout.min(deadline.saturating_duration_since(Instant::now()));
            match tokio::time::timeout(patience, response.chunk()).await {
                Ok(Ok(Some(chunk))) if body.len() + chunk.len() > self.response_bytes_max => {
                    let detail =
                        format!("the answer of this route would be longer than {} bytes", self.response_bytes_max);
                    return Err(Error::new(Code::ResponseTooLarge, detail));
                }
                Ok(Ok(Some(chunk))) => body.extend_from_slice(&chunk),
                Ok(Ok(None)) => break,
                Ok(Err(error)) => {
                    node.lost_connection(Instant::now(), &reason(error));
                    return Err(Error::new(Code::UpstreamUnavailable, "the upstream's answer broke off"));
                }
                Err(_) => {
                    node.lost_connection(Instant::now(), &"its answer stood still");
                    return Err(Error::new(Code::SourceTimeout, "the upstream did not answer in time"));
                }
            }
        }
        Ok(Answer { content_type: content_type.into(), ..Answer::json_bytes(body.freeze()) })
    }
}

fn not_shareable(reason: &'static str) -> Error {
    Error::new(Code::NotShareable, format!("the upstream's answer is for one caller alone: {reason}"))
}
