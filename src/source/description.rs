//! What a handler says of itself: what `/openapi.json` tells of a route that it answers.
//!
//! It stands beside the handler's code and is written by hand. A handler without one works as well; of its routes the document
//! says what the manifest does.

use serde_json::Value;

use crate::error::Code;

/// What a handler takes and gives. Texts are sentences for the readers of the reference page.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// A few words. A route's own `summary` takes their place.
    pub summary: &'static str,
    /// More of it, where there is more to say.
    pub details: &'static str,
    /// The JSON Schema (2020-12) of the request's body, where there is one to send.
    pub request: Option<Value>,
    /// Headers of the request that it reads. A route whose answers are shared has none.
    pub request_headers: Vec<Header>,
    /// Its answers, except for errors with a code.
    pub responses: Vec<Response>,
    /// The codes of its own errors. Those of reading the database, of limits and of parameters are known.
    pub codes: Vec<Code>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// What it means.
    pub summary: &'static str,
    /// The JSON Schema (2020-12) of its body; `None`: it has none.
    pub schema: Option<Value>,
    /// Headers of its own.
    pub headers: Vec<Header>,
}

/// A header of a request or of a response.
#[derive(Clone, Debug)]
pub struct Header {
    /// Its name.
    pub name: &'static str,
    /// What it means.
    pub summary: &'static str,
    /// Whether it is always there, or must be.
    pub required: bool,
    /// The JSON Schema (2020-12) of its value.
    pub schema: Value,
}

impl Response {
    /// A 200 with JSON.
    pub const fn ok(summary: &'static str, schema: Value) -> Self {
        Self { status: 200, summary, schema: Some(schema), headers: Vec::new() }
    }
}

impl Header {
    /// `Idempotency-Key`: with it, a request that is repeated has its effect once.
    pub fn idempotency_key(required: bool) -> Self {
        Self {
            name: "Idempotency-Key",
            summary: "A text of the caller's, new for each intent: a repeated request has its effect once and gets the first answer.",
            required,
            schema: serde_json::json!({ "type": "string", "minLength": 1, "maxLength": 255 }),
        }
    }
}
