//! `If-None-Match` and HEAD against cached answers.

use mainstay::Answer;

use crate::instance::Instance;
use crate::instance::probe::Probe;

const ROUTES: &str = r#"
[[route]]
path = "/public/page"
handler = "probe"
"#;

/// An instance whose only page is long enough to be kept compressed.
fn long_page() -> (Instance, Probe) {
    let probe = Probe::answering(|_, _| Ok(Answer::json_bytes(format!("[\"{}\"]", "abc".repeat(2_000)))));
    (Instance::probed(ROUTES, &probe), probe)
}

fn etag(instance: &Instance, encoding: &str) -> String {
    instance.get_with("/public/page", &[("Accept-Encoding", encoding)]).header("etag").unwrap().to_owned()
}

#[test]
fn each_variant_has_its_own_strong_tag_and_each_is_a_304() {
    let (instance, probe) = long_page();
    let encodings = ["identity", "gzip", "br"];
    let tags = encodings.map(|encoding| etag(&instance, encoding));
    assert!(tags.iter().all(|tag| tag.starts_with('"') && tag.ends_with('"')), "{tags:?}");
    assert!(tags[0] != tags[1] && tags[1] != tags[2] && tags[0] != tags[2], "{tags:?}");
    for (encoding, tag) in encodings.iter().zip(&tags) {
        for asked in [tag.as_str(), "*", &tags.join(", ")] {
            let headers = [("Accept-Encoding", *encoding), ("If-None-Match", asked)];
            let reply = instance.get_with("/public/page", &headers);
            assert_eq!((reply.status, reply.header("etag"), reply.body.len()), (304, Some(tag.as_str()), 0));
        }
    }
    assert_eq!(probe.calls(), 1);
}

/// RFC 9110, section 13.1.2: the tag is compared with what would be sent. A 304 for another encoding would tell a cache to
/// answer from a body that this client cannot read.
#[test]
fn the_tag_of_another_encoding_is_no_304() {
    let (instance, _) = long_page();
    let gzip = etag(&instance, "gzip");
    let reply = instance.get_with("/public/page", &[("Accept-Encoding", "identity"), ("If-None-Match", &gzip)]);
    assert_eq!((reply.status, reply.header("content-encoding"), reply.body.len()), (200, None, 6_004));
}

#[test]
fn weak_star_list_and_several_lines_match_and_others_do_not() {
    let (instance, _) = long_page();
    let tag = etag(&instance, "identity");
    let matching = [
        vec![format!("W/{tag}")],
        vec!["*".to_owned()],
        vec![format!("\"other\", {tag}")],
        vec![format!("\"a\",W/{tag} , \"b\"")],
        vec!["\"other\"".to_owned(), tag.clone()],
    ];
    for lines in matching {
        let headers: Vec<_> = lines.iter().map(|line| ("If-None-Match", line.as_str())).collect();
        assert_eq!(instance.get_with("/public/page", &headers).status, 304, "{lines:?}");
    }
    let unquoted = tag.trim_matches('"').to_owned();
    for other in ["\"other\"", "", "W/\"\"", &unquoted, &tag[..tag.len() - 1]] {
        assert_eq!(instance.get_with("/public/page", &[("If-None-Match", other)]).status, 200, "{other}");
    }
}

/// RFC 9110, section 15.4.5: a 304 has the headers that the 200 would have had.
#[test]
fn a_304_carries_what_a_cache_updates_itself_with() {
    let (instance, _) = long_page();
    let tag = etag(&instance, "identity");
    let full = instance.get("/public/page");
    let reply = instance.get_with("/public/page", &[("If-None-Match", &tag)]);
    assert_eq!(reply.status, 304);
    for name in ["cache-control", "vary", "etag"] {
        assert_eq!(reply.header(name), full.header(name), "{name}");
    }
    assert!(reply.header("age").is_some() && reply.is_hit());
    assert_eq!(reply.header("content-type"), None, "there is no body that it could describe");
}

#[test]
fn a_miss_is_conditional_too() {
    let (instance, probe) = long_page();
    let tag = etag(&instance, "identity");
    drop(instance);
    let instance = Instance::probed(ROUTES, &probe);
    let reply = instance.get_with("/public/page", &[("If-None-Match", &tag)]);
    assert_eq!((reply.status, reply.cache()), (304, "fwd=miss; stored; detail=handler"));
    assert_eq!(probe.calls(), 2, "the same body has the same tag in every process, and it was made anew");
}

/// A HEAD that comes first runs the source as GET and leaves a whole GET entry, never one without a body.
#[test]
fn head_is_answered_like_get_without_the_body() {
    let (instance, probe) = long_page();
    let first = instance.request("HEAD", "/public/page", &[]);
    let get = instance.get("/public/page");
    let head = instance.request("HEAD", "/public/page", &[]);
    assert_eq!((first.status, get.status, head.status), (200, 200, 200));
    assert_eq!(get.body.len(), 6_004);
    for name in ["content-length", "etag", "content-type", "cache-control", "vary"] {
        assert_eq!(head.header(name), get.header(name), "{name}");
        assert_eq!(first.header(name), get.header(name), "{name}");
    }
    assert!(get.is_hit() && head.is_hit());
    assert_eq!(probe.calls(), 1);
}

/// A client that reads no body after a HEAD must find the next reply right behind its header.
#[test]
fn nothing_follows_the_header_of_head_and_304() {
    let (instance, _) = long_page();
    let tag = etag(&instance, "identity");
    let mut connection = instance.connect();
    for _ in 0..3 {
        assert_eq!(connection.request("HEAD", "/public/page", &[]).status, 200);
        assert_eq!(connection.request("GET", "/public/page", &[("If-None-Match", &tag)]).status, 304);
        assert_eq!(connection.request("GET", "/public/page", &[]).body.len(), 6_004);
    }
}
