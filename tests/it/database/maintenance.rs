//! Blocking connections: migrations, and work of several threads.

use diesel::connection::SimpleConnection;
use diesel::{Connection, QueryResult, RunQueryDsl};
use diesel_migrations::{FileBasedMigrations, MigrationHarness};
use mainstay::database::maintenance::MaintenancePool;

use crate::support::{Cluster, settings};

#[test]
fn migrations_run_and_revert() {
    let cluster = Cluster::shared();
    let name = cluster.database();
    let folder = tempfile::tempdir().unwrap();
    let migration = folder.path().join("2026-01-01-000000_things");
    std::fs::create_dir(&migration).unwrap();
    std::fs::write(migration.join("up.sql"), "CREATE TABLE things (id int); INSERT INTO things VALUES (1), (2);")
        .unwrap();
    std::fs::write(migration.join("down.sql"), "DROP TABLE things;").unwrap();
    let pool = MaintenancePool::open(&cluster.settings(&name).database).unwrap();
    let mut connection = pool.get().unwrap();
    let migrations = || FileBasedMigrations::from_path(folder.path()).unwrap();
    assert_eq!(connection.run_pending_migrations(migrations()).unwrap().len(), 1);
    assert!(!connection.has_pending_migration(migrations()).unwrap());
    let insert = |connection: &mut _| diesel::sql_query("INSERT INTO things VALUES (3)").execute(connection);
    connection.transaction(|connection| insert(connection)).unwrap();
    assert_eq!(cluster.primary.psql(&name, "SELECT count(*) FROM things").unwrap().trim(), "3");
    let rolled_back: QueryResult<()> = connection.transaction(|connection| {
        insert(connection)?;
        Err(diesel::result::Error::RollbackTransaction)
    });
    assert!(rolled_back.is_err());
    assert_eq!(cluster.primary.psql(&name, "SELECT count(*) FROM things").unwrap().trim(), "3");
    connection.revert_all_migrations(migrations()).unwrap();
    assert!(connection.batch_execute("SELECT * FROM things").is_err());
}

#[test]
fn threads_share_the_pool() {
    let cluster = Cluster::shared();
    let name = cluster.database();
    cluster.primary.psql(&name, "CREATE TABLE hits (id int)").unwrap();
    let pool = MaintenancePool::open(&cluster.settings(&name).database).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let mut connection = pool.get().unwrap();
                    diesel::sql_query("INSERT INTO hits VALUES (1)").execute(&mut *connection).unwrap();
                }
            });
        }
    });
    assert_eq!(cluster.primary.psql(&name, "SELECT count(*) FROM hits").unwrap().trim(), "160");
}

#[test]
fn an_unreachable_server_is_named_without_its_password() {
    let port = mainstay::local::free_port().unwrap();
    let url = format!("postgres://someone:hunter2@127.0.0.1:{port}/app");
    let Err(error) = MaintenancePool::open(&settings(&url, "", &[]).database).unwrap().get() else {
        panic!("connected")
    };
    let text = error.to_string();
    assert!(text.contains(&format!("127.0.0.1:{port}/app")) && !text.contains("hunter2"), "{text}");
}
