//! A request that is passed on to an upstream as it is, for its caller alone; the answer streams back.
//!
//! Bodies go through in pieces, and neither side is read faster than the other takes: the memory of a transfer does not
//! depend on its length. Headers about one connection stay on it (RFC 9110, section 7.6.1); trailers are dropped.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_http::body::{BodySize, BoxBody, MessageBody};
use actix_http::header::{self, HeaderName, HeaderValue};
use actix_http::{ConnectionType, Response, StatusCode};
use actix_web::body::{BodyStream, SizedStream};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use reqwest::Method;
use reqwest::header::{HeaderMap as Head, HeaderName as Name, HeaderValue as Value};

use super::connections::Connection;
use super::headers::{
    X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO, X_ORIGIN_VERIFY, X_REQUEST_ID, bearer, without_console,
};
use super::pipeline::Pipeline;
use super::respond::{self, CacheStatus};
use super::surface::Endpoint;
use crate::auth::keys::is_api_key;
use crate::config::manifest::access::AuthMethod;
use crate::config::param::Params;
use crate::config::settings::{LimitSettings, Settings};
use crate::error::{Code, Error};
use crate::source::upstream::UpstreamSource;
use crate::source::upstream::body::{Body, Upload, Uploader};
use crate::source::upstream::group::{Ask, Group, Reply, Unanswered};
use crate::source::upstream::headers::{is_loop, is_of_one_hop};

/// A body up to this length is read before it is passed on, so that it can be sent again.
const WHOLE_BYTES_MAX: u64 = 64 * 1024;

/// What came with a request.
pub enum Incoming {
    /// All of its body.
    Whole(Bytes),
    /// A body to be passed on as it comes.
    Stream(web::Payload),
}

impl Incoming {
    /// Whether the body of a request is better passed on than kept: it is long, or nobody knows how long it is.
    ///
    /// # Errors
    /// `body_too_large` where the client announces that it is.
    pub fn streams(request: &HttpRequest, limits: &LimitSettings) -> Result<bool, Error> {
        let announced = announced(request);
        if announced.is_some_and(|length| length > u64::try_from(limits.body_bytes_max).unwrap_or(u64::MAX)) {
            return Err(too_large(limits));
        }
        let is_chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
        Ok(is_chunked || announced.is_some_and(|length| length > WHOLE_BYTES_MAX))
    }

    /// The body of a request that is not passed on, which is always read whole.
    pub(super) fn whole(self) -> Bytes {
        match self {
            Self::Whole(bytes) => bytes,
            Self::Stream(_) => Bytes::new(),
        }
    }
}

