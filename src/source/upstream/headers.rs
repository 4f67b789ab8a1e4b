//! Which headers go from one side to the other, and which of an answer's say that it is for one caller alone.

use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Headers that are about one connection (RFC 9110, section 7.6.1), and what our own framing says anew.
const OF_ONE_HOP: [&str; 11] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
];

/// The name of this server among those of `Via`.
pub const VIA_NAME: &str = "mainstay-";
/// Instances that a request may pass through.
const HOPS_MAX: usize = 4;

/// Whether a header is about one connection alone, by itself or since a `Connection` header names it.
pub fn is_of_one_hop<'a>(name: &str, mut connection: impl Iterator<Item = &'a [u8]>) -> bool {
    OF_ONE_HOP.contains(&name) || connection.any(|value| names(value, name))
}

/// Whether a comma list names something, in any case.
fn names(list: &[u8], name: &str) -> bool {
    list.split(|byte| *byte == b',').any(|member| member.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
}

/// Whether a request has come round in a circle, or through more instances than any sensible set-up has, by its `Via`.
pub fn is_loop<'a>(via: impl Iterator<Item = &'a [u8]>, own: &HeaderValue) -> bool {
    let mut hops = 0;
    for member in via_members(via) {
        if member == own.as_bytes() {
            return true;
        }
        hops += usize::from(is_instance(member));
    }
    hops >= HOPS_MAX
}

/// Whether a request has passed an instance of this server before, by its `Via`.
pub fn has_passed_one<'a>(via: impl Iterator<Item = &'a [u8]>) -> bool {
    via_members(via).any(is_instance)
}

fn via_members<'a>(via: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
    via.flat_map(|line| line.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

fn is_instance(member: &[u8]) -> bool {
    member.split(|byte| *byte == b' ').nth(1).unwrap_or_default().starts_with(VIA_NAME.as_bytes())
}

/// Why an answer is for the one who asked, and nobody else. `None`: it may be shared.
pub fn private_reason(headers: &HeaderMap, varies_on_origin: bool) -> Option<&'static str> {
    if headers.contains_key(header::SET_COOKIE) {
        return Some("it sets a cookie");
    }
    if is_encoded(headers) {
        return Some("it has an encoding that was not asked for");
    }
    let is_harmless = |member: &str| {
        member.eq_ignore_ascii_case("accept-encoding") || (varies_on_origin && member.eq_ignore_ascii_case("origin"))
    };
    if !members(headers, &header::VARY).all(|member| member.is_some_and(is_harmless)) {
        return Some("it varies on what is not in the cache key");
    }
    let forbids = |member: Option<&str>| {
        let directive = member.and_then(|member| member.split('=').next()).unwrap_or_default().trim();
        ["private", "no-store", "no-cache"].iter().any(|word| directive.eq_ignore_ascii_case(word))
    };
    if members(headers, &header::CACHE_CONTROL).any(forbids) {
        return Some("its Cache-Control says so");
    }
    None
}

fn is_encoded(headers: &HeaderMap) -> bool {
    members(headers, &header::CONTENT_ENCODING)
        .any(|coding| !coding.is_some_and(|coding| coding.eq_ignore_ascii_case("identity")))
}

/// The members of a list header; `None` for a line that is no text.
fn members<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = Option<&'a str>> {
    let lines = headers.get_all(name).iter().map(|line| line.to_str().ok());
    lines.flat_map(|line| {
        line.map_or_else(|| vec![None], |text| text.split(',').map(|member| Some(member.trim())).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(lines: &[(&'static str, &'static str)]) -> Option<&'static str> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        private_reason(&headers, false)
    }

    #[test]
    fn what_is_for_one_caller_is_told_apart() {
        for shared in [
            &[][..],
            &[("vary", "Accept-Encoding")],
            &[("cache-control", "public, max-age=0"), ("content-encoding", "identity")],
            &[("cache-control", "must-revalidate, x-private=1")],
        ] {
            assert_eq!(reason(shared), None, "{shared:?}");
        }
        for private in [
            &[("set-cookie", "a=1")][..],
            &[("vary", "*")],
            &[("vary", "Accept-Encoding"), ("vary", "accept-encoding, Cookie")],
            &[("vary", "Origin")],
            &[("cache-control", "max-age=60"), ("cache-control", "Private")],
            &[("cache-control", "private=\"x\"")],
            &[("cache-control", "no-cache = \"set-cookie\"")],
            &[("cache-control", "NO-STORE")],
            &[("content-encoding", "gzip")],
        ] {
            assert!(reason(private).is_some(), "{private:?}");
        }
    }

    #[test]
    fn what_a_connection_header_names_is_of_one_hop() {
        let connection = || [b"close, X-Own ".as_slice(), b"x-two"].into_iter();
        for name in ["connection", "te", "x-own", "x-two"] {
            assert!(is_of_one_hop(name, connection()), "{name}");
        }
        assert!(!is_of_one_hop("x-owner", connection()));
    }

    #[test]
    fn a_circle_is_seen_by_the_own_name_and_by_too_many() {
        let own = HeaderValue::from_static("1.1 mainstay-aa");
        let is_loop = |lines: &[&'static str]| super::is_loop(lines.iter().map(|line| line.as_bytes()), &own);
        assert!(!is_loop(&["1.1 cdn", "1.1 mainstay-bb, 1.1 mainstay-cc,1.1 mainstay-dd"]));
        assert!(is_loop(&["1.1 cdn, 1.1 mainstay-aa"]));
        assert!(is_loop(&["1.1 mainstay-b, 1.1 mainstay-c", "1.1 mainstay-d, 1.1 mainstay-e"]));
        let has_passed_one = |line: &'static str| super::has_passed_one([line.as_bytes()].into_iter());
        assert!(has_passed_one("1.1 cdn, 1.1 mainstay-bb") && !has_passed_one("1.1 cdn, 1.1 my-mainstay-1"));
    }
}
