//! The snapshot file across real ends and starts of the process.

use std::os::unix::fs::PermissionsExt;

use mainstay::local::{Signal, wait_until};

use crate::support::{Cluster, Folder, Origin, PATIENCE, request};

const ROUTES: &str = "[[route]]\npath = \"/public/it\"\nsql = \"SELECT 1 AS it\"\nresult = \"row\"\n\
                      [route.cache]\nttl = \"1h\"\nstale_while_revalidate = \"1h\"\n";

#[test]
fn it_is_written_at_the_end_and_read_at_the_start_unless_it_is_damaged() {
    let cluster = Cluster::shared();
    let url = cluster.primary.url("postgres", &cluster.database(""));
    let folder = Folder::new(ROUTES);
    let file = folder.join("snapshot");
    let start = |namespace: &str| {
        let env = [
            ("MAINSTAY__CACHE__SNAPSHOT_FILE", file.to_str().unwrap()),
            ("CACHE_NAMESPACE", namespace),
            ("DATABASE_URL", &url),
            ("ADMIN_TOKEN", "correct-horse"),
            ("LOG_FORMAT", "json"),
        ];
        Origin::start(folder.path(), &env)
    };
    let mut first = start("one");
    // What is filled before the instance has a clock says nothing to its successor, so it is purged until it has.
    first.get_until("/health/edge", |reply| reply.status == 200);
    let is_stamped = || {
        first.get("/public/it");
        let look = format!("{}/admin/cache/entry?path=/public/it", first.admin);
        let entry = request("GET", &look, &[("Authorization", "Bearer correct-horse")], None);
        let purge = r#"{"path":"/public/it"}"#;
        let is_stamped = entry.json()["told"].is_string();
        if !is_stamped {
            let purged = format!("{}/admin/cache/purge", first.admin);
            request("POST", &purged, &[("Authorization", "Bearer correct-horse")], Some(purge));
        }
        is_stamped
    };
    assert!(wait_until(PATIENCE, is_stamped), "it gets no clock");
    first.program.signal(Signal::TERM);
    assert_eq!(first.program.wait().code(), Some(0));
    let whole = std::fs::read(&file).unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    let mut second = start("one");
    second.program.expect_text("1 entries were read from");
    // Served or not while it is stale, it is validated, and then it is a hit like others.
    second.get_until("/public/it", |reply| reply.cache().contains("hit; ttl=3"));
    second.program.signal(Signal::KILL);
    second.program.wait();

    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let mut endless = whole.clone();
    endless[16..20].fill(0xff);
    let damaged = [
        ("one", b"half".to_vec()),
        ("one", whole[..whole.len() - 1].to_vec()),
        ("one", flipped),
        ("one", endless),
        ("other", whole),
    ];
    for (namespace, bytes) in damaged {
        std::fs::write(&file, bytes).unwrap();
        let mut origin = start(namespace);
        origin.program.expect_text("is not used: ");
        assert_eq!(origin.get_until("/public/it", |reply| reply.status == 200).json()["it"], 1);
        origin.program.signal(Signal::KILL);
        origin.program.wait();
    }
}
