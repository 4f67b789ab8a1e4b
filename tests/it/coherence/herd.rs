//! Many ask at once for what nobody has.

use super::fleet::{Claim, Fleet, GATE, Member};
use crate::instance::client::head;

const TARGET: &str = "/public/held/items/1";
const CLIENTS: usize = 1000;

#[test]
fn a_thousand_cold_requests_over_three_instances_make_one_query() {
    let fleet = Fleet::new("herd");
    // The holder of the lease is held at the gate until all have come.
    let plan = || fleet.plan().set("redis.lease_timeout", "60s");
    let instances = [(); 3].map(|()| plan().start());
    instances.iter().for_each(|instance| instance.wait_hearing("stream"));
    let mut gates = [&fleet.primary, &fleet.replica].map(|server| fleet.session_on(server));
    for gate in &mut gates {
        gate.batch_execute(GATE).unwrap();
    }
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let mut client = instances[number % instances.len()].connect();
            client.send(head("GET", TARGET, &[]));
            client
        })
        .collect();
    fleet.wait_held(&fleet.replica, 1);
    let waiters = |instance: &crate::instance::Instance| {
        instance.metric("mainstay_fill_waiters_total{route=\"/public/held/items/{id}\"}")
    };
    let are_here =
        || instances.iter().map(waiters).sum::<f64>() == f64::from(u32::try_from(CLIENTS - instances.len()).unwrap());
    assert!(mainstay::local::wait_until(crate::support::PATIENCE, are_here));
    for gate in &mut gates {
        gate.batch_execute("COMMIT").unwrap();
    }
    for client in &mut clients {
        assert_eq!(client.reply("GET").value(), 0);
    }
    let queries = |instance: &crate::instance::Instance| {
        instance.metric("mainstay_fills_total{outcome=\"ok\",route=\"/public/held/items/{id}\"}")
    };
    assert_eq!(instances.iter().map(queries).sum::<f64>(), 1.0);
}
