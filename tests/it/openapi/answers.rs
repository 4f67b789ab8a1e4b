//! Answers of the reference application, good and bad, are as its document says.

use mainstay::ramp;

use super::checker::hold;
use super::{answer, wait_document};
use crate::instance::Plan;
use crate::ramp::{LOADED, PRIMARY};

/// The reference manifest on an instance.
fn reference() -> Plan {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/config");
    let routes = std::fs::read_to_string(format!("{root}/routes.toml")).unwrap();
    // An instance has a folder of its own, in which the files of queries are not.
    let routes = routes.replace("\"queries/", &format!("\"{root}/queries/"));
    let routes = routes.replace("\"schemas/", &format!("\"{root}/schemas/"));
    Plan::new(&routes).parts(|parts| ramp::register(&mut parts.registry))
}

#[test]
fn answers_of_the_reference_application_fit_its_document() {
    let instance = reference().set("DATABASE_URL", &PRIMARY.url("postgres", &LOADED)).start();
    let document = wait_document(&instance, "all columns", |document| {
        let row = &answer(document, "/public/docs/{slug}")["properties"];
        row.is_object() && answer(document, "/api/v1/fees")["items"]["properties"].is_object()
    });
    let requests = [
        ("/rates", "", 200),
        ("/rates", "?base=USD&symbols=EUR,GBP&date=2024-12-25", 200),
        ("/rates", "?symbols=", 200),
        ("/rates", "?date=1900-01-01", 404),
        ("/rates", "?base=usd", 400),
        ("/rates", "?base=ABC", 400),
        ("/rates", "?nonsense=1", 400),
        ("/rates", "?base=EUR&base=USD", 400),
        ("/rates", "?base=%zz", 400),
        ("/rates/history", "?symbols=USD&from=2026-10-01&to=2026-10-30", 200),
        ("/rates/history", "?from=2026-10-30&to=2026-10-01", 400),
        ("/currencies", "", 200),
        ("/fees", "", 200),
        ("/fees", "?product=nothing", 200),
        ("/fees/quote", "?product=onramp&amount=100000&currency=USD", 200),
        ("/fees/quote", "?product=redemption&amount=5", 200),
        ("/fees/quote", "?product=onramp", 400),
        ("/fees/quote", "?product=onramp&amount=0", 400),
        ("/fees/quote", "?product=nothing&amount=1", 404),
    ];
    let doors = ["/public", "/api/v1"];
    for (prefix, (path, query, status)) in doors.iter().flat_map(|prefix| requests.map(|request| (prefix, request))) {
        let path = format!("{prefix}{path}");
        for headers in [&[][..], &[("X-Consistency", "strong")]] {
            let reply = instance.get_with(&format!("{path}{query}"), headers);
            assert_eq!(reply.status, status, "{path}{query}: {reply:?}");
            hold(&document, "GET", &path, &reply);
        }
    }
    let docs = instance.get("/public/docs");
    hold(&document, "GET", "/public/docs", &docs);
    let slug = docs.json()[0]["slug"].as_str().unwrap().to_owned();
    for (path, status) in [(slug.as_str(), 200), ("no-such", 404), ("%2F", 400), ("..", 404), ("", 404), ("a%20b", 400)]
    {
        let reply = instance.get(&format!("/public/docs/{path}"));
        assert_eq!(reply.status, status, "{path}: {reply:?}");
        hold(&document, "GET", "/public/docs/{slug}", &reply);
    }
    let etag = instance.get("/public/fees").said("etag").to_owned();
    let unchanged = instance.get_with("/public/fees", &[("If-None-Match", &etag)]);
    assert_eq!(unchanged.status, 304);
    hold(&document, "GET", "/public/fees", &unchanged);
    // Beyond what requests are allowed to be.
    for (target, headers, status) in [
        (format!("/public/fees?product={}", "a".repeat(10_000)), vec![], 414),
        ("/public/fees".to_owned(), vec![("X-Long", "a".repeat(20_000))], 431),
        ("/public/fees".to_owned(), vec![("Content-Length", "2".to_owned())], 400),
    ] {
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut connection = instance.connect();
        connection.send(crate::instance::client::head("GET", &target, &headers));
        let reply = connection.reply("GET");
        assert_eq!(reply.status, status, "{reply:?}");
        hold(&document, "GET", "/public/fees", &reply);
    }
}

/// Whatever the source's failure is, the document has it.
#[test]
fn answers_without_a_database_fit_the_document() {
    // Routes with keys want one to be configured; nobody listens there.
    let instance = reference().set("DATABASE_URL", "postgres://nobody@127.0.0.1:1/nothing").start();
    let document = super::document(&instance);
    for path in ["/public/rates", "/public/fees", "/api/v1/currencies"] {
        for headers in [&[][..], &[("X-Consistency", "strong")]] {
            let reply = instance.get_with(path, headers);
            assert_eq!(reply.status, 503);
            hold(&document, "GET", path, &reply);
        }
    }
}
