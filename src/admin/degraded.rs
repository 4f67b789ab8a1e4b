//! Everything that is not as it should be, in words for whoever is on call. Derived from what others know: `/admin/status`, the console
//! and the metrics all have it from here, so that none of them calls well what another calls degraded.

use std::cmp::Reverse;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::journal::rfc_3339;
use crate::database::health::{self, Verdict};
use crate::telemetry::metrics::Metrics;

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

impl Level {
    /// The word for it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// Why something is not as it should be. The worst come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    OutOfRotation,
    NothingToServe,
    ReadsUnavailable,
    ReadsFromCache,
    PrimaryDown,
    PrimaryReadOnly,
    DatabaseDown,
    DatabaseMissing,
    UpstreamOut,
    AuditWrong,
    ManyErrors,
    Errors,
    Overloaded,
    PoolExhausted,
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

/// The reason that the metrics have besides: a failover origin is one on purpose, which is nothing to tell people.
const FAILOVER_MODE: &str = "failover_mode";

impl Reason {
    /// All reasons, the worst first.
    const ALL: [Self; 31] = [
        Self::OutOfRotation,
        Self::NothingToServe,
        Self::ReadsUnavailable,
        Self::ReadsFromCache,
        Self::PrimaryDown,
        Self::PrimaryReadOnly,
        Self::DatabaseDown,
        Self::DatabaseMissing,
        Self::UpstreamOut,
        Self::AuditWrong,
        Self::ManyErrors,
        Self::Errors,
        Self::Overloaded,
        Self::PoolExhausted,
        Self::ReadsOnPrimary,
        Self::ReplicaDiverged,
        Self::ReplicaDown,
        Self::ReplicationBroken,
        Self::ReplicationLag,
        Self::ReplicationLagUnknown,
        Self::ReadsOnOtherReplica,
        Self::BusSilent,
        Self::WatchBroken,
        Self::SharedCacheDown,
        Self::BreakerOpen,
        Self::PeerFailing,
        Self::HardPurgesUnknown,
        Self::SnapshotLoading,
        Self::Starting,
        Self::Recovering,
        Self::Draining,
    ];

