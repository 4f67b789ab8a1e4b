//! Everything that is configured and not in use, in words for whoever is on call. Derived from what others know; nothing is kept
//! here but since when.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::journal::{Event, Journal, Kind, rfc_3339};
use super::status::PeerStatus;
use crate::database::health::{self, Verdict};
use crate::database::lag::Ineligible;
use crate::database::read::Role;
use crate::database::status::NodeStatus;
use crate::database::steps::Step;
use crate::nodes::breaker::BreakerState;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// All is well.
    Ok,
    /// Callers get what they are promised, and something is missing.
    Warning,
    /// Callers notice.
    Critical,
}

/// Why something is not as it should be. The worst come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    NothingToServe,
    ReadsUnavailable,
    ReadsFromCache,
    PrimaryDown,
    PrimaryReadOnly,
    DatabaseDown,
    UpstreamOut,
    ReadsOnPrimary,
    ReplicaDiverged,
    ReplicaDown,
    ReplicationBroken,
    ReplicationLag,
    ReplicationLagUnknown,
    ReadsOnOtherReplica,
    BusSilent,
    WatchBroken,
    SharedCacheDown,
    BreakerOpen,
    PeerFailing,
    HardPurgesUnknown,
    SnapshotLoading,
    Starting,
    Recovering,
    Draining,
}

impl Reason {
    /// The stable code, how bad it is, and what to do.
    const fn info(self) -> (&'static str, Level, &'static str) {
        use Level::{Critical, Warning};
        match self {
            Self::NothingToServe => (
                "nothing_to_serve",
                Critical,
                "Bring Redis or a peer back, or start it with a snapshot file; until then it answers 503.",
            ),
            Self::ReadsUnavailable => {
                ("reads_unavailable", Critical, "Bring a database back; send traffic to another region until then.")
            }
            Self::ReadsFromCache => (
                "reads_from_cache",
                Critical,
                "Bring a database back before the routes' stale_if_error is over; purge nothing hard meanwhile.",
            ),
            Self::PrimaryDown => (
                "primary_down",
                Critical,
                "Bring the primary back, or promote a replica and point DATABASE_URL at it; writes and strong reads fail until then.",
            ),
            Self::PrimaryReadOnly => (
                "primary_read_only",
                Critical,
                "DATABASE_URL leads to a standby: finish the promotion, or point it at the writable server.",
            ),
            Self::DatabaseDown => (
                "database_down",
                Warning,
                "Bring a database of this failover origin back; it serves from caches alone until then.",
            ),
            Self::UpstreamOut => (
                "upstream_out",
                Critical,
                "Look at the service behind the upstream; answers that are cached are served stale until then.",
            ),
            Self::ReadsOnPrimary => (
                "reads_on_primary",
                Warning,
                "Bring a replica back: the primary takes only a few reads at a time in their place.",
            ),
            Self::ReplicaDiverged => (
                "replica_diverged",
                Warning,
                "Rebuild the replica from the primary, or take it out of DATABASE_READ_REPLICA_URL.",
            ),
            Self::ReplicaDown => (
                "replica_down",
                Warning,
                "Look whether the server runs and can be reached from here, and whether its login still works.",
            ),
            Self::ReplicationBroken => (
                "replication_broken",
                Warning,
                "Look at pg_stat_wal_receiver and the replica's log, and whether its replay is paused.",
            ),
            Self::ReplicationLag => (
                "replication_lag",
                Warning,
                "Look for long transactions and for load on the replica; it is used again once it has caught up.",
            ),
            Self::ReplicationLagUnknown => (
                "replication_lag_unknown",
                Warning,
                "Nothing proves how far the replica is: look whether the primary can be reached.",
            ),
            Self::ReadsOnOtherReplica => (
                "reads_on_other_replica",
                Warning,
                "Nothing is urgent: other replicas answer. Bring back the one that is out.",
            ),
            Self::BusSilent => (
                "bus_silent",
                Warning,
                "Look at the primary and at Redis; what is cached is served as stale and renewed until changes are heard again.",
            ),
            Self::WatchBroken => {
                ("watch_broken", Warning, "Run `mainstay migrate`: it installs the triggers that are missing.")
            }
            Self::SharedCacheDown => (
                "shared_cache_down",
                Warning,
                "Look at Redis and the way to it; each instance fills by itself until then.",
            ),
            Self::BreakerOpen => {
                ("breaker_open", Warning, "The log says why uses of it failed; it is tried again by itself.")
            }
            Self::PeerFailing => (
                "peer_failing",
                Warning,
                "Look whether the peer's admin listener can be reached and FAILOVER_PEER_TOKEN is one of its ADMIN_TOKEN.",
            ),
            Self::HardPurgesUnknown => (
                "hard_purges_unknown",
                Warning,
                "Bring Redis or a regional origin back: until then nobody can say what must never be served again.",
            ),
            Self::SnapshotLoading => ("snapshot_loading", Warning, "Wait: it is being read."),
            Self::Starting => ("no_data_yet", Warning, "Wait a moment: not every node has been asked yet."),
            Self::Recovering => ("recovering", Warning, "Wait a moment: all is well again and has to stay so."),
            Self::Draining => ("draining", Warning, "Nothing: it was told to end, and finishes what it has begun."),
        }
    }

