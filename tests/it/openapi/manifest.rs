//! What the document says of a manifest.

use mainstay::source::description::{Description, Header, Response};
use mainstay::{Answer, Code};
use serde_json::{Value, json};

use super::{answer, document};
use crate::instance::probe::Probe;
use crate::instance::{Instance, Plan};

/// The parameters of an operation by name.
fn parameter<'a>(document: &'a Value, path: &str, name: &str) -> &'a Value {
    let all = document["paths"][path]["get"]["parameters"].as_array().unwrap();
    all.iter().find(|parameter| parameter["name"] == name).unwrap_or_else(|| panic!("{path} has no {name}"))
}

/// The codes of a status.
fn codes(document: &Value, path: &str, method: &str, status: &str) -> Vec<String> {
    let response = &document["paths"][path][method]["responses"][status];
    let codes = &response["content"]["application/problem+json"]["schema"]["properties"]["code"]["enum"];
    codes.as_array().into_iter().flatten().map(|code| code.as_str().unwrap().to_owned()).collect()
}

#[test]
fn parameters_of_every_type_are_described() {
    let routes = r#"
[[route]]
path = "/all/{id}/{list}"
handler = "probe"
params = [
  { name = "id", in = "path", type = "text" },
  { name = "list", in = "path", type = "integer[]", set = true },
  { name = "needed", in = "query", type = "text", pattern = "^[a-z]+$", description = "What is needed." },
  { name = "whole", in = "query", type = "integer", min = 1, max = 500, default = 50 },
  { name = "decimal", in = "query", type = "number", min = 0.5, optional = true },
  { name = "flag", in = "query", type = "boolean", default = false },
  { name = "day", in = "query", type = "date", default = "2026-10-30" },
  { name = "since", in = "query", type = "timestamp", default = "2026-10-30T12:00:00+02:00" },
  { name = "owner", in = "query", type = "uuid", optional = true },
  { name = "words", in = "query", type = "text[]", default = ["b", "a"], set = true },
  { name = "foreign", in = "query", type = "text", pattern = "(?i)^a$", default = "a" },
]
"#;
    let instance = Instance::probed(routes, &Probe::default());
    let document = document(&instance);
    let path = "/all/{id}/{list}";
    let schema = |name: &str| parameter(&document, path, name)["schema"].clone();
    assert_eq!(schema("id"), json!({ "type": "string", "minLength": 1 }));
    let item = json!({ "type": "integer", "format": "int64" });
    assert_eq!(schema("list"), json!({ "type": "array", "items": item, "maxItems": 100, "uniqueItems": true }));
    assert_eq!(schema("needed"), json!({ "type": "string", "pattern": "^[a-z]+$" }));
    let whole = json!({ "type": "integer", "format": "int64", "minimum": 1, "maximum": 500, "default": 50 });
    assert_eq!(schema("whole"), whole);
    assert_eq!(schema("decimal"), json!({ "type": "number", "minimum": 0.5 }));
    assert_eq!(schema("flag"), json!({ "type": "boolean", "default": false }));
    assert_eq!(schema("day"), json!({ "type": "string", "format": "date", "default": "2026-10-30" }));
    let since = json!({ "type": "string", "format": "date-time", "default": "2026-10-30T10:00:00Z" });
    assert_eq!(schema("since"), since);
    assert_eq!(schema("owner"), json!({ "type": "string", "format": "uuid" }));
    let word = json!({ "type": "string", "pattern": "^[^,]+$" });
    let words = json!({ "type": "array", "items": word, "maxItems": 100, "uniqueItems": true, "default": ["a", "b"] });
    assert_eq!(schema("words"), words);
    let required = |name: &str| parameter(&document, path, name)["required"].as_bool().unwrap_or(false);
    assert!(required("id") && required("needed") && !required("whole") && !required("owner"));
    assert_eq!(parameter(&document, path, "needed")["description"], "What is needed.");
    let words = parameter(&document, path, "words");
    assert_eq!((&words["style"], &words["explode"]), (&json!("form"), &json!(false)));
    // What is no regular expression of ECMA 262 is said in words.
    assert_eq!(schema("foreign"), json!({ "type": "string", "default": "a" }));
    assert!(parameter(&document, path, "foreign")["description"].as_str().unwrap().contains("`(?i)^a$`"));
    let wrong =
        ["uri_invalid", "param_invalid", "param_unknown", "param_missing", "param_repeated", "body_not_allowed"];
    assert_eq!(codes(&document, path, "get", "400"), wrong);
    assert_eq!(codes(&document, path, "get", "404"), ["route_not_found"]);
}

