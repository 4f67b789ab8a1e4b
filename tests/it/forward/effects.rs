//! What writes have done to the database, whoever ran them and whatever broke on the way.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use diesel_async::SimpleAsyncConnection;
use mainstay::local::{Proxy, ProxyMode};
use mainstay::{Answer, Call, Error};
use serde_json::json;

use super::code;
use crate::instance::{Instance, Plan};
use crate::support::{Cluster, PATIENCE};

const ROUTES: &str = r#"
[[route]]
path = "/entries/{id}"
methods = ["POST"]
handler = "insert"
params = [{ name = "id", in = "path", type = "integer" }]
"#;

/// Done there, done here, or nobody knows.
const OUTCOMES: [&str; 3] = ["there-1", "test-1", "outcome_unknown"];

async fn insert(call: Call) -> Result<Answer, Error> {
    let id = call.params.text("id").unwrap_or_default().to_owned();
    let work = async |conn: &mut diesel_async::AsyncPgConnection| {
        conn.batch_execute(&format!("INSERT INTO entries VALUES ({id})")).await?;
        Ok(())
    };
    call.write(work).await?;
    Answer::json(&json!({ "id": id }))
}

fn origin(url: &str) -> Plan {
    Plan::new(ROUTES)
        .handler("insert", insert)
        .set("DATABASE_URL", url)
        .set("nodes.open_time", "20ms")
        .set("nodes.open_time_max", "20ms")
}

/// Connections between the regions break all the time. What was answered was done once; what nobody knows the outcome of was
/// done once or not at all; and nothing is done twice.
#[test]
fn nothing_is_done_twice() {
    const WRITERS: usize = 4;
    /// So many of each outcome are enough.
    const OF_EACH: usize = 10;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let cluster = Cluster::shared();
    let name = cluster.database();
    cluster.primary.psql(&name, "CREATE TABLE entries (id int)").unwrap();
    let url = cluster.primary.url("postgres", &name);
    let there = origin(&url).set("REGION", "there-1").start();
    let link = Proxy::start(there.public).unwrap();
    link.set_delay(Duration::from_millis(1));
    let here = origin(&url).set("PRIMARY_ORIGIN", &format!("http://{}", link.address())).start();
    [&there, &here].into_iter().for_each(Instance::wait_healthy);
    let (next, here, seen) = (&AtomicUsize::new(0), &here, &OUTCOMES.map(|_| AtomicUsize::new(0)));
    let is_enough = || seen.iter().all(|count| count.load(Ordering::Relaxed) >= OF_EACH);
    let deadline = Instant::now() + PATIENCE;
    let outcomes: Vec<(usize, u16, String)> = thread::scope(|scope| {
        let write = move || {
            let mut outcomes = Vec::new();
            while !is_enough() && Instant::now() < deadline {
                let id = next.fetch_add(1, Ordering::Relaxed);
                let reply = here.request("POST", &format!("/entries/{id}"), &[]);
                let outcome = if reply.status == 200 { reply.said("x-region").to_owned() } else { code(&reply) };
                if let Some(known) = OUTCOMES.iter().position(|known| *known == outcome) {
                    seen[known].fetch_add(1, Ordering::Relaxed);
                }
                outcomes.push((id, reply.status, outcome));
            }
            outcomes
        };
        let writers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(write)).collect();
        while writers.iter().any(|writer| !writer.is_finished()) {
            thread::sleep(Duration::from_millis(random.u64(1..12)));
            match random.u8(0..5) {
                0 => link.reset(),
                1 => link.cut(),
                2 => link.set_mode(ProxyMode::Refuse),
                _ => link.set_mode(ProxyMode::Pass),
            }
        }
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    let counts = cluster.primary.psql(&name, "SELECT id, count(*) FROM entries GROUP BY id").unwrap();
    let done = |id: usize| counts.lines().find_map(|line| line.trim().strip_prefix(&format!("{id}|")));
    for (id, status, outcome) in &outcomes {
        match (status, outcome.as_str(), done(*id)) {
            (200, _, Some("1")) | (503, "outcome_unknown", None | Some("1")) => {}
            other => panic!("write {id}: {other:?}"),
        }
    }
    assert!(is_enough(), "{OUTCOMES:?}: {seen:?} of {}", outcomes.len());
}
