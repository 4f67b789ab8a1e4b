//! What is found not to be as it should be, from what is known of the nodes, of those who tell of changes, and of what was answered.

use std::collections::BTreeMap;

use super::degraded::{Finding, Reason};
use super::status::PeerStatus;
use super::traffic::Recent;
use crate::database::health::{self, Verdict};
use crate::database::lag::Ineligible;
use crate::database::read::Role;
use crate::database::status::NodeStatus;
use crate::database::steps::Step;
use crate::nodes::breaker::BreakerState;

/// Fewer errors within a minute are no matter: a single 503 at night, of three requests, is no reason to wake anybody.
const ERRORS_MIN: u64 = 5;
/// So many answers of a hundred may be errors before it is said. A region that is well has next to none.
const ERRORS_PERCENT: u64 = 2;
/// From so many of a hundred on, it is no part of the routes any more that fails.
const MANY_ERRORS_PERCENT: u64 = 25;
/// Fewer sources that were turned away within a minute are a moment's crowd.
const SHED_MIN: u64 = 10;

/// Routes that a sentence names.
const ROUTES_NAMED_MAX: usize = 3;

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
    /// Pools for whose connections somebody has waited for a while.
    pub(super) pools_waited_for: Vec<String>,
    /// What was answered within the last minute.
    pub(super) recent: Recent,
    /// Cached answers that were not what the primary said, by route: those that nobody has acknowledged.
    pub(super) audit_wrong: BTreeMap<String, u64>,
    /// Routes that need a database, where none is configured.
    pub(super) routes_without_database: usize,
}

/// All that is not as it should be, the worst first.
pub(super) fn find(seen: &Seen) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut add = |reason, subject: &str, detail: String| {
        found.push(Finding { reason, subject: subject.to_owned(), detail });
    };
    if let Some(detail) = of_rotation(&seen.verdict) {
        add(Reason::OutOfRotation, "", detail);
    }
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
            add(Reason::BreakerOpen, &node.name, let_alone(&node.name, node.breaker));
        }
    }
    for (name, breaker) in seen.endpoints.iter().filter(|(_, breaker)| *breaker != BreakerState::Closed) {
        add(Reason::BreakerOpen, name, let_alone(name, *breaker));
    }
    for upstream in &seen.upstreams_out {
        add(Reason::UpstreamOut, upstream, format!("No endpoint of the upstream {upstream} answers."));
    }
    if seen.routes_without_database > 0 {
        let routes = counted(seen.routes_without_database, "route needs", "routes need");
        let detail = format!("No database is configured, and {routes} one: such requests are a 503.");
        add(Reason::DatabaseMissing, "", detail);
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
    for (reason, detail) in of_answers(seen) {
        add(reason, "", detail);
    }
    for pool in &seen.pools_waited_for {
        add(Reason::PoolExhausted, pool, format!("Requests wait for a connection of {pool}."));
    }
    if seen.is_draining {
        add(Reason::Draining, "", "This instance is shutting down.".to_owned());
    }
    // A node may be well enough to be read and yet too far behind for the health answer: then the health answer alone says so.
    let is_lag_said = found.iter().any(|finding| finding.reason == Reason::ReplicationLag);
    if seen.verdict.reasons.contains(&health::Reason::ReplicationLag) && !is_lag_said {
        let detail = "The best replica is further behind than health.lag_max.".to_owned();
        found.push(Finding { reason: Reason::ReplicationLag, subject: String::new(), detail });
    }
    found.sort_by_key(Finding::rank);
    found
}

