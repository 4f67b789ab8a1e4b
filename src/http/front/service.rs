//! The front as a service around the Actix application.

use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use actix_http::body::{BoxBody, EitherBody};
use actix_http::{ConnectionType, HttpMessage, Payload, Request, Response};
use actix_service::{Service, ServiceFactory};
use actix_web::dev::{AppConfig, ServiceResponse};
use arc_swap::{ArcSwap, Cache};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{Either, LocalBoxFuture, Ready, ready};

use super::gone::Waiting;
use super::{BACKSTOP, Front, Pending, Step, refuse};
use crate::error::{Code, Error};
use crate::http::connections::Connection;
use crate::http::gate::Check;
use crate::http::headers::Asked;
use crate::http::pipeline::Passage;
use crate::http::surface::{Endpoint, Surface};
use crate::http::{headers, primary_origin};
use crate::telemetry::traces;
use crate::telemetry::traces::SpanKind;

type Answered = Response<EitherBody<Bytes, BoxBody>>;

/// Makes a `FrontService` for each worker.
pub struct FrontFactory<F> {
    /// The front, shared by all workers.
    pub front: Arc<Front>,
    /// The Actix application behind it.
    pub app: F,
}

/// The front as a service around the Actix application.
pub struct FrontService<S> {
    front: Arc<Front>,
    /// The surface in force, looked at anew for each request and fetched anew only when it was swapped.
    surface: RefCell<Cache<Arc<ArcSwap<Surface>>, Arc<Surface>>>,
    app: Rc<S>,
}

impl<F> ServiceFactory<Request> for FrontFactory<F>
where
    F: ServiceFactory<
            Request,
            Config = AppConfig,
            Response = ServiceResponse<BoxBody>,
            Error = actix_web::Error,
            InitError = (),
        >,
    F::Future: 'static,
    F::Service: 'static,
{
    type Response = Answered;
    type Error = actix_web::Error;
    type Config = AppConfig;
    type Service = FrontService<F::Service>;
    type InitError = ();
    type Future = LocalBoxFuture<'static, Result<Self::Service, ()>>;

    fn new_service(&self, config: AppConfig) -> Self::Future {
        let front = Arc::clone(&self.front);
        let app = self.app.new_service(config);
        let surface = RefCell::new(Cache::new(Arc::clone(&front.surface)));
        async move { Ok(FrontService { front, surface, app: Rc::new(app.await?) }) }.boxed_local()
    }
}

impl<S> Service<Request> for FrontService<S>
where
    S: Service<Request, Response = ServiceResponse<BoxBody>, Error = actix_web::Error> + 'static,
    S::Future: 'static,
{
    type Response = Answered;
    type Error = actix_web::Error;
    type Future =
        Either<Ready<Result<Answered, actix_web::Error>>, LocalBoxFuture<'static, Result<Answered, actix_web::Error>>>;

    actix_service::forward_ready!(app);

    fn call(&self, mut request: Request) -> Self::Future {
        let has_payload = !matches!(request.payload(), Payload::None);
        let mut surface = self.surface.borrow_mut();
        let surface = surface.load();
        let asked = Asked::read(request.headers());
        let mut pending = self.front.pending(&request, &asked, None, None);
        match self.front.answer(surface, (&request, asked), has_payload, None, &mut pending) {
            Step::Answer(response) => Either::Left(ready(Ok(answered(response, &request, has_payload)))),
            Step::Pass(passage) => {
                let passed = pass(Arc::clone(&self.front), &*self.app, request, passage, pending);
                Either::Right(async move { Ok(passed.await) }.boxed_local())
            }
            Step::Ask(check, endpoint) => {
                let (front, app, surface) = (Arc::clone(&self.front), Rc::clone(&self.app), Arc::clone(surface));
                let asked = async move { Ok(ask(front, &*app, &surface, request, (check, endpoint), pending).await) };
                Either::Right(asked.boxed_local())
            }
        }
    }
}

/// An answer that is there at once.
fn answered(mut response: Response<Bytes>, request: &Request, has_payload: bool) -> Answered {
    if let Some(connection) = request.conn_data::<Arc<Connection>>() {
        connection.heard();
    }
    if has_payload {
        // What is left, or what an `Upgrade` announced, must not be read as the next request.
        response.head_mut().set_connection_type(ConnectionType::Close);
    }
    response.map_body(|_, body| EitherBody::left(body))
}

