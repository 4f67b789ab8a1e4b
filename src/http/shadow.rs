//! Shadows: a sample of an upstream route's requests is also put to the query that is to take its place, and the two answers
//! are compared. That is the evidence by which a route is moved over.
//!
//! It happens beside the requests that cause it, on a replica, and at a bounded rate. Both are asked anew, with nothing of the
//! caller's but the parameters: so what is compared is what anyone would get.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use parking_lot::Mutex;
use serde::Serialize;

use super::pipeline::Pipeline;
use super::surface::Endpoint;
use crate::config::param::Params;
use crate::database::read::Consistency;
use crate::error::{Code, Error};
use crate::source::Answer;
use crate::source::compare::{Difference, differences};
use crate::source::handler::Call;
use crate::source::sql::SqlSource;

/// Comparisons of an instance a second.
const PER_SECOND_MAX: u64 = 10;
/// Comparisons at once; further ones are left out, not queued.
const RUNNING_MAX: usize = 4;
/// Differences that are remembered, the newest.
const CASES_MAX: usize = 100;
/// A difference counts if it is still there after this time: before that, one side may have seen a change that the other had
/// not.
const SECOND_LOOK_TIME: Duration = Duration::from_secs(1);

/// The query that an upstream route is compared with.
pub struct Twin {
    /// The query.
    pub source: SqlSource,
    /// The share of requests that are compared.
    pub sample: f64,
}

/// What the comparisons of an instance came to.
pub struct Shadows {
    cases: Mutex<VecDeque<Case>>,
    running: AtomicUsize,
    began: Instant,
    /// The second that comparisons are counted in, and in the low 32 bits how many it has had.
    counted: AtomicU64,
}

/// A request that the two answer differently.
#[derive(Clone, Debug, Serialize)]
pub struct Case {
    /// The route's pattern.
    pub route: String,
    /// The request that shows it.
    pub request: String,
    /// When.
    pub at: String,
    /// Both statuses, where those differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Statuses>,
    /// Where the bodies differ, the first few places.
    pub differences: Vec<Difference>,
}

/// The statuses of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Statuses {
    /// The upstream's.
    pub upstream: u16,
    /// The query's.
    pub twin: u16,
}

/// What a comparison came to.
#[derive(Clone, Debug)]
pub enum Compared {
    /// Both say the same.
    Equal,
    /// They do not.
    Different(Case),
    /// One of them did not answer.
    Failed(Error),
}

impl Compared {
    /// The label's value.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Different(_) => "different",
            Self::Failed(_) => "failed",
        }
    }
}

impl Default for Shadows {
    fn default() -> Self {
        Self {
            cases: Mutex::default(),
            running: AtomicUsize::new(0),
            began: Instant::now(),
            counted: AtomicU64::new(0),
        }
    }
}

impl Shadows {
    /// The remembered cases, the newest first.
    pub fn cases(&self) -> Vec<Case> {
        self.cases.lock().iter().rev().cloned().collect()
    }

    fn remember(&self, case: Case) {
        let mut cases = self.cases.lock();
        if cases.len() >= CASES_MAX {
            cases.pop_front();
        }
        cases.push_back(case);
    }

    fn is_within_rate(&self, now: Instant) -> bool {
        let second = now.saturating_duration_since(self.began).as_secs() << 32;
        let count = |counted: u64| {
            let before = if counted >> 32 << 32 == second { counted } else { second };
            ((before & u64::from(u32::MAX)) < PER_SECOND_MAX).then_some(before + 1)
        };
        self.counted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count).is_ok()
    }
}

/// One of the comparisons that run at once.
struct Running(Arc<Pipeline>);

