//! A real cluster of three nodes.

use std::time::Instant;

use mainstay::cache::key::Key;
use mainstay::cache::shared::{Look, Seen, Turn};
use mainstay::local::RedisCluster;

use super::*;

struct Fleet {
    cluster: RedisCluster,
    _scratch: Scratch,
}

impl Fleet {
    fn new(name: &str) -> Self {
        let scratch = Scratch::new(name).unwrap();
        let cluster = RedisCluster::start(scratch.path(), None).unwrap().expect("redis-server is installed");
        Self { cluster, _scratch: scratch }
    }

    /// Keys that a node has.
    fn keys_on(&self, node: usize) -> usize {
        let client = redis::Client::open(self.cluster.nodes[node].url()).unwrap();
        redis::cmd("DBSIZE").query(&mut client.get_connection().unwrap()).unwrap()
    }
}

async fn look(instance: &Instance, key: Key) -> Look {
    instance.look(key, CANONICAL, &FINGERPRINT).await
}

#[actix_rt::test]
async fn keys_are_spread_and_leases_work_across_nodes() {
    let fleet = Fleet::new("cluster");
    let (one, other) = (Instance::new(&fleet.cluster.url(), &PATIENT), Instance::new(&fleet.cluster.url(), &PATIENT));
    for key in (0..30).map(Key) {
        assert!(matches!(look(&other, key).await, Look::Nothing));
        let Turn::Lead(lease) = one.lead(key, CANONICAL, &FINGERPRINT, &Seen::default()).await else { panic!("free") };
        let Turn::Wait(waiting) = other.lead(key, CANONICAL, &FINGERPRINT, &Seen::default()).await else {
            panic!("taken")
        };
        let began = Instant::now();
        let made = entry(1, "a");
        let store = one.put(key, &made, Some(lease));
        futures_util::future::join(waiting.done(began + PATIENCE), store).await;
        assert!(began.elapsed() < Duration::from_secs(20), "nobody said that it is done");
        assert!(matches!(look(&other, key).await, Look::Found(_)));
    }
    let spread = [0, 1, 2].map(|node| fleet.keys_on(node));
    assert!(spread.iter().all(|keys| *keys > 0) && spread.iter().sum::<usize>() == 30, "{spread:?}");
    assert_eq!(one.metrics.redis_failures.with_label_values(&["refused"]).get(), 0);
    // A failover origin may do no more than read there, and know which node has what.
    let rights = [
        "ACL",
        "SETUSER",
        "reader",
        "on",
        "nopass",
        "~*",
        "resetchannels",
        "-@all",
        "+@connection",
        "+get",
        "+pttl",
        "+cluster|slots",
    ];
    fleet.cluster.nodes.iter().for_each(|node| drop(node.command(&rights).unwrap()));
    let reader = Instance::reading(&fleet.cluster.url().replace("://", "://reader:any@"), &PATIENT);
    for key in (0..30).map(Key) {
        assert!(matches!(look(&reader, key).await, Look::Found(_)));
    }
    assert!(matches!(look(&reader, Key(99)).await, Look::Nothing));
}

#[actix_rt::test]
async fn a_slot_that_moves_is_followed() {
    let fleet = Fleet::new("cluster-moved");
    let instance = Instance::new(&fleet.cluster.url(), &PATIENT);
    instance.put(KEY, &entry(1, "a"), None).await;
    assert_eq!(instance.body().await.as_deref(), Some("a"));
    let nodes = &fleet.cluster.nodes;
    let slot = nodes[0].command(&["CLUSTER", "KEYSLOT", &format!("{{{:032x}}}", KEY.0)]);
    let slot = slot.unwrap_or_else(|error| panic!("{error}"));
    let ids = nodes.each_ref().map(|node| node.command(&["CLUSTER", "MYID"]).unwrap());
    let from = (0..3).find(|node| fleet.keys_on(*node) == 1).unwrap();
    let to = (from + 1) % 3;
    nodes[to].command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids[from]]).unwrap();
    nodes[from].command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids[to]]).unwrap();
    let key = format!("mainstay:2:{{{:032x}}}", KEY.0);
    let port = nodes[to].server.port().to_string();
    assert_eq!(instance.body().await.as_deref(), Some("a"), "it has not moved yet");
    nodes[from].command(&["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"]).unwrap();
    for node in [to, from, (to + 1) % 3] {
        nodes[node].command(&["CLUSTER", "SETSLOT", &slot, "NODE", &ids[to]]).unwrap();
    }
    assert_eq!(fleet.keys_on(to), 1);
    assert_eq!(instance.body().await.as_deref(), Some("a"), "it is where it went");
    instance.put(KEY, &entry(2, "b"), None).await;
    assert_eq!(instance.body().await.as_deref(), Some("b"));
}

#[actix_rt::test]
async fn a_node_that_dies_takes_its_own_keys_along_and_no_others() {
    let fleet = Fleet::new("cluster-dead");
    let more = [
        ("MAINSTAY__REDIS__TIMEOUT", "300ms"),
        ("MAINSTAY__REDIS__OPEN_TIME", "50ms"),
        ("MAINSTAY__REDIS__OPEN_TIME_MAX", "200ms"),
    ];
    let instance = Instance::new(&fleet.cluster.url(), &more);
    let keys: Vec<Key> = (0..30).map(Key).collect();
    for key in &keys {
        while !matches!(look(&instance, *key).await, Look::Found(_)) {
            instance.put(*key, &entry(1, "a"), None).await;
        }
    }
    let lost = fleet.keys_on(0);
    assert!(lost > 0 && lost < 30);
    fleet.cluster.nodes[0].server.kill9();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut found = 0;
        for key in &keys {
            let began = Instant::now();
            found += usize::from(matches!(look(&instance, *key).await, Look::Found(_)));
            assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        }
        if found > 0 {
            assert!(found <= 30 - lost);
        }
        if found == 30 - lost {
            break;
        }
        assert!(Instant::now() < deadline, "{found} of {} are found", 30 - lost);
    }
    fleet.cluster.nodes[0].server.start().unwrap();
    for key in &keys {
        while !matches!(look(&instance, *key).await, Look::Found(_)) {
            assert!(Instant::now() < deadline + PATIENCE, "the node is not used again");
            instance.put(*key, &entry(1, "a"), None).await;
        }
    }
}

#[actix_rt::test]
async fn a_connection_of_ones_own_may_block() {
    let fleet = Fleet::new("cluster-block");
    let more = [&PATIENT[1..], &[("MAINSTAY__REDIS__TIMEOUT", "300ms")]].concat();
    let instance = Instance::new(&fleet.cluster.url(), &more);
    let mut connection = instance.commands().dedicated().await.unwrap();
    let mut read = redis::cmd("XREAD");
    read.arg("BLOCK").arg(800).arg("STREAMS").arg("mainstay:stream").arg("$");
    let began = Instant::now();
    let silence: redis::Value = read.query_async(&mut connection).await.unwrap();
    assert_eq!(silence, redis::Value::Nil);
    assert!(began.elapsed() >= Duration::from_millis(800));
    // A message ends the block.
    let add = async {
        let mut add = redis::cmd("XADD");
        add.arg("mainstay:stream").arg("*").arg("field").arg("value");
        tokio::time::sleep(Duration::from_millis(300)).await;
        instance.commands().query::<String>(&add).await
    };
    let (message, added) = futures_util::future::join(read.query_async::<redis::Value>(&mut connection), add).await;
    assert!(added.is_ok() && message.unwrap() != redis::Value::Nil);
}
