//! The public listener.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_http::Response;
use actix_service::IntoServiceFactory;
use actix_web::dev::Server;
use actix_web::http::{KeepAlive, Method, header};
use actix_web::{App, HttpMessage, HttpRequest, HttpResponse, HttpServer, web};
use bytes::Bytes;
use futures_util::StreamExt;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::admission::Share;
use super::connections::Connections;
use super::forward::Incoming;
use super::front::{Front, FrontFactory};
use super::pipeline::{Passage, Pipeline, Plan};
use super::problem;
use super::respond::{self, CacheStatus};
use crate::config::ConfigError;
use crate::config::settings::{LimitSettings, ServerSettings, Settings};
use crate::error::{Code, Error};

/// Serves on the public listener. The server runs once it is awaited; it does not listen for signals itself.
///
/// # Errors
/// Where the socket cannot be used, or the certificate not be read; the sentence names the setting.
pub fn listen(
    front: Arc<Front>,
    pipeline: Arc<Pipeline>,
    listener: TcpListener,
) -> Result<(Server, SocketAddr), ConfigError> {
    let settings = Arc::clone(&pipeline.settings);
    let server_settings = &settings.server;
    let application = move || {
        // Every worker makes one for itself, and has a connection of its own.
        if let Some(shared) = &pipeline.cache.shared {
            shared.commands().connect();
        }
        let pipeline = web::Data::from(Arc::clone(&pipeline));
        let app = App::new().app_data(pipeline).default_service(web::to(miss));
        FrontFactory { front: Arc::clone(&front), app: app.into_factory() }
    };
    let silence_max = server_settings.keep_alive.0 + server_settings.header_timeout.0;
    let connections = Arc::new(Connections::new(silence_max));
    actix_rt::spawn(Arc::clone(&connections).watch());
    let server = HttpServer::new(application)
        .on_connect(move |io, data| {
            if let Some(connection) = connections.opened(io) {
                data.insert(connection);
            }
        })
        .workers(workers(server_settings))
        .max_connections(server_settings.connections_max)
        .keep_alive(keep_alive(server_settings))
        .client_request_timeout(server_settings.header_timeout.0)
        .client_disconnect_timeout(server_settings.header_timeout.0)
        .shutdown_timeout(whole_seconds(server_settings.shutdown_timeout.0))
        .disable_signals();
    let unusable = |error: io::Error| ConfigError::new(format!("server.bind_addr: its socket cannot be used: {error}"));
    let address = listener.local_addr().map_err(unusable)?;
    let listening = match tls(server_settings)? {
        Some(tls) => server.listen_rustls_0_23(listener, tls),
        None => server.listen(listener),
    };
    Ok((listening.map_err(unusable)?.run(), address))
}

/// Actix counts the time to drain in whole seconds; a part of one is not taken away from requests in flight.
fn whole_seconds(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

/// Idle connections are [`Connections`]' to end.
fn keep_alive(settings: &ServerSettings) -> KeepAlive {
    if settings.keep_alive.0.is_zero() { KeepAlive::Disabled } else { KeepAlive::Os }
}

fn workers(settings: &ServerSettings) -> usize {
    match settings.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    }
}

fn tls(settings: &ServerSettings) -> Result<Option<rustls::ServerConfig>, ConfigError> {
    if settings.tls_cert_file.is_empty() {
        return Ok(None);
    }
    let wrong = |key: &str, file: &str, error: &dyn std::fmt::Display| {
        ConfigError::new(format!("server.{key}: {file}: {error}"))
    };
    let (cert_file, key_file) = (&settings.tls_cert_file, &settings.tls_key_file);
    let chain = CertificateDer::pem_file_iter(cert_file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| wrong("tls_cert_file", cert_file, &error))?;
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| wrong("tls_key_file", key_file, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong("tls_cert_file", cert_file, &error))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| wrong("tls_cert_file", cert_file, &error))?;
    Ok(Some(config))
}

