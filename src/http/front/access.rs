//! The access log: a line of a request once its response is there.

use std::sync::Arc;

use actix_http::StatusCode;
use actix_http::header::HeaderMap;

use super::{Front, Pending, route_label};
use crate::config::logs::AccessLog;
use crate::http::headers;
use crate::http::surface::Endpoint;

impl Front {
    /// Whether the request line has to be kept until the response is there.
    pub(super) fn wants_line(&self) -> bool {
        self.settings.log.access == AccessLog::All
    }

    pub(super) fn log_access(
        &self,
        status: StatusCode,
        head: &HeaderMap,
        endpoint: Option<&Arc<Endpoint>>,
        pending: &Pending,
    ) {
        let wanted = match self.settings.log.access {
            AccessLog::All => true,
            // A 503 of the health pages is asked for every few seconds from many places; the log says its reasons once.
            AccessLog::Errors => status.is_server_error() && endpoint.is_some(),
            AccessLog::Off => false,
        };
        if wanted {
            let text = |name| head.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
            log::info!(
                target: "mainstay::access",
                status = status.as_u16(),
                request_id = text(&headers::X_REQUEST_ID),
                duration_us = u64::try_from(pending.began.elapsed().as_micros()).unwrap_or(u64::MAX),
                cache_status = text(&headers::CACHE_STATUS);
                "{}", pending.line.as_deref().unwrap_or(route_label(endpoint))
            );
        }
    }
}
