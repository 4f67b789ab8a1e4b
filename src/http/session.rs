//! What a session has seen, on its way through HTTP: tokens in the header `X-Consistency-Token` and the cookie `mainstay_ct`.
//!
//! Writes hand tokens out, reads of `session` routes take them. A read hands none out, although it could say how far it saw: an
//! answer that took its time would overwrite the token of a write that was answered meanwhile, and the session would no longer
//! see what it wrote.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use actix_http::header::{self, HeaderMap, HeaderValue};
use actix_web::HttpRequest;
use prometheus::IntCounterVec;

use super::fill::Produced;
use super::headers::{self, X_CONSISTENCY_TOKEN, X_FORWARDED_PROTO, X_ROUTE_PRIMARY};
use crate::auth::token::SessionTokens;
use crate::config::settings::Settings;
use crate::database::read::{Consistency, Database};
use crate::error::Code;
use crate::identity::Identity;
use crate::position::Position;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::declare::Labelled;

const COOKIE: &str = "mainstay_ct";
/// Tokens that are looked at, those of the header first: writes at the same time have one each.
const TOKENS_MAX: usize = 8;

/// Hands tokens out and takes them.
pub struct Sessions {
    tokens: Option<SessionTokens>,
    sends_cookie: bool,
    is_tls: bool,
    /// Whether requests come with the origin secret, so that their headers are the CDN's.
    trusts_header: bool,
    counts: Labelled<IntCounterVec, 1>,
}

/// What one request shows of its session.
#[derive(Debug, Default)]
pub struct Session {
    /// Whose it is; nobody's where nobody is known.
    identity: Option<Arc<Identity>>,
    /// Whether it reads what its session has seen.
    is_read: bool,
    /// The furthest that it has seen.
    pub seen: Option<Position>,
    is_secure: bool,
}

impl Session {
    fn subject(&self) -> &str {
        self.identity.as_ref().map_or("", |identity| &identity.subject)
    }
}

impl Sessions {
    /// Tokens as the settings want them.
    pub fn new(settings: &Settings, metrics: &Metrics) -> Self {
        let consistency = &settings.consistency;
        Self {
            tokens: SessionTokens::new(&consistency.token_secret.list(), consistency.token_ttl.0),
            sends_cookie: consistency.token_cookie,
            is_tls: !settings.server.tls_cert_file.is_empty(),
            trusts_header: !settings.server.origin_secret.is_empty(),
            counts: metrics.session_tokens.clone(),
        }
    }

    /// Whether there are tokens at all.
    pub const fn are_on(&self) -> bool {
        self.tokens.is_some()
    }

    /// What a request shows. What is worth nothing counts as nothing: it is no error, and asks nobody.
    pub fn of(&self, request: &HttpRequest, consistency: Consistency, identity: Option<&Arc<Identity>>) -> Session {
        let headers = request.headers();
        let is_https = || headers.get(X_FORWARDED_PROTO).is_some_and(|proto| proto.as_bytes() == b"https");
        let is_secure = self.is_tls || (self.trusts_header && is_https());
        let mut session = Session { identity: identity.cloned(), is_secure, ..Session::default() };
        let Some(tokens) = self.tokens.as_ref().filter(|_| consistency == Consistency::Session) else { return session };
        session.is_read = true;
        for text in shown(headers).take(TOKENS_MAX) {
            let result = match tokens.read(text, session.subject(), now()) {
                Ok(position) => {
                    session.seen = Some(session.seen.map_or(position, |seen| seen.later(position)));
                    "valid"
                }
                Err(refusal) => refusal.as_str(),
            };
            self.counts.with_label_values(&[result]).inc();
        }
        session
    }

    /// Says in a response what its request did to the session.
    pub(super) fn tell(
        &self,
        session: &Session,
        produced: &Produced,
        database: Option<&Database>,
        head: &mut HeaderMap,
    ) {
        if let Some(position) = produced.committed {
            return self.hand_out(session, position, head);
        }
        let is_of_primary = match &produced.answer {
            Ok(_) => produced.detail == "primary",
            Err(error) => error.code == Code::StrongUnavailable,
        };
        let Some(seen) = session.seen.filter(|_| session.is_read && is_of_primary) else { return };
        head.insert(X_ROUTE_PRIMARY, HeaderValue::from_static("true"));
        // What is left on a new branch of what was seen on an old one lies before any position of the new one's primary.
        let newer = database.and_then(Database::primary_position);
        let newer = newer.filter(|newer| (newer.system, newer.timeline) != (seen.system, seen.timeline));
        if let Some(position) = newer.filter(|_| produced.answer.is_ok()) {
            self.hand_out(session, position, head);
        }
    }

    fn hand_out(&self, session: &Session, position: Position, head: &mut HeaderMap) {
        let Some(tokens) = &self.tokens else { return };
        let token = tokens.issue(position, session.subject(), now());
        if self.sends_cookie {
            head.append(header::SET_COOKIE, self.cookie(&token, tokens.ttl(), session));
        }
        head.insert(X_CONSISTENCY_TOKEN, headers::value(token));
    }

    fn cookie(&self, token: &str, ttl: Duration, session: &Session) -> HeaderValue {
        let secure = if session.is_secure { "; Secure" } else { "" };
        let seconds = ttl.as_secs();
        headers::value(format!("{COOKIE}={token}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"))
    }
}

/// All that a request shows as tokens.
fn shown(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let in_header = headers.get_all(X_CONSISTENCY_TOKEN).flat_map(|line| members(line, b','));
    let cookies = headers.get_all(header::COOKIE).flat_map(|line| members(line, b';'));
    let in_cookies = cookies.filter_map(|pair| pair.strip_prefix(COOKIE.as_bytes())?.strip_prefix(b"="));
    in_header.chain(in_cookies).filter(|text| !text.is_empty())
}

fn members(line: &HeaderValue, separator: u8) -> impl Iterator<Item = &[u8]> {
    let members = line.as_bytes().split(move |byte| *byte == separator).map(<[u8]>::trim_ascii);
    members.filter(|member| !member.is_empty())
}

/// The time since the epoch: other instances have a clock of their own.
fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_in_lists_and_among_other_cookies() {
        let mut headers = HeaderMap::new();
        headers.append(X_CONSISTENCY_TOKEN, HeaderValue::from_static("a, b,,"));
        headers.append(X_CONSISTENCY_TOKEN, HeaderValue::from_static("c"));
        headers.append(header::COOKIE, HeaderValue::from_static("x=1; mainstay_ct=d;mainstay_ct=e; mainstay_cts=f"));
        let found: Vec<&[u8]> = shown(&headers).collect();
        assert_eq!(found, [b"a", b"b", b"c", b"d", b"e"]);
    }
}
