//! What the users of Redis in `infra/terraform` may do is all that origins do, and no more.

use mainstay::local::wait_until;

use crate::coherence::fleet::{Fleet, GATE, Member};
use crate::instance::Plan;
use crate::support::PATIENCE;

const TERRAFORM: &str = "infra/terraform/modules/region/redis.tf";
const ITEM: &str = "/public/items/1";
const HELD: &str = "/public/held/items/2";

/// The words of a user's access string, as it stands there.
fn rights(user: &str) -> Vec<String> {
    let text = std::fs::read_to_string(TERRAFORM).unwrap();
    let resource = text.split(&format!("resource \"aws_elasticache_user\" \"{user}\"")).nth(1).unwrap();
    let rights = resource.split("access_string = \"").nth(1).unwrap().split('"').next().unwrap();
    rights.split(' ').map(str::to_owned).collect()
}

/// Lets the user in with these rights, and says what a plan needs to come as one.
fn as_user(fleet: &Fleet, user: &str, plan: Plan) -> Plan {
    let rights = rights(user);
    let mut command = vec!["ACL", "SETUSER", user, "reset", ">secret"];
    command.extend(rights.iter().map(String::as_str));
    fleet.redis.command(&command).unwrap();
    let url = format!("redis://{user}:secret@127.0.0.1:{}", fleet.redis.server.port());
    // Their keys begin so.
    plan.set("REDIS_URL", &url).set("cache.namespace", "mainstay")
}

/// What Redis has refused, and to whom.
fn refused(fleet: &Fleet) -> Vec<String> {
    let mut connection = redis::Client::open(fleet.redis.url()).unwrap().get_connection().unwrap();
    let log: Vec<redis::Value> = redis::cmd("ACL").arg("LOG").query(&mut connection).unwrap();
    log.iter().map(|entry| format!("{entry:?}")).collect()
}

/// Leases, waiting for another's fill, the stream, purges, leaving: each with the users' rights alone.
#[test]
fn origins_need_no_more_of_redis_than_terraform_lets_them() {
    let fleet = Fleet::new("rights");
    let plan = || as_user(&fleet, "serving", fleet.plan());
    let instances = [plan().start(), plan().start()];
    instances.iter().for_each(|instance| instance.wait_hearing("stream"));
    assert!(wait_until(PATIENCE, || instances.iter().any(Member::leads)), "nobody leads");
    for instance in &instances {
        instance.wait_for("an answer out of L2 or L1", ITEM, |reply| reply.is_hit());
    }
    // One fills, the other one is told when it is done.
    let mut gates = [&fleet.primary, &fleet.replica].map(|server| fleet.session_on(server));
    gates.iter_mut().for_each(|gate| gate.batch_execute(GATE).unwrap());
    std::thread::scope(|scope| {
        let asking = instances.each_ref().map(|instance| scope.spawn(move || instance.get(HELD)));
        fleet.wait_held(&fleet.replica, 1);
        gates.iter_mut().for_each(|gate| gate.batch_execute("COMMIT").unwrap());
        asking.into_iter().for_each(|asking| assert_eq!(asking.join().unwrap().status, 200));
    });
    let before = instances.each_ref().map(|instance| instance.changes("stream"));
    let purged = instances[0].admin("POST", "/admin/cache/purge", r#"{"tags":["items:2"],"mode":"hard"}"#);
    assert_eq!(purged["instances"]["confirmed"], 2, "{purged}");
    for (instance, before) in instances.iter().zip(before) {
        instance.wait_change("stream", before);
    }

    let standing_in = fleet.plan().set("MODE", "failover").unset("DATABASE_URL").unset("DATABASE_READ_REPLICA_URL");
    let failover = as_user(&fleet, "reader", standing_in).start();
    failover.wait_for("what the fleet has stored", ITEM, |reply| reply.status == 200);
    assert_eq!(failover.get("/public/items/9").status, 503);
    drop(failover);
    drop(instances);
    assert_eq!(refused(&fleet), Vec::<String>::new());
}

/// The test above could not fail if users were not held to their rights.
#[test]
fn who_may_only_read_is_refused_all_else() {
    let fleet = Fleet::new("rights-refused");
    let plan = fleet.plan().set("changes.heartbeat_interval", "50ms");
    let _instance = as_user(&fleet, "reader", plan).start();
    assert!(wait_until(PATIENCE, || refused(&fleet).iter().any(|entry| entry.contains("reader"))));
}