    /// The stable code, how bad it is, and what to do.
    const fn info(self) -> (&'static str, Level, &'static str) {
        use Level::{Critical, Warning};
        match self {
            Self::OutOfRotation => (
                "out_of_rotation",
                Critical,
                "Mend what is said below, and DNS sends viewers here again by itself. See that another region is in: where none is, DNS asks all of them.",
            ),
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
            Self::DatabaseMissing => (
                "database_missing",
                Critical,
                "Set DATABASE_URL, or DATABASE_URL_FILE, and start it again; or take the routes out of routes.toml.",
            ),
            Self::UpstreamOut => (
                "upstream_out",
                Critical,
                "Look at the service behind the upstream; answers that are cached are served stale until then.",
            ),
            Self::AuditWrong => (
                "audit_wrong",
                Critical,
                "The log names the path. Purge the route hard; if it is wrong again, take the route's cache out of the manifest. Once it is understood, acknowledge it: `mainstay audit --acknowledge`.",
            ),
            Self::ManyErrors => (
                "errors",
                Critical,
                "The log has a line for each, with its route and why; what else is said here may be the cause.",
            ),
            Self::Errors => (
                "errors",
                Warning,
                "The log has a line for each, with its route and why; what else is said here may be the cause.",
            ),
            Self::Overloaded => (
                "overloaded",
                Warning,
                "Look whether the source has become slow, or more is asked than usual; hits are answered all the same.",
            ),
            Self::PoolExhausted => (
                "pool_exhausted",
                Warning,
                "Look at pg_stat_activity for what holds the connections; raise the size of the pool if the server has time left.",
            ),
            Self::ReadsOnPrimary => (
                "reads_on_primary",
                Warning,
                "Bring a replica back: the primary takes only a few reads at a time, and where /health/edge is a 503 viewers are sent elsewhere.",
            ),
            Self::ReplicaDiverged => (
                "replica_diverged",
                Warning,
                "If it was promoted it is the primary now: take it out of DATABASE_READ_REPLICA_URL. Else rebuild it from the primary.",
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
            Self::WatchBroken => (
                "watch_broken",
                Warning,
                "Run `mainstay migrate` as the owner of the tables (DATABASE_DIRECT_URL), then purge TABLE:any for what has changed meanwhile.",
            ),
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
    pub(super) const fn as_str(self) -> &'static str {
        self.info().0
    }

    /// How bad it is.
    pub(super) const fn level(self) -> Level {
        self.info().1
    }

    /// Whether its coming and going is worth a word: what only says that something is under way has no other life, and what somebody
    /// acknowledges is over by that.
    pub(super) const fn can_flap(self) -> bool {
        !matches!(self, Self::AuditWrong | Self::SnapshotLoading | Self::Starting | Self::Recovering | Self::Draining)
    }

    /// What it says something about, where others say something of the same: of those, one takes the place of another.
    const fn ladder(self) -> Option<&'static str> {
        match self {
            Self::ReadsUnavailable | Self::ReadsFromCache | Self::ReadsOnPrimary | Self::ReadsOnOtherReplica => {
                Some("reads")
            }
            Self::PrimaryDown
            | Self::PrimaryReadOnly
            | Self::ReplicaDiverged
            | Self::ReplicaDown
            | Self::ReplicationBroken
            | Self::ReplicationLag
            | Self::ReplicationLagUnknown
            | Self::BreakerOpen => Some("node"),
            _ => None,
        }
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

impl Finding {
    /// Whether it is the same matter, be it as bad or not.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.reason.as_str() == other.reason.as_str() && self.subject == other.subject
    }

    /// Whether one of the two is said in place of the other.
    pub(super) fn replaces(&self, other: &Self) -> bool {
        let ladder = self.reason.ladder();
        ladder.is_some() && ladder == other.reason.ladder() && self.subject == other.subject
    }

    /// By what the worst comes first.
    pub(super) const fn rank(&self) -> (Reverse<Level>, Reason) {
        (Reverse(self.reason.level()), self.reason)
    }

    /// It, since when.
    pub(super) fn degraded(self, since: DateTime<Utc>, for_s: u64) -> Degraded {
        let (reason, level, advice) = self.reason.info();
        Degraded { reason, level, detail: self.detail, since, for_s, flapping: None, advice }
    }
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
    /// Said only of what comes and goes; `since` is its first coming, then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) flapping: Option<Flapping>,
    pub(super) advice: &'static str,
}

impl Degraded {
    /// What is said of it where there is no more to it than a sentence. The words are the same whether it is so just now or not, so that
    /// they stand still.
    pub(super) fn sentence(&self) -> String {
        let Some(Flapping { times, .. }) = self.flapping else { return self.detail.clone() };
        format!("Comes and goes, {times} times within 5 minutes: {}", self.detail)
    }
}

/// How something comes and goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Flapping {
    /// How often it has begun within the last five minutes.
    pub(super) times: usize,
    /// For how long it has been well, where it is well now.
    pub(super) well_s: Option<u64>,
}

/// Sets the metrics to what was found.
pub(super) fn export(found: &[Degraded], verdict: &Verdict, metrics: &Metrics) {
    let is_standing_in = verdict.reasons.contains(&health::Reason::FailoverMode);
    metrics.degraded.set(i64::from(is_standing_in || !found.is_empty()));
    for reason in Reason::ALL.map(Reason::as_str) {
        let is_found = found.iter().any(|one| one.reason == reason);
        metrics.degraded_reason.with_label_values(&[reason]).set(i64::from(is_found));
    }
    metrics.degraded_reason.with_label_values(&[FAILOVER_MODE]).set(i64::from(is_standing_in));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::telemetry::metrics::labels::Values;
    use crate::telemetry::metrics::table::SECTIONS;

    #[test]
    fn every_reason_is_one_of_the_table_of_metrics() {
        let declared = SECTIONS.iter().flat_map(|section| section.metrics);
        let declared = declared.filter(|metric| metric.name == "mainstay_degraded_reason");
        let Values::Listed(listed) = declared.flat_map(|metric| metric.labels).next().unwrap().values else { panic!() };
        let reasons = Reason::ALL.map(Reason::as_str).into_iter().chain([FAILOVER_MODE]);
        assert_eq!(listed.iter().copied().collect::<BTreeSet<_>>(), reasons.collect());
        assert!(Reason::ALL.is_sorted(), "the worst first");
    }
}