fn announced(request: &HttpRequest) -> Option<u64> {
    request.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(limits: &LimitSettings) -> Error {
    Error::new(Code::BodyTooLarge, format!("the body has more than {} bytes", limits.body_bytes_max))
}

impl Pipeline {
    /// Refuses a request that has come round in a circle.
    ///
    /// # Errors
    /// `loop_detected`.
    pub(super) fn check_loop(source: &UpstreamSource, request: &HttpRequest) -> Result<(), Error> {
        let lines = request.headers().get_all(header::VIA).map(HeaderValue::as_bytes);
        if is_loop(lines, source.group().via()) {
            return Err(Error::new(Code::LoopDetected, "this request has been here before, or at too many others"));
        }
        Ok(())
    }

    /// Passes a request on to an upstream and answers with what comes back. A client that goes away takes its request along.
    #[expect(clippy::too_many_arguments, reason = "the parts of one request, each used once")]
    pub(super) async fn forward(
        &self,
        request: &HttpRequest,
        source: &UpstreamSource,
        endpoint: &Endpoint,
        params: &Params,
        incoming: Incoming,
        request_id: &HeaderValue,
        started: Instant,
    ) -> HttpResponse {
        let (group, limits) = (source.group(), &self.settings.limits);
        let mut ask = Ask {
            host: Some(request).filter(|_| group.config().forward_host).and_then(host),
            deadline: Instant::now() + limits.request_timeout.0,
            ..self.onward(group, source.target(params), request, incoming, request_id)
        };
        let shown = request.headers().get_all(header::AUTHORIZATION);
        if !is_for_upstream(endpoint) || shown.filter_map(bearer).any(is_api_key) {
            ask.headers.remove(header::AUTHORIZATION.as_str());
        }
        let outcome = self.pass_on(group, &ask, request).await;
        let took = started.elapsed();
        let mut response = match outcome {
            Ok(reply) => {
                let mut response = relay(reply, request, group.config().idle_timeout);
                respond::mark_forwarded(&mut response, endpoint);
                response
            }
            Err(unanswered) => refused(&unanswered.into(), endpoint, request_id),
        };
        end_with_body(&mut response, &ask.body);
        respond::add_timing(&mut response, Some(took), started.elapsed());
        HttpResponse::from(response)
    }

    /// A request as it goes on to one of a group, within the time for one try.
    pub(super) fn onward(
        &self,
        group: &Group,
        target: String,
        request: &HttpRequest,
        incoming: Incoming,
        request_id: &HeaderValue,
    ) -> Ask {
        let limits = &self.settings.limits;
        let body = outgoing(incoming, request, limits);
        Ask {
            method: Method::from_bytes(request.method().as_str().as_bytes()).unwrap_or(Method::GET),
            target,
            headers: self.headers_for(group, request, request_id),
            host: None,
            deadline: Instant::now() + group.config().try_timeout,
            upload_time: if matches!(body, Body::Stream(_)) { limits.body_timeout.0 } else { Duration::ZERO },
            body,
        }
    }

    /// Passes a request on until its client has gone.
    pub(super) async fn pass_on(&self, group: &Group, ask: &Ask, request: &HttpRequest) -> Result<Reply, Unanswered> {
        // It streams through at the client's pace and the upstream's, so that it is no measure of how many may run, and must
        // not keep others from the database. It only counts among those who wait.
        let Some(_place) = self.admission.waiters.take(1) else {
            return Err(Unanswered::Own(Error::new(Code::Overloaded, "too many requests are waiting")));
        };
        tokio::select! {
            outcome = group.ask(ask) => outcome,
            () = gone(request.conn_data::<Arc<Connection>>()) => {
                Err(Unanswered::Own(Error::new(Code::ClientGone, "the client has gone")))
            }
        }
    }

    /// The client's headers as the upstream gets them: without those of the connection, and with our word on where it comes
    /// from. What the client itself says of that is believed only where it has shown the origin secret.
    fn headers_for(&self, group: &Group, request: &HttpRequest, request_id: &HeaderValue) -> Head {
        let settings = &self.settings;
        let is_trusted = !settings.server.origin_secret.is_empty();
        let connection = || request.headers().get_all(header::CONNECTION).map(HeaderValue::as_bytes);
        let mut head = Head::new();
        for (name, value) in request.headers() {
            let is_ours = *name == X_ORIGIN_VERIFY || *name == header::HOST || *name == header::EXPECT;
            let is_claim =
                *name == header::FORWARDED || name.as_str().starts_with("x-forwarded-") || name == "x-real-ip";
            if !is_ours && (is_trusted || !is_claim) && !is_of_one_hop(name.as_str(), connection()) {
                without_console(name, value.as_bytes())
                    .into_iter()
                    .for_each(|line| append(&mut head, name.as_str(), &line));
            }
        }
        if let Some(peer) = request.peer_addr() {
            let peer = peer.ip().to_string();
            let said = request.headers().get_all(&X_FORWARDED_FOR).filter(|_| is_trusted);
            let mut line: Vec<u8> = said.flat_map(|line| [line.as_bytes(), b", "].concat()).collect();
            line.extend_from_slice(peer.as_bytes());
            head.remove(X_FORWARDED_FOR.as_str());
            append(&mut head, X_FORWARDED_FOR.as_str(), &line);
        }
        let mut say = |name: &HeaderName, value: Option<&[u8]>| {
            if let Some(value) = value.filter(|_| !head.contains_key(name.as_str())) {
                append(&mut head, name.as_str(), value);
            }
        };
        say(&X_FORWARDED_PROTO, Some(scheme(settings)));
        say(&X_FORWARDED_HOST, request.headers().get(header::HOST).map(HeaderValue::as_bytes));
        head.remove(X_REQUEST_ID.as_str());
        append(&mut head, X_REQUEST_ID.as_str(), request_id.as_bytes());
        append(&mut head, header::VIA.as_str(), group.via().as_bytes());
        head
    }
}

/// Whether a credential goes along to an upstream. An API key is for this server alone, and whoever else has it could use it here;
/// a signed token says to an upstream who asks. What is the same for all must not depend on it.
fn is_for_upstream(endpoint: &Endpoint) -> bool {
    endpoint.route.access.as_ref().is_none_or(|access| access.method == AuthMethod::Jwt && !access.shared)
}

fn scheme(settings: &Settings) -> &'static [u8] {
    if settings.server.tls_cert_file.is_empty() { b"http" } else { b"https" }
}

fn host(request: &HttpRequest) -> Option<Value> {
    let host = request.headers().get(header::HOST)?;
    Value::from_bytes(host.as_bytes()).ok()
}

/// What cannot stand in a header has not come out of one.
fn append(head: &mut Head, name: &str, value: &[u8]) {
    if let (Ok(name), Ok(value)) = (Name::from_bytes(name.as_bytes()), Value::from_bytes(value)) {
        head.append(name, value);
    }
}

/// The body for the upstream. One that streams is brought by a task of its own, which ends when the upstream has it or wants
/// no more of it.
fn outgoing(incoming: Incoming, request: &HttpRequest, limits: &LimitSettings) -> Body {
    match incoming {
        Incoming::Whole(bytes) => Body::Whole(bytes),
        Incoming::Stream(payload) => {
            let (upload, uploader) = Upload::new(announced(request));
            actix_rt::spawn(bring(payload, uploader, limits.clone()));
            Body::Stream(upload)
        }
    }
}

