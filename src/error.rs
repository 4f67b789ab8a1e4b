//! One error type and one table of codes.
//!
//! An [`Error`] is a [`Code`] with a sentence for the caller. It knows no HTTP framework: the status in the table is a
//! number, and `http/problem.rs` is the only place that turns it into a response (RFC 9457).

use std::borrow::Cow;
use std::fmt;

/// What went wrong, as a closed set. The text of [`Code::as_str`] is stable: clients, logs and metrics rely on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// No route has this path.
    RouteNotFound,
    /// The route exists, what it was asked for does not.
    NotFound,
    /// The path exists, with other methods.
    MethodNotAllowed,
    /// The path or the query is not well-formed.
    UriInvalid,
    /// A parameter does not parse, or is out of its bounds.
    ParamInvalid,
    /// A parameter that the route does not declare.
    ParamUnknown,
    /// A parameter without a default was not given.
    ParamMissing,
    /// A scalar parameter was given more than once.
    ParamRepeated,
    /// A GET, HEAD or OPTIONS request came with a body.
    BodyNotAllowed,
    /// The body is longer than `limits.body_bytes_max`.
    BodyTooLarge,
    /// The body did not arrive in time, or broke off.
    BodyIncomplete,
    /// The request target is longer than `limits.uri_bytes_max`.
    UriTooLong,
    /// The headers are more, or longer, than the limits allow.
    HeadersTooLarge,
    /// The origin secret is missing or wrong.
    OriginForbidden,
    /// The admin listener: the request comes from another site's page, or cannot be told from one.
    CrossSite,
    /// The bearer token is missing or wrong.
    Unauthorized,
    /// An API key or a token is malformed, unknown, revoked, or not signed by whom it should be.
    CredentialsInvalid,
    /// An API key or a token was right until it expired.
    CredentialsExpired,
    /// A delivery to a webhook is not signed as its provider signs, or too long ago.
    SignatureInvalid,
    /// The caller is known and lacks a scope.
    ScopeMissing,
    /// The caller is known, but not by what the route asks for.
    ClaimInvalid,
    /// Nobody who could check a key or a token can be reached.
    AuthUnavailable,
    /// More requests, or wrong tokens, than one may send.
    RateLimited,
    /// The body is not what is asked for.
    BodyInvalid,
    /// An account would fall below its limit.
    InsufficientFunds,
    /// More money than the account may move.
    LimitExceeded,
    /// The latest fixing does not quote what is to be exchanged.
    RateUnavailable,
    /// What is asked for was possible before, and is no longer.
    StateConflict,
    /// A request that moves money has no key, or a malformed one.
    IdempotencyKeyMissing,
    /// The key was used for another request.
    IdempotencyMismatch,
    /// A request with the same key has not ended yet.
    IdempotencyInFlight,
    /// A `row` route found a second row.
    RowNotUnique,
    /// The source produced more rows or bytes than the limits allow.
    ResponseTooLarge,
    /// The query failed for a reason that another node would repeat.
    QueryFailed,
    /// The query ran into its statement timeout, or the request into its deadline.
    SourceTimeout,
    /// No node that may answer can be reached.
    DatabaseUnavailable,
    /// No endpoint of the route's upstream can be reached, or the one that was answered with a failure of its own.
    UpstreamUnavailable,
    /// An upstream's answer to a cached route is for one caller alone; whoever asks is passed on by himself.
    NotShareable,
    /// A request has come round to this server again.
    LoopDetected,
    /// The client went away while the upstream was waited for.
    ClientGone,
    /// A strong read cannot be served: the primary is out of reach or its cap is reached.
    StrongUnavailable,
    /// A write may have been committed: its connection, or its time, ended while nobody could tell.
    OutcomeUnknown,
    /// A failover origin has nothing cached that answers the request.
    NotCached,
    /// A failover origin takes no writes.
    WritesUnavailable,
    /// A limit on concurrent work is reached.
    Overloaded,
    /// The server is shutting down.
    Draining,
    /// A defect: a panic, or a state that should not be.
    Internal,
}

/// One row of the table of codes.
pub struct CodeInfo {
    /// Stable machine-readable name, the `code` member of a problem document.
    pub name: &'static str,
    /// HTTP status.
    pub status: u16,
    /// The `title` member: the same for every occurrence.
    pub title: &'static str,
    /// Whether the same request may succeed later, or on another node: such errors carry `Retry-After`,
    /// and a stale answer may be served in their place.
    pub retryable: bool,
}

const fn info(name: &'static str, status: u16, title: &'static str, retryable: bool) -> CodeInfo {
    CodeInfo { name, status, title, retryable }
}

