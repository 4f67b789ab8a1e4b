//! PgBouncer in transaction mode: no statement of one transaction is looked for in another.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use diesel::QueryableByName;
use diesel::sql_types::{Integer, Text};
use diesel_async::RunQueryDsl;
use mainstay::config::settings::Settings;
use mainstay::database::read::{Consistency, Database, Role};
use mainstay::database::write::{Abort, Progress};
use mainstay::error::{Code, Error};
use mainstay::local::{Scratch, ServerUser};

use crate::support::{Cluster, count, settings, soon, start, start_eligible, word};

/// The server connections to a database.
const POOL_SIZE: usize = 3;

/// A PgBouncer with few server connections, in front of both servers of the shared cluster.
pub struct Pooler {
    process: Child,
    port: u16,
    _scratch: Scratch,
}

impl Pooler {
    pub fn start(cluster: &Cluster, database: &str) -> Self {
        let scratch = Scratch::new("pgbouncer").unwrap();
        let folder = ServerUser::detect().unwrap().directory(&scratch.join("run")).unwrap();
        let port = mainstay::local::free_port().unwrap();
        let (primary, replica) = (cluster.primary.server.port(), cluster.replica.server.port());
        let file = folder.join("pgbouncer.ini");
        let text = format!(
            "[databases]\n\
             primary = host=127.0.0.1 port={primary} dbname={database} user=postgres\n\
             replica = host=127.0.0.1 port={replica} dbname={database} user=postgres\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = transaction\ndefault_pool_size = {POOL_SIZE}\nmax_client_conn = 200\n"
        );
        fs::write(&file, text).unwrap();
        let process = command(&file).stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let mut pooler = Self { process, port, _scratch: scratch };
        let mut lines = BufReader::new(pooler.process.stderr.take().unwrap()).lines();
        let up = lines.by_ref().map_while(Result::ok).any(|line| line.contains("process up"));
        assert!(up, "pgbouncer did not start");
        // Its pipe must not fill up.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        pooler
    }

    /// The prepared statements on all server connections together: transactions held open at once are on different ones.
    fn prepared_statements(&self, database: &str) -> u32 {
        let url = format!("postgres://postgres@127.0.0.1:{}/{database}", self.port);
        let mut clients: Vec<_> =
            (0..POOL_SIZE).map(|_| postgres::Client::connect(&url, postgres::NoTls).unwrap()).collect();
        let count = |client: &mut postgres::Client| {
            let answer = client.simple_query("BEGIN; SELECT count(*) FROM pg_prepared_statements").unwrap();
            let row = answer.into_iter().find_map(|message| match message {
                postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            });
            row.unwrap().parse::<u32>().unwrap()
        };
        clients.iter_mut().map(count).sum()
    }

    /// Where it answers for `primary` and `replica`.
    pub fn url(&self, server: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{server}", self.port)
    }

    fn settings(&self) -> Settings {
        let more = [("MAINSTAY__DATABASE__POOLER", "transaction"), ("MAINSTAY__DATABASE__POOL_SIZE", "8")];
        settings(&self.url("primary"), &self.url("replica"), &more)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// PgBouncer refuses to run as root, and drops to a user by itself.
fn command(file: &Path) -> Command {
    let mut command = Command::new("pgbouncer");
    command.env("PATH", "/usr/local/bin:/usr/bin:/usr/local/sbin:/usr/sbin");
    // Who we are is who owns our own process entry.
    let is_root = std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").unwrap()) == 0;
    if is_root {
        command.args(["--user", "postgres"]);
    }
    command.arg(file);
    command
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Integer)]
    number: i32,
    #[diesel(sql_type = Text)]
    word: String,
}