/// What Actix runs for a request that the front passed on.
async fn miss(request: HttpRequest, payload: web::Payload, pipeline: web::Data<Pipeline>) -> HttpResponse {
    let passage = request.extensions_mut().remove::<Box<Passage>>();
    let Some(mut passage) = passage else {
        log::error!("a request came past the front without its passage");
        return HttpResponse::InternalServerError().finish();
    };
    let mut rated = std::mem::take(&mut passage.rated);
    pipeline.rates.count(&passage.endpoint, passage.client, &mut rated);
    if let Err(error) = rated.check() {
        let Passage { endpoint, request_id, .. } = &*passage;
        pipeline.metrics.rate_limited.with_label_values(&[endpoint.route.path.as_str()]).inc();
        let mut response = respond::from_error(&error, endpoint, request_id, CacheStatus::Bypass);
        rated.tell(response.headers_mut());
        return unread(response, &request);
    }
    let mut held = pipeline.admission.bodies.share();
    // What follows the offer of another protocol never ends, and is no body. The offer is not taken up.
    if matches!(*request.method(), Method::GET | Method::HEAD) && request.head().upgrade() {
        let mut response = pipeline.into_inner().respond(&request, Incoming::Whole(Bytes::new()), *passage).await;
        response.head_mut().set_connection_type(actix_http::ConnectionType::Close);
        return response;
    }
    match incoming(&request, payload, &passage, &pipeline, &mut held).await {
        Ok(body) => {
            // What one is told of his rate must not be kept for another. With `auth` no other cache keeps it.
            let is_told = matches!(passage.plan, Plan::Direct(_)) || passage.endpoint.route.access.is_some();
            let mut response = pipeline.into_inner().respond(&request, body, *passage).await;
            if is_told {
                rated.tell(response.headers_mut());
            }
            response
        }
        Err(error) => unread(problem::response(&error, &passage.request_id, None), &request),
    }
}

/// An answer that is given before the body was read, if there is one: what is left of it must not be read as the next request.
fn unread(mut response: Response<Bytes>, request: &HttpRequest) -> HttpResponse {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        response.head_mut().set_connection_type(actix_http::ConnectionType::Close);
    }
    HttpResponse::from(response).map_into_boxed_body()
}

/// The body of a request: whole, unless it only passes through.
async fn incoming(
    request: &HttpRequest,
    payload: web::Payload,
    passage: &Passage,
    pipeline: &Pipeline,
    held: &mut Share,
) -> Result<Incoming, Error> {
    let Passage { endpoint, plan, .. } = passage;
    let is_passed_on =
        endpoint.producer.upstream().is_some() || pipeline.primary_origin_of(request, endpoint, plan).is_some();
    if is_passed_on && Incoming::streams(request, &pipeline.settings.limits)? {
        return Ok(Incoming::Stream(payload));
    }
    read_body(request, payload, &pipeline.settings, held).await.map(Incoming::Whole)
}

/// The whole body, inside the limits of length and time, and of what all bodies together may take up.
///
/// # Errors
/// `body_too_large`, `body_incomplete` and `overloaded`.
pub async fn read_body(
    request: &HttpRequest,
    payload: web::Payload,
    settings: &Settings,
    held: &mut Share,
) -> Result<Bytes, Error> {
    let LimitSettings { body_bytes_max, body_timeout, .. } = settings.limits;
    // What says beforehand that it is too long need not be waited for.
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > u64::try_from(body_bytes_max).unwrap_or(u64::MAX)) {
        return Err(too_large(body_bytes_max));
    }
    let read = collect(payload, body_bytes_max, held);
    let late = |_| Err(Error::new(Code::BodyIncomplete, "the body did not arrive in time"));
    actix_rt::time::timeout(body_timeout.0, read).await.unwrap_or_else(late)
}

fn too_large(bytes_max: usize) -> Error {
    Error::new(Code::BodyTooLarge, format!("the body has more than {bytes_max} bytes"))
}

async fn collect(mut payload: web::Payload, bytes_max: usize, held: &mut Share) -> Result<Bytes, Error> {
    let mut body = web::BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| Error::new(Code::BodyIncomplete, "the body broke off"))?;
        if body.len() + chunk.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
        if !held.grow(chunk.len()) {
            return Err(Error::new(Code::Overloaded, "as many bodies as may are being read"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}
