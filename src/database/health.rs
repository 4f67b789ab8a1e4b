//! From sampled state to what `/health/edge` says, with hysteresis: pure, advanced once a sample.
//!
//! DNS moves a region's traffic by this answer, so it must neither flap nor say 200 while replication is broken.

use std::time::Duration;

use super::lag::Ineligible;
use super::status::DatabaseStatus;
use crate::config::settings::{Dependency, HealthSettings};

/// How this instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// All is well.
    Healthy,
    /// It serves as promised, and something is off.
    Degraded,
    /// Traffic is better sent elsewhere.
    Unhealthy,
}

impl Status {
    /// As the answer says it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// Why an instance is not healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Not every node has been sampled yet.
    NoDataYet,
    /// The primary does not answer.
    PrimaryDown,
    /// What is configured as the primary is a standby.
    PrimaryReadOnly,
    /// A replica does not answer.
    ReplicaDown,
    /// A replica was promoted, or follows another timeline or cluster.
    ReplicaDiverged,
    /// A replica answers, and receives or replays nothing.
    ReplicationBroken,
    /// The best replica is staler than `health.lag_max`.
    ReplicationLag,
    /// Nothing proves how stale the best replica is.
    ReplicationLagUnknown,
    /// All is well again, and has to stay so for a moment.
    Recovering,
    /// This is a failover origin: it serves what others have stored.
    FailoverMode,
    /// A failover origin: Redis does not answer.
    SharedCacheDown,
    /// A failover origin: no database answers.
    DatabaseDown,
    /// A failover origin: there may be purges for good that it does not know of.
    HardPurgesUnknown,
    /// A failover origin: a snapshot is still being read.
    SnapshotLoading,
    /// A failover origin: there is nothing that it could serve from.
    NothingToServe,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 15] = [
        Self::NoDataYet,
        Self::PrimaryDown,
        Self::PrimaryReadOnly,
        Self::ReplicaDown,
        Self::ReplicaDiverged,
        Self::ReplicationBroken,
        Self::ReplicationLag,
        Self::ReplicationLagUnknown,
        Self::Recovering,
        Self::FailoverMode,
        Self::SharedCacheDown,
        Self::DatabaseDown,
        Self::HardPurgesUnknown,
        Self::SnapshotLoading,
        Self::NothingToServe,
    ];

    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoDataYet => "no_data_yet",
            Self::PrimaryDown => "primary_down",
            Self::PrimaryReadOnly => "primary_read_only",
            Self::ReplicaDown => "replica_down",
            Self::ReplicaDiverged => "replica_diverged",
            Self::ReplicationBroken => "replication_broken",
            Self::ReplicationLag => "replication_lag",
            Self::ReplicationLagUnknown => "replication_lag_unknown",
            Self::Recovering => "recovering",
            Self::FailoverMode => "failover_mode",
            Self::SharedCacheDown => "shared_cache_down",
            Self::DatabaseDown => "database_down",
            Self::HardPurgesUnknown => "hard_purges_unknown",
            Self::SnapshotLoading => "snapshot_loading",
            Self::NothingToServe => "nothing_to_serve",
        }
    }
}

/// What `/health/edge` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How this instance is.
    pub status: Status,
    /// The staleness of the best replica; zero without replicas.
    pub lag: Option<Duration>,
    /// Why it is not healthy.
    pub reasons: Vec<Reason>,
    /// Whether the answer is a 200.
    pub http_ok: bool,
}

impl Verdict {
    /// Of an instance that is configured without a database.
    pub fn without_database() -> Self {
        Self { status: Status::Healthy, lag: Some(Duration::ZERO), reasons: Vec::new(), http_ok: true }
    }

    /// Whole seconds, rounded down; nothing where the lag is unknown.
    pub fn replication_lag_secs(&self) -> Option<u64> {
        self.lag.map(|lag| lag.as_secs())
    }

    /// Whether nothing is known yet.
    pub fn is_first_look(&self) -> bool {
        self.reasons.contains(&Reason::NoDataYet)
    }
}

impl Default for Verdict {
    /// Before the first sample.
    fn default() -> Self {
        Self { status: Status::Unhealthy, lag: None, reasons: vec![Reason::NoDataYet], http_ok: false }
    }
}