/// What DNS makes of the health answer, as far as one instance can know: others of the region may answer 200, or there may be no other
/// region. Before the first look nobody has been sent here, and who stands in is asked by the CDN, whatever DNS says.
fn of_rotation(verdict: &Verdict) -> Option<String> {
    let is_asked = !verdict.is_first_look() && !verdict.reasons.contains(&health::Reason::FailoverMode);
    let reasons: Vec<&str> = verdict.reasons.iter().map(|reason| reason.as_str()).collect();
    let is_out = is_asked && !verdict.http_ok;
    is_out.then(|| {
        format!(
            "/health/edge is a 503 ({}): DNS sends viewers to another region, where one is well.",
            reasons.join(", ")
        )
    })
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Without requests a node that has been well for long is not known to be.
fn let_alone(name: &str, breaker: BreakerState) -> String {
    match breaker {
        BreakerState::HalfOpen => format!("{name} was let alone after failures; the next request tries it."),
        BreakerState::Open | BreakerState::Closed => format!("{name} is let alone after failures."),
    }
}

/// What callers were answered, whatever the nodes say of themselves: a permission that was taken away fails each request of a
/// server that is up.
fn of_answers(seen: &Seen) -> Vec<(Reason, String)> {
    let Recent { requests, errors, shed } = seen.recent;
    let mut found = Vec::new();
    let is_above = |percent: u64| errors.saturating_mul(100) >= requests.saturating_mul(percent);
    if errors >= ERRORS_MIN && is_above(ERRORS_PERCENT) {
        let reason = if is_above(MANY_ERRORS_PERCENT) { Reason::ManyErrors } else { Reason::Errors };
        found.push((
            reason,
            format!("{errors} of the last minute's {requests} answers were errors, with 500 or above."),
        ));
    }
    if shed >= SHED_MIN {
        let detail = format!("{shed} times within the last minute a source was not asked, since too many were.");
        found.push((Reason::Overloaded, detail));
    }
    if !seen.audit_wrong.is_empty() {
        let wrong = seen.audit_wrong.values().fold(0_u64, |sum, wrong| sum.saturating_add(*wrong));
        let mut routes: Vec<&str> = seen.audit_wrong.keys().take(ROUTES_NAMED_MAX).map(String::as_str).collect();
        if seen.audit_wrong.len() > ROUTES_NAMED_MAX {
            routes.push("others");
        }
        let answers = if wrong == 1 { "cached answer was" } else { "cached answers were" };
        let detail = format!("{wrong} {answers} not what the primary said: {}.", routes.join(", "));
        found.push((Reason::AuditWrong, detail));
    }
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

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;
    use crate::admin::degraded::{Level, export};
    use crate::telemetry::metrics::Metrics;

    fn seen() -> Seen {
        Seen {
            verdict: Verdict::without_database(),
            step: None,
            is_draining: false,
            nodes: Vec::new(),
            endpoints: Vec::new(),
            is_silent: false,
            has_redis: None,
            tables_unwatched: Vec::new(),
            upstreams_out: Vec::new(),
            peers: Vec::new(),
            pools_waited_for: Vec::new(),
            recent: Recent::default(),
            audit_wrong: BTreeMap::new(),
            routes_without_database: 0,
        }
    }

    fn said(seen: &Seen) -> Vec<(&'static str, Level)> {
        find(seen).into_iter().map(|finding| (finding.reason.as_str(), finding.reason.level())).collect()
    }

    #[test]
    fn errors_are_said_by_their_share_and_few_of_them_wake_nobody() {
        let of = |errors, requests| said(&Seen { recent: Recent { requests, errors, shed: 0 }, ..seen() });
        assert_eq!(of(300, 300), [("errors", Level::Critical)]);
        assert_eq!(of(25, 100), [("errors", Level::Critical)]);
        assert_eq!(of(24, 100), [("errors", Level::Warning)]);
        assert_eq!(of(20, 1000), [("errors", Level::Warning)]);
        for (errors, requests) in [(19, 1000), (4, 4), (1, 1), (0, 0)] {
            assert_eq!(of(errors, requests), [], "{errors} of {requests}");
        }
    }

    #[test]
    fn what_callers_meet_is_said_and_what_is_critical_comes_first() {
        let seen = Seen {
            recent: Recent { requests: 1000, errors: 30, shed: 10 },
            audit_wrong: BTreeMap::from([("/a".to_owned(), 1)]),
            pools_waited_for: vec!["primary (read)".to_owned()],
            has_redis: Some(false),
            verdict: Verdict {
                reasons: vec![health::Reason::DatabaseDown, health::Reason::ReplicationLag],
                ..Verdict::without_database()
            },
            ..seen()
        };
        let codes: Vec<&str> = said(&seen).into_iter().map(|(code, _)| code).collect();
        let expected = [
            "audit_wrong",
            "database_down",
            "errors",
            "overloaded",
            "pool_exhausted",
            "replication_lag",
            "shared_cache_down",
        ];
        assert_eq!(codes, expected);
        let quiet = Seen { recent: Recent { requests: 1000, errors: 0, shed: 9 }, ..self::seen() };
        assert_eq!(said(&quiet), []);
    }

    #[test]
    fn who_is_out_of_rotation_is_told_so_first_and_why() {
        let verdict = |reasons: &[health::Reason], http_ok| Verdict {
            reasons: reasons.to_vec(),
            http_ok,
            ..Verdict::without_database()
        };
        let of = |verdict: Verdict| find(&Seen { verdict, step: Some(Step::Unavailable), ..seen() });
        let found = of(verdict(&[health::Reason::PrimaryDown, health::Reason::ReplicaDown], false));
        assert_eq!((found[0].reason, found[1].reason), (Reason::OutOfRotation, Reason::ReadsUnavailable));
        let detail = "/health/edge is a 503 (primary_down, replica_down): DNS sends viewers to another region, where one is well.";
        assert_eq!(found[0].detail, detail);
        let says_so = |verdict| of(verdict).iter().any(|finding| finding.reason == Reason::OutOfRotation);
        assert!(says_so(verdict(&[health::Reason::Recovering], false)), "DNS goes by the status alone");
        assert!(!says_so(verdict(&[health::Reason::PrimaryDown], true)), "one look that went wrong moves nobody");
        assert!(!says_so(Verdict::default()), "who starts is not asked yet");
        let standing_in = [health::Reason::FailoverMode, health::Reason::NothingToServe];
        assert!(!says_so(verdict(&standing_in, false)), "DNS is not asked for it");
    }

    #[test]
    fn wrong_answers_are_said_with_their_routes() {
        let of = |wrong: &[(&str, u64)]| {
            let audit_wrong = wrong.iter().map(|(route, wrong)| ((*route).to_owned(), *wrong)).collect();
            find(&Seen { audit_wrong, ..seen() }).pop().map(|finding| finding.detail).unwrap_or_default()
        };
        assert_eq!(of(&[("/a", 1)]), "1 cached answer was not what the primary said: /a.");
        let many = of(&[("/a", 1), ("/b", 2), ("/c", 3), ("/d", 4)]);
        assert_eq!(many, "10 cached answers were not what the primary said: /a, /b, /c, others.");
        assert_eq!(of(&[]), "");
    }

    #[test]
    fn the_metrics_call_degraded_what_the_status_does() {
        let metrics = Metrics::new().unwrap();
        let is = |reason: &str| metrics.degraded_reason.with_label_values(&[reason]).get();
        let export = |seen: &Seen| {
            let found = find(seen).into_iter().map(|finding| finding.degraded(Utc::now(), 0)).collect::<Vec<_>>();
            export(&found, &seen.verdict, &metrics);
            metrics.degraded.get()
        };
        assert_eq!(export(&Seen { has_redis: Some(false), is_silent: true, ..seen() }), 1);
        assert_eq!(["shared_cache_down", "bus_silent", "failover_mode"].map(is), [1, 1, 0]);
        assert_eq!(export(&seen()), 0);
        assert_eq!(is("shared_cache_down"), 0);
        let reasons = vec![health::Reason::FailoverMode];
        assert_eq!(export(&Seen { verdict: Verdict { reasons, ..Verdict::without_database() }, ..seen() }), 1);
        assert_eq!(is("failover_mode"), 1);
    }
}
