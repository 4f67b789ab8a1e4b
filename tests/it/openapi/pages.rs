//! How both are served.

use base64::Engine;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::document;
use crate::instance::probe::Probe;
use crate::instance::{Instance, Plan};

const ONE: &str = "[[route]]\npath = \"/public/one\"\nhandler = \"probe\"\n";

#[test]
fn both_are_served_like_other_answers() {
    let instance = Instance::probed(ONE, &Probe::default());
    for (path, media_type) in [("/openapi.json", "application/json"), ("/docs", "text/html; charset=utf-8")] {
        // Encodings are made behind: then the answer is final.
        let accept = [("Accept-Encoding", "br")];
        let came = mainstay::local::wait_until(crate::support::PATIENCE, || {
            instance.get_with(path, &accept).header("content-encoding") == Some("br")
        });
        assert!(came, "{path} is never compressed");
        let reply = instance.get(path);
        assert_eq!((reply.status, reply.said("content-type")), (200, media_type));
        assert_eq!((reply.said("cache-control"), reply.said("vary")), ("public, max-age=60", "Accept-Encoding"));
        assert_eq!(reply.said("x-content-type-options"), "nosniff");
        assert_eq!((reply.said("x-region"), reply.said("x-request-id").len()), ("test-1", 16));
        let brotli = instance.get_with(path, &accept);
        assert!(brotli.body.len() < reply.body.len() && brotli.header("etag") != reply.header("etag"));
        let unchanged = instance.get_with(path, &[("If-None-Match", reply.said("etag"))]);
        assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
        assert_eq!((unchanged.header("etag"), unchanged.header("content-type")), (reply.header("etag"), None));
        let head = instance.request("HEAD", path, &[]);
        assert_eq!((head.status, head.body.len(), head.header("etag")), (200, 0, reply.header("etag")));
        let posted = instance.request("POST", path, &[]);
        assert_eq!((posted.problem().as_str(), posted.said("allow")), ("method_not_allowed", "GET, HEAD"));
        assert_eq!(instance.get(&format!("{path}?any=query")).status, 200);
        assert_eq!(instance.get(&format!("{path}/")).problem(), "route_not_found");
    }
}

#[test]
fn the_origin_secret_is_asked_for() {
    let instance = Plan::probed(ONE, &Probe::default()).set("ORIGIN_SECRET", "open-sesame").start();
    for path in ["/openapi.json", "/docs"] {
        assert_eq!(instance.get(path).problem(), "origin_forbidden");
        assert_eq!(instance.get_with(path, &[("X-Origin-Verify", "open-sesame")]).status, 200);
    }
    let document = instance.get_with("/openapi.json", &[("X-Origin-Verify", "open-sesame")]).json();
    let forbidden = &document["paths"]["/public/one"]["get"]["responses"]["403"];
    let schema = &forbidden["content"]["application/problem+json"]["schema"];
    assert_eq!(schema["properties"]["code"]["enum"], json!(["origin_forbidden"]));
}

#[test]
fn who_does_not_want_them_has_none() {
    let instance = Plan::probed(ONE, &Probe::default()).set("openapi.enabled", "false").start();
    for path in ["/openapi.json", "/docs"] {
        assert_eq!(instance.get(path).problem(), "route_not_found");
    }
}

#[test]
fn a_route_of_the_manifest_comes_first() {
    let instance = Instance::probed("[[route]]\npath = \"/docs\"\nhandler = \"probe\"\n", &Probe::default());
    assert!(instance.get("/docs").json()["call"].is_number());
    assert!(document(&instance)["paths"]["/docs"]["get"].is_object());
    // Whatever else matches is a route of the manifest, too.
    let routes = "[[route]]\npath = \"/{page}\"\nhandler = \"probe\"\nparams = [{ name = \"page\", in = \"path\", type = \"text\" }]\n";
    instance.reload(routes).unwrap();
    for path in ["/openapi.json", "/docs"] {
        assert!(instance.get(path).json()["call"].is_number());
    }
    // So is a service that answers for all paths, and may well have such pages of its own.
    let upstream = "[upstream.legacy]\nendpoints = [\"http://127.0.0.1:9\"]\n[[route]]\npath = \"/{*rest}\"\nupstream = \"legacy\"\n";
    instance.reload(upstream).unwrap();
    assert_eq!(instance.get("/docs").problem(), "upstream_unavailable");
}

#[test]
fn a_reload_changes_both() {
    let instance = Instance::probed(ONE, &Probe::default());
    let before = instance.get("/openapi.json");
    assert!(before.json()["paths"]["/public/one"].is_object());
    instance.reload(&ONE.replace("one", "two")).unwrap();
    assert!(document(&instance)["paths"].as_object().unwrap().keys().eq(["/public/two"]));
    assert!(
        instance.get("/docs").text().contains("/public/two") && !instance.get("/docs").text().contains("/public/one")
    );
    assert_ne!(instance.get("/openapi.json").header("etag"), before.header("etag"));
    instance.reload("nonsense").unwrap_err();
    assert!(document(&instance)["paths"]["/public/two"].is_object());
}

/// The page works offline and without scripts: it loads nothing, and what may style it is in it.
#[test]
fn the_page_allows_nothing_but_its_own_style() {
    let instance = Plan::probed(ONE, &Probe::default()).set("openapi.title", "Rates & <Fees>").start();
    let reply = instance.get("/docs");
    let page = reply.text();
    let (_, rest) = page.split_once("<style>").unwrap();
    let (style, _) = rest.split_once("</style>").unwrap();
    let hash = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(style));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    assert_eq!(reply.said("content-security-policy"), policy);
    for loads in ["<script", "src=", "url(", "@import", "http-equiv", " style=", "<link"] {
        assert!(!page.contains(loads), "{loads}");
    }
    assert!(page.contains("<title>Rates &amp; &lt;Fees&gt;</title>"));
    // Every link within the page leads to something.
    for target in page.split("href=\"#").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(page.contains(&format!("id=\"{target}\"")), "#{target}");
    }
}
