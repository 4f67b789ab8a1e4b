//! Header names and values that are not in the HTTP crates, and the reading of those that a client sends.

use actix_http::header::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use subtle::ConstantTimeEq;

use crate::cache::variants::{Encoding, Variants};
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
/// What the CDN proves itself with.
pub const X_ORIGIN_VERIFY: HeaderName = HeaderName::from_static("x-origin-verify");
/// Where the time went.
pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Longest request id that is taken over from a client.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Whether the client asks for a strong read. Only `strong` means anything: no value weakens a route.
pub fn asks_for_strong(headers: &HeaderMap) -> bool {
    headers.get_all(&X_CONSISTENCY).any(|value| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"strong"))
}

/// The client's request id where it is sane, else a new one.
pub fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_sane = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        let fine = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:+/=".contains(byte);
        !bytes.is_empty() && bytes.len() <= REQUEST_ID_BYTES_MAX && bytes.iter().all(fine)
    };
    headers.get(&X_REQUEST_ID).filter(is_sane).cloned().unwrap_or_else(new_request_id)
}

fn new_request_id() -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let random = fastrand::u64(..);
    let digit =
        |index: u32| DIGITS.get(usize::try_from((random >> (index * 4)) & 15).unwrap_or(0)).copied().unwrap_or(b'0');
    let text: [u8; 16] = std::array::from_fn(|index| digit(u32::try_from(index).unwrap_or(0)));
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("-"))
}

/// Whether `X-Origin-Verify` is one of the secrets. Each comparison takes the same time whatever is in the header, except
/// for its length.
pub fn origin_is_verified(headers: &HeaderMap, secrets: &[Secret]) -> bool {
    let given = headers.get(&X_ORIGIN_VERIFY).map(HeaderValue::as_bytes).unwrap_or_default();
    let matches = secrets.iter().map(|secret| secret.expose().as_bytes().ct_eq(given));
    matches.fold(subtle::Choice::from(0), |any, one| any | one).into()
}

/// Whether the client takes an encoding, by its `Accept-Encoding` (RFC 9110, section 12.5.3).
pub fn takes_encoding(accept: Option<&HeaderValue>, encoding: Encoding) -> bool {
    let (Some(name), Some(accept)) = (encoding.name(), accept.and_then(|value| value.to_str().ok())) else {
        return encoding == Encoding::Identity;
    };
    let mut wildcard = false;
    for part in accept.split(',') {
        let (coding, weight) = part.split_once(';').unwrap_or((part, ""));
        let weight = weight.trim().strip_prefix("q=").and_then(|weight| weight.trim().parse::<f32>().ok());
        let is_taken = weight.is_none_or(|weight| weight > 0.0);
        let coding = coding.trim();
        if coding.eq_ignore_ascii_case(name) {
            return is_taken;
        }
        wildcard |= coding == "*" && is_taken;
    }
    wildcard
}

/// The entity tag of `If-None-Match` that is one of the body's (RFC 9110, section 13.1.2: compared weakly).
pub fn matching_etag<'a>(if_none_match: &HeaderValue, body: &'a Variants) -> Option<&'a Bytes> {
    let asked = if_none_match.to_str().ok()?;
    let asked = || asked.split(',').map(|tag| tag.trim()).map(|tag| tag.strip_prefix("W/").unwrap_or(tag));
    if asked().any(|tag| tag == "*") {
        return body.etags().next();
    }
    body.etags().find(|etag| asked().any(|tag| tag.as_bytes() == &***etag))
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
            assert_eq!(asks_for_strong(&headers(&[(X_CONSISTENCY, value)])), expected, "{value:?}");
        }
        assert!(!asks_for_strong(&HeaderMap::new()));
    }

    #[test]
    fn request_ids_are_taken_over_only_when_sane() {
        assert_eq!(request_id(&headers(&[(X_REQUEST_ID, "abc-1")])), "abc-1");
        for bad in ["", "a b", "<script>", "a\"b"] {
            let id = request_id(&headers(&[(X_REQUEST_ID, bad)]));
            assert_eq!(id.len(), 16, "{bad:?} was taken over");
        }
        assert_ne!(new_request_id(), new_request_id());
    }

    #[test]
    fn encodings_are_taken_by_name_weight_and_wildcard() {
        let takes = |accept: &'static str, encoding| takes_encoding(Some(&HeaderValue::from_static(accept)), encoding);
        assert!(takes("gzip, br", Encoding::Brotli));
        assert!(takes("GZIP;q=0.5", Encoding::Gzip));
        assert!(!takes("gzip;q=0, br;q=0.0", Encoding::Gzip));
        assert!(takes("*", Encoding::Brotli));
        assert!(!takes("br;q=0, *", Encoding::Brotli));
        assert!(!takes("", Encoding::Gzip));
        assert!(!takes_encoding(None, Encoding::Gzip));
        assert!(takes_encoding(None, Encoding::Identity));
    }

    #[test]
    fn any_secret_of_the_list_opens() {
        let secrets = Secret::new("one, two").list();
        assert!(origin_is_verified(&headers(&[(X_ORIGIN_VERIFY, "two")]), &secrets));
        assert!(!origin_is_verified(&headers(&[(X_ORIGIN_VERIFY, "tw")]), &secrets));
        assert!(!origin_is_verified(&HeaderMap::new(), &secrets));
    }
}
