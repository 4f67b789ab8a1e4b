//! Compressed variants: made once, chosen by `Accept-Encoding` alone.

use std::io::Read;

use mainstay::Answer;

use crate::instance::probe::Probe;
use crate::instance::{Instance, Plan};

const ROUTES: &str = r#"
[[route]]
path = "/public/page"
handler = "probe"
params = [{ name = "q", in = "query", type = "integer", default = 5000 }]

[[route]]
path = "/account/page"
handler = "probe"
params = [{ name = "q", in = "query", type = "integer", default = 5000 }]
"#;

/// A body of `q` bytes that compresses well.
fn pages() -> Probe {
    Probe::answering(|call, _| {
        let length: usize = call.params.text("q").unwrap().parse().unwrap();
        Ok(Answer::json_bytes(format!("\"{}\"", "x".repeat(length - 2))))
    })
}

fn decoded(encoding: &str, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match encoding {
        "gzip" => flate2::read::GzDecoder::new(body).read_to_end(&mut out).unwrap(),
        "br" => brotli::Decompressor::new(body, 4096).read_to_end(&mut out).unwrap(),
        _ => return body.to_vec(),
    };
    out
}

#[test]
fn the_client_gets_the_best_encoding_that_it_takes() {
    let instance = Instance::probed(ROUTES, &pages());
    let cases = [
        (None, ""),
        (Some(""), ""),
        (Some("identity"), ""),
        (Some("gzip"), "gzip"),
        (Some("br"), "br"),
        (Some("gzip, deflate, br, zstd"), "br"),
        (Some("GZip"), "gzip"),
        (Some("br;q=0, gzip"), "gzip"),
        (Some("br;Q=0, gzip"), "gzip"),
        (Some("br; q=0.000 , *;q=0"), ""),
        (Some("*"), "br"),
        (Some("gzip;q=1.0, *;q=0"), "gzip"),
        (Some("brotli, gz"), ""),
        (Some("br\u{9};q=0,\u{9}gzip"), "gzip"),
    ];
    for path in ["/public/page", "/account/page"] {
        for (accept, expected) in cases {
            let headers: Vec<_> = accept.map(|accept| ("Accept-Encoding", accept)).into_iter().collect();
            let reply = instance.get_with(path, &headers);
            assert_eq!(reply.said("content-encoding"), expected, "{path} {accept:?}");
            let body = decoded(expected, &reply.body);
            assert_eq!((body.len(), body.iter().filter(|byte| **byte == b'x').count()), (5_000, 4_998));
            assert!(expected.is_empty() || reply.body.len() < 500);
            assert_eq!(reply.header("vary"), Some("Accept-Encoding"), "also on answers that are not encoded");
        }
    }
}

#[test]
fn accept_encoding_may_stand_on_several_lines() {
    let instance = Instance::probed(ROUTES, &pages());
    let lines = [("Accept-Encoding", "br;q=0"), ("Accept-Encoding", "gzip")];
    assert_eq!(instance.get_with("/public/page", &lines).said("content-encoding"), "gzip");
}

/// One source, one entry, whatever encodings are asked for: variants are no keys of their own.
#[test]
fn all_encodings_come_from_one_fill() {
    let probe = pages();
    let instance = Instance::probed(ROUTES, &probe);
    for accept in ["br", "gzip", "identity", "x", "*"] {
        instance.get_with("/public/page", &[("Accept-Encoding", accept)]);
    }
    assert_eq!(probe.calls(), 1);
}

#[test]
fn short_bodies_and_those_that_do_not_shrink_are_kept_as_they_are() {
    let probe = pages();
    let instance = Plan::probed(ROUTES, &probe).set("cache.compress_bytes_min", "1000").start();
    let encoding = |target: &str| {
        instance.get_with(target, &[("Accept-Encoding", "br, gzip")]).header("content-encoding").map(str::to_owned)
    };
    assert_eq!(encoding("/public/page?q=999"), None);
    assert_eq!(encoding("/public/page?q=1000").as_deref(), Some("br"));
    // Random bytes as hexadecimal digits would shrink; as bytes of a made-up media type they do not.
    let noise: Vec<u8> = {
        let mut random = fastrand::Rng::with_seed(1);
        std::iter::repeat_with(|| random.u8(..)).take(100_000).collect()
    };
    probe.answer(move |_, _| {
        Ok(Answer { content_type: "application/x-noise".into(), ..Answer::json_bytes(noise.clone()) })
    });
    assert_eq!(encoding("/public/page?q=100000"), None);
}

/// Large bodies are compressed on another thread; what comes out is the same.
#[test]
fn large_bodies_arrive_whole_in_every_encoding() {
    let instance = Instance::probed(ROUTES, &pages());
    for encoding in ["br", "gzip", "identity"] {
        let reply = instance.get_with("/public/page?q=3000000", &[("Accept-Encoding", encoding)]);
        assert_eq!(decoded(encoding, &reply.body).len(), 3_000_000, "{encoding}");
    }
}