#[test]
fn an_operation_lists_the_errors_that_it_can_answer_with() {
    let routes = r#"
[[route]]
path = "/plain"
handler = "probe"
unknown_params = "ignore"

[[route]]
path = "/plain"
methods = ["POST"]
handler = "probe"
rate_limit = "10/s"

[[route]]
path = "/row"
result = "row"
consistency = "strong"
sql = "SELECT 1 AS one"
"#;
    let instance = Plan::probed(routes, &Probe::default()).set("consistency.strong_header", "off").start();
    let document = document(&instance);
    assert_eq!(codes(&document, "/plain", "get", "400"), ["uri_invalid", "body_not_allowed"]);
    assert!(!codes(&document, "/plain", "get", "503").contains(&"strong_unavailable".to_owned()));
    assert_eq!(codes(&document, "/plain", "get", "429"), [""; 0]);
    assert_eq!(codes(&document, "/plain", "post", "429"), ["rate_limited"]);
    assert_eq!(codes(&document, "/plain", "post", "413"), ["body_too_large"]);
    assert!(codes(&document, "/plain", "post", "503").contains(&"writes_unavailable".to_owned()));
    assert_eq!(codes(&document, "/row", "get", "404"), ["not_found"]);
    assert!(codes(&document, "/row", "get", "500").contains(&"row_not_unique".to_owned()));
    assert!(codes(&document, "/row", "get", "503").contains(&"strong_unavailable".to_owned()));
    // An undescribed handler may answer anything, and a body for it may be anything.
    let post = &document["paths"]["/plain"]["post"];
    assert!(post["responses"]["default"].is_object() && post["requestBody"]["content"]["*/*"].is_object());
    assert!(document["paths"]["/row"]["get"]["responses"].get("default").is_none());
}

/// Whatever stands in a manifest is text: in the document it stays what it is, and in the page it stays no markup.
#[test]
fn hostile_texts_stay_texts() {
    const HOSTILE: &str = "</style></title><script>alert('x')</script>\\\"><img src=x onerror=alert(1)> `<b>` &amp;";
    let routes = format!(
        "[[route]]\npath = \"/it's/{{id}}\"\nhandler = \"probe\"\nsummary = \"{HOSTILE}\"\ndescription = \"{HOSTILE}\"\n\
         params = [{{ name = \"id\", in = \"path\", type = \"text\", pattern = \"<script>|'\", description = \"{HOSTILE}\" }},\n\
         {{ name = \"q\", in = \"query\", type = \"text\", default = \"{HOSTILE}\" }}]\n"
    );
    let title = HOSTILE.replace('\\', "");
    let instance = Plan::probed(&routes, &Probe::default()).set("openapi.title", &title).start();
    let document = document(&instance);
    assert_eq!(document["info"]["title"], title);
    assert_eq!(document["paths"]["/it's/{id}"]["get"]["summary"], title);
    let page = instance.get("/docs").text();
    for markup in ["<script", "<img", "<b>", "</title><"] {
        let times = page.matches(markup).count();
        assert_eq!(times, 0, "{markup} is in the page {times} times");
    }
    assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"));
}

#[test]
fn a_route_says_what_it_is_for() {
    let routes = r#"
[[route]]
path = "/public/old-one.json"
handler = "probe"
summary = "One"
description = "More of it."
deprecated = true

[[route]]
path = "/"
handler = "probe"
"#;
    let instance = Instance::probed(routes, &Probe::default());
    let document = document(&instance);
    let get = &document["paths"]["/public/old-one.json"]["get"];
    assert_eq!((&get["summary"], &get["description"]), (&json!("One"), &json!("More of it.")));
    assert_eq!((&get["deprecated"], &get["operationId"]), (&json!(true), &json!("get_public_old_one_json")));
    assert_eq!(get["tags"], json!(["public"]));
    assert_eq!(document["paths"]["/"]["get"]["tags"], json!(["other"]));
    assert!(get["responses"]["304"].is_object(), "it is cached");
    assert!(document["paths"]["/"]["get"]["responses"].get("304").is_none(), "it is not");
}

