//! One request, one key: any two spellings of one request have the same key, and any two different requests do not.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use mainstay::app::Parts;
use mainstay::cache::key::KeyMaker;
use mainstay::config::auth::AccountReads;
use mainstay::config::manifest::{Known, Manifest};
use mainstay::config::param::{Params, Value};
use mainstay::config::settings::{Layers, Settings};
use mainstay::http::surface::Surface;
use mainstay::http::target::{self, Arguments};
use mainstay::source::upstream::group::Upstreams;
use mainstay::telemetry::metrics::Metrics;
use mainstay::{Answer, Call, Error};
use proptest::prelude::*;

const ROUTES: &str = r#"
[[route]]
path = "/public/rates"
handler = "none"
params = [
  { name = "base", in = "query", type = "text", default = "EUR" },
  { name = "symbols", in = "query", type = "text[]", default = [], set = true },
  { name = "path", in = "query", type = "text[]", default = ["a", "b"] },
  { name = "limit", in = "query", type = "integer", default = 50 },
  { name = "note", in = "query", type = "text", optional = true },
  { name = "price", in = "query", type = "number", optional = true },
  { name = "on", in = "query", type = "date", optional = true },
  { name = "flag", in = "query", type = "boolean", optional = true },
]

[[route]]
path = "/public/docs/{slug}"
handler = "none"
unknown_params = "ignore"
params = [
  { name = "slug", in = "path", type = "text" },
  { name = "page", in = "query", type = "integer", default = 1 },
]

[[route]]
path = "/public/docs/{slug}/{part}"
handler = "none"
params = [{ name = "slug", in = "path", type = "text" }, { name = "part", in = "path", type = "integer[]" }]
"#;

/// The routes, as the server has them.
struct Api(Surface);

/// What the server makes of one target.
#[derive(Debug, PartialEq)]
struct Seen {
    key: u128,
    canonical: String,
    route: String,
    params: Params,
}

impl Api {
    fn new() -> Self {
        async fn none(_: Call) -> Result<Answer, Error> {
            Ok(Answer::json_bytes("null"))
        }
        let mut parts = Parts::default();
        parts.registry.add("none", none);
        let known = Known { handlers: &["none"], middlewares: &[], version: "1", account_reads: AccountReads::Strong };
        let manifest = Manifest::parse(ROUTES, Path::new("routes.toml"), &known).unwrap();
        let layers = Layers { dir: Path::new("/nonexistent"), env: HashMap::new(), flags: Vec::new() };
        let (settings, metrics) = (Settings::load(layers).unwrap(), Metrics::new().unwrap());
        let metrics = Arc::new(metrics);
        let upstreams = Upstreams::new(&settings, &metrics).unwrap();
        Self(Surface::new(&manifest, &parts.registry, &parts.middlewares, &upstreams, &settings, &metrics))
    }

    /// The way of a target through routing and keying, as the front goes it; the status where it is refused.
    fn see(&self, path: &str, query: Option<&str>) -> Result<Seen, u16> {
        let status = |error: Error| error.code.info().status;
        let path = target::canonical_path(path).map_err(status)?;
        let found = self.0.find(&path, "GET").ok_or(404_u16)?;
        let endpoint = found.pattern.endpoint("GET").unwrap();
        let route = &endpoint.route;
        let arguments = Arguments::read(route, |name| found.capture(name), query, None).map_err(status)?;
        let mut canonical = smallvec::SmallVec::new();
        arguments.write(route, &mut canonical);
        let key = KeyMaker::new("test", &route.fingerprint).key(&canonical).0;
        let canonical = String::from_utf8(canonical.to_vec()).unwrap();
        Ok(Seen { key, canonical, route: route.path.clone(), params: arguments.into_params(route) })
    }

    fn target(&self, target: &str) -> Result<Seen, u16> {
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        self.see(path, query)
    }
}

