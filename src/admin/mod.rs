//! The admin listener: apart from the public one, so that nothing of it can be reached from outside by mistake.
//!
//! In this version it has the metrics alone, which need no token.

use std::net::SocketAddr;
use std::sync::Arc;

use actix_web::dev::Server;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};

use crate::config::ConfigError;
use crate::config::settings::ServerSettings;
use crate::error::{Code, Error};
use crate::http::headers::Asked;
use crate::http::problem;

/// Renders the metrics as of now.
pub type Metrics = Arc<dyn Fn() -> Vec<u8> + Send + Sync>;

/// Binds the admin listener. The server runs once it is awaited; it does not listen for signals itself.
///
/// # Errors
/// Where the address cannot be bound; the sentence names the setting.
pub fn listen(settings: &ServerSettings, metrics: Metrics) -> Result<(Server, SocketAddr), ConfigError> {
    let address = settings.admin_addr;
    let application = move || {
        App::new()
            .app_data(web::Data::new(Arc::clone(&metrics)))
            .service(web::resource("/metrics").route(web::get().to(render)).default_service(web::to(only_read)))
            .default_service(web::to(unknown))
    };
    let server = HttpServer::new(application)
        .workers(1)
        .client_request_timeout(settings.header_timeout.0)
        .shutdown_timeout(1)
        .disable_signals()
        .bind(address)
        .map_err(|error| ConfigError::new(format!("server.admin_addr: cannot listen on {address}: {error}")))?;
    let bound = server.addrs().first().copied().unwrap_or(address);
    Ok((server.run(), bound))
}

async fn render(metrics: web::Data<Metrics>) -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(metrics())
}

async fn unknown(request: HttpRequest) -> HttpResponse {
    refuse(&request, Code::RouteNotFound, "the admin listener has /metrics")
}

async fn only_read(request: HttpRequest) -> HttpResponse {
    let mut response = refuse(&request, Code::MethodNotAllowed, "this path answers GET");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
    response
}

fn refuse(request: &HttpRequest, code: Code, sentence: &'static str) -> HttpResponse {
    let error = Error::new(code, sentence);
    let response = problem::response(&error, &Asked::read(request.headers()).request_id(), None);
    HttpResponse::from(response).map_into_boxed_body()
}
