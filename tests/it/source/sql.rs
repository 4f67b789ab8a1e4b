//! `sql` routes: parameters of every type, and JSON exactly as Postgres makes it.

use crate::instance::client::Reply;
use crate::instance::{Instance, Plan};
use crate::support::Cluster;

/// A database of its own in the shared cluster, with these tables, and an instance with these routes before it.
pub fn serve(tables: &str, routes: &str) -> Instance {
    let (cluster, name) = tables_in(tables);
    let instance = Plan::new(routes).database(cluster, &name).start();
    instance.wait_healthy();
    instance
}

/// A database of its own in the shared cluster, with these tables.
pub fn tables_in(tables: &str) -> (&'static Cluster, String) {
    let cluster = Cluster::shared();
    let name = cluster.database();
    if !tables.is_empty() {
        cluster.primary.psql(&name, tables).unwrap();
        cluster.catch_up();
    }
    (cluster, name)
}

fn refused(reply: &Reply) -> (u16, String, String) {
    (reply.status, reply.problem(), reply.json()["detail"].as_str().unwrap().to_owned())
}

const TYPES: &str = r#"
[[route]]
path = "/public/scalars/{path}"
result = "row"
sql = """
SELECT pg_typeof($1)::text AS path_type, $1 AS path, $2 AS text, $3 + 0 AS integer, $4 * 1 AS number, NOT $5 AS not_boolean,
       $6 + 1 AS next_day, $7 AS timestamp, $8 AS uuid
"""
params = [
  { name = "path", in = "path", type = "integer" },
  { name = "text", in = "query", type = "text", optional = true },
  { name = "integer", in = "query", type = "integer", optional = true },
  { name = "number", in = "query", type = "number", optional = true },
  { name = "boolean", in = "query", type = "boolean", optional = true },
  { name = "date", in = "query", type = "date", optional = true },
  { name = "timestamp", in = "query", type = "timestamp", optional = true },
  { name = "uuid", in = "query", type = "uuid", optional = true },
]

[[route]]
path = "/public/arrays"
result = "row"
sql = "SELECT $1 AS text, $2 AS integer, $3 AS number, $4 AS boolean, $5 AS date, $6 AS timestamp, $7 AS uuid, pg_typeof($2)::text AS kind"
params = [
  { name = "text", in = "query", type = "text[]", default = [] },
  { name = "integer", in = "query", type = "integer[]", default = [3, 1] },
  { name = "number", in = "query", type = "number[]", default = [] },
  { name = "boolean", in = "query", type = "boolean[]", default = [] },
  { name = "date", in = "query", type = "date[]", default = [] },
  { name = "timestamp", in = "query", type = "timestamp[]", default = [] },
  { name = "uuid", in = "query", type = "uuid[]", default = [] },
]

[[route]]
path = "/public/rules"
result = "row"
sql = "SELECT $1 AS code, $2 AS codes, $3 AS limit, $4 AS rate"
params = [
  { name = "code", in = "query", type = "text", pattern = "^[A-Z]{3}$", default = "EUR" },
  { name = "codes", in = "query", type = "text[]", pattern = "^[A-Z]{3}$", set = true, default = [] },
  { name = "limit", in = "query", type = "integer", min = 1, max = 500 },
  { name = "rate", in = "query", type = "number", min = 0.5, optional = true },
]
"#;

