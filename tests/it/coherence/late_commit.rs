//! A fill that began before a commit and ends after it.

use super::fleet::{Fleet, GATE, Member};
use crate::instance::client::{Reply, head};
use crate::instance::{Instance, Plan};

/// Who is asked, what the plan is for that, and which table is written.
struct Case {
    replica: bool,
    table: &'static str,
    id: u32,
    /// Whether the fill ends only after the purge was heard.
    ends_late: bool,
}

fn has_row(reply: &Reply, id: u32) -> bool {
    match reply.status {
        404 => false,
        _ => reply.text().contains(&format!("\"id\":{id}")) || reply.text().contains("\"value\":1"),
    }
}

/// A list by the tag of its rows, and the absence of one row, both read while the INSERT that makes them wrong was not
/// committed: it may go through the table or straight to a partition of it.
#[test]
fn a_list_and_an_absence_fall_with_an_insert_that_commits_while_they_are_filled() {
    let fleet = Fleet::new("late-commit");
    let plan = |plan: Plan| plan.set("cache.not_found_ttl", "1h");
    let near = plan(fleet.plan()).start();
    let far = plan(fleet.plan().set("DATABASE_READ_REPLICA_URL", "")).start();
    for instance in [&near, &far] {
        instance.wait_hearing("stream");
    }
    let mut id = 20;
    for replica in [true, false] {
        for table in ["items", "items_low"] {
            for ends_late in [true, false] {
                id += 1;
                late(&fleet, if replica { &near } else { &far }, &Case { replica, table, id, ends_late });
            }
        }
    }
}

fn late(fleet: &Fleet, instance: &Instance, case: &Case) {
    let Case { replica, table, id, ends_late } = *case;
    let (detail, server) = if replica { ("replica", &fleet.replica) } else { ("primary", &fleet.primary) };
    let what = format!("{table} {detail} late {ends_late}");
    let mut gate = fleet.session_on(server);
    gate.batch_execute(GATE).unwrap();
    let mut writer = fleet.session();
    writer.batch_execute(&format!("BEGIN; INSERT INTO {table} VALUES ({id}, 'bob{id}', 1)")).unwrap();
    let targets = [format!("/public/held/items/{id}"), format!("/public/held/owners/bob{id}")];
    let mut waiting = targets.each_ref().map(|target| {
        let mut connection = instance.connect();
        connection.send(head("GET", target, &[]));
        connection
    });
    fleet.wait_held(server, 2);
    let before = instance.changes("stream");
    writer.batch_execute("COMMIT").unwrap();
    if ends_late {
        instance.wait_change("stream", before);
    }
    gate.batch_execute("COMMIT").unwrap();
    for connection in &mut waiting {
        let reply = connection.reply("GET");
        // A fill that notices may have read again. What was read before is for those who waited, and is not kept.
        assert!(has_row(&reply, id) || !ends_late || !reply.cache().contains("stored"), "{what}: {reply:?}");
        assert_eq!(reply.cache().contains("stored"), reply.said("cache-control") != "no-store", "{what}: {reply:?}");
    }
    instance.wait_change("stream", before);
    for target in &targets {
        let reply = instance.get(target);
        assert!(has_row(&reply, id), "{what}: {reply:?}");
        // Nothing is left of it for others either: whoever has nothing in L1 looks into Redis.
        assert!(has_row(&instance.wait_for("a hit", target, Reply::is_hit), id), "{what}");
    }
}
