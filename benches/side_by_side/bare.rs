//! The yardstick: Actix as bare as it gets, answering every request with the same bytes and the same headers.

use std::fs;
use std::future::ready;
use std::path::Path;
use std::rc::Rc;

use actix_web::body::BoxBody;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{App, HttpResponse, HttpServer, web};
use bytes::Bytes;

use crate::Outcome;
use crate::cpu::cores;
use crate::fetch::Answer;

/// Headers and body parsed once: the handler that is measured only clones reference counts.
#[derive(Clone)]
struct Prepared {
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl Prepared {
    fn new(answer: Answer) -> Outcome<Self> {
        let mut headers = Vec::new();
        for (name, value) in answer.headers {
            headers.push((name.parse()?, value.parse()?));
        }
        Ok(Self { headers, body: Bytes::from(answer.body) })
    }

    fn response(&self) -> HttpResponse<BoxBody> {
        let mut response = HttpResponse::Ok().body(self.body.clone());
        for (name, value) in &self.headers {
            response.headers_mut().append(name.clone(), value.clone());
        }
        response
    }
}

/// Serves the answer in `file` on loopback until a signal comes.
pub fn serve(port: u16, file: &Path) -> Outcome<()> {
    let prepared = Prepared::new(serde_json::from_slice(&fs::read(file)?)?)?;
    let server = HttpServer::new(move || {
        let prepared = Rc::new(prepared.clone());
        App::new().default_service(web::to(move || ready(prepared.response())))
    });
    let server = server.workers(cores()).bind(("127.0.0.1", port))?;
    Ok(actix_web::rt::System::new().block_on(server.run())?)
}
