//! A request is forwarded once, whatever the settings of others say.

use std::net::TcpListener;

use super::{Probe, THING, here, nobody, post, service, url};

/// Addresses that are free now.
fn free(count: usize) -> Vec<String> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect()
}

#[test]
fn two_origins_that_point_at_each_other_answer_all_the_same() {
    let addresses = free(2);
    let probes = [Probe::default(), Probe::default()];
    let start = |own: usize, other: usize| {
        let primary = format!("http://{}", addresses[other]);
        let region = format!("region-{own}");
        here(&probes[own], &primary).set("BIND_ADDR", &addresses[own]).set("REGION", &region).start()
    };
    let instances = [start(0, 1), start(1, 0)];
    for (asked, answers) in [(0, "region-1"), (1, "region-0")] {
        let reply = post(&instances[asked], &[], b"{}");
        assert_eq!((reply.status, reply.said("x-region")), (200, answers), "{reply:?}");
        assert_eq!(instances[asked].get(THING).said("x-region"), answers);
    }
    assert_eq!(probes.map(|probe| probe.calls()), [2, 2]);
}

#[test]
fn an_origin_that_points_at_itself_answers_all_the_same() {
    let (address, probe) = (free(1).remove(0), Probe::default());
    let instance = here(&probe, &format!("http://{address}")).set("BIND_ADDR", &address).start();
    assert_eq!((post(&instance, &[], b"{}").status, probe.calls()), (200, 1));
}

/// By its `Via` a request says whom it has passed. Anyone may say so, and gets what he would get anyway.
#[test]
fn what_another_instance_has_sent_is_answered_where_it_is() {
    let (probe, service) = (Probe::default(), service());
    let instance = here(&probe, &service.url()).start();
    for via in ["1.1 mainstay-0011223344556677", "1.1 cdn, 1.1 mainstay-1 , 1.1 balancer"] {
        assert_eq!(post(&instance, &[("Via", via)], b"{}").said("x-region"), "test-1", "{via}");
    }
    assert_eq!((probe.calls(), service.calls()), (2, 0));
    for via in ["1.1 cdn", "1.1 my-mainstay-1", "mainstay-1"] {
        assert_eq!(post(&instance, &[("Via", via)], b"{}").said("x-region"), "there-1", "{via}");
    }
    assert_eq!((probe.calls(), service.calls()), (2, 3));
}

/// A chain of three: the one in the middle has its primary elsewhere, and yet is the last.
#[test]
fn nothing_crosses_twice() {
    let (middle, own) = (Probe::default(), Probe::default());
    let second = here(&middle, &nobody()).set("REGION", "there-1").start();
    let first = here(&own, &url(&second)).start();
    assert_eq!((post(&first, &[], b"{}").said("x-region"), middle.calls(), own.calls()), ("there-1", 1, 0));
}
