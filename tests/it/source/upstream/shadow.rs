//! A query beside an upstream, and what is said when they differ.

use serde_json::{Value, json};

use super::plan;
use super::server::{Service, answer};
use crate::instance::client::Connection;
use crate::instance::{Instance, Plan};
use crate::support::{Cluster, PATIENCE};

const ROUTES: &str = r#"
[[route]]
path = "/users/{id}"
upstream = "old"
params = [{ name = "id", in = "path", type = "integer" }]
  [route.shadow]
  sql = "SELECT id, name FROM users WHERE id = $1"
  result = "row"
  sample = 1.0

[[route]]
path = "/{*path}"
upstream = "old"
"#;

/// A legacy application with three users; the third is another one than in the database, the fourth is in the database alone.
fn legacy() -> Service {
    Service::new(|seen, stream| match seen.target.as_str() {
        // Rails says `private` of everything, and that is no reason not to compare.
        "/users/1" => answer(stream, "200 OK", &[("Cache-Control", "private")], b"{\"name\":\"Ada\", \"id\":1.0}"),
        "/users/2" => answer(stream, "200 OK", &[], b"{\"id\":2,\"name\":\"Bob\",\"age\":7}"),
        "/users/5" => answer(stream, "500 Oh", &[], b""),
        _ => answer(stream, "404 Not Found", &[], b"own words"),
    })
}

fn database() -> String {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let sql = "CREATE TABLE users (id bigint PRIMARY KEY, name text NOT NULL); \
               INSERT INTO users VALUES (1, 'Ada'), (2, 'Bo'), (4, 'Dan')";
    cluster.primary.psql(&database, sql).unwrap();
    cluster.catch_up();
    database
}

fn start(plan: Plan) -> Instance {
    let instance = plan.database(Cluster::shared(), &database()).set("ADMIN_TOKEN", "t").start();
    instance.wait_healthy();
    instance
}

fn admin(instance: &Instance, method: &str, path: &str, body: &Value) -> Value {
    let headers = [("Authorization", "Bearer t")];
    let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body).unwrap() };
    let reply = Connection::open(instance.admin).request_with_body(method, path, &headers, &body);
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()
}

#[test]
fn requests_of_a_sample_are_compared_beside_the_answer() {
    let service = legacy();
    let instance = start(plan(&[&service], "", ROUTES));
    assert_eq!(instance.get("/users/1").text(), "{\"name\":\"Ada\", \"id\":1.0}", "the upstream answers");
    assert_eq!(instance.get("/users/2").status, 200);
    assert_eq!(instance.get("/users/3").status, 404);
    assert_eq!(instance.get("/users/4").status, 404);
    let count = |outcome: &str| {
        instance.metric(&format!("mainstay_shadow_compared_total{{outcome=\"{outcome}\",route=\"/users/{{id}}\"}}"))
    };
    let all_there = || (count("equal"), count("different")) == (2.0, 2.0);
    assert!(
        mainstay::local::wait_until(PATIENCE, all_there),
        "{} {} {}",
        count("equal"),
        count("different"),
        count("failed")
    );
    assert_eq!(instance.get("/users/5").status, 500);
    assert!(mainstay::local::wait_until(PATIENCE, || count("failed") == 1.0));

    let summary = admin(&instance, "GET", "/admin/shadow", &Value::Null);
    let expected =
        json!([{ "route": "/users/{id}", "sample": 1.0, "compared": 4, "equal": 2, "different": 2, "failed": 1 }]);
    assert_eq!(summary["routes"], expected);
    let mut cases = summary["cases"].as_array().unwrap().clone();
    cases.sort_by_key(|case| case["request"].to_string());
    let fields = |case: &Value| json!([case["request"], case["status"], case["differences"]]);
    let differences = json!([
        { "pointer": "/name", "upstream": "\"Bob\"", "twin": "\"Bo\"" },
        { "pointer": "/age", "upstream": "7", "twin": null },
    ]);
    assert_eq!(fields(&cases[0]), json!(["/users/2", null, differences]));
    assert_eq!(fields(&cases[1]), json!(["/users/4", { "upstream": 404, "twin": 200 }, []]));
}

/// The one reads a replica, the other a database of its own: what has just changed in one of them is no difference yet.
#[test]
fn a_difference_that_passes_by_itself_is_none() {
    let service = Service::new(|seen, stream| {
        let name = if seen.target == "/users/1" { "{\"id\":1,\"name\":\"old\"}" } else { "{}" };
        answer(stream, "200 OK", &[], name.as_bytes());
    });
    let instance = start(plan(&[&service], "", ROUTES));
    assert_eq!(instance.get("/users/1").status, 200);
    service.wait_calls(2);
    service.script(|_, stream| answer(stream, "200 OK", &[], b"{\"id\":1,\"name\":\"Ada\"}"));
    let equal = "mainstay_shadow_compared_total{outcome=\"equal\",route=\"/users/{id}\"}";
    assert!(mainstay::local::wait_until(PATIENCE, || instance.metric(equal) == 1.0));
}

#[test]
fn paths_of_a_file_are_compared_at_once() {
    let service = legacy();
    let routes = ROUTES.replace("sample = 1.0", "sample = 0.000000001");
    let instance = start(plan(&[&service], "", &routes));
    let order = json!({ "requests": ["/users/1", "/users/2", "/users/x", "/other", "/users/../1"] });
    let outcomes = admin(&instance, "POST", "/admin/shadow/compare", &order);
    let outcome = |index: usize| outcomes["results"][index]["outcome"].as_str().unwrap();
    assert_eq!([0, 1, 2, 3, 4].map(outcome), ["equal", "different", "failed", "failed", "failed"]);
    assert_eq!(outcomes["results"][1]["case"]["differences"][0]["pointer"], "/name");
    assert!(outcomes["results"][2]["detail"].as_str().unwrap().contains("parameter id"));
}
