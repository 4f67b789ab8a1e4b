//! Schemas of what queries answer, by the types of their columns.

use serde_json::{Value, json};

use super::checker::{hold, misfit};
use super::{answer, document, wait_document};
use crate::instance::Plan;
use crate::source::sql::{serve, tables_in};

const TABLES: &str = r#"
CREATE TYPE mood AS ENUM ('sad', 'it''s "ok"');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE span AS RANGE (subtype = int);
"#;

/// A route of all types with values, and one where all are null.
const ROUTES: &str = r#"
[[route]]
path = "/values"
result = "row"
sql = """
SELECT true AS bool, (-32768)::int2 AS int2, 2147483647::int4 AS int4, 9223372036854775807::int8 AS int8, 1.5::float4 AS float4,
  1e-300::float8 AS float8, 123456789012345678901234567890.5::numeric AS numeric, 'x'::text AS text, 'x'::varchar(3) AS varchar,
  'x'::char(3) AS bpchar, 'x'::name AS name, '2026-10-30'::date AS date, '2026-10-30 10:00'::timestamp AS timestamp,
  '2026-10-30 10:00:00.5+05:30'::timestamptz AS timestamptz, '10:00'::time AS time, '10:00+02'::timetz AS timetz,
  '1 day'::interval AS interval, '67e55044-10b1-426f-9247-bb680e5fe0c8'::uuid AS uuid, '\\\\xff'::bytea AS bytea,
  '{"a":[1]}'::jsonb AS jsonb, '[1]'::json AS json, 'sad'::mood AS mood, ARRAY['sad']::mood[] AS moods, ROW(1, 'x')::pair AS pair,
  ARRAY[ROW(1, 'x')::pair] AS pairs, 5::positive AS positive, ARRAY[5]::positive[] AS positives, ARRAY[1, NULL] AS ints,
  ARRAY['x'] AS texts, '{}'::text[] AS none, '[1,5)'::int4range AS range, '[1,5)'::span AS span, '12.5'::money AS money,
  '10.0.0.1/8'::inet AS inet, '(1,2)'::point AS point, B'101' AS bits, 'a b'::tsvector AS words, 'x' AS unknown,
  ARRAY['{"a":1}'::jsonb] AS documents, ROW(1, 2) AS record, 'pg_class'::regclass AS class, 4294967295::oid AS oid
"""

[[route]]
path = "/nulls"
sql = "SELECT NULL::bool AS bool, NULL::int4 AS int4, NULL::numeric AS numeric, NULL::text AS text, NULL::date AS date, NULL::timestamptz AS timestamptz, NULL::uuid AS uuid, NULL::mood AS mood, NULL::int[] AS ints, NULL::pair AS pair, NULL::jsonb AS jsonb"
"#;

#[test]
fn answers_of_every_type_fit_their_schema() {
    let instance = serve(TABLES, ROUTES);
    let document = wait_document(&instance, "all columns", |document| {
        answer(document, "/values")["properties"].is_object()
            && answer(document, "/nulls")["items"]["properties"].is_object()
    });
    for path in ["/values", "/nulls"] {
        let reply = instance.get(path);
        assert_eq!(reply.status, 200, "{reply:?}");
        hold(&document, "GET", path, &reply);
    }
    let column = |name: &str| answer(&document, "/values")["properties"][name].clone();
    assert_eq!(column("bool"), json!({ "type": ["boolean", "null"] }));
    assert_eq!(column("int8"), json!({ "type": ["integer", "null"], "format": "int64" }));
    assert_eq!(column("positive"), json!({ "type": ["integer", "null"], "format": "int32" }));
    assert_eq!(column("numeric"), json!({ "type": ["number", "null"] }));
    assert_eq!(column("mood"), json!({ "type": ["string", "null"], "enum": ["sad", "it's \"ok\"", null] }));
    assert_eq!(column("moods")["items"], column("mood"));
    assert_eq!(column("ints")["items"], json!({ "type": ["integer", "null"], "format": "int32" }));
    assert_eq!(column("jsonb"), json!({}));
    assert_eq!(column("pair"), json!({ "type": ["object", "null"] }));
    assert_eq!(column("range"), json!({ "type": ["string", "null"] }));
    // What is printed by itself is text; what is somebody's own might be cast to JSON.
    assert_eq!((column("inet"), column("span")), (json!({ "type": ["string", "null"] }), json!({})));
    assert_eq!(column("timestamp").get("format"), None, "it has no offset");
    let names: Vec<&Value> = answer(&document, "/values")["required"].as_array().unwrap().iter().collect();
    assert_eq!(names.len(), instance.get("/values").json().as_object().unwrap().len());
    // The checker is no yes-man.
    assert!(misfit(&document, &column("int8"), &json!("1")).is_some());
    assert!(misfit(&document, answer(&document, "/values"), &json!({})).is_some());
}

