//! `mainstay migrate` and `mainstay import rates`.

use crate::support::{Cluster, Folder, MAINSTAY, ONE, Program, command, mainstay, repository};

#[test]
fn migrating_twice_changes_nothing_and_two_at_once_do_not_meet() {
    let cluster = Cluster::shared();
    let url = cluster.primary.url("postgres", &cluster.database(""));
    let config = repository("config");
    let migrate = || {
        let mut migrate = command(MAINSTAY);
        migrate.args(["migrate", "--config", config.to_str().unwrap()]).env("DATABASE_URL", &url);
        Program::start(migrate)
    };
    let mut both = [migrate(), migrate()];
    let codes = both.each_mut().map(|program| program.wait().code());
    assert_eq!(codes, [Some(0), Some(0)], "{} {}", both[0].output(), both[1].output());
    let mut said = both.each_ref().map(Program::stdout);
    said.sort();
    assert!(said[0].starts_with("applied 4 migrations: "), "{said:?}");
    assert_eq!(said[1], "the schema is up to date\n");
    let mut third = migrate();
    assert_eq!(third.wait().code(), Some(0));
    assert_eq!(third.stdout(), "the schema is up to date\n");
}

#[test]
fn a_manifest_of_one_s_own_needs_no_tables_of_ours() {
    let cluster = Cluster::shared();
    let database = cluster.database("");
    let folder = Folder::new(ONE);
    let url = cluster.primary.url("postgres", &database);
    let outcome = mainstay(&["migrate", "--config", folder.text()], &[("DATABASE_URL", &url)]);
    assert_eq!(outcome.code, Some(0));
    assert!(outcome.stdout.starts_with("nothing to do"), "{outcome:?}");
    assert_eq!(
        cluster
            .primary
            .psql(&database, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace")
            .unwrap(),
        "0\n"
    );
}

#[test]
fn rates_are_loaded_whole_or_not_at_all() {
    let cluster = Cluster::shared();
    let database = cluster.database("");
    let url = cluster.primary.url("postgres", &database);
    let (config, env) = (repository("config"), [("DATABASE_URL", url.as_str())]);
    let config = config.to_str().unwrap();
    assert_eq!(mainstay(&["migrate", "--config", config], &env).code, Some(0));
    let folder = Folder::empty();
    let import = |text: &str| {
        folder.write("rates.csv", text);
        mainstay(&["import", "rates", "--config", config, folder.join("rates.csv").to_str().unwrap()], &env)
    };
    let rates = || cluster.primary.psql(&database, "SELECT count(*) FROM exchange_rates").unwrap();

    let bad = import("Date,USD,JPY,\n2026-10-30,1.1172,171.2,\n2026-10-29,1.11,oops,\n");
    assert_eq!(bad.code, Some(1), "{bad:?}");
    assert!(bad.stderr.contains("rates.csv: ") && bad.stderr.contains("line 3"), "{bad:?}");
    assert_eq!(rates(), "0\n", "nothing is half loaded");

    let good = "Date,USD,JPY,\n2026-10-30,1.1172,171.2,\n2026-10-29,1.11,N/A,\n";
    let first = import(good);
    assert_eq!(first.code, Some(0), "{first:?}");
    assert_eq!(first.stdout, "3 rates of 2 currencies on 2 days: 3 changed\n");
    assert_eq!(rates(), "3\n");
    assert_eq!(import(good).stdout, "3 rates of 2 currencies on 2 days: 0 changed\n");

    let gone = mainstay(&["import", "rates", "--config", config, "/not/there.csv"], &env);
    assert_eq!(gone.code, Some(1));
    assert!(gone.stderr.contains("/not/there.csv"), "{gone:?}");
}
