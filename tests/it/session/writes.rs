//! What a write says of itself.

use mainstay::local::wait_until;

use super::{COOKIE, ROUTES, Site, read, started, value, write};
use crate::instance::client::{Reply, head};
use crate::instance::{Instance, Plan};
use crate::support::PATIENCE;

fn cookies(reply: &Reply) -> Vec<&str> {
    reply.headers.iter().filter(|(name, _)| name == "set-cookie").map(|(_, value)| value.as_str()).collect()
}

#[test]
fn every_answer_after_a_commit_has_a_token_and_no_other() {
    let site = Site::new();
    let instance = site.start();
    let put = |then: &str| instance.request("PUT", &format!("/notes/1?value=1&then={then}"), &[]);
    for (then, status) in [("", 200), ("fail", 500)] {
        let reply = put(then);
        let token = reply.said("x-consistency-token").to_owned();
        assert_eq!((reply.status, token.len()), (status, 108), "{reply:?}");
        let cookie = format!("{COOKIE}={token}; Path=/; Max-Age=300; HttpOnly; SameSite=Lax");
        assert_eq!(cookies(&reply), [cookie]);
        assert_eq!(reply.said("x-route-primary"), "true");
        assert_eq!(reply.said("cache-control"), "no-store");
    }
    assert_eq!(put("").cache(), "fwd=bypass; detail=primary");
    let refused = put("refuse");
    assert_eq!((refused.status, refused.header("x-consistency-token"), cookies(&refused).len()), (400, None, 0));
    let read = instance.get("/notes/1");
    assert_eq!((read.header("x-consistency-token"), cookies(&read).len()), (None, 0), "reads hand none out");
}

#[test]
fn the_cookie_is_secure_where_the_way_is_and_may_be_turned_off() {
    let site = Site::new();
    let behind_cdn = started(site.plan().set("ORIGIN_SECRET", "of the cdn"));
    let put = |instance: &Instance, headers: &[(&str, &str)]| {
        let reply = instance.request("PUT", "/notes/1?value=1", headers);
        assert_eq!(reply.status, 200, "{reply:?}");
        let last = cookies(&reply).last().map(|cookie| (*cookie).to_owned());
        (last, reply.header("x-consistency-token").is_some())
    };
    let secret = ("X-Origin-Verify", "of the cdn");
    let (cookie, _) = put(&behind_cdn, &[secret, ("X-Forwarded-Proto", "https")]);
    assert!(cookie.unwrap().ends_with("; SameSite=Lax; Secure"));
    let (cookie, _) = put(&behind_cdn, &[secret, ("X-Forwarded-Proto", "http")]);
    assert!(cookie.unwrap().ends_with("; SameSite=Lax"));
    let (cookie, _) = put(&site.start(), &[("X-Forwarded-Proto", "https")]);
    assert!(cookie.unwrap().ends_with("; SameSite=Lax"), "anyone may say so to an origin without a secret");
    let without = started(site.plan().set("consistency.token_cookie", "false"));
    assert_eq!(put(&without, &[]), (None, true));
}

#[test]
fn without_a_secret_there_are_no_tokens_and_sessions_read_the_primary() {
    let site = Site::new();
    let instance = started(site.plan().unset("TOKEN_SECRET"));
    let reply = instance.request("PUT", "/notes/1?value=1", &[]);
    assert_eq!((reply.status, reply.header("x-consistency-token"), cookies(&reply).len()), (200, None, 0));
    let reply = instance.get("/notes/1");
    assert_eq!((value(&reply), reply.cache()), (1, "fwd=bypass; detail=primary"));
    assert_eq!(reply.said("x-route-primary"), "true");
}

/// The transaction takes a second, and the client does not wait for it.
#[test]
fn a_write_goes_on_when_its_client_has_gone() {
    let site = Site::new();
    let instance = site.start();
    let mut client = instance.connect();
    client.send(head("PUT", "/notes/1?value=7&then=sleep", &[]));
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(1)%' AND state = 'active' AND pid <> pg_backend_pid()";
    let is_under_way = || site.primary.psql(&site.database, sql).unwrap().trim() == "1";
    assert!(wait_until(PATIENCE, is_under_way));
    drop(client);
    let is_written =
        || site.primary.psql(&site.database, "SELECT value FROM notes WHERE id = 1").unwrap().trim() == "7";
    assert!(wait_until(PATIENCE, is_written));
}

#[test]
fn only_what_is_no_read_may_write() {
    let site = Site::new();
    let instance = site.start();
    let reply = instance.get("/writing/1");
    assert_eq!((reply.status, reply.problem().as_str()), (500, "internal"));
    assert_eq!(reply.header("x-consistency-token"), None);
    let nowhere = Plan::new(ROUTES).handler("put", super::put).handler("get", super::get).start();
    let reply = nowhere.request("PUT", "/notes/1?value=1", &[]);
    assert_eq!((reply.status, reply.problem().as_str()), (503, "strong_unavailable"));
}

/// What may have been committed is looked for where it would be.
#[test]
fn after_an_outcome_that_is_unknown_the_session_reads_the_primary() {
    let site = Site::new();
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(8); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER slow AFTER UPDATE ON notes DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()";
    site.primary.psql(&site.database, slow).unwrap();
    site.catch_up();
    let instance = started(site.plan().set("limits.request_timeout", "3s"));
    let reply = instance.request("PUT", "/notes/1?value=1", &[]);
    assert_eq!((reply.status, reply.problem().as_str()), (503, "outcome_unknown"));
    let token = reply.said("x-consistency-token");
    let reply = read(&instance, "/notes/1", token);
    assert_eq!((reply.status, reply.cache()), (200, "fwd=bypass; detail=primary"), "{reply:?}");
}

#[test]
fn secrets_are_rotated_over_two_instances_without_losing_a_session() {
    let site = Site::private("session-rotation");
    let old = site.start();
    let new = started(site.plan().set("TOKEN_SECRET", &format!("another secret of ours, {}", super::SECRET)));
    let finished = started(site.plan().set("TOKEN_SECRET", "another secret of ours"));
    site.pause();
    let valid = |instance: &Instance| instance.metric("mainstay_session_tokens_total{result=\"valid\"}");
    let token = write(&old, 1, 1);
    assert_eq!((value(&read(&new, "/notes/1", &token)), valid(&new)), (1, 1.0));
    let token = write(&new, 1, 2);
    let forgotten = read(&old, "/notes/1", &token);
    assert_eq!(valid(&old), 0.0, "the old one does not know the new secret yet: {forgotten:?}");
    assert_eq!((value(&read(&finished, "/notes/1", &token)), valid(&finished)), (2, 1.0));
}
