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
    assert!(said[0].starts_with("applied 16 migrations: "), "{said:?}");
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

#[test]
fn what_migrate_would_do_is_printed_and_not_done() {
    let cluster = Cluster::shared();
    let (database, reader, blind) = cluster.pgbench_database();
    let owner = cluster.primary.url("postgres", &database);
    let watched = "[[route]]\npath = \"/tellers/{tid}\"\nsql = \"SELECT * FROM pgbench_tellers WHERE tid = $1\"\nresult = \"row\"\n\
        params = [{ name = \"tid\", in = \"path\", type = \"integer\" }]\n  [route.cache]\n  ttl = \"10s\"\n  \
        tags = [\"tellers:{tid}\"]\n  watch = [{ table = \"pgbench_tellers\", tag = \"tellers:{tid}\" }]\n";
    let folder = Folder::new(watched);
    let run = |more: &[&str]| {
        let args = [&["migrate", "--config", folder.text()], more].concat();
        mainstay(&args, &[("DATABASE_URL", &owner)])
    };
    let schemas =
        || cluster.primary.psql(&database, "SELECT count(*) FROM pg_namespace WHERE nspname = 'mainstay'").unwrap();
    let preview = run(&["--dry-run", "--role", &reader]);
    assert_eq!((preview.code, schemas().trim()), (Some(0), "0"), "{preview:?}");
    for part in ["CREATE TABLE mainstay.change_feed", "ON public.pgbench_tellers", "TRIGGER mainstay_truncate", "TO "] {
        assert!(preview.stdout.contains(part), "{part}: {}", preview.stdout);
    }
    // What was printed is what is done, save that no list of migrations is kept.
    let done = run(&["--role", &reader]);
    assert_eq!((done.code, schemas().trim()), (Some(0), "1"), "{done:?}");
    assert_eq!(run(&["--role", &reader]).stdout, "the schema is up to date\n");
    assert_eq!(run(&["--role", &reader, "--dry-run"]).stdout, "");

    // `check` misses the grants of a role that was not named, and prints them.
    let check = |role: &str| {
        mainstay(&["check", "--config", folder.text()], &[("DATABASE_URL", &cluster.primary.url(role, &database))])
    };
    assert_eq!(check(&reader).code, Some(0), "{:?}", check(&reader));
    cluster.primary.psql(&database, &format!("GRANT SELECT ON pgbench_tellers TO {blind}")).unwrap();
    let lacking = check(&blind);
    assert_eq!(lacking.code, Some(1), "{lacking:?}");
    let (_, grants) = lacking.stdout.split_once("may not follow it; ").unwrap();
    cluster.primary.psql(&database, grants.lines().next().unwrap()).unwrap();
    assert_eq!(check(&blind).code, Some(0), "{:?}", check(&blind));

    let other = Folder::new(ONE);
    let contract = mainstay(&["migrate", "--contract", "--config", other.text()], &[("DATABASE_URL", &owner)]);
    assert_eq!(contract.code, Some(0), "{contract:?}");
    let triggers = "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'pgbench_tellers'::regclass AND NOT tgisinternal";
    assert_eq!(cluster.primary.psql(&database, triggers).unwrap().trim(), "0");
}