#[test]
fn every_type_arrives_as_itself() {
    let instance = serve("", TYPES);
    let absent = instance.get("/public/scalars/-7");
    assert_eq!(
        absent.text(),
        r#"{"path_type":"bigint","path":-7,"text":null,"integer":null,"number":null,"not_boolean":null,"next_day":null,"timestamp":null,"uuid":null}"#
    );
    let reply = instance.get(
        "/public/scalars/9223372036854775807?text=%27;DROP%20TABLE%20x--%22%5C$1&integer=-9223372036854775808\
         &number=123456789012345678901234567890.0123456789&boolean=0&date=2024-02-28\
         &timestamp=2026-10-30T12:00:00.25%2B02:00&uuid=67E5504410B1426F9247BB680E5FE0C8",
    );
    assert_eq!(
        reply.text(),
        concat!(
            r#"{"path_type":"bigint","path":9223372036854775807,"text":"';DROP TABLE x--\"\\$1","integer":-9223372036854775808,"#,
            r#""number":123456789012345678901234567890.0123456789,"not_boolean":true,"next_day":"2024-02-29","#,
            r#""timestamp":"2026-10-30T10:00:00.25+00:00","uuid":"67e55044-10b1-426f-9247-bb680e5fe0c8"}"#
        )
    );
    assert_eq!(instance.get("/public/scalars/1?text=").json()["text"], "", "an empty text is no NULL");
    assert_eq!(instance.get("/public/scalars/1?text=%F0%9F%A6%80%0A%09").json()["text"], "🦀\n\t");
}

#[test]
fn arrays_of_every_type_keep_their_order() {
    let instance = serve("", TYPES);
    let empty =
        r#"{"text":[],"integer":[3,1],"number":[],"boolean":[],"date":[],"timestamp":[],"uuid":[],"kind":"bigint[]"}"#;
    assert_eq!(instance.get("/public/arrays").text(), empty);
    let reply = instance.get(
        "/public/arrays?text=b,a&text=b&integer=3,1,2,1&number=1.50,2&boolean=1,false&date=2026-01-02,2026-01-01\
         &timestamp=2026-01-01T00:00:00Z&uuid=67e55044-10b1-426f-9247-bb680e5fe0c8&text=%22%7B%7D%5C",
    );
    assert_eq!(
        reply.text(),
        concat!(
            r#"{"text":["b","a","b","\"{}\\"],"integer":[3,1,2,1],"number":[1.5,2],"boolean":[true,false],"#,
            r#""date":["2026-01-02","2026-01-01"],"timestamp":["2026-01-01T00:00:00+00:00"],"#,
            r#""uuid":["67e55044-10b1-426f-9247-bb680e5fe0c8"],"kind":"bigint[]"}"#
        )
    );
    assert_eq!(instance.get("/public/arrays?integer=").json()["integer"], serde_json::json!([]), "said to be empty");
    let many = vec!["1"; 101].join(",");
    assert_eq!(instance.get(&format!("/public/arrays?integer={}", &many[2..])).status, 200);
    assert_eq!(instance.get(&format!("/public/arrays?integer={many}")).problem(), "param_invalid");
}