impl Code {
    /// The table of codes. Every code stands here once.
    pub const fn info(self) -> CodeInfo {
        match self {
            Self::RouteNotFound => info("route_not_found", 404, "No such route", false),
            Self::NotFound => info("not_found", 404, "Not found", false),
            Self::MethodNotAllowed => info("method_not_allowed", 405, "Method not allowed", false),
            Self::UriInvalid => info("uri_invalid", 400, "Malformed request target", false),
            Self::ParamInvalid => info("param_invalid", 400, "Invalid parameter", false),
            Self::ParamUnknown => info("param_unknown", 400, "Unknown parameter", false),
            Self::ParamMissing => info("param_missing", 400, "Missing parameter", false),
            Self::ParamRepeated => info("param_repeated", 400, "Repeated parameter", false),
            Self::BodyNotAllowed => info("body_not_allowed", 400, "Body not allowed", false),
            Self::BodyTooLarge => info("body_too_large", 413, "Body too large", false),
            Self::BodyIncomplete => info("body_incomplete", 408, "Body incomplete", false),
            Self::UriTooLong => info("uri_too_long", 414, "Request target too long", false),
            Self::HeadersTooLarge => info("headers_too_large", 431, "Request headers too large", false),
            Self::OriginForbidden => info("origin_forbidden", 403, "Origin secret required", false),
            Self::CrossSite => info("cross_site", 403, "Request of another site", false),
            Self::Unauthorized => info("unauthorized", 401, "Token required", false),
            Self::CredentialsInvalid => info("credentials_invalid", 401, "Invalid credentials", false),
            Self::CredentialsExpired => info("credentials_expired", 401, "Expired credentials", false),
            Self::SignatureInvalid => info("signature_invalid", 401, "Invalid signature", false),
            Self::ScopeMissing => info("scope_missing", 403, "Scope missing", false),
            Self::ClaimInvalid => info("claim_invalid", 403, "Claim missing or invalid", false),
            Self::AuthUnavailable => info("auth_unavailable", 503, "Credentials cannot be checked", true),
            Self::RateLimited => info("rate_limited", 429, "Too many requests", true),
            Self::BodyInvalid => info("body_invalid", 400, "Invalid body", false),
            Self::InsufficientFunds => info("insufficient_funds", 422, "Insufficient funds", false),
            Self::LimitExceeded => info("limit_exceeded", 422, "Limit exceeded", false),
            Self::RateUnavailable => info("rate_unavailable", 422, "No exchange rate", false),
            Self::StateConflict => info("state_conflict", 409, "No longer possible", false),
            Self::IdempotencyKeyMissing => info("idempotency_key_missing", 400, "Idempotency key required", false),
            Self::IdempotencyMismatch => info("idempotency_mismatch", 422, "Idempotency key of another request", false),
            Self::IdempotencyInFlight => info("idempotency_in_flight", 409, "Request in flight", false),
            Self::RowNotUnique => info("row_not_unique", 500, "More than one row", false),
            Self::ResponseTooLarge => info("response_too_large", 500, "Response too large", false),
            Self::QueryFailed => info("query_failed", 500, "Query failed", false),
            Self::SourceTimeout => info("source_timeout", 503, "Source timed out", true),
            Self::DatabaseUnavailable => info("database_unavailable", 503, "Database unavailable", true),
            Self::UpstreamUnavailable => info("upstream_unavailable", 503, "Upstream unavailable", true),
            Self::NotShareable => info("not_shareable", 503, "Answer for one caller alone", true),
            Self::LoopDetected => info("loop_detected", 508, "Loop detected", false),
            Self::ClientGone => info("client_gone", 499, "Client closed the request", false),
            Self::StrongUnavailable => info("strong_unavailable", 503, "Strong read unavailable", true),
            Self::OutcomeUnknown => info("outcome_unknown", 503, "Outcome unknown", false),
            Self::NotCached => info("not_cached", 503, "Nothing cached", true),
            Self::WritesUnavailable => info("writes_unavailable", 503, "Writes unavailable", true),
            Self::Overloaded => info("overloaded", 503, "Overloaded", true),
            Self::Draining => info("draining", 503, "Shutting down", true),
            Self::Internal => info("internal", 500, "Internal error", false),
        }
    }

    /// The stable name, for logs, metrics and problem documents.
    pub const fn as_str(self) -> &'static str {
        self.info().name
    }

    /// Whether the source failed, in contrast to a request that was wrong: only then may a stale answer stand in.
    pub const fn is_source_failure(self) -> bool {
        self.info().status >= 500
    }
}

/// A failure on the way of a request: a code, and a sentence for the caller that names the culprit.
///
/// The detail goes to the client, so it never carries SQL, addresses or secrets; those go to the log, where the error arises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What went wrong.
    pub code: Code,
    /// A sentence for the caller.
    pub detail: Cow<'static, str>,
    /// Headers of the response, beside those that the code brings.
    pub headers: Box<[(&'static str, String)]>,
}

impl Error {
    /// An error with a sentence for the caller.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into(), headers: Box::default() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.detail)
    }
}

impl std::error::Error for Error {}
