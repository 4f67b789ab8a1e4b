//! Requests that move money have their effect once, however often they are sent.
//!
//! The client gives each a key. What came of it is written under that key in the very transaction that has the effect: who
//! asks again is answered from there. Refusals are kept as well: a client that was told that nothing happened may rely on it, also
//! where an older copy of its request is still under way and would be granted by now. What is not kept is what says nothing of the
//! request itself, such as a database out of reach: that may be tried again with the same key.

use std::cell::Cell;
use std::time::Duration;

use diesel::prelude::*;
use diesel::result::{DatabaseErrorKind, Error as QueryError};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::Serialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::accounts;
use super::tables::idempotency_keys;
use crate::database::maintenance::MaintenanceConnection;
use crate::database::write::Abort;
use crate::error::{Code, Error};
use crate::source::Answer;
use crate::source::description::Header;
use crate::source::handler::Call;

/// The request header with the key, in lower case.
const HEADER: &str = "idempotency-key";
/// The response header of an answer that was given before.
const REPLAYED: &str = "idempotency-replayed";
/// How long a key may be.
const KEY_BYTES_MAX: usize = 255;
/// The codes of [`once`].
pub(super) const CODES: [Code; 3] = [Code::IdempotencyKeyMissing, Code::IdempotencyMismatch, Code::IdempotencyInFlight];
/// The refusals that are an outcome.
const REFUSALS: [Code; 3] = [Code::InsufficientFunds, Code::LimitExceeded, Code::NotFound];

mod sql {
    use diesel::sql_types::{Binary, Text, Uuid};

    diesel::define_sql_function! {
        #[sql_name = "ramp.claim_idempotency_key"]
        fn claim(account_id: Uuid, operation: Text, key: Text, request_hash: Binary) -> Text;
    }
    diesel::define_sql_function! {
        #[sql_name = "ramp.keep_outcome"]
        fn keep(account_id: Uuid, operation: Text, key: Text, outcome: Text, body: Binary);
    }
}

/// A request, as it is known again.
struct Request<'a> {
    account_id: Uuid,
    operation: &'static str,
    key: &'a str,
    hash: [u8; 32],
}

/// What came of a request: an answer, or a refusal of [`REFUSALS`].
type Outcome = Result<Answer, Error>;

/// Forgets keys that are older than this, and than a day, and says how many they were.
///
/// # Errors
/// That of the database.
pub fn prune(conn: &mut MaintenanceConnection, retention: Duration) -> QueryResult<i64> {
    super::prune(conn, "ramp.prune_idempotency_keys", retention)
}

/// Has the effect of a call once. The effect is given the caller's account; what it writes is committed together with its answer, and
/// taken back where it refuses.
///
/// # Errors
/// `idempotency_key_missing`, `idempotency_mismatch`, `idempotency_in_flight`; those of the effect and of [`Call::write`].
pub(super) async fn once(
    call: &Call,
    operation: &'static str,
    request: &impl Serialize,
    effect: impl AsyncFn(&mut AsyncPgConnection, Uuid) -> Result<Answer, Abort>,
) -> Result<Answer, Error> {
    let request = Request { account_id: accounts::of(call)?, operation, key: key(call)?, hash: hash(request)? };
    let is_refused = Cell::new(false);
    let outcome = call.write(async |conn| {
        if let Some(outcome) = request.claim(conn).await? {
            return Ok(outcome);
        }
        let answer = effect(conn, request.account_id).await;
        is_refused.set(matches!(&answer, Err(Abort::Refused(error)) if REFUSALS.contains(&error.code)));
        let outcome = Ok(answer?);
        request.keep(conn, &outcome).await?;
        Ok(outcome)
    });
    match outcome.await {
        // All of the transaction is taken back, the claim included, so the refusal has one of its own. That costs who is refused,
        // where a savepoint would cost everybody.
        Err(refusal) if is_refused.get() && REFUSALS.contains(&refusal.code) => {
            refuse(call, &request, &refusal).await?
        }
        outcome => outcome?,
    }
}

/// Keeps a refusal, unless a copy of the request has come to something meanwhile: then that is what came of it.
async fn refuse(call: &Call, request: &Request<'_>, refusal: &Error) -> Result<Outcome, Error> {
    call.write(async |conn| {
        if let Some(outcome) = request.claim(conn).await? {
            return Ok(outcome);
        }
        let outcome = Err(refusal.clone());
        request.keep(conn, &outcome).await?;
        Ok(outcome)
    })
    .await
}