    /// The stable code.
    const fn as_str(self) -> &'static str {
        self.info().0
    }
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) reason: Reason,
    /// Which node, table or upstream; nothing where the reason says it all.
    pub(super) subject: String,
    /// A sentence that names it.
    pub(super) detail: String,
}

/// It, and since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Degraded {
    pub(super) reason: &'static str,
    pub(super) level: Level,
    pub(super) detail: String,
    #[serde(serialize_with = "rfc_3339")]
    pub(super) since: DateTime<Utc>,
    pub(super) for_s: u64,
    pub(super) advice: &'static str,
}

/// What is known of this instance, from wherever it is known.
pub(super) struct Seen {
    pub(super) verdict: Verdict,
    pub(super) step: Option<Step>,
    pub(super) is_draining: bool,
    pub(super) nodes: Vec<NodeStatus>,
    /// Names of endpoints of upstreams, and their breakers.
    pub(super) endpoints: Vec<(String, BreakerState)>,
    /// Whether nothing was heard of changes for too long.
    pub(super) is_silent: bool,
    /// Whether Redis is in use, where there is one.
    pub(super) has_redis: Option<bool>,
    pub(super) tables_unwatched: Vec<String>,
    pub(super) upstreams_out: Vec<String>,
    pub(super) peers: Vec<PeerStatus>,
}

/// All that is not as it should be, the worst first.
pub(super) fn find(seen: &Seen) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut add = |reason, subject: &str, detail: String| {
        found.push(Finding { reason, subject: subject.to_owned(), detail });
    };
    for reason in &seen.verdict.reasons {
        if let Some((reason, detail)) = of_health(*reason) {
            add(reason, "", detail.to_owned());
        }
    }
    if let Some((reason, detail)) = seen.step.and_then(of_step) {
        add(reason, "", detail.to_owned());
    }
    let has_primary = seen.nodes.iter().any(|node| node.role == Role::Primary && node.writable);
    for node in seen.nodes.iter().filter(|node| node.sampled) {
        if let Some((reason, what)) = of_node(node, has_primary) {
            add(reason, &node.name, format!("{} {what}.", node.name));
        } else if node.breaker != BreakerState::Closed {
            add(Reason::BreakerOpen, &node.name, format!("{} is let alone after failures.", node.name));
        }
    }
    for (name, _) in seen.endpoints.iter().filter(|(_, breaker)| *breaker != BreakerState::Closed) {
        add(Reason::BreakerOpen, name, format!("{name} is let alone after failures."));
    }
    for upstream in &seen.upstreams_out {
        add(Reason::UpstreamOut, upstream, format!("No endpoint of the upstream {upstream} answers."));
    }
    if seen.is_silent {
        add(
            Reason::BusSilent,
            "",
            "Nothing is heard of changes, so nothing that is cached counts as fresh.".to_owned(),
        );
    }
    let is_said = seen.verdict.reasons.contains(&health::Reason::SharedCacheDown);
    if seen.has_redis == Some(false) && !is_said {
        add(Reason::SharedCacheDown, "", "Redis does not answer, and is let alone.".to_owned());
    }
    for table in &seen.tables_unwatched {
        add(Reason::WatchBroken, table, format!("Changes of the table {table} go unnoticed."));
    }
    for peer in seen.peers.iter().filter(|peer| peer.state == "failing") {
        let why = peer.failure.as_deref().unwrap_or("it does not answer");
        add(Reason::PeerFailing, &peer.peer, format!("The snapshot of {} cannot be pulled: {why}.", peer.peer));
    }
    if seen.is_draining {
        add(Reason::Draining, "", "This instance is shutting down.".to_owned());
    }
    found.sort_by_key(|finding| finding.reason);
    found
}

