//! What providers tell of orders: `ramp.webhooks.receive`.
//!
//! An event is stored and committed before anything is done about it: from then on it cannot be lost, and the provider need not
//! deliver it again. A second transaction locks it, applies it and writes down what came of it, all or nothing. Whoever comes second,
//! another delivery or the sweep, finds that and does nothing. So each event counts once, whoever is killed when.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};
use diesel::dsl::IntervalDsl;
use diesel::prelude::*;
use diesel::sql_types::Timestamptz;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::json;
use uuid::Uuid;

use super::orders::{Applied, apply};
use super::providers::{Delivery, Event, Providers};
use super::required;
use super::tables::webhook_events;
use crate::database::maintenance::MaintenanceConnection;
use crate::database::read::Database;
use crate::database::write::{Abort, Progress};
use crate::error::{Code, Error};
use crate::source::Answer;
use crate::source::description::{Description, Header, Response};
use crate::source::handler::Call;
use crate::telemetry::metrics::Metrics;

/// How long the id of an event may be, and how long its kind.
const ID_BYTES_MAX: usize = 255;
const KIND_BYTES_MAX: usize = 100;
/// How long a delivery may be: each is kept. Those of providers have a few KiB.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Why nothing came of an event that may be right later.
const NOT_ALLOWED: &str = "not_allowed";
/// Why nothing came of an event of no order, or of another provider's.
const UNKNOWN_ORDER: &str = "unknown_order";
/// Events that one sweep sees to. What is left waits for the next.
const SWEEP_MAX: i64 = 100;
/// Earlier events of an order that are tried once more when it has moved. Providers tell a handful of each.
const PASSED_OVER_MAX: i64 = 16;
/// How long a sweep may take for one event.
const SWEEP_TIME_MAX: Duration = Duration::from_secs(10);

mod sql {
    use diesel::sql_types::{BigInt, Binary, Bool, Nullable, Text, Uuid};

    diesel::define_sql_function! {
        #[sql_name = "ramp.store_webhook_event"]
        fn store(
            provider: Text, event_id: Text, kind: Text, order_id: Uuid, amount: Nullable<BigInt>, currency: Nullable<Text>, payload: Binary,
        ) -> Text;
    }
    diesel::define_sql_function! {
        #[sql_name = "ramp.lock_webhook_event"]
        fn lock(provider: Text, event_id: Text, waits: Bool) -> Bool;
    }
    diesel::define_sql_function! {
        #[sql_name = "ramp.keep_webhook_outcome"]
        fn keep(provider: Text, event_id: Text, outcome: Text) -> Bool;
    }
}

/// An event as it is stored.
#[derive(Queryable, Selectable)]
#[diesel(table_name = webhook_events, check_for_backend(diesel::pg::Pg))]
struct Stored {
    event_id: String,
    kind: String,
    order_id: Uuid,
    amount: Option<i64>,
    currency: Option<String>,
    received_at: DateTime<Utc>,
    outcome: Option<String>,
}

/// What became of an event that was to be applied.
enum Settled {
    /// This, just now.
    Now(Applied),
    /// It had been applied before.
    Before(String),
    /// Somebody else is at it.
    Elsewhere,
}

/// `ramp.webhooks.receive`: takes a delivery of the provider that the path names.
pub(super) async fn receive(call: Call) -> Result<Answer, Error> {
    let name = required(&call, "provider")?;
    let provider = call.data::<Providers>().and_then(|providers| providers.get(name));
    let provider = provider.ok_or_else(|| Error::new(Code::NotFound, format!("there is no provider {name}")))?;
    if call.body.len() > BODY_BYTES_MAX {
        return Err(Error::new(Code::BodyTooLarge, format!("an event has at most {BODY_BYTES_MAX} bytes")));
    }
    let metrics = call.data::<Metrics>();
    let headers = call.caller.as_ref().map(|caller| caller.headers.as_slice()).unwrap_or_default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let delivery = Delivery { headers, body: &call.body, now };
    let event = provider.verify(&delivery).and_then(checked).inspect_err(|error| {
        count(metrics, name, "refused");
        // Anybody can send these, and must not flood the log.
        log::debug!("a delivery of {name} is refused: {error}");
    })?;
    let outcome = match call.write(async |conn| store(conn, name, &event, &call.body).await).await? {
        Some(outcome) => Settled::Before(outcome),
        None => call.write(async |conn| settle(conn, name, &event.id, true).await).await?,
    };
    let outcome = match outcome {
        Settled::Now(applied) => told(metrics, name, &event, applied),
        Settled::Before(outcome) => {
            count(metrics, name, "duplicate");
            outcome
        }
        Settled::Elsewhere => {
            log::error!("event {} of {name} is gone a moment after it was stored", event.id);
            return Err(Error::new(Code::Internal, "the event was stored, and cannot be found"));
        }
    };
    Answer::json(&json!({ "id": event.id, "outcome": outcome }))
}

