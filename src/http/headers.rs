//! Header names and values that are not in the HTTP crates, and the reading of those that a client sends.

use std::borrow::Cow;
use std::collections::BTreeSet;

use actix_http::header::{self, HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use parking_lot::Mutex;
use smallvec::SmallVec;
use subtle::ConstantTimeEq;

use crate::cache::variants::Encoding;
use crate::config::units::Secret;

/// RFC 9211.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
/// Who answered.
pub const X_REGION: HeaderName = HeaderName::from_static("x-region");
/// For which request.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Set on every response that was resolved to the primary.
pub const X_ROUTE_PRIMARY: HeaderName = HeaderName::from_static("x-route-primary");
/// What a client asks for beyond the route's consistency.
pub const X_CONSISTENCY: HeaderName = HeaderName::from_static("x-consistency");
/// What a session has seen.
pub const X_CONSISTENCY_TOKEN: HeaderName = HeaderName::from_static("x-consistency-token");
/// What the CDN proves itself with.
pub const X_ORIGIN_VERIFY: HeaderName = HeaderName::from_static("x-origin-verify");
/// Where a request came from, as the upstream is told.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Which host it asked.
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Whether by http or https.
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Where the time went.
pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// How the cookies of the console's sessions begin. Cookies know no ports: a browser that is signed in on the admin listener sends
/// its cookie to this one, too, and whoever gets hold of it reads what the operator may.
pub const CONSOLE_COOKIE: &str = "mainstay_session_";

/// Longest request id that is taken over from a client.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The lines of a header that is a list, which may stand on several (RFC 9110, section 5.3).
pub type Lines<'a> = SmallVec<[&'a HeaderValue; 1]>;

/// The headers of a request that mean something to this server, found in one pass: a lookup for each of them would hash
/// its name each time.
#[derive(Debug, Default)]
pub struct Asked<'a> {
    /// `X-Request-Id`.
    pub request_id: Option<&'a HeaderValue>,
    /// `If-None-Match`.
    pub if_none_match: Lines<'a>,
    /// `Accept-Encoding`.
    pub accept_encoding: Lines<'a>,
    /// `Authorization`, which is no list: more than one is a mistake, or somebody's trick.
    pub authorization: Lines<'a>,
    /// `Origin`.
    pub origin: Option<&'a HeaderValue>,
    /// `X-Origin-Verify`.
    pub origin_verify: Option<&'a HeaderValue>,
    /// Whether `X-Consistency` asks for a strong read. Only `strong` means anything: no value weakens a route.
    pub strong: bool,
    /// Whether anything is said of the trace that it belongs to.
    pub has_trace: bool,
    /// Header lines.
    pub lines: usize,
    /// Bytes of their names and values.
    pub bytes: usize,
}

impl<'a> Asked<'a> {
    /// Reads all headers once. Of a header that comes twice and is no list the first line counts.
    pub fn read(headers: &'a HeaderMap) -> Self {
        let mut asked = Self::default();
        for (name, value) in headers {
            asked.lines += 1;
            asked.bytes += name.as_str().len() + value.len();
            let place = match name.as_str() {
                "x-request-id" => &mut asked.request_id,
                "if-none-match" => {
                    asked.if_none_match.push(value);
                    continue;
                }
                "accept-encoding" => {
                    asked.accept_encoding.push(value);
                    continue;
                }
                "authorization" => {
                    asked.authorization.push(value);
                    continue;
                }
                "origin" => &mut asked.origin,
                "x-origin-verify" => &mut asked.origin_verify,
                "x-consistency" => {
                    asked.strong |= value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"strong");
                    continue;
                }
                "traceparent" | "b3" | "x-b3-traceid" | "x-b3-sampled" | "x-b3-flags" => {
                    asked.has_trace = true;
                    continue;
                }
                _ => continue,
            };
            place.get_or_insert(value);
        }
        asked
    }

    /// The client's request id where it is sane, else a new one.
    pub fn request_id(&self) -> HeaderValue {
        let is_sane = |value: &&&HeaderValue| {
            let bytes = value.as_bytes();
            let fine = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:+/=".contains(byte);
            !bytes.is_empty() && bytes.len() <= REQUEST_ID_BYTES_MAX && bytes.iter().all(fine)
        };
        self.request_id.as_ref().filter(is_sane).map_or_else(new_request_id, |value| (*value).clone())
    }

    /// Whether `X-Origin-Verify` is one of the secrets.
    pub fn origin_is_verified(&self, secrets: &[Secret]) -> bool {
        is_one_of(self.origin_verify.map(HeaderValue::as_bytes).unwrap_or_default(), secrets)
    }

    /// Whether the client takes an encoding (RFC 9110, section 12.5.3).
    pub fn takes_encoding(&self, encoding: Encoding) -> bool {
        takes_encoding(&self.accept_encoding, encoding)
    }
}

