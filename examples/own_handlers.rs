//! Handlers and a middleware of one's own: the whole `main.rs` of a crate that depends on `mainstay`.
//!
//!     cargo run --example own_handlers -- serve --config examples/own_handlers
//!
//! Such a crate needs `mainstay`, and `actix-web` and `futures-util` for the middleware, in the versions that Mainstay uses.
//! It has the whole command line: `serve`, `check`, `routes` and the rest.

use std::process::ExitCode;

use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use mainstay::description::{Description, Response};
use mainstay::{Answer, Builder, Call, Error, Next};
use serde::{Deserialize, Serialize};

/// `GET /public/greetings/{name}`. It is called on a miss; its answer is kept as the manifest says. A call holds what is in the
/// cache key and nothing else, so no header can slip into an answer that others will get.
async fn greet(call: Call) -> Result<Answer, Error> {
    let name = call.params.text("name").unwrap_or("you");
    Answer::json(&serde_json::json!({ "greeting": format!("Hello, {name}.") }))
}

/// What `/openapi.json` and `/docs` say of it.
fn greeting_schema() -> serde_json::Value {
    serde_json::json!({ "type": "object", "required": ["greeting"], "properties": { "greeting": { "type": "string" } } })
}

#[derive(Deserialize)]
struct NewNote {
    text: String,
}

#[derive(Serialize)]
struct Note {
    text: String,
    characters: usize,
}

/// `POST /notes`. Never cached, and read from the primary where it reads (`call.read`).
async fn create_note(call: Call) -> Result<Answer, Error> {
    let Ok(NewNote { text }) = serde_json::from_slice(&call.body) else {
        let answer = Answer::json(&serde_json::json!({ "error": "the body must be {\"text\": \"…\"}" }))?;
        return Ok(Answer { status: 422, ..answer });
    };
    let answer = Answer::json(&Note { characters: text.chars().count(), text })?;
    Ok(Answer { status: 201, ..answer })
}

/// Lets nobody pass without a key. A middleware sees the request, may answer by itself, and may change what comes back.
fn demand_key<'a>(request: &'a HttpRequest, next: Next<'a>) -> LocalBoxFuture<'a, HttpResponse> {
    async move {
        let Some(key) = request.headers().get("x-api-key").filter(|key| *key == "let-me-in") else {
            return HttpResponse::Unauthorized().json(serde_json::json!({ "error": "X-Api-Key is missing or wrong" }));
        };
        let mut response = next.run(request).await;
        let value = HeaderValue::from_bytes(key.as_bytes()).unwrap_or(HeaderValue::from_static("-"));
        response.headers_mut().insert(HeaderName::from_static("x-served-for"), value);
        response
    }
    .boxed_local()
}

fn main() -> ExitCode {
    Builder::new()
        .version(env!("CARGO_PKG_VERSION"))
        .handler("greetings.one", greet)
        .describe(
            "greetings.one",
            Description {
                summary: "A greeting",
                responses: vec![Response::ok("The greeting.", greeting_schema())],
                ..Description::default()
            },
        )
        .handler("notes.create", create_note)
        .middleware("demand-key", demand_key)
        .main()
}
