//! The tables go up, down and up again.

use diesel::migration::{Migration, MigrationSource};
use diesel::pg::Pg;
use diesel_migrations::{FileBasedMigrations, MigrationHarness};
use mainstay::ramp;

use super::{connect, empty_database, sql};

const TABLES: &str = "SELECT string_agg(tablename, ' ' ORDER BY tablename) FROM pg_tables WHERE schemaname = 'public'";
const OWN_TABLES: &str = "SELECT count(*) FROM pg_tables WHERE schemaname = 'ramp'";

#[test]
fn migrations_go_up_down_and_up_again() {
    let name = empty_database();
    let mut conn = connect(&name);
    let applied = ramp::migrate(&mut conn).unwrap();
    assert_eq!(applied.len(), 14);
    let tables = "__diesel_schema_migrations currencies docs exchange_rates fee_schedules";
    assert_eq!(sql(&name, TABLES), tables);
    assert_eq!(ramp::migrate(&mut conn).unwrap(), Vec::<String>::new(), "a second time there is nothing to do");

    // What another part of the server has applied is none of our business.
    sql(&name, "INSERT INTO __diesel_schema_migrations VALUES ('20000101000000')");
    assert_eq!(sql(&name, OWN_TABLES), "16");
    ramp::revert(&mut conn).unwrap();
    assert_eq!(sql(&name, "SELECT count(*) FROM pg_namespace WHERE nspname = 'ramp'"), "0");
    assert_eq!(sql(&name, TABLES), "__diesel_schema_migrations");
    assert_eq!(sql(&name, "SELECT version FROM __diesel_schema_migrations"), "20000101000000");

    assert_eq!(ramp::migrate(&mut conn).unwrap(), applied);
    assert_eq!(sql(&name, TABLES), tables);
    assert_eq!(sql(&name, "SELECT count(*) FROM currencies"), "43");
}

#[test]
fn limits_that_an_operator_has_set_stay_when_those_of_a_migration_go() {
    let name = empty_database();
    let mut conn = connect(&name);
    ramp::migrate(&mut conn).unwrap();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/ramp");
    let all: Vec<Box<dyn Migration<Pg>>> = FileBasedMigrations::from_path(folder).unwrap().migrations().unwrap();
    let limits = all.iter().find(|migration| migration.name().to_string().ends_with("_limits")).unwrap();
    let limits_of =
        "SELECT string_agg(kyc_tier || currency || per_transaction || '/' || per_day, ' ' ORDER BY currency, kyc_tier)
        FROM ramp.kyc_limits WHERE currency IN ('CHF', 'JPY')";
    let written = "0CHF10000/50000 1CHF1000000/10000000 2CHF10000000/100000000 0JPY15000/75000 1JPY1500000/15000000 2JPY15000000/150000000";
    assert_eq!(sql(&name, limits_of), written);

    conn.revert_migration(limits).unwrap();
    assert_eq!(sql(&name, limits_of), "");
    sql(&name, "INSERT INTO ramp.kyc_limits (kyc_tier, currency, per_transaction, per_day) VALUES (0, 'CHF', 7, 8)");
    ramp::migrate(&mut conn).unwrap();
    sql(&name, "UPDATE ramp.kyc_limits SET per_day = 1500001 WHERE kyc_tier = 1 AND currency = 'JPY'");
    let others = sql(&name, "SELECT count(*) FROM ramp.kyc_limits WHERE currency NOT IN ('CHF', 'JPY')");

    conn.revert_migration(limits).unwrap();
    assert_eq!(
        sql(&name, limits_of),
        "0CHF7/8 1JPY1500000/1500001",
        "one that stood before, and one that was changed since"
    );
    assert_eq!(sql(&name, "SELECT count(*) FROM ramp.kyc_limits"), (others.parse::<u32>().unwrap() + 2).to_string());

    ramp::migrate(&mut conn).unwrap();
    let kept = written.replace("0CHF10000/50000", "0CHF7/8").replace("1JPY1500000/15000000", "1JPY1500000/1500001");
    assert_eq!(sql(&name, limits_of), kept);
}

#[test]
fn the_tables_refuse_what_the_code_could_not_read() {
    let name = empty_database();
    let mut conn = connect(&name);
    ramp::migrate(&mut conn).unwrap();
    let refused = [
        "INSERT INTO exchange_rates VALUES ('2026-10-30', 'EUR', 'USD', 0)",
        "INSERT INTO exchange_rates VALUES ('2026-10-30', 'EUR', 'USD', 'NaN')",
        "INSERT INTO exchange_rates VALUES ('2026-10-30', 'EUR', 'USD', 1000000000)",
        "INSERT INTO exchange_rates VALUES ('2026-10-30', 'EUR', 'USD', 1.0000000001)",
        "INSERT INTO exchange_rates VALUES ('2026-10-30', 'EUR', 'EUR', 1)",
        "INSERT INTO exchange_rates VALUES ('2026-10-30', 'EUR', 'XXX', 1)",
        "INSERT INTO fee_schedules VALUES ('other', 'EUR', 1000001)",
        "INSERT INTO fee_schedules VALUES ('other', 'EUR', 1, 0, 10, 9)",
        "INSERT INTO docs VALUES ('No Slug', 't', 'b')",
    ];
    for statement in refused {
        let outcome = super::PRIMARY.psql(&name, statement);
        assert!(outcome.is_err(), "{statement}");
    }
}
