//! A warm restart: what a snapshot brings back, and what it must not.

use std::path::Path;

use mainstay::error::Code;
use mainstay::local::{Proxy, ProxyMode, wait_until};
use mainstay::{Answer, Error};

use super::fleet::{Claim, Fleet, Member, assert_only};
use crate::instance::probe::Probe;
use crate::instance::{Instance, Plan};
use crate::support::PATIENCE;

/// Each life of an instance has a file of its own, since the end of the one before may still be under way.
fn with_snapshot(plan: Plan, file: &Path) -> Plan {
    plan.set("cache.snapshot_file", file.to_str().unwrap()).set("cache.snapshot_interval", "20ms")
}

/// Waits until a snapshot of now is there, which is a later one than is there already, and returns it.
fn snapshot(file: &Path) -> Vec<u8> {
    for _ in 0..2 {
        let inode = || {
            use std::os::unix::fs::MetadataExt;
            std::fs::metadata(file).ok().map(|metadata| (metadata.ino(), metadata.mtime_nsec()))
        };
        let before = inode();
        assert!(wait_until(PATIENCE, || inode().is_some() && inode() != before), "no snapshot is written");
    }
    std::fs::read(file).unwrap()
}

fn look(instance: &Instance, target: &str, member: &str) -> serde_json::Value {
    instance.admin("GET", &format!("/admin/cache/entry?path={target}"), "")[member].clone()
}

#[test]
fn what_comes_back_is_stale_until_it_was_validated() {
    let fleet = Fleet::new("restart");
    let dir = tempfile::tempdir().unwrap();
    let files = ["first", "second", "third"].map(|name| dir.path().join(name));
    let plan = |life: usize| with_snapshot(fleet.plan().set("REDIS_URL", ""), &files[life]);
    let first = plan(0).start();
    first.wait_hearing("feed");
    for target in ["/public/items/1", "/public/items/2"] {
        assert_only(&first, target, 0);
    }
    let kept = snapshot(&files[0]);
    drop(first);
    // Nobody is there to hear of this.
    fleet.set(1, 1);
    fleet.catch_up();
    files[1..].iter().for_each(|file| std::fs::write(file, &kept).unwrap());

    // From the first moment on.
    let second = plan(1).start();
    assert_only(&second, "/public/items/1", 1);
    assert_only(&second, "/public/items/2", 0);
    drop(second);

    // With no database in sight it is what there is, and it is marked.
    let nowhere = "postgres://postgres@127.0.0.1:1/none";
    let plan = plan(2).set("DATABASE_URL", nowhere).set("DATABASE_READ_REPLICA_URL", nowhere);
    let third = plan
        .set("cache.max_silence", "300ms")
        .set("changes.heartbeat_interval", "100ms")
        .set("cache.snapshot_interval", "1h")
        .start();
    let reply = third.wait_for("an answer", "/public/items/1", |reply| reply.status == 200);
    assert!(reply.is_hit() && reply.ttl() < 0 && reply.value() == 0, "{reply:?}");
}

/// The instance is killed before anything but the purge's own row in the database is written.
#[test]
fn what_was_purged_for_good_does_not_come_back_with_an_old_snapshot() {
    let fleet = Fleet::new("restart-hard");
    let dir = tempfile::tempdir().unwrap();
    let files = ["first", "second"].map(|name| dir.path().join(name));
    let proxies = [&fleet.primary, &fleet.replica]
        .map(|server| Proxy::start(([127, 0, 0, 1], server.server.port()).into()).unwrap());
    let url = |proxy: &Proxy| format!("postgres://postgres@127.0.0.1:{}/{}", proxy.port(), fleet.database);
    let plan = |life: usize| {
        let plan = with_snapshot(fleet.plan().set("REDIS_URL", ""), &files[life]);
        plan.set("DATABASE_URL", &url(&proxies[0])).set("DATABASE_READ_REPLICA_URL", &url(&proxies[1]))
    };
    let first = plan(0).start();
    first.wait_hearing("feed");
    for target in ["/public/items/1", "/public/items/2"] {
        assert_only(&first, target, 0);
    }
    let old = snapshot(&files[0]);
    first.admin("POST", "/admin/cache/purge", r#"{"tags":["items:1"],"mode":"hard"}"#);
    drop(first);
    std::fs::write(&files[1], &old).unwrap();

    let second = plan(1).set("cache.snapshot_interval", "1h").start();
    second.wait_hearing("feed");
    // Until it has learnt which purges for good it may have missed, it serves nothing old at all.
    assert!(wait_until(PATIENCE, || look(&second, "/public/items/2", "standing") == "purged"));
    assert_eq!(look(&second, "/public/items/1", "standing"), "forbidden");
    for proxy in &proxies {
        proxy.set_mode(ProxyMode::Refuse);
        proxy.cut();
    }
    // The pools and the breakers take a moment to notice.
    second.wait_for("the source to fail", "/public/items/3", |reply| reply.status == 503);
    let reply = second.wait_for("an answer", "/public/items/2", |reply| reply.status == 200);
    assert!(reply.is_hit() && !reply.claims_fresh(), "{reply:?}");
    assert_eq!(second.get("/public/items/1").status, 503);
}

/// Without a database there is nobody to remember it: the file itself must not hold it a moment longer.
#[test]
fn a_purge_for_good_takes_the_file_along() {
    let routes = "[[route]]\npath = \"/public/it/{n}\"\nhandler = \"probe\"\n\
                  params = [{ name = \"n\", in = \"path\", type = \"integer\" }]\n\
                  [route.cache]\nttl = \"1h\"\nstale_if_error = \"1h\"\ntags = [\"it:{n}\"]\n";
    let dir = tempfile::tempdir().unwrap();
    let probe = Probe::default();
    let plan = |file: &Path| with_snapshot(Plan::probed(routes, &probe), file).set("ADMIN_TOKEN", "correct-horse");
    let file = dir.path().join("first");
    let first = plan(&file).start();
    for target in ["/public/it/1", "/public/it/2"] {
        assert_eq!(first.get(target).status, 200);
        assert!(first.get(target).is_hit());
    }
    snapshot(&file);
    first.admin("POST", "/admin/cache/purge", r#"{"tags":["it:1"],"mode":"hard"}"#);
    // What a process that is killed right now leaves behind, and what one does that is killed later.
    let left = std::fs::read(&file).ok();
    let later = snapshot(&file);
    drop(first);
    probe.answer(|_, _| Err::<Answer, _>(Error::new(Code::DatabaseUnavailable, "as told")));
    for (name, kept) in [("at once", left), ("later", Some(later))] {
        let file = dir.path().join(name);
        if let Some(kept) = &kept {
            std::fs::write(&file, kept).unwrap();
        }
        let second = plan(&file).set("cache.snapshot_interval", "1h").start();
        assert_eq!(second.get("/public/it/1").status, 503, "{name}");
        if name == "later" {
            let reply = second.get("/public/it/2");
            assert!(reply.status == 200 && reply.ttl() < 0, "{reply:?}");
            assert_eq!(look(&second, "/public/it/2", "origin"), "snapshot");
        }
    }
}
