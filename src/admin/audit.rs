//! Wrong answers that audits have found: whoever has looked into them says so, and what comes later is news again.

use std::collections::BTreeMap;

use serde::Serialize;

use super::auth::Caller;
use super::journal::Kind;
use super::{Desk, document};
use crate::error::Error;

#[derive(Serialize)]
struct Acknowledged {
    /// By route: those that stood when it was asked, and no other.
    acknowledged: BTreeMap<String, u64>,
}

/// `POST /admin/audit/acknowledge`: nothing is wrong with asking twice.
pub(super) fn acknowledge(desk: &Desk, caller: &Caller) -> Result<Vec<u8>, Error> {
    let acknowledged = desk.acknowledge_audit();
    let named: Vec<String> = acknowledged.iter().map(|(route, wrong)| format!("{wrong} at {route}")).collect();
    let what = if named.is_empty() { "nothing".to_owned() } else { format!("wrong answers: {}", named.join(", ")) };
    desk.audit(caller, Kind::Acknowledge, "-", &what, Ok("-"));
    document(&Acknowledged { acknowledged })
}