#[test]
fn spellings_of_one_request_have_one_key() {
    let api = Api::new();
    let groups: [&[&str]; 9] = [
        &[
            "/public/rates",
            "/public/rates?",
            "/public/rates?&&",
            "/public/rates?base=EUR",
            "/public/rates?symbols=",
            "/public/rates?symbols",
            "/public/rates?limit=050&base=%45UR",
            "/public/r%61tes?b%61se=EUR&path=a,b",
            "/%70ublic/rates?path=a&path=b",
        ],
        &[
            "/public/rates?symbols=USD,GBP",
            "/public/rates?symbols=GBP,USD",
            "/public/rates?symbols=GBP&symbols=USD",
            "/public/rates?symbols=USD%2CGBP%2cUSD",
            "/public/rates?symbols=USD&limit=50&symbols=GBP,USD",
        ],
        &["/public/rates?note=a+b", "/public/rates?note=a%20b", "/public/rates?note=%61%20%62"],
        &["/public/rates?note=%c3%a9", "/public/rates?note=%C3%A9", "/public/rates?note=%C3%a9&"],
        &["/public/rates?note=", "/public/rates?note"],
        &["/public/rates?note=a;b=c", "/public/rates?note=a%3Bb%3Dc", "/public/rates?note=a;b=c&base=EUR"],
        &["/public/rates?price=1.50", "/public/rates?price=01.5", "/public/rates?price=%2B1.5"],
        &["/public/rates?flag=1", "/public/rates?flag=true"],
        &["/public/docs/a?page=01&utm_source=x", "/public/docs/%61", "/public/docs/a?x=%zz&page=1"],
    ];
    let mut keys = Vec::new();
    for group in groups {
        let seen: Vec<_> =
            group.iter().map(|target| api.target(target).unwrap_or_else(|it| panic!("{target}: {it}"))).collect();
        for (target, other) in group.iter().zip(&seen) {
            assert_eq!(other, &seen[0], "{target}");
        }
        keys.push(seen[0].key);
    }
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 9, "and no two groups share one");
}

#[test]
fn different_requests_have_different_keys() {
    let api = Api::new();
    let targets = [
        "/public/rates",
        "/public/rates?path=b,a",
        "/public/rates?path=",
        "/public/rates?path=a",
        "/public/rates?path=a,b,b",
        "/public/rates?symbols=a,b",
        "/public/rates?symbols=ab",
        "/public/rates?note=",
        "/public/rates?note=a,b",
        "/public/rates?note=a%26limit%3D1",
        "/public/rates?note=a&limit=1",
        "/public/rates?note=%2520",
        "/public/rates?note=%20",
        "/public/rates?note=A",
        "/public/rates?note=a",
        "/public/rates?base=",
        "/public/docs/a",
        "/public/docs/A",
        "/public/docs/a%3Fpage=2",
        "/public/docs/a?page=2",
        "/public/docs/a%2520",
        "/public/docs/a+",
        "/public/docs/a%20",
        "/public/docs/a/1",
        "/public/docs/a/1,2",
        "/public/docs/a,1/2",
        "/public/docs/a/12",
    ];
    let mut seen: HashMap<u128, &str> = HashMap::new();
    for target in targets {
        let key = api.target(target).unwrap_or_else(|status| panic!("{target}: {status}")).key;
        if let Some(other) = seen.insert(key, target) {
            panic!("{target} and {other} share a key");
        }
    }
}

#[test]
fn what_could_mean_two_things_is_refused() {
    let api = Api::new();
    for (target, status) in [
        ("/public/docs/a%2Fb", 400),
        ("/public/docs/a%2fb", 400),
        ("/public/docs/%00", 400),
        ("/public/docs/a%0d%0a", 400),
        ("/public/docs/%7f", 400),
        ("/public/docs/%ff", 400),
        ("/public/docs/%c0%ae", 400),
        ("/public/docs/%", 400),
        ("/public/docs/%4", 400),
        ("/public/docs/%u0041", 400),
        ("/public/docs/..", 404),
        ("/public/docs/%2E", 404),
        ("/public/docs/a/..", 404),
        ("/public//rates", 404),
        ("//public/rates", 404),
        ("/public/rates/", 404),
        ("/public/./rates", 404),
        ("/public/x/../rates", 404),
        ("/PUBLIC/rates", 404),
        ("/public/docs/", 404),
        ("*", 404),
        ("", 404),
        ("/public/rates?base=EUR&base=EUR", 400),
        ("/public/rates?base=EUR;base=USD&limit=1;2", 400),
        ("/public/rates?unknown=1", 400),
        ("/public/rates?BASE=EUR", 400),
        ("/public/rates?note=%00", 400),
        ("/public/rates?note=%ff", 400),
        ("/public/rates?note=%f", 400),
        ("/public/rates?%00=1", 400),
        ("/public/rates?=1", 400),
        ("/public/rates?limit=", 400),
        ("/public/rates?limit=1e3", 400),
        ("/public/rates?limit=1%00", 400),
        ("/public/rates?limit=9223372036854775808", 400),
        ("/public/rates?limit=%D9%A1", 400),
        ("/public/rates?symbols=a,,b", 400),
        ("/public/rates?symbols=,", 400),
        ("/public/rates?on=2026-02-30", 400),
        ("/public/rates?on=0000-01-01", 400),
        ("/public/rates?flag=TRUE", 400),
    ] {
        assert_eq!(api.target(target).map(|seen| seen.canonical), Err(status), "{target}");
    }
}