/// What only the health answer knows. The rest of its reasons are found node by node.
const fn of_health(reason: health::Reason) -> Option<(Reason, &'static str)> {
    Some(match reason {
        health::Reason::NoDataYet => (Reason::Starting, "Not every database has been asked yet."),
        health::Reason::Recovering => (Reason::Recovering, "All is well again, and has to stay so for a moment."),
        health::Reason::SharedCacheDown => (Reason::SharedCacheDown, "Redis does not answer."),
        health::Reason::DatabaseDown => (Reason::DatabaseDown, "No database of this failover origin answers."),
        health::Reason::HardPurgesUnknown => {
            (Reason::HardPurgesUnknown, "There may be hard purges that this failover origin does not know of.")
        }
        health::Reason::SnapshotLoading => (Reason::SnapshotLoading, "A snapshot is still being read."),
        health::Reason::NothingToServe => (Reason::NothingToServe, "There is nothing to serve from."),
        // A failover origin is one on purpose.
        health::Reason::FailoverMode
        | health::Reason::PrimaryDown
        | health::Reason::PrimaryReadOnly
        | health::Reason::ReplicaDown
        | health::Reason::ReplicaDiverged
        | health::Reason::ReplicationBroken
        | health::Reason::ReplicationLag
        | health::Reason::ReplicationLagUnknown => return None,
    })
}

const fn of_step(step: Step) -> Option<(Reason, &'static str)> {
    Some(match step {
        Step::Preferred => return None,
        Step::OtherReplica => (Reason::ReadsOnOtherReplica, "A replica is out, and others answer for it."),
        Step::Primary => (Reason::ReadsOnPrimary, "No replica answers, and the primary reads in their place."),
        Step::Stale => {
            (Reason::ReadsFromCache, "No database answers: what is cached is served, and what is not is a 503.")
        }
        Step::Unavailable => (Reason::ReadsUnavailable, "No database answers and nothing is cached: reads are a 503."),
    })
}

fn of_node(node: &NodeStatus, has_primary: bool) -> Option<(Reason, &'static str)> {
    Some(match (node.role, node.ineligible) {
        (Role::Primary, _) if !node.up => (Reason::PrimaryDown, "does not answer"),
        (Role::Primary, _) if !node.writable => (Reason::PrimaryReadOnly, "answers and is not writable"),
        (Role::Primary, _) => return None,
        (Role::Replica, Some(Ineligible::Down)) => (Reason::ReplicaDown, "does not answer"),
        (Role::Replica, Some(Ineligible::Promoted)) => (Reason::ReplicaDiverged, "is no standby any more"),
        (Role::Replica, Some(Ineligible::OtherBranch)) => {
            (Reason::ReplicaDiverged, "follows another timeline or cluster than the primary")
        }
        (Role::Replica, _) if !node.flowing && has_primary => {
            (Reason::ReplicationBroken, "answers, and receives or replays nothing")
        }
        (Role::Replica, Some(Ineligible::Lagging)) => {
            (Reason::ReplicationLag, "is further behind than replication.lag_max")
        }
        (Role::Replica, Some(Ineligible::LagUnknown | Ineligible::Unsampled)) => {
            (Reason::ReplicationLagUnknown, "may be any time behind: nothing proves how far")
        }
        (Role::Replica, None) => return None,
    })
}

