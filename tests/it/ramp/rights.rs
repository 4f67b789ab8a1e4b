//! What the roles of `infra/terraform/roles.sql` may read: on replicas nothing can be granted any more.

use std::fs::File;
use std::process::Stdio;

use mainstay::config::manifest::{Consistency, Source};

use super::manifest::{manifest, rows_as};
use super::{PRIMARY, ask_as, migrated_database};

const ROLES: &str = "infra/terraform/roles.sql";

/// Enough for each handler.
const PARAMETERS: &str = "base=EUR&product=onramp&amount=100&currency=EUR";

/// Runs the file as a deploy does.
fn give_rights(database: &str) {
    let mut psql = PRIMARY.command("psql");
    psql.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--dbname", &PRIMARY.url("postgres", database)]);
    psql.env("SERVING_PASSWORD", "serving").env("READER_PASSWORD", "reader");
    let done = psql.stdin(File::open(ROLES).unwrap()).stdout(Stdio::null()).output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

/// Every route that replicas may answer, those that come later included.
#[test]
fn the_reader_of_replicas_reads_all_that_eventual_routes_show() {
    let database = migrated_database();
    give_rights(&database);
    let mut asked = 0;
    for route in manifest().routes.iter().filter(|route| route.consistency == Consistency::Eventual) {
        match &route.source {
            Source::Sql { statement, .. } => {
                rows_as("reader", &database, &route.path, &vec![None; statement.placeholders_used().len()]);
            }
            Source::Handler(handler) => {
                let answer = ask_as("reader", &database, handler, PARAMETERS);
                // Nothing is imported; who may not read hears something else.
                let code = answer.err().map(|error| error.code.as_str());
                assert!(matches!(code, None | Some("not_found")), "{}: {code:?}", route.path);
            }
            Source::Upstream { .. } => panic!("{} is no route of a database", route.path),
        }
        asked += 1;
    }
    assert!(asked > 10, "{asked}");
}
