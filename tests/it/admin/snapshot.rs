//! The snapshot that is handed to other origins, as whoever asks for it meets it. What is in a page is looked at where it is read:
//! `failover/peers.rs`, `src/cache/walk.rs`.

use super::{ask, ask_as, instance};
use crate::instance::probe::Probe;

const ROUTES: &str = "[[route]]\npath = \"/public/it\"\nhandler = \"probe\"\n[route.cache]\nttl = \"1h\"\n";

#[test]
fn a_page_is_for_who_has_the_token_and_says_what_it_is() {
    let instance = instance(ROUTES, &Probe::default());
    instance.get("/public/it");
    let refused = ask_as(&instance, None, "GET", "/admin/snapshot", "");
    assert_eq!((refused.status, refused.problem()), (401, "unauthorized".to_owned()));
    let page = ask(&instance, "GET", "/admin/snapshot", "");
    assert_eq!((page.status, page.said("content-type")), (200, "application/octet-stream"));
    assert_eq!(page.said("cache-control"), "no-store");
    assert!(page.body.starts_with(b"MSpage1\n"));
    let whatever = ask(&instance, "GET", "/admin/snapshot?after=no-cursor&bytes_max=99999999999&keep_bytes_max=1", "");
    assert_eq!(whatever.status, 200, "who has lost his place begins anew");
    assert!(whatever.body.len() < page.body.len(), "there is no room for the entry");
    for query in ["bytes_max=many", "before=1"] {
        let reply = ask(&instance, "GET", &format!("/admin/snapshot?{query}"), "");
        assert_eq!((reply.status, reply.problem()), (400, "param_invalid".to_owned()), "{query}");
    }
    assert_eq!(ask(&instance, "POST", "/admin/snapshot", "").status, 405);
}
