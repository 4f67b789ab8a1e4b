//! Which errors an operation can answer with, and how the document says so. Statuses and titles are those of the one table.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Facts;
use crate::config::manifest::{Consistency, ResultShape, Route, Source, UnknownParams};
use crate::config::param::Place;
use crate::error::Code;
use crate::source::description::Description;

/// All codes that a route may answer a method with, whoever of a fleet and its failover origins answers.
pub fn codes(route: &Route, method: &str, description: Option<&Description>, facts: &Facts) -> Vec<Code> {
    use Code::{
        AuthUnavailable, BodyIncomplete, BodyNotAllowed, BodyTooLarge, ClaimInvalid, CredentialsExpired,
        CredentialsInvalid, DatabaseUnavailable, Draining, HeadersTooLarge, Internal, LoopDetected, NotCached,
        NotFound, OriginForbidden, OutcomeUnknown, Overloaded, ParamInvalid, ParamMissing, ParamRepeated, ParamUnknown,
        QueryFailed, RateLimited, ResponseTooLarge, RouteNotFound, RowNotUnique, ScopeMissing, SourceTimeout,
        StrongUnavailable, Unauthorized, UpstreamUnavailable, UriInvalid, UriTooLong, WritesUnavailable,
    };
    let has = |place: Place| route.params_in(place).next().is_some();
    let in_query =
        |holds: fn(&crate::config::param::Param) -> bool| route.params_in(Place::Query).any(|(_, param)| holds(param));
    let is_read = method == "GET";
    let is_upstream = matches!(&route.source, Source::Upstream { .. });
    let is_row = matches!(&route.source, Source::Sql { result: ResultShape::Row, .. });
    let is_strong = !is_read || route.consistency != Consistency::Eventual;
    let has_rate = facts.has_rates || route.rates.per_client.is_some() || route.rates.total.is_some();
    let has_access = route.access.is_some();
    let has_scopes = route.access.as_ref().is_some_and(|access| !access.scopes.is_empty());
    let is_shared = route.is_cacheable();
    let asks_for_credentials = is_read && facts.asks_for_credentials(route);
    let possible: [(bool, &[Code]); 20] = [
        (true, &[UriInvalid, UriTooLong, HeadersTooLarge, Internal, Overloaded, Draining, SourceTimeout]),
        (has(Place::Path), &[RouteNotFound]),
        (has(Place::Path) || has(Place::Query), &[ParamInvalid]),
        (!has(Place::WholeQuery) && route.unknown_params == UnknownParams::Refuse, &[ParamUnknown]),
        (in_query(|param| param.default.is_none() && !param.optional), &[ParamMissing]),
        (in_query(|param| !param.array), &[ParamRepeated]),
        (is_read, &[BodyNotAllowed]),
        (!is_read, &[BodyTooLarge, BodyIncomplete, WritesUnavailable]),
        (!is_read && !is_upstream, &[OutcomeUnknown]),
        (facts.has_origin_secret, &[OriginForbidden]),
        // A key may have a rate of its own.
        (has_rate || has_access, &[RateLimited]),
        (has_access, &[Unauthorized, ClaimInvalid]),
        (has_access || asks_for_credentials, &[CredentialsInvalid, CredentialsExpired, AuthUnavailable]),
        (has_scopes, &[ScopeMissing]),
        (!is_upstream, &[QueryFailed, DatabaseUnavailable, ResponseTooLarge]),
        (is_row, &[NotFound, RowNotUnique]),
        (is_upstream, &[UpstreamUnavailable, LoopDetected]),
        (is_upstream && is_shared, &[NotFound, ResponseTooLarge]),
        (is_read, &[NotCached]),
        (is_strong || facts.may_ask_strong(route), &[StrongUnavailable]),
    ];
    let mut codes: Vec<Code> = Vec::new();
    let own = description.map(|description| description.codes.as_slice()).unwrap_or_default();
    let found = possible.iter().filter(|(is_possible, _)| *is_possible).flat_map(|(_, codes)| codes.iter());
    for code in found.chain(own) {
        if !codes.contains(code) {
            codes.push(*code);
        }
    }
    codes
}

/// The responses of codes, by status.
pub fn responses(codes: &[Code]) -> BTreeMap<u16, Value> {
    let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    codes.iter().for_each(|code| by_status.entry(code.info().status).or_default().push(*code));
    by_status.into_iter().map(|(status, codes)| (status, response(status, &codes))).collect()
}

fn response(status: u16, codes: &[Code]) -> Value {
    let names: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
    let titles: Vec<&str> = codes.iter().map(|code| code.info().title).collect();
    let mut headers = super::operation::common_headers();
    match status {
        401 => drop(headers.insert("WWW-Authenticate".into(), refer("WwwAuthenticate"))),
        429 | 503 => drop(headers.insert("Retry-After".into(), refer("RetryAfter"))),
        _ => {}
    }
    json!({
        "description": titles.join(" · "),
        "headers": headers,
        "content": {
            "application/problem+json": {
                "schema": {
                    "allOf": [{ "$ref": "#/components/schemas/Problem" }],
                    "properties": { "code": { "enum": names } },
                },
            },
        },
    })
}

/// A reference to a header of the document.
pub fn refer(header: &str) -> Value {
    json!({ "$ref": format!("#/components/headers/{header}") })
}

/// The schema of all problem documents (RFC 9457).
pub fn problem() -> Value {
    json!({
        "type": "object",
        "description": "A problem document (RFC 9457). Programs go by `code`.",
        "required": ["type", "title", "status", "code", "detail", "request_id"],
        "properties": {
            "type": { "type": "string", "format": "uri", "description": "`urn:mainstay:problem:` and the code." },
            "title": { "type": "string", "description": "The same for every occurrence of a code." },
            "status": { "type": "integer", "minimum": 400, "maximum": 599 },
            "code": { "type": "string", "pattern": "^[a-z_]+$", "description": "What went wrong; stable." },
            "detail": { "type": "string", "description": "A sentence for people, which may change." },
            "request_id": { "type": "string", "description": "Also in `X-Request-Id`: for asking the operator." },
            "trace_id": { "type": "string", "pattern": "^[0-9a-f]{32}$", "description": "The trace of the request, where it has one." },
            "routes": { "type": "array", "items": { "type": "string" }, "description": "Of `route_not_found`: what there is." },
        },
    })
}

/// Headers that responses refer to.
pub fn headers() -> Value {
    let text = |description: &str| json!({ "description": description, "schema": { "type": "string" } });
    let mut headers = Map::new();
    let mut add = |name: &str, header: Value| drop(headers.insert(name.to_owned(), header));
    add("RequestId", text("The id of the request: the client's own, or a new one."));
    add("Region", text("Who answered."));
    add("CacheControl", text("How long the answer may be kept (RFC 9111)."));
    add("CacheStatus", text("What the cache did (RFC 9211): `mainstay; hit; ttl=287; detail=L1`."));
    add("ETag", text("The version of the answer; sent back as `If-None-Match` it saves the body."));
    add("ConsistencyToken", text("What this session has seen: the next request sends it back, and sees no less."));
    add("WwwAuthenticate", text("How to prove who asks (RFC 6750)."));
    add(
        "RetryAfter",
        json!({ "description": "Seconds after which to try again.", "schema": { "type": "integer", "minimum": 0 } }),
    );
    headers.into()
}
