//! The tables go up, down and up again.

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
