//! `examples/choose_node.rs`: a client that chooses for itself, against a live instance.

use std::path::Path;
use std::time::Duration;

use mainstay::local::{Proxy, Server, wait_until};

use crate::support::{Cluster, Folder, MAINSTAY, ONE, Origin, PATIENCE, command, get, request};

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
    let ((slow, slow_url), (slower, slower_url)) =
        (behind_proxy(&cluster.replica.server), behind_proxy(&cluster.replica.server));
    slow.set_delay(Duration::from_millis(20));
    slower.set_delay(Duration::from_millis(60));
    // The fastest of all is found by the server at the second address of its URL, and by nobody at the first, which is listed.
    let dead = mainstay::local::free_port().unwrap();
    let fast_url = format!("postgres://postgres@127.0.0.1:{dead},127.0.0.1:{}/postgres", cluster.primary.server.port());
    let folder = Folder::new(ONE);
    let origin = Origin::start(
        folder.path(),
        &[
            ("DATABASE_URL", &fast_url),
            ("DATABASE_READ_REPLICA_URL", &format!("{slower_url},{slow_url}")),
            ("MAINSTAY__REPLICATION__SAMPLE_INTERVAL", "50ms"),
            ("MAINSTAY__REPLICATION__PROBE_TIMEOUT", "1s"),
            ("MAINSTAY__NODES__REGIONS", "replica-2=eu-west-1"),
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
    // Several looks make the latencies of all three tell which is which.
    let far = || {
        let nodes = request("GET", &format!("{}/nodes", origin.base), &[("Authorization", "Bearer for-clients")], None);
        nodes.json().as_array().unwrap().iter().filter(|node| node["latency_ms"]["p50"].as_f64() >= Some(40.0)).count()
    };
    assert!(wait_until(PATIENCE, || far() == 2));
    let (code, said, _) = choose("for-clients", "3");
    let lines: Vec<&str> = said.lines().collect();
    let failed = format!("primary (primary, region unknown) at 127.0.0.1:{dead}: ");
    assert!(code == Some(0) && lines.len() == 4, "{said}");
    assert!(lines[0].starts_with(&failed) && lines[0].ends_with("choosing anew"), "{said}");
    let chosen = format!("replica-2 (replica, eu-west-1) at 127.0.0.1:{}: ", slow.port());
    assert!(lines[1..].iter().all(|line| line.starts_with(&chosen)), "{said}");
    let (code, _, why) = choose("wrong", "1");
    assert_eq!((code, why.contains("401")), (Some(1), true), "{why}");
}