#[test]
fn a_json_column_alone_is_anything_and_columns_keep_their_order() {
    let routes = "[[route]]\npath = \"/json\"\nsql = \"SELECT '[1]'::json AS doc\"\n\
                  [[route]]\npath = \"/row\"\nresult = \"row\"\nsql = \"SELECT 1 AS b, 'x' AS a, true AS b, 2 AS \\\"a b\\\"\"\n";
    let instance = serve("", routes);
    let document =
        wait_document(&instance, "all columns", |document| answer(document, "/row")["properties"].is_object());
    assert_eq!(answer(&document, "/json"), &json!({ "type": "array", "maxItems": 10000, "items": {} }));
    let row = answer(&document, "/row");
    assert_eq!(row["required"], json!(["b", "a", "a b"]));
    // Of a name that stands twice the last one counts, as it does for who reads the object.
    assert_eq!(row["properties"]["b"]["type"], json!(["boolean", "null"]));
    hold(&document, "GET", "/row", &instance.get("/row"));
}

/// The document follows a changed table with the next reload, and a query that is refused holds no other one back.
#[test]
fn columns_are_looked_at_again_after_a_reload_and_after_a_failure() {
    let (cluster, database) = tables_in("CREATE TABLE t (id int)");
    let route =
        |name: &str| format!("[[route]]\npath = \"/{name}\"\nresult = \"row\"\nsql = \"SELECT * FROM {name}\"\n");
    let routes = route("missing") + &route("t");
    let instance = Plan::new(&routes).database(cluster, &database).start();
    let kind = |document: &Value, path: &str| answer(document, path)["properties"]["id"]["type"][0].clone();
    let found = wait_document(&instance, "the columns of the table", |document| kind(document, "/t") == "integer");
    assert_eq!(answer(&found, "/missing"), &json!({}), "what is not known is not said");
    cluster.primary.psql(&database, "ALTER TABLE t ALTER id TYPE text; CREATE TABLE missing (id boolean)").unwrap();
    cluster.catch_up();
    // It is tried again after a pause.
    let found = wait_document(&instance, "the table that came", |document| kind(document, "/missing") == "boolean");
    assert_eq!(kind(&found, "/t"), "integer", "until the reload");
    instance.reload(&routes).unwrap();
    wait_document(&instance, "the changed table", |document| kind(document, "/t") == "string");
}

/// No request waits for a database that does not answer.
#[test]
fn without_a_database_a_row_is_anything() {
    let routes = "[[route]]\npath = \"/row\"\nresult = \"row\"\nsql = \"SELECT 1 AS one\"\n";
    let instance = Plan::new(routes).set("DATABASE_URL", "postgres://nobody@127.0.0.1:9/none").start();
    let document = document(&instance);
    assert_eq!(answer(&document, "/row"), &json!({}));
    assert!(document["paths"]["/row"]["get"]["responses"]["503"].is_object());
}
