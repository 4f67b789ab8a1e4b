//! Credentials at the secondary origin, which may have no database to ask.

use mainstay::local::wait_until;

use super::people::Issuer;
use crate::coherence::fleet::{Fleet, Member};
use crate::support::PATIENCE;

const SHARED: &str = r#"
[[route]]
path = "/shared"
sql = "SELECT id, value FROM items ORDER BY id"
auth = "jwt"
shared = true
scopes = ["read"]
[route.cache]
ttl = "1h"
watch = ["items"]

[[route]]
path = "/mine"
sql = "SELECT 1 AS one"
auth = "jwt"
"#;

const KEYED: &str = r#"
[[route]]
path = "/keyed"
sql = "SELECT 1 AS one"
auth = "key"
"#;

#[test]
fn a_failover_origin_lets_in_whom_it_can_check_and_keeps_shared_answers_private() {
    let (fleet, issuer) = (Fleet::new("auth-failover"), Issuer::new());
    let bearer = issuer.bearer("alice", "read");
    let regional = issuer.believed(fleet.plan_with(SHARED)).start();
    regional.wait_hearing("stream");
    let filled = regional.get_with("/shared", &[("Authorization", &bearer)]);
    assert_eq!(filled.said("cache-control"), "private, max-age=3600", "{filled:?}");
    assert!(wait_until(PATIENCE, || fleet.shared_entries() == 1), "it is not in Redis");
    let plan = issuer.believed(fleet.plan_with(&format!("{SHARED}{KEYED}"))).set("MODE", "failover");
    let plan = plan.unset("DATABASE_URL").unset("DATABASE_READ_REPLICA_URL");
    let origin = plan.set("server.list_routes_on_404", "true").start();
    let as_alice = |target: &str| origin.get_with(target, &[("Authorization", &bearer)]);
    let reply = as_alice("/shared");
    assert_eq!((reply.status, &reply.body), (200, &filled.body), "{reply:?}");
    assert_eq!(reply.said("cache-control"), "private, max-age=600");
    assert!(reply.cache().ends_with("detail=failover"), "{reply:?}");
    assert_eq!((origin.get("/shared").status, origin.get("/mine").status), (401, 401));
    let scopeless = origin.get_with("/shared", &[("Authorization", &issuer.bearer("bob", ""))]);
    assert_eq!(scopeless.problem(), "scope_missing");
    let mine = as_alice("/mine");
    assert_eq!((mine.status, mine.said("cache-control")), (503, "no-store, private"), "{mine:?}");
    let keyed = origin.get_with("/keyed", &[("Authorization", &format!("Bearer mk_000000000000_{}", "a".repeat(43)))]);
    assert_eq!((keyed.status, keyed.problem().as_str()), (503, "auth_unavailable"), "{keyed:?}");
}
