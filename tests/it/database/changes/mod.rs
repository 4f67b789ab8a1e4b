//! The change feed on real servers: what writers do to watched tables, and what a reader hears of it.

mod guard;
mod import;
mod migrate;
mod positions;
mod reader;
mod triggers;

use std::sync::{Arc, LazyLock};

use mainstay::config::manifest::Watch;
use mainstay::config::settings::Settings;
use mainstay::database::changes::feed::{Batch, Cursor, Feed, Reader};
use mainstay::database::changes::install::{self, Plan, PlanError};
use mainstay::database::changes::schema;
use mainstay::database::maintenance::{MaintenanceConnection, MaintenancePool};
use mainstay::database::read::Database;

use crate::support::{Cluster, settings, start};

/// The cluster of these tests: transactions can be prepared, and rows replicated logically.
fn cluster() -> &'static Cluster {
    static SHARED: LazyLock<Cluster> = LazyLock::new(|| {
        Cluster::with("changes", |options| {
            options.setting("max_prepared_transactions", "20").setting("wal_level", "logical")
        })
    });
    &SHARED
}

fn watch(table: &str, tag: &str) -> Watch {
    Watch { table: table.to_owned(), tag: (!tag.is_empty()).then(|| tag.to_owned()) }
}

pub fn reader(name: &str) -> Reader {
    Reader { name: name.to_owned(), region: "test-1".to_owned() }
}

/// Runs blocking work of maintenance on a thread of its own: the test's runs a runtime.
fn maintain<T: Send + 'static>(
    settings: &Settings,
    work: impl FnOnce(&mut MaintenanceConnection) -> T + Send + 'static,
) -> T {
    let database = settings.database.clone();
    let thread = std::thread::spawn(move || work(&mut MaintenancePool::open(&database).unwrap().get().unwrap()));
    thread.join().unwrap()
}

/// Brings a database up to what is watched, and says what that took.
pub fn migrate(settings: &Settings, watches: &[Watch], contract: bool) -> Result<Plan, PlanError> {
    let watches = watches.to_vec();
    maintain(settings, move |conn| {
        schema::migrate(conn).unwrap();
        let plan = install::plan(conn, &watches, contract)?;
        install::apply(conn, &plan)?;
        Ok(plan)
    })
}

/// A database of a test's own, with a reader that follows it.
struct Site {
    cluster: &'static Cluster,
    name: String,
    settings: Settings,
    database: Arc<Database>,
    feed: Feed,
    cursor: Cursor,
}

impl Site {
    async fn new(tables: &str, watches: &[Watch]) -> Self {
        Self::on(cluster(), tables, watches).await
    }

    async fn on(cluster: &'static Cluster, tables: &str, watches: &[Watch]) -> Self {
        let name = cluster.database();
        cluster.primary.psql(&name, tables).unwrap();
        let settings = settings(&cluster.primary.url("postgres", &name), "", &[]);
        migrate(&settings, watches, false).unwrap();
        let database = start(&settings).await;
        let mut feed = database.feed(reader("reader"));
        let started = feed.start().await.unwrap();
        assert!(started.migrated && started.last.is_none());
        // What installing purged.
        feed.prune().await.unwrap();
        Self { cluster, name, settings, database, feed, cursor: started.cursor }
    }

    fn sql(&self, sql: &str) -> String {
        self.cluster.primary.psql(&self.name, sql).unwrap().trim_end().to_owned()
    }

    async fn poll(&mut self) -> Batch {
        let batch = self.feed.poll(&self.cursor, false).await.unwrap();
        self.cursor = batch.cursor.clone();
        batch
    }

    /// The tags of the next batch, in order.
    async fn news(&mut self) -> Vec<String> {
        let mut tags = self.poll().await.soft;
        tags.sort();
        tags
    }

    /// What a statement is heard as.
    async fn heard(&mut self, sql: &str) -> Vec<String> {
        self.sql(sql);
        self.news().await
    }

    /// A session that stays.
    async fn session(&self) -> tokio_postgres::Client {
        session(&self.cluster.primary.url("postgres", &self.name)).await
    }
}

async fn session(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
