//! What produces a response on a miss: a declared query, a handler by name, or an HTTP service.

pub mod compare;
pub mod description;
pub mod handler;
pub mod sql;
pub mod upstream;

use std::borrow::Cow;

use bytes::Bytes;

use crate::error::{Code, Error};
use crate::telemetry::traces;
use crate::telemetry::traces::SpanKind;

/// What a source produced: the response before any header of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Media type.
    pub content_type: Cow<'static, str>,
    /// The body as produced.
    pub body: Bytes,
    /// Tags beyond those of the manifest that the answer carries.
    pub tags: Vec<String>,
    /// Headers of an answer for one caller alone. A cached answer has none: they would be somebody else's.
    pub headers: Vec<(&'static str, String)>,
}

impl Answer {
    /// A 200 with JSON that is ready to send.
    pub fn json_bytes(body: impl Into<Bytes>) -> Self {
        Self {
            status: 200,
            content_type: Cow::Borrowed("application/json"),
            body: body.into(),
            tags: Vec::new(),
            headers: Vec::new(),
        }
    }

    /// A 200 with a value as JSON.
    ///
    /// # Errors
    /// `internal` where the value has no JSON form, which is a defect.
    pub fn json(value: &impl serde::Serialize) -> Result<Self, Error> {
        let body = serde_json::to_vec(value).map_err(|error| {
            log::error!("an answer has no JSON form: {error}");
            Error::new(Code::Internal, "the answer could not be written as JSON")
        })?;
        Ok(Self::json_bytes(body))
    }
}

/// A route's source, ready to run.
pub enum Producer {
    /// A declared query.
    Sql(sql::SqlSource),
    /// A handler in Rust.
    Handler(handler::Handler),
    /// An HTTP service.
    Upstream(upstream::UpstreamSource),
}

impl Producer {
    /// Produces the response of a call.
    ///
    /// # Errors
    /// Those of the query, the handler or the upstream.
    pub async fn run(&self, call: &handler::Call) -> Result<Answer, Error> {
        match self {
            Self::Sql(sql) => sql.run(call).await,
            Self::Handler(handler) => traces::span("handler", SpanKind::Internal).around(handler(call.clone())).await,
            Self::Upstream(upstream) => upstream.run(call).await,
        }
    }

    /// The HTTP service, where it is one.
    pub const fn upstream(&self) -> Option<&upstream::UpstreamSource> {
        match self {
            Self::Upstream(upstream) => Some(upstream),
            Self::Sql(_) | Self::Handler(_) => None,
        }
    }

    /// Who produced an answer for which no database was asked, in `Cache-Status`.
    pub const fn detail(&self) -> &'static str {
        match self {
            Self::Sql(_) | Self::Handler(_) => "handler",
            Self::Upstream(_) => "upstream",
        }
    }
}