/// Since when things are as they are.
#[derive(Default)]
pub(super) struct Memory(Vec<Known>);

struct Known {
    finding: Finding,
    since: DateTime<Utc>,
    began: Instant,
}

impl Memory {
    /// Takes a look in: writes down what is new and what is over, and says since when the rest is so.
    pub(super) fn look(
        &mut self,
        found: Vec<Finding>,
        (now, at): (Instant, DateTime<Utc>),
        journal: &Journal,
    ) -> Vec<Degraded> {
        let is_same = |one: &Finding, other: &Finding| one.reason == other.reason && one.subject == other.subject;
        let event = |kind, finding: &Finding, result: String| Event {
            at,
            kind,
            by: "this instance".to_owned(),
            what: finding.detail.clone(),
            result,
            id: None,
        };
        // Every instance starts, which is its first event.
        let note = |kind, finding: &Finding, result: String| {
            if finding.reason != Reason::Starting {
                journal.note(event(kind, finding, result));
            }
        };
        self.0.retain(|known| {
            let lasts = found.iter().any(|finding| is_same(finding, &known.finding));
            if !lasts {
                let lasted = humantime::format_duration(Duration::from_secs((now - known.began).as_secs()));
                let result = format!("over after {lasted}");
                note(Kind::Recovered, &known.finding, result);
            }
            lasts
        });
        let shown = found.into_iter().map(|finding| {
            let (since, began) = match self.0.iter_mut().find(|known| is_same(&known.finding, &finding)) {
                Some(known) => {
                    known.finding.detail.clone_from(&finding.detail);
                    (known.since, known.began)
                }
                None => {
                    note(Kind::Degraded, &finding, finding.reason.as_str().to_owned());
                    self.0.push(Known { finding: finding.clone(), since: at, began: now });
                    (at, now)
                }
            };
            let (reason, level, advice) = finding.reason.info();
            let for_s = now.saturating_duration_since(began).as_secs();
            Degraded { reason, level, detail: finding.detail, since, for_s, advice }
        });
        shown.collect()
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn finding(reason: Reason, subject: &str) -> Finding {
        Finding { reason, subject: subject.to_owned(), detail: format!("{subject} is out.") }
    }

    #[test]
    fn what_lasts_keeps_its_beginning_and_what_is_over_is_written_down() {
        let (mut memory, journal) = (Memory::default(), Journal::default());
        let (now, at) = (Instant::now(), Utc::now());
        let later =
            |seconds| (now + Duration::from_secs(seconds), at + TimeDelta::seconds(i64::try_from(seconds).unwrap()));
        let [one, two] = ["replica-1", "replica-2"].map(|name| finding(Reason::ReplicaDown, name));
        memory.look(vec![one.clone()], later(0), &journal);
        let degraded = memory.look(vec![one, two.clone()], later(90), &journal);
        assert_eq!(degraded.iter().map(|one| (one.since, one.for_s)).collect::<Vec<_>>(), [(at, 90), (later(90).1, 0)]);
        let degraded = memory.look(vec![two], later(100), &journal);
        assert_eq!((degraded.len(), degraded[0].for_s), (1, 10));
        assert!(memory.look(Vec::new(), later(100), &journal).is_empty());
        let results: Vec<String> = journal.events().into_iter().rev().map(|event| event.result).collect();
        let over = |time| format!("over after {time}");
        assert_eq!(results, ["replica_down".to_owned(), "replica_down".to_owned(), over("1m 40s"), over("10s")]);
    }

    #[test]
    fn a_look_within_the_same_moment_is_no_second_beginning() {
        let (mut memory, journal, when) = (Memory::default(), Journal::default(), (Instant::now(), Utc::now()));
        for _ in 0..3 {
            memory.look(vec![finding(Reason::BusSilent, "")], when, &journal);
        }
        assert_eq!(journal.events().len(), 1);
    }
}
