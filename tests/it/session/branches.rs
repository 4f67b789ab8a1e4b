//! Tokens of a branch of history that was left.

use mainstay::local::{Proxy, ProxyMode, wait_until};

use super::{Site, read, started, value, write};
use crate::support::PATIENCE;

/// The last write of the old primary was never streamed. Its position lies below those of the new one, which has not got it.
#[test]
fn a_write_that_a_promotion_lost_is_not_taken_for_seen() {
    let site = Site::private("session-promotion");
    let front = Proxy::start(([127, 0, 0, 1], site.primary.server.port()).into()).unwrap();
    let url = format!("postgres://postgres@{}/{}", front.address(), site.database);
    let (moved, stayed) = (started(site.plan().set("DATABASE_URL", &url)), site.start());
    // This one does not look again for as long as the test takes.
    let unaware = site.plan().set("replication.sample_interval", "30s").start();
    unaware.wait_for("a first look", "/eventual/1", |reply| reply.status == 200);

    let kept = write(&moved, 1, 1);
    site.catch_up();
    site.stream.set_mode(ProxyMode::Refuse);
    site.stream.cut();
    let lost = write(&moved, 1, 2);
    site.replica.promote().unwrap();
    front.set_target(([127, 0, 0, 1], site.replica.server.port()).into());
    front.cut();
    // The new one passes by where the old one was.
    site.replica
        .psql(&site.database, "CREATE TABLE filler AS SELECT repeat('x', 1000) FROM generate_series(1, 1000)")
        .unwrap();
    let renews = || read(&moved, "/notes/1", &kept).header("x-consistency-token").is_some();
    assert!(wait_until(PATIENCE, renews), "it does not find the new primary");
    let refuses = || stayed.request("PUT", "/notes/9?value=1", &[]).status == 503;
    assert!(wait_until(PATIENCE, refuses), "it does not hear of the new primary");

    for token in [&kept, &lost] {
        let reply = read(&moved, "/notes/1", token);
        assert_eq!((value(&reply), reply.cache()), (1, "fwd=bypass; detail=primary"), "what is left of it");
        assert_eq!(reply.said("x-route-primary"), "true");
        let fresh = reply.said("x-consistency-token").to_owned();
        assert!(fresh.len() == token.len() && fresh != **token, "{reply:?}");
        assert!(reply.said("set-cookie").contains(&fresh));
        let reply = read(&moved, "/notes/1", &fresh);
        assert_eq!((value(&reply), reply.header("x-consistency-token")), (1, None));
        // The old primary still has it, and says nothing of it any more.
        let reply = read(&stayed, "/notes/1", token);
        assert_eq!((reply.status, reply.problem().as_str()), (503, "strong_unavailable"));
    }
    let refused = stayed.request("PUT", "/notes/1?value=3", &[]);
    assert_eq!((refused.status, refused.problem().as_str()), (503, "strong_unavailable"));

    // Whoever has not heard of the new branch has no primary to ask about it.
    let newer = write(&moved, 1, 4);
    let reply = read(&unaware, "/notes/1", &newer);
    assert_eq!((reply.status, reply.problem().as_str()), (503, "strong_unavailable"));
    assert_eq!(value(&read(&moved, "/notes/1", &newer)), 4);
}
