//! `mainstay routes --openapi`: the document without a server.

use serde_json::Value;

use crate::support::{Cluster, Folder, Origin, mainstay};

const ROUTES: &str = "[[route]]\npath = \"/things/{id}\"\nresult = \"row\"\nsql = \"SELECT id, name FROM things WHERE id = $1\"\n\
                      params = [{ name = \"id\", in = \"path\", type = \"integer\" }]\n";

fn row(document: &Value) -> &Value {
    &document["paths"]["/things/{id}"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
}

#[test]
fn the_document_is_the_same_with_and_without_a_server() {
    let cluster = Cluster::shared();
    let database = cluster.database("CREATE TABLE things (id bigint, name text)");
    let url = cluster.primary.url("postgres", &database);
    let folder = Folder::new(ROUTES);
    let args = ["routes", "--openapi", "--config", folder.text()];
    let printed = mainstay(&args, &[("DATABASE_URL", &url)]);
    assert_eq!(printed.code, Some(0), "{printed:?}");
    let printed: Value = serde_json::from_str(&printed.stdout).unwrap();
    assert_eq!(row(&printed)["properties"]["id"]["format"], "int64");
    let origin = Origin::start(folder.path(), &[("DATABASE_URL", &url)]);
    let served = origin.get_until("/openapi.json", |reply| row(&reply.json())["properties"].is_object());
    assert_eq!(served.json(), printed);

    // Without a database it says less, and is a document all the same.
    let without = mainstay(&args, &[]);
    assert_eq!(without.code, Some(0), "{without:?}");
    let without: Value = serde_json::from_str(&without.stdout).unwrap();
    assert_eq!(row(&without), &serde_json::json!({}));
}

#[test]
fn a_database_that_does_not_tell_the_columns_is_a_failure() {
    let cluster = Cluster::shared();
    let database = cluster.database("");
    let folder = Folder::new(ROUTES);
    let args = ["routes", "--openapi", "--config", folder.text()];
    for url in [cluster.primary.url("postgres", &database), "postgres://nobody@127.0.0.1:9/none".to_owned()] {
        let refused = mainstay(&args, &[("DATABASE_URL", &url)]);
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""), "{refused:?}");
        assert!(refused.stderr.contains("the columns of /things/{id}; `mainstay check` says why"), "{refused:?}");
    }
}