/// The canonical form is a request itself, and its own canonical form.
fn reread(api: &Api, seen: &Seen) -> Seen {
    api.target(&seen.canonical).unwrap_or_else(|status| panic!("{seen:?} is refused as {status}"))
}

/// A value of the route's parameters: what is asked, whatever its spelling.
#[derive(Clone, Debug, PartialEq)]
struct Asked {
    base: Option<String>,
    symbols: Vec<String>,
    path: Vec<String>,
    limit: i64,
    note: Option<String>,
}

/// How a request may be spelled without becoming another one.
#[derive(Clone, Debug)]
struct Spelling {
    order: Vec<u32>,
    escapes: u64,
    says_defaults: bool,
    zeros: usize,
    repeats: bool,
    empty_pairs: bool,
}

fn asked() -> impl Strategy<Value = Asked> {
    let word = || proptest::string::string_regex("[A-Za-z0-9 +%&=;/?#.é\u{1}~]{1,4}").unwrap();
    let words = || proptest::collection::vec(word(), 0..3);
    let number = prop_oneof![Just(50_i64), any::<i64>(), -3..60_i64];
    (proptest::option::of(word()), words(), words(), number, proptest::option::of(word()))
        .prop_map(|(base, symbols, path, limit, note)| Asked { base, symbols, path, limit, note })
}

fn spelling() -> impl Strategy<Value = Spelling> {
    (proptest::collection::vec(any::<u32>(), 12), any::<u64>(), any::<bool>(), 0..4_usize, any::<bool>(), any::<bool>())
        .prop_map(|(order, escapes, says_defaults, zeros, repeats, empty_pairs)| Spelling {
            order,
            escapes,
            says_defaults,
            zeros,
            repeats,
            empty_pairs,
        })
}

impl Spelling {
    /// Escapes what must be escaped, and of the rest what the random bits say, in one or the other case.
    fn escape(&self, text: &str, salt: u64) -> String {
        let mut random = fastrand::Rng::with_seed(self.escapes ^ salt);
        text.bytes().fold(String::new(), |mut out, byte| {
            let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || (b"/?;".contains(&byte) && salt > 0);
            match (byte, random.u8(..4)) {
                (b' ', 0 | 1) => out.push('+'),
                (byte, 0..=2) if plain => out.push(char::from(byte)),
                (byte, 1 | 3) => out.push_str(&format!("%{byte:02x}")),
                (byte, _) => out.push_str(&format!("%{byte:02X}")),
            }
            out
        })
    }

    fn list(&self, name: &str, items: &[String], is_set: bool, pairs: &mut Vec<String>) {
        let mut items: Vec<_> = items.to_vec();
        if is_set {
            let mut random = fastrand::Rng::with_seed(self.escapes);
            random.shuffle(&mut items);
            if self.repeats
                && let Some(first) = items.first().cloned()
            {
                items.push(first);
            }
        }
        let escaped = (1..).zip(&items).map(|(salt, item)| self.escape(item, salt));
        if self.repeats {
            pairs.extend(escaped.map(|item| format!("{name}={item}")));
        } else {
            let comma = if self.escapes.is_multiple_of(2) { "," } else { "%2c" };
            pairs.push(format!("{name}={}", escaped.collect::<Vec<_>>().join(comma)));
        }
        if items.is_empty() {
            pairs.push(format!("{name}="));
        }
    }

    fn write(&self, asked: &Asked) -> String {
        // Each parameter's pairs stay in order, for an array's order has a meaning; the parameters themselves do not.
        let mut groups: Vec<Vec<String>> = Vec::new();
        let base = asked.base.as_deref().or(self.says_defaults.then_some("EUR"));
        groups.extend(base.map(|base| vec![format!("base={}", self.escape(base, 1))]));
        groups.extend(asked.note.as_deref().map(|note| vec![format!("note={}", self.escape(note, 2))]));
        for (name, items, is_set) in [("symbols", &asked.symbols, true), ("path", &asked.path, false)] {
            let mut pairs = Vec::new();
            self.list(name, items, is_set, &mut pairs);
            groups.push(pairs);
        }
        if self.says_defaults || asked.limit != 50 {
            let sign = if asked.limit < 0 {
                "-"
            } else if self.repeats {
                "%2B"
            } else {
                ""
            };
            groups.push(vec![format!("limit={sign}{}{}", "0".repeat(self.zeros), asked.limit.unsigned_abs())]);
        }
        let mut order: Vec<_> = groups.into_iter().zip(&self.order).collect();
        order.sort_by_key(|(_, rank)| **rank);
        let pairs: Vec<String> = order.into_iter().flat_map(|(pairs, _)| pairs).collect();
        let (joint, path) = (if self.empty_pairs { "&&" } else { "&" }, self.escape("rates", 3));
        format!("/public/{path}?{}", pairs.join(joint))
    }
}