/// Applies what was stored and, since a server ended or its database was out of reach, has no outcome a while later. Says how many
/// such events there were, at most a hundred. One that cannot be applied is said, and stays for the next sweep.
///
/// # Errors
/// Those of [`Database::write`], where not even they could be looked for.
pub async fn sweep(database: &Database, metrics: &Metrics, age: Duration) -> Result<usize, Error> {
    let deadline = || Instant::now() + SWEEP_TIME_MAX;
    let waiting = async |conn: &mut AsyncPgConnection| Ok(waiting(conn, age).await?);
    let waiting = database.write(deadline(), &Progress::default(), waiting).await?;
    for (provider, event_id) in &waiting {
        let work = async |conn: &mut AsyncPgConnection| {
            let settled = settle(conn, provider, event_id, false).await?;
            Ok((settled, find(conn, provider, event_id).await?))
        };
        match database.write(deadline(), &Progress::default(), work).await {
            Ok((Settled::Now(applied), Some(stored))) => {
                let outcome = told(Some(metrics), provider, &stored.event(), applied);
                log::info!("event {event_id} of {provider} was left behind, and is seen to now: {outcome}");
            }
            Ok(_) => {}
            Err(error) => log::warn!("event {event_id} of {provider} cannot be applied: {error}"),
        }
    }
    Ok(waiting.len())
}

/// Forgets events that were seen to and are older than this, and than a week, and says how many they were.
///
/// # Errors
/// That of the database.
pub fn prune(conn: &mut MaintenanceConnection, retention: Duration) -> QueryResult<i64> {
    super::prune(conn, "ramp.prune_webhook_events", retention)
}

/// An event that can be stored, whoever has read it.
fn checked(event: Event) -> Result<Event, Error> {
    let is_text = |text: &str, max| (1..=max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    let invalid = |sentence: String| Err(Error::new(Code::BodyInvalid, sentence));
    if !is_text(&event.id, ID_BYTES_MAX) {
        return invalid(format!("id must be 1 to {ID_BYTES_MAX} printable ASCII characters without spaces"));
    }
    if !is_text(&event.kind, KIND_BYTES_MAX) {
        return invalid(format!("type must be 1 to {KIND_BYTES_MAX} printable ASCII characters without spaces"));
    }
    let is_currency =
        |code: &String| (3..=4).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_uppercase());
    if event.currency.as_ref().is_some_and(|code| !is_currency(code)) {
        return invalid("data.currency must be a code of three or four capitals, like USD".to_owned());
    }
    Ok(event)
}

/// Stores an event; what came of it, where it was there already and that is known.
async fn store(
    conn: &mut AsyncPgConnection,
    provider: &str,
    event: &Event,
    payload: &[u8],
) -> Result<Option<String>, Abort> {
    let Event { id, kind, order_id, amount, currency } = event;
    let store = sql::store(provider, id, kind, order_id, amount, currency, payload);
    match diesel::select(store).get_result::<String>(conn).await?.as_str() {
        "stored" => return Ok(None),
        "copy" => {}
        _ => log::warn!("event {id} of {provider} came again and says something else; the first one counts"),
    }
    Ok(find(conn, provider, id).await?.and_then(|stored| stored.outcome))
}

/// Applies an event that is stored, unless that was done before.
async fn settle(conn: &mut AsyncPgConnection, provider: &str, event_id: &str, waits: bool) -> Result<Settled, Abort> {
    if !diesel::select(sql::lock(provider, event_id, waits)).get_result::<bool>(conn).await? {
        return Ok(Settled::Elsewhere);
    }
    let Some(stored) = find(conn, provider, event_id).await? else { return Ok(Settled::Elsewhere) };
    if let Some(outcome) = stored.outcome {
        return Ok(Settled::Before(outcome));
    }
    let applied = apply(conn, provider, &stored.event(), stored.received_at).await?;
    let outcome = match &applied {
        Applied::Moved(status) => status,
        Applied::Ignored(reason) => *reason,
    };
    diesel::select(sql::keep(provider, event_id, outcome)).execute(conn).await?;
    if matches!(applied, Applied::Moved(_)) {
        catch_up(conn, provider, stored.order_id).await?;
    }
    Ok(Settled::Now(applied))
}

/// Applies events of an order that came before their time, such as the refund of a payment that had not been told yet: so that they
/// end alike in whatever order they come. The order is locked since it has moved, so no other event of it is half done.
async fn catch_up(conn: &mut AsyncPgConnection, provider: &str, order_id: Uuid) -> Result<(), Abort> {
    let passed_over = webhook_events::table
        .filter(webhook_events::provider.eq(provider).and(webhook_events::order_id.eq(order_id)))
        .filter(webhook_events::outcome.eq(NOT_ALLOWED))
        .order((webhook_events::received_at, webhook_events::event_id))
        .limit(PASSED_OVER_MAX)
        .select(Stored::as_select());
    let mut waiting: Vec<Stored> = passed_over.load(conn).await?;
    // Each that moves the order may be what another one waits for. Every round takes one from the list, or ends it.
    let mut has_moved = true;
    while std::mem::take(&mut has_moved) {
        let mut left = Vec::new();
        for stored in waiting {
            match apply(conn, provider, &stored.event(), stored.received_at).await? {
                Applied::Moved(status) => {
                    diesel::select(sql::keep(provider, &stored.event_id, &status)).execute(conn).await?;
                    has_moved = true;
                }
                Applied::Ignored(_) => left.push(stored),
            }
        }
        waiting = left;
    }
    Ok(())
}