#[test]
fn ids_stay_apart_and_do_not_depend_on_the_order() {
    let route = |path: &str| format!("[[route]]\npath = \"{path}\"\nhandler = \"probe\"\n");
    let ids = |routes: &str| {
        let document = document(&Instance::probed(routes, &Probe::default()));
        ["/a-b", "/a_b", "/c"].map(|path| document["paths"][path]["get"]["operationId"].as_str().unwrap().to_owned())
    };
    let forward = ids(&(route("/a-b") + &route("/a_b") + &route("/c")));
    assert_eq!(forward, ids(&(route("/c") + &route("/a_b") + &route("/a-b"))));
    assert_eq!(forward[2], "get_c");
    assert!(forward[0].starts_with("get_a_b_") && forward[1].starts_with("get_a_b_") && forward[0] != forward[1]);
}

#[test]
fn a_catch_all_is_one_path_and_fills_gaps_alone() {
    let routes = r#"
[upstream.legacy]
endpoints = ["http://127.0.0.1:9"]

[[route]]
path = "/all/{*rest}"
methods = ["GET", "POST", "OPTIONS"]
upstream = "legacy"

[[route]]
path = "/all/files/{*rest}"
methods = ["GET"]
upstream = "legacy"

[[route]]
path = "/all/files/{rest}"
methods = ["GET"]
handler = "probe"
params = [{ name = "rest", in = "path", type = "integer" }]
"#;
    let instance = Instance::probed(routes, &Probe::default());
    let document = document(&instance);
    let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    assert_eq!(paths, ["/all/files/{rest}", "/all/{rest}"]);
    let all = &document["paths"]["/all/{rest}"];
    assert!(all.as_object().unwrap().keys().eq(["get", "post", "options"]));
    assert!(all["get"]["description"].as_str().unwrap().contains("all paths below"));
    assert!(all["get"]["responses"]["default"].is_object());
    let query = parameter(&document, "/all/{rest}", "query");
    assert_eq!((&query["explode"], &query["schema"]["type"]), (&json!(true), &json!("object")));
    assert_eq!(parameter(&document, "/all/files/{rest}", "rest")["schema"]["type"], "integer");
    assert!(codes(&document, "/all/{rest}", "get", "503").contains(&"upstream_unavailable".to_owned()));
    assert_eq!(codes(&document, "/all/{rest}", "get", "508"), ["loop_detected"]);
}

#[test]
fn a_handler_says_what_it_takes_and_gives() {
    let schema = json!({ "type": "object", "required": ["id"], "properties": { "id": { "type": "integer" } } });
    let description = Description {
        summary: "A new thing",
        details: "It costs nothing.",
        request: Some(json!({ "type": "object" })),
        request_headers: vec![Header::idempotency_key(true)],
        responses: vec![
            Response {
                status: 201,
                summary: "It is there.",
                schema: Some(schema.clone()),
                headers: vec![Header {
                    name: "Location",
                    summary: "Where it is.",
                    required: true,
                    schema: json!({ "type": "string" }),
                }],
            },
            Response { status: 409, summary: "It was there.", schema: Some(json!({})), headers: Vec::new() },
        ],
        codes: vec![Code::BodyInvalid, Code::NotFound],
    };
    let routes = "[[route]]\npath = \"/things\"\nmethods = [\"POST\"]\nhandler = \"things.new\"\n\
                  [[route]]\npath = \"/named\"\nmethods = [\"POST\"]\nhandler = \"things.new\"\nsummary = \"Another\"\n";
    let plan = Plan::new(routes).handler("things.new", async |_| Answer::json(&json!({ "id": 1 })));
    let instance = plan.parts(|parts| parts.registry.describe("things.new", description)).start();
    let document = document(&instance);
    let post = &document["paths"]["/things"]["post"];
    assert_eq!((&post["summary"], &post["description"]), (&json!("A new thing"), &json!("It costs nothing.")));
    assert_eq!(document["paths"]["/named"]["post"]["summary"], "Another");
    assert_eq!(post["requestBody"]["content"]["application/json"]["schema"], json!({ "type": "object" }));
    assert_eq!(post["parameters"][0]["name"], "Idempotency-Key");
    assert_eq!((&post["parameters"][0]["in"], &post["parameters"][0]["required"]), (&json!("header"), &json!(true)));
    let created = &post["responses"]["201"];
    assert_eq!(created["content"]["application/json"]["schema"], schema);
    assert_eq!(created["headers"]["Location"]["required"], true);
    assert!(codes(&document, "/things", "post", "400").contains(&"body_invalid".to_owned()));
    assert_eq!(codes(&document, "/things", "post", "404"), ["not_found"]);
    assert!(post["responses"].get("default").is_none() && post["responses"]["409"].is_object());
}

