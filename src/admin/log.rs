//! The levels of the log: which are in force, and others for a while.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use super::auth::Caller;
use super::journal::Kind;
use super::{Desk, body_invalid, document, read_body};
use crate::config::units::Span;
use crate::error::Error;
use crate::telemetry::logs;
use crate::telemetry::logs::levels::{Filter, InForce};

/// Who wants more for longer than this wants another configuration.
const TIME_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The body of a change.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    /// As `log.level`.
    level: String,
    /// After which time the configured one is back; none: it stays until it is changed, or the process ends.
    #[serde(rename = "for")]
    time: Option<Span>,
}

#[derive(Serialize)]
struct Shown<'a> {
    level: &'a str,
    configured: &'a str,
    until: Option<String>,
}

/// `GET /admin/log`
pub(super) fn show() -> Result<Vec<u8>, Error> {
    shown(&logs::levels().in_force())
}

/// `PUT /admin/log`
pub(super) fn change(desk: &Desk, caller: &Caller, body: &[u8]) -> Result<Vec<u8>, Error> {
    let wish = read_body::<Wish>(body).and_then(|wish| Ok((wish.filter()?, wish)));
    let (filter, wish) = wish.inspect_err(|error| desk.audit(caller, Kind::Log, "-", "-", Err(error)))?;
    let mode = wish.time.map_or("-".to_owned(), |time| format!("for {}", humantime::format_duration(time.0)));
    desk.audit(caller, Kind::Log, &mode, filter.text(), Ok("-"));
    let until = wish.time.map(|time| SystemTime::now() + time.0);
    let changed = logs::levels().change(filter, until);
    if let Some(time) = wish.time {
        let changed = Arc::clone(&changed);
        actix_rt::spawn(async move {
            actix_rt::time::sleep(time.0).await;
            if logs::levels().end(&changed) {
                log::info!(target: "mainstay::audit", action = "log"; "the configured levels are in force again");
            }
        });
    }
    shown(&changed)
}

/// `DELETE /admin/log`
pub(super) fn reset(desk: &Desk, caller: &Caller) -> Result<Vec<u8>, Error> {
    let in_force = logs::levels().reset();
    desk.audit(caller, Kind::Log, "reset", in_force.filter.text(), Ok("-"));
    shown(&in_force)
}

impl Wish {
    fn filter(&self) -> Result<Filter, Error> {
        if self.time.is_some_and(|time| time.0.is_zero() || time.0 > TIME_MAX) {
            return Err(body_invalid("for: a time of up to 7d"));
        }
        self.level.parse().map_err(|error| body_invalid(&format!("level: {:?} {error}", self.level)))
    }
}

fn shown(in_force: &InForce) -> Result<Vec<u8>, Error> {
    let until = in_force.until.map(|until| DateTime::<Utc>::from(until).to_rfc3339_opts(SecondsFormat::Secs, true));
    document(&Shown { level: in_force.filter.text(), configured: in_force.configured.text(), until })
}