async fn find(conn: &mut AsyncPgConnection, provider: &str, event_id: &str) -> QueryResult<Option<Stored>> {
    let row = webhook_events::table.find((provider, event_id)).select(Stored::as_select());
    row.first(conn).await.optional()
}

/// Events that have had no outcome for so long. In no order: those that cannot be applied keep nobody waiting, and several
/// instances do not go for the same one.
async fn waiting(conn: &mut AsyncPgConnection, age: Duration) -> QueryResult<Vec<(String, String)>> {
    diesel::define_sql_function!(fn random() -> Double);
    let since = diesel::dsl::now.into_sql::<Timestamptz>() - age.as_secs_f64().seconds();
    let events = webhook_events::table
        .filter(webhook_events::outcome.is_null())
        .filter(webhook_events::received_at.lt(since))
        .order(random())
        .limit(SWEEP_MAX)
        .select((webhook_events::provider, webhook_events::event_id));
    events.load(conn).await
}

/// Says what came of an event, once that is committed.
fn told(metrics: Option<&Metrics>, provider: &str, event: &Event, applied: Applied) -> String {
    let Event { id, kind, order_id, .. } = event;
    match applied {
        Applied::Moved(status) => {
            count(metrics, provider, "moved");
            log::debug!("event {id} of {provider}, {kind}: order {order_id} is {status}");
            status
        }
        Applied::Ignored(reason) => {
            count(metrics, provider, reason);
            // Providers tell more than anybody asks for. But of an order that there is not, somebody is wrong; and money that has
            // moved without this order's doing stands in no account until somebody sees to it.
            let has_moved = [".succeeded", ".refunded", ".returned"].iter().any(|end| kind.ends_with(end));
            let level = if reason == UNKNOWN_ORDER || has_moved { log::Level::Warn } else { log::Level::Info };
            log::log!(level, "event {id} of {provider}, {kind}, changes nothing at order {order_id}: {reason}");
            reason.to_owned()
        }
    }
}

fn count(metrics: Option<&Metrics>, provider: &str, outcome: &str) {
    if let Some(metrics) = metrics {
        metrics.webhook_events.with_label_values(&[provider, outcome]).inc();
    }
}

impl Stored {
    fn event(&self) -> Event {
        let Self { event_id, kind, order_id, amount, currency, .. } = self;
        let (id, kind, currency) = (event_id.clone(), kind.clone(), currency.clone());
        Event { id, kind, order_id: *order_id, amount: *amount, currency }
    }
}

/// What [`receive`] takes and gives.
pub(super) fn describe_receive() -> Description {
    let request = json!({
        "type": "object",
        "description": "As the sandbox writes it; other providers have forms of their own.",
        "required": ["id", "type", "data"],
        "properties": {
            "id": { "type": "string", "minLength": 1, "maxLength": ID_BYTES_MAX, "description": "The event's own: copies of it have no effect." },
            "type": { "type": "string", "minLength": 1, "maxLength": KIND_BYTES_MAX, "examples": ["payment.succeeded"] },
            "data": {
                "type": "object",
                "required": ["order_id"],
                "properties": {
                    "order_id": { "type": "string", "format": "uuid" },
                    "amount": { "type": ["integer", "null"], "format": "int64", "description": "What was moved, in minor units." },
                    "currency": { "type": ["string", "null"], "pattern": "^[A-Z]{3,4}$" },
                },
            },
        },
    });
    let answer = json!({
        "type": "object",
        "required": ["id", "outcome"],
        "properties": {
            "id": { "type": "string" },
            "outcome": { "type": "string", "description": "The status that the order came to, or why nothing was done: `unknown_order`, …" },
        },
    });
    let signature = Header {
        name: "X-Signature",
        summary: "Of the sandbox: the time in seconds, and HMAC-SHA256 of it, a dot and the body, by the provider's secret.",
        required: false,
        schema: json!({ "type": "string", "examples": ["t=1800000000,v1=64 hexadecimal digits"] }),
    };
    Description {
        summary: "What a payment provider tells of an order",
        details: "For providers alone: their signature lets them in. An event is stored before anything is done about it, and has its \
                  effect once, however often and in whatever order events come.",
        request: Some(request),
        request_headers: vec![signature],
        responses: vec![Response::ok("The event is stored, and seen to.", answer)],
        codes: vec![Code::NotFound, Code::SignatureInvalid, Code::BodyInvalid],
    }
}