/// What is asked with its sets as sets and its defaults said.
fn meaning(asked: &Asked) -> Asked {
    let mut meaning = asked.clone();
    meaning.symbols.sort_unstable();
    meaning.symbols.dedup();
    meaning.base = Some(asked.base.clone().unwrap_or_else(|| "EUR".to_owned()));
    meaning
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn any_two_spellings_of_one_request_have_one_key(asked in asked(), one in spelling(), other in spelling()) {
        let api = &*API;
        let (one, other) = (one.write(&asked), other.write(&asked));
        let seen = api.target(&one).map_err(|status| TestCaseError::fail(format!("{one}: {status}")))?;
        prop_assert_eq!(api.target(&other), Ok(api.target(&one).unwrap()), "{} and {}", one, other);
        prop_assert_eq!(reread(api, &seen), seen);
    }

    #[test]
    fn any_two_different_requests_have_two_keys(one in asked(), other in asked(), as_one in spelling()) {
        let api = &*API;
        let (first, second) = (api.target(&as_one.write(&one)).unwrap(), api.target(&as_one.write(&other)).unwrap());
        let is_same = meaning(&one) == meaning(&other);
        prop_assert_eq!(first.key == second.key, is_same, "{:?} and {:?}", first, second);
        prop_assert_eq!(first.params == second.params, is_same);
    }

    /// One change in what is asked is the hardest case to tell apart.
    #[test]
    fn one_change_is_another_key(asked in asked(), spelling in spelling(), which in 0..5_u8, word in "[a-z,%&=]{1,3}") {
        let api = &*API;
        let mut other = asked.clone();
        let clean = word.replace(',', ".");
        match which {
            0 => other.base = Some(word),
            1 => other.note = Some(word),
            2 => other.symbols.push(clean),
            3 => other.path.push(clean),
            _ => other.limit = other.limit.wrapping_add(1),
        }
        let (first, second) = (api.target(&spelling.write(&asked)).unwrap(), api.target(&spelling.write(&other)).unwrap());
        prop_assert_eq!(first.key == second.key, meaning(&asked) == meaning(&other), "{:?} and {:?}", first, second);
    }

    /// Routing and keying agree on every byte string: what is taken has one canonical form that is routed to the same
    /// place, and the values in the path are those that the router captured.
    #[test]
    fn routing_and_keying_agree_on_every_byte_string(path in target_text(), query in proptest::option::of(target_text())) {
        let api = &*API;
        for path in [path.clone(), format!("/public/docs/{path}"), format!("/public/docs/a/{path}"), format!("/public/{path}")] {
            match api.see(&path, query.as_deref()) {
                Err(status) => prop_assert!(status == 400 || status == 404, "{} gave {}", path, status),
                Ok(seen) => {
                    prop_assert_eq!(&reread(api, &seen), &seen);
                    let decoded = target::canonical_path(&path).unwrap();
                    let found = api.0.find(&decoded, "GET").unwrap();
                    let slug = found.capture("slug");
                    prop_assert_eq!(slug, seen.params.text("slug"), "of {}", path);
                    prop_assert_eq!(slug.is_some(), seen.route.contains("{slug}"));
                    if let (Some(part), Some(Value::Many(items))) = (found.capture("part"), seen.params.get("part")) {
                        prop_assert_eq!(part.split(',').count(), items.len());
                    }
                }
            }
        }
    }
}

static API: std::sync::LazyLock<Api> = std::sync::LazyLock::new(Api::new);

/// Any text, with what has a meaning in a target more often than chance would have it.
fn target_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        any::<char>().prop_map(String::from),
        proptest::string::string_regex("%[0-9a-fA-F]{2}").unwrap(),
        proptest::sample::select(vec![
            "/", "//", ".", "..", "%2e", "%2F", "%00", "%", "%%", "?", "&", "=", ";", "+", ",", "{slug}", "%7B", "\0",
            "a", "1", "page=1", "%c3%a9", "%ff", "rates", "é",
        ])
        .prop_map(str::to_owned),
    ];
    proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}