/// One read with two bound parameters, and two statements.
async fn read(database: &Database, consistency: Consistency, number: i32) -> Result<(i32, String, Role), Error> {
    let text = format!("w{number}");
    let query = async |conn: &mut diesel_async::AsyncPgConnection| {
        let first: Row = diesel::sql_query("SELECT $1 AS number, $2 AS word")
            .bind::<Integer, _>(number)
            .bind::<Text, _>(&text)
            .get_result(conn)
            .await?;
        diesel::sql_query("SELECT $1 + 1 AS number, $2 AS word")
            .bind::<Integer, _>(first.number)
            .bind::<Text, _>(&first.word)
            .get_result::<Row>(conn)
            .await
    };
    let (row, served) = database.read(consistency, soon(), query).await?;
    Ok((row.number, row.word, served.role))
}

#[actix_rt::test]
async fn hundreds_of_reads_of_two_instances_share_three_servers() {
    let cluster = Cluster::shared();
    let pooler = Pooler::start(cluster, &cluster.database());
    let settings = pooler.settings();
    let instances = [start_eligible(&settings).await, start_eligible(&settings).await];
    let reads = (0..600).map(|number| {
        let database = &instances[usize::try_from(number).unwrap() % 2];
        let consistency = if number % 3 == 0 { Consistency::Strong } else { Consistency::Eventual };
        async move { (number, consistency, read(database, consistency, number).await) }
    });
    let mut reads: Vec<_> = reads.collect();
    while !reads.is_empty() {
        let batch = reads.split_off(reads.len().saturating_sub(40));
        for (number, consistency, outcome) in futures_util::future::join_all(batch).await {
            let role = if consistency == Consistency::Strong { Role::Primary } else { Role::Replica };
            assert_eq!(outcome.unwrap(), (number + 1, format!("w{number}"), role));
        }
    }
    // Each statement was closed inside its transaction: a close that comes later goes to whichever server is free, and
    // another process that counts its names from zero as well meets what was left.
    let left = tokio::task::spawn_blocking(move || {
        pooler.prepared_statements("primary") + pooler.prepared_statements("replica")
    });
    assert_eq!(left.await.unwrap(), 0);
}

/// A role and a database that would rather only read, and commit without waiting for the disk: what a write needs it sets itself, for
/// its transaction alone.
#[actix_rt::test]
async fn writes_go_through_it() {
    let cluster = Cluster::shared();
    let name = cluster.database();
    let table = "CREATE TABLE t (id int PRIMARY KEY)";
    let weak = ["default_transaction_read_only = on", "synchronous_commit = off", "timezone = 'Asia/Tokyo'"];
    let weak: String = weak.iter().map(|it| format!("; ALTER DATABASE {name} SET {it}")).collect();
    cluster.primary.psql(&name, &format!("{table}{weak}")).unwrap();
    let pooler = Pooler::start(cluster, &name);
    let database = start_eligible(&pooler.settings()).await;
    let write = async |id: i32| {
        let progress = Progress::default();
        let written = database.write(soon(), &progress, async |conn| {
            let rows = diesel::sql_query("INSERT INTO t VALUES ($1)").bind::<Integer, _>(id).execute(conn).await?;
            if id == 13 { Err(Abort::from(Error::new(Code::BodyInvalid, "no"))) } else { Ok(rows) }
        });
        let written = written.await.map_err(|error| error.code);
        (written, progress.committed())
    };
    let writes: Vec<_> = futures_util::future::join_all((0..24).map(&write)).await;
    let mut furthest = None;
    for (id, (written, position)) in writes.into_iter().enumerate() {
        assert_eq!(written, if id == 13 { Err(Code::BodyInvalid) } else { Ok(1) }, "{id}");
        assert_eq!(position.is_some(), id != 13);
        furthest = position.filter(|position| furthest.is_none_or(|furthest| *position > furthest)).or(furthest);
    }
    let sql = "SELECT count(*)::int AS number FROM t";
    let (count, served) = database
        .read_at_least(Consistency::Session, furthest, soon(), async |conn| count(conn, sql).await)
        .await
        .unwrap();
    assert_eq!(count, 23, "{served:?}");
    let shown = "SELECT current_setting('transaction_read_only') AS word";
    assert_eq!(word(&database, Consistency::Strong, shown).await.unwrap().0, "on");
    drop(database);
    let left = tokio::task::spawn_blocking(move || pooler.prepared_statements("primary"));
    assert_eq!(left.await.unwrap(), 0);
}