#[test]
fn rules_of_parameters_are_held_and_named() {
    let instance = serve("", TYPES);
    assert_eq!(instance.get("/public/rules?limit=1").text(), r#"{"code":"EUR","codes":[],"limit":1,"rate":null}"#);
    let sorted = instance.get("/public/rules?limit=500&codes=USD,CHF&codes=USD&rate=0.50");
    assert_eq!(sorted.text(), r#"{"code":"EUR","codes":["CHF","USD"],"limit":500,"rate":0.5}"#);
    for (query, code, detail) in [
        ("", "param_missing", "parameter limit is required"),
        ("limit=0", "param_invalid", "parameter limit must be between 1 and 500"),
        ("limit=501", "param_invalid", "parameter limit must be between 1 and 500"),
        ("limit=x", "param_invalid", "parameter limit must be a whole number of at most 64 bits"),
        ("limit=1&limit=1", "param_repeated", "parameter limit is given more than once"),
        ("limit=1&rate=0.4999", "param_invalid", "parameter rate must be at least 0.5"),
        ("limit=1&code=eur", "param_invalid", "parameter code must be text that matches ^[A-Z]{3}$"),
        ("limit=1&code=EURO", "param_invalid", "parameter code must be text that matches ^[A-Z]{3}$"),
        ("limit=1&code=EUR%0A", "param_invalid", "parameter code must be text that matches ^[A-Z]{3}$"),
        ("limit=1&codes=EUR,x", "param_invalid", "parameter codes must be text that matches ^[A-Z]{3}$"),
        ("limit=1&codes=EUR,", "param_invalid", "parameter codes must be a list without empty items"),
        ("limit=1&other=1", "param_unknown", "parameter other is not known; this route takes code, codes, limit, rate"),
    ] {
        let reply = instance.get(&format!("/public/rules?{query}"));
        assert_eq!(refused(&reply), (400, code.to_owned(), detail.to_owned()), "{query}");
    }
}

/// Whatever a parameter's rules let through, Postgres takes: a caller's value must not become a 500.
#[test]
fn what_passes_the_rules_passes_postgres() {
    let instance = serve("", TYPES);
    let digits = "9".repeat(40);
    for query in [
        "date=0001-01-01".to_owned(),
        "date=9999-12-31".to_owned(),
        "timestamp=0001-01-01T00:00:00Z".to_owned(),
        "timestamp=9999-12-31T23:59:59.999999Z".to_owned(),
        "timestamp=2016-12-31T23:59:59.9999999Z".to_owned(),
        format!("number={digits}"),
        format!("number=-0.{}1", "0".repeat(37)),
        "integer=9223372036854775807".to_owned(),
        "text=%01%EF%BF%BF%F4%8F%BF%BF".to_owned(),
    ] {
        assert_eq!(instance.get(&format!("/public/scalars/1?{query}")).status, 200, "{query}");
    }
    for query in
        ["date=0000-01-01", "timestamp=0000-12-31T23:59:59Z", "timestamp=0001-01-01T00:00:00%2B00:01", "text=%00"]
    {
        assert_eq!(instance.get(&format!("/public/scalars/1?{query}")).status, 400, "{query}");
    }
}

#[test]
fn a_row_route_wants_exactly_one() {
    let routes = "[[route]]\npath = \"/public/row\"\nresult = \"row\"\nparams = [{ name = \"n\", in = \"query\", type = \"integer\" }]\n\
                  sql = \"SELECT generate_series(1, $1) AS n\"\n";
    let instance = serve("", routes);
    assert_eq!(instance.get("/public/row?n=1").text(), "{\"n\":1}");
    let none = instance.get("/public/row?n=0");
    assert_eq!((none.status, none.problem()), (404, "not_found".to_owned()));
    assert!(instance.get("/public/row?n=0").is_hit(), "the absence is kept");
    for more in ["2", "1000000000"] {
        let reply = instance.get(&format!("/public/row?n={more}"));
        assert_eq!((reply.status, reply.problem()), (500, "row_not_unique".to_owned()), "{more}");
    }
}

#[test]
fn rows_keep_their_order_and_none_are_an_empty_array() {
    let routes = "[[route]]\npath = \"/public/rows\"\nparams = [{ name = \"n\", in = \"query\", type = \"integer\" }]\n\
                  sql = \"SELECT id FROM things WHERE id <= $1 ORDER BY rank DESC\"\n";
    let tables = "CREATE TABLE things AS SELECT g AS id, (g * 7919) % 5003 AS rank FROM generate_series(1, 5000) g";
    let instance = serve(tables, routes);
    assert_eq!(instance.get("/public/rows?n=0").text(), "[]");
    let mut expected: Vec<u64> = (1..=5_000).collect();
    expected.sort_by_key(|id| std::cmp::Reverse((id * 7_919) % 5_003));
    let rows = instance.get("/public/rows?n=5000").json();
    let ids: Vec<u64> = rows.as_array().unwrap().iter().map(|row| row["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, expected);
}

#[test]
fn json_columns_are_passed_on_byte_for_byte() {
    let tables = r#"CREATE TABLE docs (id int, as_json json, as_jsonb jsonb);
        INSERT INTO docs VALUES
        (1, '{ "b" : 1.10,  "a":[1 , 2],"b":2, "big":123456789012345678901234567890.12345678901234567890 }',
            '{ "bb" : 1.10, "a":[1 , 2], "big":123456789012345678901234567890.12345678901234567890, "e":1e3, "u":"\u00e9\n" }'),
        (2, 'null', 'null'), (3, NULL, NULL), (4, '"text"', '"text"')"#;
    let routes = |result: &str| {
        let route = |kind: &str| {
            format!(
                "[[route]]\npath = \"/public/{kind}\"\nresult = \"{result}\"\nparams = [{{ name = \"ids\", in = \"query\", type = \
                 \"integer[]\" }}]\nsql = \"SELECT as_{kind} FROM docs WHERE id = ANY($1) ORDER BY id\"\n"
            )
        };
        route("json") + &route("jsonb")
    };
    let (cluster, name) = tables_in(tables);
    let start = |result: &str| {
        let instance = Plan::new(&routes(result)).database(cluster, &name).start();
        instance.wait_healthy();
        instance
    };
    let json = r#"{ "b" : 1.10,  "a":[1 , 2],"b":2, "big":123456789012345678901234567890.12345678901234567890 }"#;
    let jsonb = r#"{"a": [1, 2], "e": 1000, "u": "é\n", "bb": 1.10, "big": 123456789012345678901234567890.12345678901234567890}"#;
    let one = start("row");
    assert_eq!(one.get("/public/json?ids=1").text(), json);
    assert_eq!(one.get("/public/jsonb?ids=1").text(), jsonb);
    for (id, expected) in [("2", "null"), ("3", "null"), ("4", "\"text\"")] {
        assert_eq!(one.get(&format!("/public/json?ids={id}")).text(), expected);
        assert_eq!(one.get(&format!("/public/jsonb?ids={id}")).text(), expected);
    }
    let all = start("rows");
    assert_eq!(all.get("/public/json?ids=1,2,3,4").text(), format!("[{json},null,null,\"text\"]"));
    assert_eq!(all.get("/public/jsonb?ids=1,2,3,4").text(), format!("[{jsonb},null,null,\"text\"]"));
}

/// Names that the wrapping uses itself, and names that want quotes.
#[test]
fn columns_may_have_any_name() {
    let cases = [
        (r#"SELECT 1 AS mainstay_q"#, r#"{"mainstay_q":1}"#),
        (r#"SELECT 1 AS mainstay_q, 2 AS j, 3 AS mainstay_rows"#, r#"{"mainstay_q":1,"j":2,"mainstay_rows":3}"#),
        (r#"SELECT jsonb '{}' AS mainstay_q"#, "{}"),
        (r#"SELECT jsonb '[1]' AS "it's ""quoted"" \ {}""#, "[1]"),
        (r#"SELECT 1 AS "it's ""quoted"" {}", 2 AS "SELECT""#, r#"{"it's \"quoted\" {}":1,"SELECT":2}"#),
        (r#"SELECT 1 AS a, 2 AS a"#, r#"{"a":1,"a":2}"#),
        (r#"SELECT jsonb '1' AS j"#, "1"),
        (r#"SELECT 1"#, r#"{"?column?":1}"#),
        (r#"VALUES (1, 'x')"#, r#"{"column1":1,"column2":"x"}"#),
        (r#"WITH mainstay_q AS (SELECT 5 AS five) SELECT five FROM mainstay_q"#, r#"{"five":5}"#),
        ("SELECT '$1;--' AS a -- a comment; $1\n/* ; */ ;", r#"{"a":"$1;--"}"#),
        (r#"SELECT row(1, 'x') AS composite"#, r#"{"composite":{"f1":1,"f2":"x"}}"#),
        (r#"SELECT NULL AS nothing"#, r#"{"nothing":null}"#),
    ];
    let route = |(index, (sql, _)): (usize, &(&str, &str))| {
        format!("[[route]]\npath = \"/public/case/{index}\"\nresult = \"row\"\nsql = '''{sql}'''\n")
    };
    let routes: String = cases.iter().enumerate().map(route).collect();
    let instance = serve("", &routes);
    for (index, (sql, expected)) in cases.iter().enumerate() {
        assert_eq!(instance.get(&format!("/public/case/{index}")).text(), *expected, "{sql}");
    }
}

#[test]
fn rows_and_bytes_have_bounds() {
    let (cluster, name) = tables_in("");
    let routes = "[[route]]\npath = \"/public/rows\"\nparams = [{ name = \"n\", in = \"query\", type = \"integer\" }, { name = \
                  \"w\", in = \"query\", type = \"integer\", default = 1 }]\nsql = \"SELECT repeat('x', $2::int) AS x FROM \
                  (SELECT generate_series(1, $1)) AS g\"\n[[route]]\npath = \"/public/row\"\nresult = \"row\"\nparams = [{ name = \"w\", in = \
                  \"query\", type = \"integer\" }]\nsql = \"SELECT repeat('x', $1::int) AS x\"\n";
    // Postgres makes a hundred megabytes for one of them, which takes a busy machine a while.
    let plan = Plan::new(routes).database(cluster, &name).set("database.statement_timeout", "25s");
    let plan = plan.set("limits.request_timeout", "28s");
    let instance = plan.set("limits.rows_max", "100").set("limits.response_bytes_max", "10000").start();
    instance.wait_healthy();
    assert_eq!(instance.get("/public/rows?n=100").json().as_array().unwrap().len(), 100);
    for n in ["101", "50000000"] {
        let reply = instance.get(&format!("/public/rows?n={n}"));
        let detail = "the query of this route found more than 100 rows".to_owned();
        assert_eq!(refused(&reply), (500, "response_too_large".to_owned(), detail), "{n}");
    }
    for target in ["/public/rows?n=2&w=5000", "/public/row?w=10000", "/public/row?w=100000000"] {
        let reply = instance.get(target);
        let detail = "the answer of this route would be longer than 10000 bytes".to_owned();
        assert_eq!(refused(&reply), (500, "response_too_large".to_owned(), detail), "{target}");
    }
    assert_eq!(
        instance.get("/public/row?w=9992").body.len(),
        10_000,
        "with its name and brackets it is just short enough"
    );
}

#[test]
fn a_failing_query_tells_the_client_nothing_of_it() {
    let routes = "[[route]]\npath = \"/public/broken\"\nsql = \"SELECT secret_column FROM secret_table\"\n\
                  [[route]]\npath = \"/public/division\"\nparams = [{ name = \"n\", in = \"query\", type = \"integer\" }]\nsql = \
                  \"SELECT 'secret' AS s, 1 / $1 AS x\"\n\
                  [[route]]\npath = \"/public/explain\"\nsql = \"EXPLAIN SELECT 'secret'\"\n";
    let instance = serve("", routes);
    for target in ["/public/broken", "/public/division?n=0", "/public/explain"] {
        let reply = instance.get(target);
        assert_eq!((reply.status, reply.problem()), (500, "query_failed".to_owned()), "{target}");
        let text = reply.text().to_lowercase();
        assert!(
            ["secret", "select", "division", "relation", "syntax"].iter().all(|word| !text.contains(word)),
            "{text}"
        );
        assert_eq!(reply.header("cache-control"), Some("no-store"));
    }
    assert_eq!(instance.get("/public/division?n=1").status, 200, "the connection is as good as before");
}

#[test]
fn a_query_that_takes_too_long_is_a_503_and_ends_on_the_server() {
    let (cluster, name) = tables_in("");
    let routes = "[[route]]\npath = \"/public/slow\"\nsql = \"SELECT 1 AS x FROM pg_sleep(60)\"\n";
    let instance = Plan::new(routes).database(cluster, &name).set("database.statement_timeout", "200ms").start();
    instance.wait_healthy();
    let reply = instance.get("/public/slow");
    assert_eq!((reply.status, reply.problem()), (503, "source_timeout".to_owned()));
    let running = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND query LIKE '%pg_sleep%' AND state = 'active'"
    );
    assert_eq!(cluster.replica.psql("postgres", &running).unwrap().trim(), "0");
}
