//! `examples/choose_node.rs`: a client that chooses for itself, against a live instance.

use std::path::Path;

use mainstay::local::{Proxy, Server};

use crate::support::{Cluster, Folder, MAINSTAY, ONE, Origin, command, get, request};

fn behind_proxy(server: &Server) -> (Proxy, String) {
    let proxy = Proxy::start(([127, 0, 0, 1], server.port()).into()).unwrap();
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port());
    (proxy, url)
}

#[test]
fn a_client_ranks_keeps_its_choice_and_chooses_anew_on_a_failure() {
    let program = Path::new(MAINSTAY).parent().unwrap().join("examples/choose_node");
    assert!(program.exists(), "{} is not built; run cargo build --examples", program.display());
    let cluster = Cluster::shared();
    let ((primary, primary_url), (replica, replica_url)) =
        (behind_proxy(&cluster.primary.server), behind_proxy(&cluster.replica.server));
    primary.set_delay(std::time::Duration::from_millis(40));
    let folder = Folder::new(ONE);
    let origin = Origin::start(
        folder.path(),
        &[
            ("DATABASE_URL", &primary_url),
            ("DATABASE_READ_REPLICA_URL", &replica_url),
            ("MAINSTAY__REPLICATION__SAMPLE_INTERVAL", "3s"),
            ("MAINSTAY__REPLICATION__PROBE_TIMEOUT", "1s"),
            ("MAINSTAY__NODES__REGIONS", "replica-1=eu-west-1"),
            ("MAINSTAY__NODES__PUBLIC", "true"),
            ("MAINSTAY__NODES__PUBLIC_TOKEN", "for-clients"),
        ],
    );
    origin.get_until("/health/edge", |edge| edge.status == 200);
    assert_eq!(get(&format!("{}/nodes", origin.base)).status, 401);
    let choose = |token: &str, rounds: &str| {
        let mut client = command(&program);
        let output = client.args([&origin.base, rounds]).env("NODES_TOKEN", token).output().unwrap();
        let said = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code(), said(&output.stdout), said(&output.stderr))
    };
    let (code, said, _) = choose("for-clients", "3");
    assert_eq!(code, Some(0), "{said}");
    let chosen = format!("replica-1 (replica, eu-west-1) at 127.0.0.1:{}: ", replica.port());
    assert!(said.lines().count() == 3 && said.lines().all(|line| line.starts_with(&chosen)), "{said}");

    // Nobody listens there any more. The next probe is due in a while, so that the client is the first who finds out.
    let at = format!("at 127.0.0.1:{}: ", replica.port());
    drop(replica);
    let (code, said, _) = choose("for-clients", "2");
    assert_eq!(code, Some(0), "{said}");
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.len() == 3 && lines[0].contains(&at) && lines[0].ends_with("choosing anew"), "{said}");
    assert!(lines[1..].iter().all(|line| line.starts_with("primary (primary, region unknown)")), "{said}");

    let (code, _, why) = choose("wrong", "1");
    assert_eq!((code, why.contains("401")), (Some(1), true), "{why}");
    let nodes = request("GET", &format!("{}/nodes", origin.base), &[("Authorization", "Bearer for-clients")], None);
    assert!(nodes.json().as_array().unwrap().iter().all(|node| node["endpoint"].is_string()), "{nodes:?}");
}