/// A folder with a manifest and a schema, as the manifest is read; the problem's text where it is not.
fn with_schema(schema: &[u8]) -> Result<mainstay::config::manifest::Manifest, String> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("schemas")).unwrap();
    std::fs::write(dir.path().join("schemas/it.json"), schema).unwrap();
    let routes = "\n[[route]]\npath = \"/it\"\nhandler = \"h\"\nschema_file = \"schemas/it.json\"\n";
    std::fs::write(dir.path().join("routes.toml"), routes).unwrap();
    let known = mainstay::config::manifest::Known {
        handlers: &["h"],
        middlewares: &[],
        version: "1",
        account_reads: mainstay::config::auth::AccountReads::Strong,
    };
    let load = mainstay::config::manifest::Manifest::load(dir.path(), &known);
    load.map_err(|problems| problems[0].to_string().replace(dir.path().to_str().unwrap(), "DIR"))
}

#[test]
fn a_schema_file_that_is_none_is_refused_with_its_line() {
    let start = "DIR/routes.toml:2: route /it: schema_file schemas/it.json";
    let cases: [(&[u8], &str); 9] = [
        (b"{\n  \"type\": }", ":2:11: expected value"),
        (b"[]", ": a JSON Schema is an object"),
        (b"\"text\"", ": a JSON Schema is an object"),
        (b"{\"$schema\": \"http://json-schema.org/draft-07/schema#\"}", ": $schema is "),
        (b"{\"items\": {\"$ref\": \"other.json#/x\"}}", ": $ref \"other.json#/x\": references stay within the file"),
        (b"{\"allOf\": [{\"$ref\": \"https://example.com/x\"}]}", ": $ref \"https://example.com/x\""),
        (b"{\"$id\": \"https://example.com/x\"}", ": $id: the schema becomes part of a document"),
        (b"{\"$defs\": {\"a\": {\"$anchor\": \"b\"}}}", ": $anchor: the schema"),
        (&[b' '; 300_000], ": more than 262144 bytes"),
    ];
    for (schema, says) in cases {
        let problem = with_schema(schema).unwrap_err();
        assert!(problem.starts_with(&format!("{start}{says}")), "{problem}");
    }
    // A member that is called so is no reference.
    with_schema(br#"{"properties": {"$ref": {"type": "string"}, "$id": {"type": "integer"}}}"#).unwrap();
}

#[test]
fn a_schema_file_wins_and_its_references_lead_somewhere() {
    let schema = r##"{
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "array", "items": {"$ref": "#/$defs/one"},
        "$defs": {"one": {"type": "object", "properties": {"next": {"$ref": "#/$defs/one"}, "all": {"$ref": "#"},
                          "default": {"$ref": "#/$defs/one"}}, "default": {"$ref": "#/elsewhere"}}}
    }"##;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("Problem.json");
    std::fs::write(&file, schema).unwrap();
    let file = file.to_str().unwrap();
    let routes = format!(
        "[[route]]\npath = \"/sql\"\nsql = \"SELECT 1 AS one\"\nschema_file = \"{file}\"\n\
         [[route]]\npath = \"/handler\"\nhandler = \"probe\"\nschema_file = \"{file}\"\n"
    );
    let instance = Instance::probed(&routes, &Probe::default());
    let document = document(&instance);
    // The server's own schema of that name stays.
    let reference = json!({ "$ref": "#/components/schemas/Problem_2" });
    assert_eq!((answer(&document, "/sql"), answer(&document, "/handler")), (&reference, &reference));
    let adopted = &document["components"]["schemas"]["Problem_2"];
    assert_eq!(adopted["items"]["$ref"], "#/components/schemas/Problem_2/$defs/one");
    assert_eq!(adopted["$defs"]["one"]["properties"]["next"]["$ref"], "#/components/schemas/Problem_2/$defs/one");
    // A member of that name is a schema like others, and the keyword's value stands for itself.
    assert_eq!(adopted["$defs"]["one"]["properties"]["default"], adopted["$defs"]["one"]["properties"]["next"]);
    assert_eq!(adopted["$defs"]["one"]["default"]["$ref"], "#/elsewhere");
    assert_eq!(adopted["$defs"]["one"]["properties"]["all"]["$ref"], "#/components/schemas/Problem_2");
    assert!(document["components"]["schemas"]["Problem"]["properties"]["code"].is_object());
}