/// What one look finds, before hysteresis.
#[derive(Debug, Default, PartialEq, Eq)]
struct Findings {
    /// What makes the answer a 503.
    grave: Vec<Reason>,
    /// What is off.
    minor: Vec<Reason>,
    lag: Option<Duration>,
}

/// The hysteresis: the answer in force, and for how many looks the opposite has been found.
#[derive(Debug, Default)]
pub struct Health {
    in_force: Option<bool>,
    opposite: u32,
}

impl Health {
    /// Takes one more look in. The first one with data counts at once.
    pub fn tick(&mut self, status: &DatabaseStatus, settings: &HealthSettings) -> Verdict {
        if status.nodes.iter().any(|node| !node.sampled) {
            return Verdict::default();
        }
        let Findings { grave, minor, lag } = findings(status, settings);
        let found_ok = grave.is_empty();
        let in_force = self.in_force.unwrap_or(found_ok);
        self.opposite = if found_ok == in_force { 0 } else { self.opposite.saturating_add(1) };
        let enough = if found_ok { settings.successes_to_healthy } else { settings.failures_to_unhealthy };
        let http_ok = if self.opposite >= enough.max(1) { found_ok } else { in_force };
        if http_ok == found_ok {
            self.opposite = 0;
        }
        self.in_force = Some(http_ok);
        let mut reasons: Vec<Reason> = grave.into_iter().chain(minor).collect();
        reasons.dedup();
        if !http_ok && found_ok {
            reasons.push(Reason::Recovering);
        }
        let status = match (http_ok, reasons.is_empty()) {
            (false, _) => Status::Unhealthy,
            (true, false) => Status::Degraded,
            (true, true) => Status::Healthy,
        };
        Verdict { status, lag, reasons, http_ok }
    }
}