/// Goes on into the application.
fn pass<S>(
    front: Arc<Front>,
    app: &S,
    request: Request,
    passage: Box<Passage>,
    pending: Pending,
) -> impl Future<Output = Answered> + use<S>
where
    S: Service<Request, Response = ServiceResponse<BoxBody>, Error = actix_web::Error>,
    S::Future: 'static,
{
    let endpoint = Arc::clone(&passage.endpoint);
    request.extensions_mut().insert(passage);
    let working = request.conn_data::<Arc<Connection>>().map(Connection::work);
    let work = app.call(request);
    let here = pending.trace.here();
    async move {
        let _working = working;
        traces::scope(here, front.wait(work, &endpoint, pending)).await
    }
}

/// Waits for the check of a credential, and takes the request from the start again: by the same surface, so that it comes to
/// the same gate. Who has been checked is answered by what answers everybody.
async fn ask<S>(
    front: Arc<Front>,
    app: &S,
    surface: &Surface,
    mut request: Request,
    (check, endpoint): (Box<Check>, Arc<Endpoint>),
    mut pending: Pending,
) -> Answered
where
    S: Service<Request, Response = ServiceResponse<BoxBody>, Error = actix_web::Error>,
    S::Future: 'static,
{
    let has_payload = !matches!(request.payload(), Payload::None);
    let working = request.conn_data::<Arc<Connection>>().map(Connection::work);
    front.record(&request, Some(&endpoint), &mut pending);
    let (checked, trace) = {
        let (here, began) = (pending.trace.here(), pending.began);
        let mut waiting = Waiting::new(&front, &endpoint, pending);
        let asking = async {
            let span = traces::span("auth check", SpanKind::Internal);
            let checked = span.around(front.pipeline.check(check, began)).await;
            (checked, std::mem::take(&mut waiting.over().trace))
        };
        traces::scope(here, asking).await
    };
    drop(working);
    let asked = Asked::read(request.headers());
    let mut pending = front.pending(&request, &asked, Some(&checked), Some(trace));
    match front.answer(surface, (&request, asked), has_payload, Some(&checked), &mut pending) {
        Step::Answer(response) => answered(response, &request, has_payload),
        Step::Pass(passage) => pass(front, app, request, passage, pending).await,
        Step::Ask(..) => {
            log::error!("a credential that was checked is still unknown");
            let error = Error::new(Code::Internal, "the request failed; the log says why");
            answered(refuse(&error, None, &pending), &request, has_payload)
        }
    }
}

impl Front {
    /// Waits for the application. A panic in it, or work without an end, is answered like other errors.
    async fn wait<F>(&self, work: F, endpoint: &Arc<Endpoint>, pending: Pending) -> Answered
    where
        F: Future<Output = Result<ServiceResponse<BoxBody>, actix_web::Error>>,
    {
        let mut waiting = Waiting::new(self, endpoint, pending);
        let limits = &self.settings.limits;
        let longest = limits.request_timeout.0 + limits.body_timeout.0 + BACKSTOP;
        let failed = |log_line: &str, code: Code| {
            if let Some(kept_back) = endpoint.said.may_say(Instant::now(), code) {
                log::error!(kept_back; "{}: {log_line}", endpoint.route.path);
            }
            let error = Error::new(code, "the request failed; the log says why");
            let response = refuse(&error, Some(endpoint), waiting.pending());
            response.map_body(|_, body| EitherBody::left(body))
        };
        let work = AssertUnwindSafe(work).catch_unwind();
        let mut response = match actix_rt::time::timeout(longest, work).await {
            Ok(Ok(Ok(response))) => Response::from(response).map_body(|_, body| EitherBody::right(body)),
            Ok(Ok(Err(error))) => failed(&format!("the application failed: {error}"), Code::Internal),
            Ok(Err(_)) => failed("a middleware panicked", Code::Internal),
            Err(_) => failed("a request ran past all deadlines", Code::SourceTimeout),
        };
        let answered_by = primary_origin::answered_by(&mut response);
        self.finish(&mut response, Some(endpoint), waiting.over(), |pending| pending.line.take().map(|line| *line));
        if let Some(region) = answered_by {
            response.headers_mut().insert(headers::X_REGION, region);
        }
        response
    }
}