/// Whether bytes are one of the secrets. Each comparison takes the same time whatever the bytes are, except for their length.
pub fn is_one_of(given: &[u8], secrets: &[Secret]) -> bool {
    let matches = secrets.iter().map(|secret| secret.expose().as_bytes().ct_eq(given));
    matches.fold(subtle::Choice::from(0), |any, one| any | one).into()
}

/// The token of an `Authorization` header (RFC 6750, section 2.1; the scheme in any case).
pub fn bearer(authorization: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = authorization.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// A header as anybody but the admin listener may see it: a line of `Cookie` without sessions of the console. `None` where nothing is left
/// of it.
pub fn without_console<'a>(name: &HeaderName, line: &'a [u8]) -> Option<Cow<'a, [u8]>> {
    let is_session = |pair: &[u8]| pair.trim_ascii_start().starts_with(CONSOLE_COOKIE.as_bytes());
    let pairs = || line.split(|byte| *byte == b';');
    if *name != header::COOKIE || !pairs().any(is_session) {
        return Some(line.into());
    }
    let left: Vec<&[u8]> = pairs().filter(|pair| !is_session(pair)).map(<[u8]>::trim_ascii).collect();
    let left = left.join(&b"; "[..]);
    (!left.is_empty()).then(|| left.into())
}

/// Sixteen random hexadecimal digits.
fn new_request_id() -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let random = fastrand::u64(..).to_be_bytes();
    let digit = |index: usize| {
        let byte = random.get(index / 2).copied().unwrap_or(0);
        let nibble = if index.is_multiple_of(2) { byte >> 4 } else { byte & 15 };
        DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0')
    };
    let text: [u8; 16] = std::array::from_fn(digit);
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("-"))
}

fn takes_encoding(accept: &[&HeaderValue], encoding: Encoding) -> bool {
    let Some(name) = encoding.name() else { return true };
    let mut wildcard = false;
    for part in members(accept) {
        let (coding, weight) = part.split_once(';').unwrap_or((part, ""));
        let weight = weight.trim().strip_prefix(['q', 'Q']).and_then(|weight| weight.trim().strip_prefix('='));
        let weight = weight.and_then(|weight| weight.trim().parse::<f32>().ok());
        let is_taken = weight.is_none_or(|weight| weight > 0.0);
        let coding = coding.trim();
        if coding.eq_ignore_ascii_case(name) {
            return is_taken;
        }
        wildcard |= coding == "*" && is_taken;
    }
    wildcard
}

/// The members of a list, of those of its lines that are text.
fn members<'a>(lines: &'a [&HeaderValue]) -> impl Iterator<Item = &'a str> {
    lines.iter().filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(','))
}

/// The entity tag as a header value, where `If-None-Match` names it (RFC 9110, section 13.1.2: compared weakly).
pub fn matching_etag(if_none_match: &[&HeaderValue], etag: &Bytes) -> Option<HeaderValue> {
    // Nearly every client sends back exactly the tag it was given.
    if let [only] = if_none_match
        && *etag == *only.as_bytes()
    {
        return Some((*only).clone());
    }
    let mut asked = members(if_none_match).map(str::trim).map(|tag| tag.strip_prefix("W/").unwrap_or(tag));
    asked.any(|tag| tag == "*" || tag.as_bytes() == &**etag).then(|| value(etag.clone()))
}

/// A header value for text that lives as long as the program. Values of one text share it, and unlike counted bytes they are
/// passed around by several workers without a shared counter.
pub fn interned(text: String) -> HeaderValue {
    static TEXTS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut texts = TEXTS.lock();
    let known = texts.get(text.as_str()).copied();
    let text = known.unwrap_or_else(|| {
        // Only settings and manifests make such texts, so that the leak is bounded by what they say.
        let text: &'static str = text.leak();
        texts.insert(text);
        text
    });
    HeaderValue::from_str(text).map_or(HeaderValue::from_static(""), |_| HeaderValue::from_static(text))
}