impl Running {
    fn begin(pipeline: &Arc<Pipeline>) -> Option<Self> {
        let running = &pipeline.shadows.running;
        let begin = |count: usize| (count < RUNNING_MAX).then_some(count + 1);
        running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, begin).ok().map(|_| Self(Arc::clone(pipeline)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.shadows.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pipeline {
    /// Compares the answers to a request that goes to an upstream, if it is one of the sample. Never waits.
    pub(super) fn shadow(self: &Arc<Self>, endpoint: &Arc<Endpoint>, params: &Params) {
        let Some(twin) = &endpoint.twin else { return };
        if fastrand::f64() >= twin.sample || !self.shadows.is_within_rate(Instant::now()) {
            return;
        }
        if let Some(running) = Running::begin(self) {
            let (endpoint, params) = (Arc::clone(endpoint), params.clone());
            actix_rt::spawn(async move {
                running.0.compare(&endpoint, &params).await;
            });
        }
    }

    /// Asks both, and compares. What it comes to is counted, and a difference remembered.
    pub async fn compare(&self, endpoint: &Endpoint, params: &Params) -> Compared {
        let mut compared = self.look(endpoint, params).await;
        if matches!(compared, Compared::Different(_)) {
            actix_rt::time::sleep(SECOND_LOOK_TIME).await;
            compared = self.look(endpoint, params).await;
        }
        let labels = [endpoint.route.path.as_str(), compared.as_str()];
        self.metrics.shadow_compared.with_label_values(&labels).inc();
        match &compared {
            Compared::Equal => {}
            Compared::Different(case) => self.shadows.remember(case.clone()),
            Compared::Failed(error) => {
                log::info!("{} could not be compared with its shadow: {error}", endpoint.route.path);
            }
        }
        compared
    }

    async fn look(&self, endpoint: &Endpoint, params: &Params) -> Compared {
        let (Some(upstream), Some(twin)) = (endpoint.producer.upstream(), &endpoint.twin) else {
            return Compared::Failed(Error::new(Code::NotFound, "the route has no shadow"));
        };
        let patience = self.settings.limits.request_timeout.0;
        let (database, deadline) = (self.database.clone(), Instant::now() + patience);
        let call =
            Call::new("GET".into(), params.clone(), Bytes::new(), database, Consistency::Eventual, None, deadline);
        let both = async { tokio::join!(upstream.any_status(&call), twin.source.run(&call)) };
        let late = |_| Compared::Failed(Error::new(Code::SourceTimeout, "one of the two did not answer in time"));
        match actix_rt::time::timeout(patience, both).await {
            Ok((Ok(one), other)) => match as_answer(other) {
                Ok(other) => verdict(endpoint, upstream.target(params), &one, &other),
                Err(error) => Compared::Failed(error),
            },
            Ok((Err(error), _)) => Compared::Failed(error),
            Err(late_by) => late(late_by),
        }
    }
}

/// That there is nothing is an answer, too.
fn as_answer(outcome: Result<Answer, Error>) -> Result<Answer, Error> {
    match outcome {
        Err(error) if error.code == Code::NotFound => Ok(Answer { status: 404, ..Answer::json_bytes(Bytes::new()) }),
        outcome => outcome,
    }
}

fn verdict(endpoint: &Endpoint, request: String, upstream: &Answer, twin: &Answer) -> Compared {
    let is_same_status = upstream.status == twin.status;
    let differences = match upstream.status {
        200 if is_same_status => differences(&upstream.body, &twin.body),
        // The words of errors are everyone's own.
        _ => Vec::new(),
    };
    if is_same_status && differences.is_empty() {
        return Compared::Equal;
    }
    let now: DateTime<Utc> = Utc::now();
    Compared::Different(Case {
        route: endpoint.route.path.clone(),
        request,
        at: now.to_rfc3339_opts(SecondsFormat::Secs, true),
        status: (!is_same_status).then_some(Statuses { upstream: upstream.status, twin: twin.status }),
        differences,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_have_a_rate() {
        let shadows = Shadows::default();
        let at = |ms| shadows.began + Duration::from_millis(ms);
        assert_eq!((0..100).filter(|ms| shadows.is_within_rate(at(*ms))).count(), 10);
        assert!(shadows.is_within_rate(at(1000)));
    }

    #[test]
    fn the_newest_cases_are_remembered() {
        let shadows = Shadows::default();
        for number in 0..150 {
            let request = number.to_string();
            shadows.remember(Case {
                route: String::new(),
                request,
                at: String::new(),
                status: None,
                differences: Vec::new(),
            });
        }
        let cases = shadows.cases();
        assert_eq!((cases.len(), cases[0].request.as_str(), cases[99].request.as_str()), (100, "149", "50"));
    }
}