/// How [`once`] marks an answer that was given before, for descriptions.
pub(super) fn replayed() -> Header {
    Header {
        name: "Idempotency-Replayed",
        summary: "true: this is the answer of the first request with this key.",
        required: false,
        schema: serde_json::json!({ "const": "true" }),
    }
}

/// The key of a call.
fn key(call: &Call) -> Result<&str, Error> {
    let missing = |sentence: &'static str| Error::new(Code::IdempotencyKeyMissing, sentence);
    let headers = call.caller.as_ref().map(|caller| caller.headers.as_slice()).unwrap_or_default();
    let mut values = headers.iter().filter(|(name, _)| **name == *HEADER).map(|(_, value)| value);
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(missing("one header Idempotency-Key is required: a new key for each thing to be done"));
    };
    let is_printable = value.iter().all(|byte| matches!(byte, b' '..=b'~'));
    match std::str::from_utf8(value) {
        Ok(key) if is_printable && (1..=KEY_BYTES_MAX).contains(&key.len()) => Ok(key),
        _ => Err(missing("Idempotency-Key must be 1 to 255 printable ASCII characters")),
    }
}

/// The hash of what is asked for: of its meaning, so that white space and the order of members do not count.
fn hash(request: &impl Serialize) -> Result<[u8; 32], Error> {
    let text = serde_json::to_vec(request).map_err(|error| {
        log::error!("a request has no JSON form: {error}");
        Error::new(Code::Internal, "the request could not be read")
    })?;
    Ok(Sha256::digest(text).into())
}

impl Request<'_> {
    /// Claims the key, or finds what came of it. In flight is refused at once: who waited would hold a connection.
    async fn claim(&self, conn: &mut AsyncPgConnection) -> Result<Option<Outcome>, Abort> {
        let in_flight =
            || Error::new(Code::IdempotencyInFlight, "a request with this Idempotency-Key is being worked on");
        let claim = sql::claim(self.account_id, self.operation, self.key, self.hash.as_slice());
        let claim = diesel::select(claim).get_result::<String>(conn).await.map_err(|error| match error {
            QueryError::DatabaseError(DatabaseErrorKind::ForeignKeyViolation, _) => accounts::nobody().into(),
            other => Abort::Query(other),
        });
        match claim?.as_str() {
            "claimed" => Ok(None),
            // Where it is gone by now, it was pruned a moment ago.
            "held" => Ok(Some(self.replay(conn).await?.ok_or_else(in_flight)?)),
            _ => Err(in_flight().into()),
        }
    }

    async fn replay(&self, conn: &mut AsyncPgConnection) -> Result<Option<Outcome>, Abort> {
        type Row = (Vec<u8>, Option<String>, Option<Vec<u8>>);
        let columns = (idempotency_keys::request_hash, idempotency_keys::outcome, idempotency_keys::body);
        let row = idempotency_keys::table.find((self.account_id, self.operation, self.key)).select(columns);
        let Some((hash, Some(outcome), Some(body))) = row.first::<Row>(conn).await.optional()? else { return Ok(None) };
        if hash != self.hash {
            let sentence = "this Idempotency-Key was used for another request";
            return Err(Error::new(Code::IdempotencyMismatch, sentence).into());
        }
        let headers = vec![(REPLAYED, "true".to_owned())];
        let outcome = match (outcome.parse(), REFUSALS.into_iter().find(|code| code.as_str() == outcome)) {
            (Ok(status), _) => Ok(Answer { status, headers, ..Answer::json_bytes(body) }),
            (_, Some(code)) => {
                Err(Error { headers: headers.into(), ..Error::new(code, String::from_utf8_lossy(&body).into_owned()) })
            }
            (_, None) => {
                log::error!("an outcome is kept that this version does not know: {outcome}");
                return Err(Error::new(Code::Internal, "what came of the first request cannot be read").into());
            }
        };
        Ok(Some(outcome))
    }

    async fn keep(&self, conn: &mut AsyncPgConnection, outcome: &Outcome) -> QueryResult<()> {
        let (outcome, body) = match outcome {
            Ok(answer) => (answer.status.to_string(), answer.body.as_ref()),
            Err(error) => (error.code.as_str().to_owned(), error.detail.as_bytes()),
        };
        let keep = sql::keep(self.account_id, self.operation, self.key, outcome, body);
        diesel::select(keep).execute(conn).await.map(drop)
    }
}
