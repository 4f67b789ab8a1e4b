//! The background sampler: one task a node, each on a connection of its own, so that no request asks for health.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

use super::connect::RawLink;
use super::lag::{Reading, Sampled};
use super::node::Node;
use super::read::Shared;
use crate::position::{Lsn, SystemId, Timeline};

/// How long a lost connection is waited for at most, before the next try.
const BACKOFF_TIME_MAX: Duration = Duration::from_secs(2);

/// All of a probe in one statement, in a form that every role may run and that a pooler in transaction mode passes on.
///
/// `pg_stat_wal_receiver` has one row while a receiver runs. Who lacks `pg_monitor` sees its `pid` alone, which tells
/// whether there is one; `status` and `received_tli` count where they are shown. The flush position is what a standby
/// can reach: the insert position may lie past a page header that nobody has written.
const PROBE: &str = "SELECT pg_is_in_recovery(), \
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END, \
    CASE WHEN pg_is_in_recovery() THEN r.received_tli \
         ELSE ('x' || substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8))::bit(32)::int END, \
    (SELECT system_identifier FROM pg_control_system()), \
    r.pid IS NOT NULL AND coalesce(r.status, 'streaming') = 'streaming', \
    CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END, \
    (SELECT timeline_id FROM pg_control_checkpoint()) \
    FROM (SELECT 1) AS one LEFT JOIN pg_stat_wal_receiver AS r ON true";

/// Samples a node, and tries it out where nobody asks it, for as long as the task lives. Neither waits for the other: to connect
/// takes longer than a probe.
pub async fn run(shared: Arc<Shared>, index: usize) {
    let Some(node) = shared.nodes.get(index) else { return };
    tokio::join!(sample(&shared, node), try_out(&shared, node));
}

/// One trial at a time, while probes are answered: of a node that is down there is nothing to find out.
async fn try_out(shared: &Shared, node: &Node) {
    loop {
        sleep(jittered(shared.replication.sample_interval.0)).await;
        if node.may_be_up() {
            shared.try_out(node).await;
        }
    }
}

async fn sample(shared: &Shared, node: &Node) {
    let interval = shared.replication.sample_interval.0;
    let mut link = Link::None;
    let mut backoff = interval.min(BACKOFF_TIME_MAX);
    loop {
        let asked_at = Instant::now();
        let mut pause = interval;
        match probe(shared, node, &mut link).await {
            Ok((sent_at, reading)) => {
                backoff = interval.min(BACKOFF_TIME_MAX);
                take(shared, node, sent_at, reading);
                if node.is_primary() && shared.is_outrun(&reading) {
                    // A proxy, or the name of the primary, may lead to the new one by now: only a new connection can tell.
                    node.new_epoch();
                    link = Link::None;
                }
            }
            Err(reason) => {
                lose(node, asked_at, &reason);
                // The second look comes as soon as any other: requests wait for what it finds.
                (pause, backoff) = (backoff, (backoff * 2).min(BACKOFF_TIME_MAX.max(interval)));
            }
        }
        sleep(jittered(pause)).await;
    }
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.9 + 0.2 * fastrand::f64())
}

/// The connection of a sampler.
enum Link {
    None,
    Good(RawLink),
    /// Nothing came back in time: it may be dead without knowing, or the node was slow for a moment.
    Doubtful(RawLink),
}

/// Connects where there is no connection, and asks. In place of a doubtful connection a new one is tried; where that cannot be had,
/// as while names do not resolve, the old one may still do.
async fn probe(shared: &Shared, node: &Node, link: &mut Link) -> Result<(Instant, Reading), String> {
    let asked = match std::mem::replace(link, Link::None) {
        Link::Good(asked) => asked,
        Link::None => node.probe.open_raw().await.map_err(|error| error.to_string())?,
        Link::Doubtful(old) => node.probe.open_raw().await.unwrap_or(old),
    };
    let sent_at = Instant::now();
    let Ok(answer) = timeout(shared.replication.probe_timeout.0, asked.client.simple_query(PROBE)).await else {
        *link = Link::Doubtful(asked);
        return Err("the probe took longer than replication.probe_timeout".to_owned());
    };
    let rows =
        answer.map_err(|error| error.as_db_error().map_or(error.to_string(), |error| error.message().to_owned()))?;
    node.measured.probed(Instant::now(), sent_at.elapsed());
    let row = rows.iter().find_map(|message| if let SimpleQueryMessage::Row(row) = message { Some(row) } else { None });
    let reading = row.map(reading).ok_or("the probe had no answer")?;
    *link = Link::Good(asked);
    Ok((sent_at, reading))
}

fn reading(row: &SimpleQueryRow) -> Reading {
    fn parsed<T: FromStr>(row: &SimpleQueryRow, column: usize) -> Option<T> {
        row.try_get(column).ok().flatten()?.parse().ok()
    }
    let yes = |column| row.try_get(column).ok().flatten() == Some("t");
    Reading {
        in_recovery: yes(0),
        lsn: parsed::<Lsn>(row, 1),
        timeline: parsed(row, 2).map(Timeline),
        checkpoint_timeline: parsed(row, 6).map(Timeline),
        // bigint on the wire, unsigned in the control file.
        system: parsed::<i64>(row, 3).map(|id| SystemId(id.cast_unsigned())),
        streaming: yes(4),
        paused: yes(5),
    }
}

/// Files an answer.
fn take(shared: &Shared, node: &Node, sent_at: Instant, reading: Reading) {
    let before = node.sampled.load_full();
    shared.see(node, &reading);
    let sampled = {
        let mut history = shared.history.lock();
        if let (true, false, Some(position)) = (node.is_primary(), reading.in_recovery, reading.position()) {
            history.record(sent_at, position);
        }
        Sampled::answered(before.as_deref(), sent_at, reading, &history)
    };
    if before.as_deref().and_then(|before| before.reading).is_some_and(|before| another(&before, &reading)) {
        log::warn!(node = node.name().as_ref(); "{} has become another server: its connections are opened anew", node.name());
        node.new_epoch();
    }
    if !before.as_deref().is_some_and(|before| before.up) {
        node.measured.is_back(Instant::now());
        let part = if reading.in_recovery { "a standby" } else { "writable" };
        log::info!(node = node.name().as_ref(); "{} is up, and {part}", node.name());
    }
    node.sampled.store(Some(Arc::new(sampled)));
}

/// Files a failure.
fn lose(node: &Node, asked_at: Instant, reason: &str) {
    let before = node.sampled.load_full();
    let sampled = Sampled::failed(before.as_deref(), asked_at);
    if before.as_deref().is_none_or(|before| before.up) && !sampled.up {
        log::warn!(node = node.name().as_ref(); "{} is down: {reason}", node.name());
    }
    node.sampled.store(Some(Arc::new(sampled)));
}

/// Whether the server behind a node is another than before: another cluster, promoted or demoted, or on another timeline.
fn another(before: &Reading, now: &Reading) -> bool {
    fn differ<T: PartialEq>(before: Option<T>, now: Option<T>) -> bool {
        before.zip(now).is_some_and(|(before, now)| before != now)
    }
    before.in_recovery != now.in_recovery || differ(before.system, now.system) || differ(before.timeline, now.timeline)
}
