//! Routes of accounts, by their paths alone.

use super::{Site, read, started, value, write};
use crate::instance::Instance;

const ROUTES: &str = r#"
[[route]]
path = "/account/notes/{id}"
result = "row"
sql = "SELECT value FROM notes WHERE id = $1"
params = [{ name = "id", in = "path", type = "integer" }]

[[route]]
path = "/account/strong/{id}"
result = "row"
consistency = "strong"
sql = "SELECT value FROM notes WHERE id = $1"
params = [{ name = "id", in = "path", type = "integer" }]

[[route]]
path = "/api/v1/transfers/{id}"
result = "row"
sql = "SELECT value FROM notes WHERE id = $1"
params = [{ name = "id", in = "path", type = "integer" }]
"#;

#[test]
fn reads_of_accounts_are_those_of_a_session_where_a_setting_says_so() {
    let site = Site::private("session-account");
    let plan = || site.plan_with(&format!("{}{ROUTES}", super::ROUTES));
    let (strong, session) = (started(plan()), started(plan().set("consistency.account_reads", "session")));
    let by = |instance: &Instance, path: &str| {
        let reply = instance.get(path);
        assert_eq!(reply.said("cache-control"), "no-store, private");
        reply.cache().rsplit('=').next().unwrap().to_owned()
    };
    assert_eq!(by(&strong, "/account/notes/1"), "primary");
    assert_eq!(by(&session, "/account/notes/1"), "replica");
    assert_eq!(by(&session, "/account/strong/1"), "primary", "what a route says counts");
    assert_eq!(by(&session, "/api/v1/transfers/1"), "primary", "transfers are none of them");
    site.pause();
    let token = write(&session, 1, 9);
    let reply = read(&session, "/account/notes/1", &token);
    assert_eq!(
        (value(&reply), reply.said("x-route-primary"), reply.said("cache-control")),
        (9, "true", "no-store, private")
    );
}