async fn bring(mut payload: web::Payload, uploader: Uploader, limits: LimitSettings) {
    let all = async {
        let mut bytes = 0;
        while let Some(chunk) = payload.next().await {
            let chunk = chunk.map_err(|_| Error::new(Code::BodyIncomplete, "the body broke off"))?;
            bytes += chunk.len();
            if bytes > limits.body_bytes_max {
                return Err(too_large(&limits));
            }
            if !uploader.bring(chunk).await {
                return Ok(false);
            }
        }
        Ok(true)
    };
    let late = |_| Err(Error::new(Code::BodyIncomplete, "the body did not arrive in time"));
    let outcome = actix_rt::time::timeout(limits.body_timeout.0, all).await.unwrap_or_else(late);
    match outcome {
        Ok(true) => uploader.end(Ok(())),
        // The upstream has answered, or gone, without the rest of it.
        Ok(false) => {}
        Err(error) => uploader.end(Err(error)),
    }
}

/// Waits until the client has closed its side.
async fn gone(connection: Option<&Arc<Connection>>) {
    match connection {
        Some(connection) => connection.gone().await,
        None => std::future::pending().await,
    }
}

/// The response of an error before anything was answered.
pub(super) fn refused(error: &Error, endpoint: &Endpoint, request_id: &HeaderValue) -> Response<BoxBody> {
    let response = respond::from_error(error, endpoint, request_id, CacheStatus::Bypass);
    response.map_body(|_, body| BoxBody::new(body))
}

/// Ends the connection after an answer to a request whose body has not all come: the rest must not be read as the next request.
pub(super) fn end_with_body(response: &mut Response<BoxBody>, body: &Body) {
    if let Body::Stream(upload) = body
        && !upload.is_whole()
    {
        response.head_mut().set_connection_type(ConnectionType::Close);
    }
}

/// The response of an answer that was waited for.
pub(super) fn relay(reply: Reply, request: &HttpRequest, idle_timeout: Duration) -> Response<BoxBody> {
    let connection = request.conn_data::<Arc<Connection>>().cloned();
    let status = StatusCode::from_u16(reply.response.status().as_u16()).unwrap_or(StatusCode::BAD_GATEWAY);
    let head = reply.response.headers().clone();
    // A length beside chunks says nothing (RFC 9112, section 6.3).
    let is_chunked = head.contains_key(reqwest::header::TRANSFER_ENCODING);
    let length = head
        .get(reqwest::header::CONTENT_LENGTH)
        .filter(|_| !is_chunked)
        .and_then(|length| length.to_str().ok()?.parse().ok());
    let body = match (status, length) {
        (StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED, _) => BoxBody::new(NoBody),
        _ if request.method() == actix_http::Method::HEAD => match length {
            Some(length) => BoxBody::new(SizedStream::new(length, stream::empty::<Result<Bytes, Infallible>>())),
            None => BoxBody::new(NoBody),
        },
        (_, Some(length)) => BoxBody::new(SizedStream::new(length, Box::pin(pieces(reply, idle_timeout, connection)))),
        (_, None) => BoxBody::new(BodyStream::new(Box::pin(pieces(reply, idle_timeout, connection)))),
    };
    let mut response = Response::with_body(status, body);
    let said = || head.get_all(reqwest::header::CONNECTION).iter().map(Value::as_bytes);
    let is_left_out = |name: &str| is_of_one_hop(name, said()) || (is_chunked && name == "content-length");
    for (name, value) in head.iter().filter(|(name, _)| !is_left_out(name.as_str())) {
        let name = HeaderName::from_bytes(name.as_str().as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes())) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

/// No body and no word of its length.
struct NoBody;

impl MessageBody for NoBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::None
    }

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Bytes, Self::Error>>> {
        std::task::Poll::Ready(None)
    }
}

/// The body of an answer, piece by piece. It is read as fast as the client takes it, which shows that the client is there.
fn pieces(
    reply: Reply,
    idle_timeout: Duration,
    connection: Option<Arc<Connection>>,
) -> impl Stream<Item = Result<Bytes, Error>> {
    stream::unfold(Some(reply), move |reply| {
        let connection = connection.clone();
        async move {
            let mut reply = reply?;
            // Who waits for the upstream is not silent; who does not take what is there asks for no more of it.
            let _working = connection.as_ref().map(Connection::work);
            let broken = |what: &'static str| Error::new(Code::UpstreamUnavailable, what);
            match actix_rt::time::timeout(idle_timeout, reply.response.chunk()).await {
                Ok(Ok(Some(piece))) => Some((Ok(piece), Some(reply))),
                Ok(Ok(None)) => None,
                // Too late for another status: the connection is cut off, by which the client learns that this is not all.
                Ok(Err(_)) => {
                    reply.node.lost_connection(Instant::now(), &"its answer broke off");
                    Some((Err(broken("the upstream's answer broke off")), None))
                }
                Err(_) => {
                    reply.node.lost_connection(Instant::now(), &"its answer stood still");
                    Some((Err(broken("the upstream's answer stood still")), None))
                }
            }
        }
    })
}