/// Header values that hold a small number of seconds, made once a thread: all hits of a second share theirs.
pub struct SecondsValues {
    make: fn(u64) -> HeaderValue,
    made: Vec<Option<HeaderValue>>,
}

impl SecondsValues {
    /// Numbers from here on are made anew each time.
    const KEPT: usize = 4096;

    /// Values that `make` makes.
    pub const fn new(make: fn(u64) -> HeaderValue) -> Self {
        Self { make, made: Vec::new() }
    }

    /// The value of a number.
    pub fn get(&mut self, seconds: u64) -> HeaderValue {
        let Some(index) = usize::try_from(seconds).ok().filter(|index| *index < Self::KEPT) else {
            return (self.make)(seconds);
        };
        if self.made.len() <= index {
            self.made.resize(index + 1, None);
        }
        match self.made.get_mut(index) {
            Some(place) => place.get_or_insert_with(|| (self.make)(seconds)).clone(),
            None => (self.make)(seconds),
        }
    }
}

/// A header value of bytes that this program made; empty where they cannot stand in a header, which tests rule out.
pub fn value(bytes: impl Into<Bytes>) -> HeaderValue {
    HeaderValue::from_maybe_shared(bytes.into()).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn only_the_word_strong_is_strong() {
        for (value, expected) in
            [("strong", true), (" STRONG\t", true), ("eventual", false), ("strong, x", false), ("", false)]
        {
            assert_eq!(Asked::read(&headers(&[(X_CONSISTENCY, value)])).strong, expected, "{value:?}");
        }
        assert!(!Asked::read(&HeaderMap::new()).strong);
    }

    #[test]
    fn request_ids_are_taken_over_only_when_sane() {
        assert_eq!(Asked::read(&headers(&[(X_REQUEST_ID, "abc-1")])).request_id(), "abc-1");
        for bad in ["", "a b", "<script>", "a\"b"] {
            let id = Asked::read(&headers(&[(X_REQUEST_ID, bad)])).request_id();
            assert_eq!(id.len(), 16, "{bad:?} was taken over");
        }
        assert_ne!(new_request_id(), new_request_id());
    }

    #[test]
    fn encodings_are_taken_by_name_weight_and_wildcard() {
        let takes = |accept: &'static str, encoding| takes_encoding(&[&HeaderValue::from_static(accept)], encoding);
        assert!(takes("gzip, br", Encoding::Brotli));
        assert!(takes("GZIP;q=0.5", Encoding::Gzip));
        assert!(!takes("gzip;q=0, br;q=0.0", Encoding::Gzip));
        assert!(takes("*", Encoding::Brotli));
        assert!(!takes("br;q=0, *", Encoding::Brotli));
        assert!(!takes("", Encoding::Gzip));
        assert!(!takes_encoding(&[], Encoding::Gzip));
        assert!(takes_encoding(&[], Encoding::Identity));
    }

    #[test]
    fn sessions_of_the_console_are_taken_out_of_cookies() {
        let left = |line: &'static str| {
            let left = without_console(&header::COOKIE, line.as_bytes());
            left.map(|left| String::from_utf8(left.into_owned()).unwrap())
        };
        for (line, expected) in [
            ("a=1;b=2 ; c", Some("a=1;b=2 ; c")),
            ("", Some("")),
            ("mainstay_session_0a1b2c3d=x", None),
            ("mainstay_session_0a1b2c3d=x;\tmainstay_session_00000000", None),
            (
                "a=1; mainstay_session_0a1b2c3d=x; mainstay_sessions=2;b=mainstay_session_",
                Some("a=1; mainstay_sessions=2; b=mainstay_session_"),
            ),
        ] {
            assert_eq!(left(line).as_deref(), expected, "{line:?}");
        }
        let other = without_console(&X_REQUEST_ID, b"mainstay_session_0a1b2c3d=x");
        assert_eq!(other.as_deref(), Some(&b"mainstay_session_0a1b2c3d=x"[..]));
    }

    #[test]
    fn any_secret_of_the_list_opens() {
        let secrets = Secret::new("one, two").list();
        assert!(Asked::read(&headers(&[(X_ORIGIN_VERIFY, "two")])).origin_is_verified(&secrets));
        assert!(!Asked::read(&headers(&[(X_ORIGIN_VERIFY, "tw")])).origin_is_verified(&secrets));
        assert!(!Asked::read(&HeaderMap::new()).origin_is_verified(&secrets));
    }
}
