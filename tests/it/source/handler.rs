//! Handlers in Rust, and the middlewares before them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix_web::http::header::{HeaderName, HeaderValue};
use diesel::QueryableByName;
use diesel::sql_types::Integer;
use futures_util::FutureExt;
use mainstay::{Answer, Call, Error};
use serde_json::json;

use super::sql::tables_in;
use crate::instance::Plan;
use crate::instance::probe::Probe;

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = Integer)]
    number: i32,
}

async fn sum(call: Call) -> Result<Answer, Error> {
    let n: i32 = call.params.text("n").unwrap_or("0").parse().unwrap();
    let sql = format!("SELECT {n} + {n} AS number");
    let row = call
        .read(async |conn| diesel_async::RunQueryDsl::get_result::<Number>(diesel::sql_query(&sql), conn).await)
        .await?;
    Answer::json(&json!({ "sum": row.number, "method": &*call.method }))
}

#[test]
fn a_handler_reads_with_the_consistency_of_its_route() {
    let (cluster, name) = tables_in("");
    let routes = r#"
[[route]]
path = "/public/sum"
handler = "sum"
params = [{ name = "n", in = "query", type = "integer", default = 2 }]

[[route]]
path = "/account/sum"
methods = ["GET", "POST"]
handler = "sum"
"#;
    let instance = Plan::new(routes).handler("sum", sum).database(cluster, &name).start();
    instance.wait_healthy();
    let eventual = instance.get("/public/sum");
    assert_eq!(
        (eventual.text().as_str(), eventual.cache()),
        (r#"{"sum":4,"method":"GET"}"#, "fwd=miss; stored; detail=replica")
    );
    let strong = instance.get("/account/sum");
    assert_eq!((strong.cache(), strong.header("x-route-primary")), ("fwd=bypass; detail=primary", Some("true")));
    let posted = instance.request("POST", "/account/sum", &[]);
    assert_eq!(posted.json(), json!({ "sum": 0, "method": "POST" }));
    let without = Plan::new(routes).handler("sum", sum).start();
    assert_eq!(without.get("/public/sum").problem(), "database_unavailable");
}

/// An answer that several statements make is of one state: what is committed between them does not show in half of it.
#[test]
fn the_statements_of_a_read_see_one_state() {
    let (cluster, name) = tables_in("CREATE TABLE rows (id int)");
    let database = name.clone();
    let counts = move |call: Call| {
        let database = database.clone();
        async move {
            let counts = call.read(async |conn| {
                let sql = || diesel::sql_query("SELECT count(*)::int AS number FROM rows");
                let before = diesel_async::RunQueryDsl::get_result::<Number>(sql(), &mut *conn).await?.number;
                cluster.primary.psql(&database, "INSERT INTO rows VALUES (1)").unwrap();
                let after = diesel_async::RunQueryDsl::get_result::<Number>(sql(), conn).await?.number;
                Ok([before, after])
            });
            Answer::json(&counts.await?)
        }
    };
    let routes = "[[route]]\npath = \"/counts\"\nhandler = \"counts\"\n";
    let primary = cluster.primary.url("postgres", &name);
    let instance = Plan::new(routes).handler("counts", counts).set("DATABASE_URL", &primary).start();
    instance.wait_healthy();
    assert_eq!([instance.get("/counts").text(), instance.get("/counts").text()], ["[0,0]", "[1,1]"]);
}

/// A middleware sees the requests of its routes and what comes back, and stands before no route that is kept.
#[test]
fn middlewares_stand_before_routes_that_are_not_kept() {
    let routes = "[[route]]\npath = \"/guarded\"\nhandler = \"probe\"\nmiddlewares = [\"outer\", \"inner\"]\n";
    let seen = Arc::new(AtomicUsize::new(0));
    let plan = |routes: &str, probe: &Probe| {
        let seen = Arc::clone(&seen);
        Plan::probed(routes, probe).parts(move |parts| {
            parts.middlewares.add("outer", |request, next| {
                async move {
                    let is_known = request.headers().contains_key("x-key");
                    let mut response = match is_known {
                        true => next.run(request).await,
                        false => actix_web::HttpResponse::Unauthorized().finish(),
                    };
                    response.headers_mut().insert(HeaderName::from_static("x-outer"), HeaderValue::from_static("1"));
                    response
                }
                .boxed_local()
            });
            parts.middlewares.add("inner", move |request, next| {
                seen.fetch_add(1, Ordering::SeqCst);
                next.run(request)
            });
        })
    };
    let probe = Probe::default();
    let instance = plan(routes, &probe).start();
    let stranger = instance.get("/guarded");
    assert_eq!(
        (stranger.status, stranger.header("x-outer"), stranger.header("x-region")),
        (401, Some("1"), Some("test-1"))
    );
    assert_eq!((probe.calls(), seen.load(Ordering::SeqCst)), (0, 0), "the inner ones are not reached");
    assert_eq!(instance.get_with("/guarded", &[("X-Key", "1")]).status, 200);
    assert_eq!((probe.calls(), seen.load(Ordering::SeqCst)), (1, 1));
    let error = plan(&routes.replace("/guarded", "/public/guarded"), &probe).try_start().err().unwrap();
    assert!(error.contains("cached routes take \"cors\" alone"), "{error}");
}
