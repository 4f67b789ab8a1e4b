//! The manifest of the built-in API, and its queries on the real tables.

use std::collections::BTreeSet;
use std::path::Path;

use mainstay::config::auth::AccountReads;
use mainstay::config::manifest::{Consistency, Known, Manifest, Source};
use mainstay::ramp;
use mainstay::source::handler::Registry;
use postgres::types::ToSql;
use postgres::{Client, NoTls};

use super::{LOADED, PRIMARY};

/// The routes of one customer each.
const OWN: [&str; 7] = [
    "/account/profile",
    "/account/balances",
    "/account/kyc",
    "/api/v1/transfers",
    "/api/v1/transfers/{id}",
    "/api/v1/transactions",
    "/api/v1/transactions/{id}",
];

/// The routes of orders, which are one customer's each as well.
fn orders() -> Vec<String> {
    let lists = ["onramp/orders", "offramp/orders", "mint/requests", "redemption/requests"];
    lists.iter().flat_map(|list| ["", "/{id}", "/{id}/cancel"].map(|rest| format!("/api/v1/{list}{rest}"))).collect()
}

/// The route of statistics, whose answer is the same for all who may see it.
const STATISTICS: &str = "/api/v1/stats/daily";

/// The route of payment providers, who prove what they tell by their signature.
const WEBHOOK: &str = "/api/v1/webhooks/{provider}";

pub(super) fn manifest() -> Manifest {
    let mut registry = Registry::default();
    ramp::register(&mut registry);
    let known = Known {
        handlers: &registry.names(),
        middlewares: &["cors"],
        version: "1",
        account_reads: AccountReads::Strong,
    };
    Manifest::load(Path::new("config"), &known).unwrap()
}

#[test]
fn the_manifest_names_all_routes_and_keeps_their_answers() {
    let manifest = manifest();
    let paths: BTreeSet<&str> = manifest.routes.iter().map(|route| route.path.as_str()).collect();
    let twice = ["rates", "rates/history", "currencies", "fees", "fees/quote"];
    let once = ["/public/docs", "/public/docs/{slug}", WEBHOOK, STATISTICS].into_iter().chain(OWN);
    let mut expected: BTreeSet<String> = once
        .map(str::to_owned)
        .chain(twice.iter().flat_map(|path| [format!("/public/{path}"), format!("/api/v1/{path}")]))
        .collect();
    expected.extend(orders());
    assert_eq!(paths, expected.iter().map(String::as_str).collect());
    for route in &manifest.routes {
        if OWN.contains(&route.path.as_str()) || orders().contains(&route.path) {
            assert!(route.access.is_some() && route.private && !route.is_cacheable(), "{}", route.path);
            assert_eq!((route.consistency, route.cache_control().as_str()), (Consistency::Strong, "no-store, private"));
            continue;
        }
        if route.path == WEBHOOK {
            assert!(!route.is_cacheable() && route.methods == ["POST"] && route.access.is_none());
            assert_eq!((route.consistency, route.cache_control().as_str()), (Consistency::Strong, "no-store"));
            continue;
        }
        if route.path == STATISTICS {
            let access = route.access.as_ref().unwrap();
            assert_eq!((access.shared, &access.scopes[..]), (true, &["stats".to_owned()][..]));
            assert_eq!((route.consistency, route.is_cacheable()), (Consistency::Eventual, true));
            assert!(route.cache_control().starts_with("private, "), "{}", route.cache_control());
            continue;
        }
        assert_eq!(route.cache_control(), "public, max-age=300, stale-while-revalidate=60", "{}", route.path);
        assert!(route.cache.as_ref().unwrap().watch.as_ref().is_some_and(|watch| !watch.is_empty()), "{}", route.path);
    }
}

/// The same route behind two doors: whoever changes one must change the other.
#[test]
fn both_prefixes_answer_alike() {
    let manifest = manifest();
    let find = |path: String| manifest.routes.iter().find(|route| route.path == path);
    for public in manifest.routes.iter().filter(|route| route.path.starts_with("/public/")) {
        let Some(versioned) = find(public.path.replace("/public/", "/api/v1/")) else { continue };
        let describe = |route: &mainstay::config::manifest::Route| {
            format!("{:?}", (&route.source, &route.params, &route.cache, route.consistency, &route.middlewares))
        };
        assert_eq!(describe(public), describe(versioned));
    }
}

/// The rows that a route's query yields, as JSON objects.
fn rows(path: &str, values: &[Option<&str>]) -> Vec<serde_json::Value> {
    rows_as("postgres", &LOADED, path, values)
}

/// The same for a role, in a database.
pub(super) fn rows_as(role: &str, database: &str, path: &str, values: &[Option<&str>]) -> Vec<serde_json::Value> {
    let manifest = manifest();
    let route = manifest.routes.iter().find(|route| route.path == path).unwrap();
    let Source::Sql { statement, .. } = &route.source else { panic!("{path} is no query") };
    let query = statement.render(|index| format!("${}::text", index + 1));
    let mut client = Client::connect(&PRIMARY.url(role, database), NoTls).unwrap();
    let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| -> &(dyn ToSql + Sync) { value }).collect();
    let rows = client.query(&format!("SELECT to_jsonb(q)::text FROM ({query}) q"), &values).unwrap();
    rows.iter().map(|row| serde_json::from_str(row.get(0)).unwrap()).collect()
}

#[test]
fn currencies_say_when_they_are_quoted() {
    let currencies = rows("/public/currencies", &[]);
    assert_eq!(currencies.len(), 43);
    let find = |code: &str| currencies.iter().find(|currency| currency["code"] == code).unwrap().to_string();
    let expected =
        r#"{"code":"JPY","exponent":0,"first_date":"1999-01-04","last_date":"2026-10-30","name":"Japanese yen"}"#;
    assert_eq!(find("JPY").parse::<serde_json::Value>().unwrap(), expected.parse::<serde_json::Value>().unwrap());
    assert!(find("EUR").contains("\"first_date\":null"));
    assert!(find("TRL").contains("\"last_date\":\"2004-12-31\""));
}

#[test]
fn fee_schedules_are_listed_and_filtered() {
    assert_eq!(rows("/public/fees", &[None, None]).len(), 29);
    assert_eq!(rows("/public/fees", &[Some("onramp"), None]).len(), 6);
    let [schedule] = &rows("/public/fees", &[Some("redemption"), Some("EUR")])[..] else { panic!() };
    assert_eq!((&schedule["fixed_fee"], &schedule["max_fee"]), (&100.into(), &serde_json::Value::Null));
}

#[test]
fn documents_are_listed_and_found_by_name() {
    let docs = rows("/public/docs", &[]);
    assert!(docs.len() >= 5);
    for doc in &docs {
        let found = rows("/public/docs/{slug}", &[doc["slug"].as_str()]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0]["title"], doc["title"]);
        assert!(found[0]["body"].as_str().unwrap().starts_with("# "), "{doc}");
    }
    assert_eq!(rows("/public/docs/{slug}", &[Some("no-such")]).len(), 0);
}
