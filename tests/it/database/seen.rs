//! The position that nothing is newer than of what a statement saw.

use mainstay::database::proof::SEEN;
use mainstay::local::{Postgres, wait_until};
use mainstay::position::Lsn;

use crate::support::{Cluster, PATIENCE};

fn lsn(server: &Postgres, database: &str, sql: &str) -> Lsn {
    server.psql(database, sql).unwrap().trim().parse().unwrap()
}

/// At the end of a page the insert position is past a header that nobody has written, and a standby that has all would seem to
/// lack something for as long as nothing else is written.
#[test]
fn on_an_idle_primary_it_is_one_that_a_standby_comes_to() {
    const TO_THE_END_OF_A_PAGE: &str = "DO $$ DECLARE size int := 8; BEGIN \
        FOR round IN 1..100000 LOOP \
            PERFORM pg_logical_emit_message(false, '', repeat('x', 8 + (size * 8) % 400)); size := size + 1; \
            EXIT WHEN pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0') % 8192 = 24; \
        END LOOP; END $$";
    let cluster = Cluster::private("seen");
    let mut ends = 0;
    for _ in 0..20 {
        cluster.primary.psql("postgres", TO_THE_END_OF_A_PAGE).unwrap();
        let is_flushed = || {
            let gap = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), pg_current_wal_flush_lsn()) IN (0, 24)";
            cluster.primary.psql("postgres", gap).unwrap().trim() == "t"
        };
        assert!(wait_until(PATIENCE, is_flushed), "the server's writer flushes what is left");
        let insert = lsn(&cluster.primary, "postgres", "SELECT pg_current_wal_insert_lsn()");
        ends += usize::from(insert.0 % 8192 == 24);
        let seen = lsn(&cluster.primary, "postgres", &format!("SELECT {SEEN}"));
        let reaches = || lsn(&cluster.replica, "postgres", "SELECT pg_last_wal_replay_lsn()") >= seen;
        assert!(wait_until(PATIENCE, reaches), "{seen} is past all that is written; inserted to {insert}");
        let on_standby = || lsn(&cluster.replica, "postgres", &format!("SELECT {SEEN}"));
        let replayed = || lsn(&cluster.replica, "postgres", "SELECT pg_last_wal_replay_lsn()");
        assert!(wait_until(PATIENCE, || on_standby() <= replayed()), "a standby with nothing left comes to its own");
    }
    assert!(ends > 0, "no page was filled to its end");
}

/// Whoever sees a row on a standby has a bound past the beginning of its commit.
#[test]
fn no_row_that_is_seen_was_committed_after_it() {
    let cluster = Cluster::private("seen-bound");
    cluster.primary.psql("postgres", "CREATE TABLE rows (id int, lsn pg_lsn)").unwrap();
    cluster.catch_up();
    // The commit's record is written after this position was read.
    let insert = "INSERT INTO rows SELECT 1, pg_current_wal_insert_lsn()";
    let url = |server: &Postgres| server.url("postgres", "postgres");
    let primary = url(&cluster.primary);
    let writer = std::thread::spawn(move || {
        let mut client = postgres::Client::connect(&primary, postgres::NoTls).unwrap();
        for _ in 0..400 {
            client.execute(insert, &[]).unwrap();
        }
    });
    let ask = format!("SELECT count(*), coalesce(max(lsn) < ({SEEN})::pg_lsn, true) FROM rows");
    let mut clients =
        [&cluster.primary, &cluster.replica].map(|it| postgres::Client::connect(&url(it), postgres::NoTls).unwrap());
    loop {
        let is_over = writer.is_finished();
        for client in &mut clients {
            let row = client.query_one(&ask, &[]).unwrap();
            let (rows, is_bound): (i64, bool) = (row.get(0), row.get(1));
            assert!(is_bound, "with {rows} rows");
        }
        if is_over {
            break;
        }
    }
    writer.join().unwrap();
}