/// Neither a fence nor a poll needs anything of a session, and none is left changed.
#[actix_rt::test]
async fn the_change_feed_is_read_through_it() {
    let cluster = Cluster::shared();
    let name = cluster.database();
    cluster.primary.psql(&name, "CREATE TABLE t (id int)").unwrap();
    let watches = [mainstay::config::manifest::Watch { table: "t".into(), tag: Some("t:{id}".into()) }];
    super::changes::migrate(&settings(&cluster.primary.url("postgres", &name), "", &[]), &watches, false).unwrap();
    let pooler = Pooler::start(cluster, &name);
    let database = start(&pooler.settings()).await;
    // More readers than server connections.
    let mut readers = Vec::new();
    for number in 0..2 * POOL_SIZE {
        let mut feed = database.feed(super::changes::reader(&number.to_string()));
        let cursor = feed.start().await.unwrap().cursor;
        readers.push((feed, cursor));
    }
    cluster.primary.psql(&name, "INSERT INTO t VALUES (1)").unwrap();
    for (feed, cursor) in &mut readers {
        let batch = feed.poll(cursor, true).await.unwrap();
        assert!(batch.soft.contains(&"t:1".to_owned()), "{batch:?}");
        assert!(feed.advance(&batch.cursor, batch.fence.unwrap()).await.unwrap());
        let next = feed.poll(&batch.cursor, true).await.unwrap();
        assert!(next.soft.is_empty() && next.through.is_some(), "{next:?}");
        feed.guard(&watches).await.unwrap();
    }
    let shown = "SELECT current_setting('synchronous_commit') AS word";
    assert_eq!(word(&database, Consistency::Strong, shown).await.unwrap().0, "on");
}

#[actix_rt::test]
async fn each_transaction_has_its_settings_and_leaves_none_behind() {
    let cluster = Cluster::shared();
    let name = cluster.database();
    cluster.primary.psql("postgres", &format!("ALTER DATABASE {name} SET timezone = 'Asia/Tokyo'")).unwrap();
    cluster.catch_up();
    let pooler = Pooler::start(cluster, &name);
    let mut settings = pooler.settings();
    settings.database.statement_timeout.0 = std::time::Duration::from_millis(200);
    let database = start(&settings).await;
    let shown = "SELECT current_setting('timezone') || ' ' || current_setting('transaction_read_only') || ' ' || \
                 current_setting('statement_timeout') AS word";
    assert_eq!(word(&database, Consistency::Strong, shown).await.unwrap().0, "UTC on 200ms");
    let slow = word(&database, Consistency::Strong, "SELECT 'x' AS word FROM pg_sleep(30)").await;
    assert_eq!(slow.unwrap_err().code, Code::SourceTimeout);
    let broken = word(&database, Consistency::Strong, "SELECT nothing AS word").await;
    assert_eq!(broken.unwrap_err().code, Code::QueryFailed);
    assert_eq!(word(&database, Consistency::Strong, "SELECT 'still here' AS word").await.unwrap().0, "still here");
    let description = database.prepare("SELECT $1 AS given", &["text"], soon()).await.unwrap();
    assert_eq!(description.parameters, ["text"]);
    // Another client of the same server connections sees the server's own settings.
    let url = format!("postgres://postgres@127.0.0.1:{}/primary", pooler.port);
    let seen = tokio::task::spawn_blocking(move || {
        let mut client = postgres::Client::connect(&url, postgres::NoTls).unwrap();
        let row =
            client.simple_query("SELECT current_setting('timezone') || current_setting('statement_timeout')").unwrap();
        row.into_iter().find_map(|message| match message {
            postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
    });
    assert_eq!(seen.await.unwrap().unwrap(), "Asia/Tokyo0");
}
