//! Wrong answers that audits have found: whoever has looked into them says so, and what comes later is news again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::auth::Caller;
use super::journal::Kind;
use super::{Desk, document, read_body};
use crate::error::Error;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    /// By route, as many as were seen by whoever asks: what came since is news to him.
    seen: BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct Acknowledged {
    /// By route: of those that stood when it was asked, and no other.
    acknowledged: BTreeMap<String, u64>,
}

/// `POST /admin/audit/acknowledge`: nothing is wrong with asking twice. Without a body it is about all that stands.
pub(super) fn acknowledge(desk: &Desk, caller: &Caller, body: &[u8]) -> Result<Vec<u8>, Error> {
    let order: Option<Order> = if body.is_empty() { None } else { Some(read_body(body)?) };
    let acknowledged = desk.acknowledge_audit(order.as_ref().map(|order| &order.seen));
    let named: Vec<String> = acknowledged.iter().map(|(route, wrong)| format!("{wrong} at {route}")).collect();
    let what = if named.is_empty() { "nothing".to_owned() } else { format!("wrong answers: {}", named.join(", ")) };
    desk.audit(caller, Kind::Acknowledge, "-", &what, Ok("-"));
    document(&Acknowledged { acknowledged })
}