fn findings(status: &DatabaseStatus, settings: &HealthSettings) -> Findings {
    let requires = |dependency| settings.required.contains(&dependency);
    let mut findings = Findings { lag: Some(Duration::ZERO), ..Findings::default() };
    if let Some(primary) = status.primary().filter(|primary| !primary.writable) {
        let reason = if primary.up { Reason::PrimaryReadOnly } else { Reason::PrimaryDown };
        if requires(Dependency::Primary) { &mut findings.grave } else { &mut findings.minor }.push(reason);
    }
    if status.replicas().next().is_some() {
        findings.lag = status.best_replica_lag();
        let lag_reason = match findings.lag {
            None => Some(Reason::ReplicationLagUnknown),
            Some(lag) if lag > settings.lag_max.0 => Some(Reason::ReplicationLag),
            Some(_) => None,
        };
        let serves = status.replicas().any(|replica| replica.is_eligible());
        let counts = requires(Dependency::Replica);
        if counts && (!serves || lag_reason.is_some()) { &mut findings.grave } else { &mut findings.minor }
            .extend(lag_reason);
        let reasons = status.replicas().filter_map(|replica| match replica.ineligible {
            Some(Ineligible::Down) => Some(Reason::ReplicaDown),
            Some(Ineligible::Promoted | Ineligible::OtherBranch) => Some(Reason::ReplicaDiverged),
            _ if !replica.flowing && status.primary().is_some_and(|primary| primary.writable) => {
                Some(Reason::ReplicationBroken)
            }
            Some(Ineligible::Lagging) => Some(Reason::ReplicationLag),
            Some(Ineligible::LagUnknown | Ineligible::Unsampled) => Some(Reason::ReplicationLagUnknown),
            None => None,
        });
        for reason in reasons {
            let known = findings.grave.contains(&reason) || findings.minor.contains(&reason);
            if !known {
                if counts && !serves { &mut findings.grave } else { &mut findings.minor }.push(reason);
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::config::units::Span;
    use crate::database::read::Role;
    use crate::database::status::NodeStatus;
    use crate::database::status::testing::node;

    fn settings(required: &[Dependency]) -> HealthSettings {
        HealthSettings {
            lag_max: Span(Duration::from_secs(5)),
            required: required.to_vec(),
            failures_to_unhealthy: 2,
            successes_to_healthy: 3,
        }
    }

    const BOTH: [Dependency; 2] = [Dependency::Primary, Dependency::Replica];

    fn status(nodes: impl IntoIterator<Item = NodeStatus>) -> DatabaseStatus {
        DatabaseStatus { at: Instant::now(), nodes: nodes.into_iter().collect() }
    }

    fn down(role: Role) -> NodeStatus {
        NodeStatus { up: false, writable: false, flowing: false, ineligible: Some(Ineligible::Down), ..node(role) }
    }

    fn first(status: &DatabaseStatus, required: &[Dependency]) -> Verdict {
        Health::default().tick(status, &settings(required))
    }

    #[test]
    fn all_well_is_healthy_with_whole_seconds() {
        let verdict = first(&status([node(Role::Primary), node(Role::Replica)]), &BOTH);
        assert_eq!((verdict.status, verdict.http_ok, verdict.replication_lag_secs()), (Status::Healthy, true, Some(0)));
        let verdict = first(&status([node(Role::Primary)]), &BOTH);
        assert_eq!((verdict.status, verdict.lag), (Status::Healthy, Some(Duration::ZERO)));
    }

    #[test]
    fn the_unrounded_lag_decides() {
        let lagging = |millis, ineligible| {
            let lag = Some(Duration::from_millis(millis));
            first(&status([node(Role::Primary), NodeStatus { lag, ineligible, ..node(Role::Replica) }]), &BOTH)
        };
        assert!(lagging(5000, None).http_ok);
        let verdict = lagging(5001, Some(Ineligible::Lagging));
        assert_eq!((verdict.http_ok, verdict.replication_lag_secs()), (false, Some(5)));
        assert_eq!(verdict.reasons, [Reason::ReplicationLag]);
    }

    #[test]
    fn an_unknown_lag_is_a_503_and_null() {
        let replica = NodeStatus { lag: None, ineligible: Some(Ineligible::LagUnknown), ..node(Role::Replica) };
        let verdict = first(&status([node(Role::Primary), replica]), &BOTH);
        assert_eq!((verdict.http_ok, verdict.replication_lag_secs()), (false, None));
        assert_eq!(verdict.reasons, [Reason::ReplicationLagUnknown]);
    }

    #[test]
    fn one_replica_of_two_down_is_degraded() {
        let verdict = first(&status([node(Role::Primary), down(Role::Replica), node(Role::Replica)]), &BOTH);
        assert_eq!((verdict.status, verdict.http_ok), (Status::Degraded, true));
        assert_eq!(verdict.reasons, [Reason::ReplicaDown]);
    }

    #[test]
    fn what_is_not_required_only_degrades() {
        let nodes = status([node(Role::Primary), down(Role::Replica)]);
        assert!(!first(&nodes, &BOTH).http_ok);
        let verdict = first(&nodes, &[Dependency::Primary]);
        assert_eq!((verdict.status, verdict.http_ok), (Status::Degraded, true));
        let nodes = status([down(Role::Primary), node(Role::Replica)]);
        assert!(!first(&nodes, &BOTH).http_ok);
        assert!(first(&nodes, &[Dependency::Replica]).http_ok);
    }

    #[test]
    fn it_changes_only_after_looks_in_a_row() {
        let (settings, mut health) = (settings(&BOTH), Health::default());
        let (good, bad) = (status([node(Role::Primary)]), status([down(Role::Primary)]));
        assert!(health.tick(&good, &settings).http_ok);
        for _ in 0..5 {
            let verdict = health.tick(&bad, &settings);
            assert_eq!((verdict.http_ok, verdict.status), (true, Status::Degraded));
            assert!(health.tick(&good, &settings).http_ok);
        }
        health.tick(&bad, &settings);
        assert!(!health.tick(&bad, &settings).http_ok);
        for _ in 0..2 {
            assert_eq!(health.tick(&good, &settings).reasons, [Reason::Recovering]);
        }
        assert_eq!(health.tick(&good, &settings).status, Status::Healthy);
    }

    #[test]
    fn before_all_are_sampled_nothing_is_claimed() {
        let (settings, mut health) = (settings(&BOTH), Health::default());
        let early = status([node(Role::Primary), NodeStatus { sampled: false, ..node(Role::Replica) }]);
        assert!((0..9).all(|_| health.tick(&early, &settings).is_first_look()));
        assert!(health.tick(&status([node(Role::Primary), node(Role::Replica)]), &settings).http_ok, "at once");
    }
}
