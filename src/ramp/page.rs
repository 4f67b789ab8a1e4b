//! Pages of lists, the newest first.
//!
//! A page begins below the place where the one before it ended, and not after so many rows: what comes in between moves nothing. The
//! place is that of a row, by the time at which it came to be and its id, which never change. So whoever walks from page to page sees
//! each row once at most, and each one that was there when the walk began, whatever others write meanwhile.
//!
//! A cursor is the place, bound to the list, to whose it is and to the filters by a checksum. It is no secret and grants nothing: a list
//! is its caller's by the query, whatever the cursor. The checksum is for clients that mix cursors up, which would skip rows silently.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::invalid;
use crate::config::param;
use crate::config::units::fingerprint_part;
use crate::error::Error;
use crate::source::handler::Call;

/// Rows of a page where the caller does not say.
const LIMIT_DEFAULT: usize = 50;
/// Rows of a page, whatever a manifest allows.
const LIMIT_MAX: usize = 200;
/// A cursor of another version is refused, so that what it consists of may change.
const VERSION: u8 = 1;
/// The first second after which no row has come to be: that of the year 10000, which is within what chrono and Postgres can tell.
const SECONDS_END: i64 = 253_402_300_800;
const CHECK_BYTES: usize = 8;
/// Version, microseconds, id, checksum.
const CURSOR_BYTES: usize = 1 + 8 + 16 + CHECK_BYTES;

/// Where a row stands in its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// When it came to be.
    pub at: DateTime<Utc>,
    /// Its id.
    pub id: Uuid,
}

impl Place {
    /// The place below which all came to be before a time.
    pub(super) const fn start_of(at: DateTime<Utc>) -> Self {
        Self { at, id: Uuid::nil() }
    }
}

/// The page that a call asks for.
#[derive(Debug)]
pub(super) struct Page {
    /// So many rows at most.
    pub limit: usize,
    /// Those that stand below this place; none: the newest.
    pub below: Option<Place>,
    /// The list, whose it is, and the filters.
    scope: Vec<u8>,
}

impl Page {
    /// The page that the parameters `limit` and `cursor` ask for, of a list of an account's. All other parameters are filters.
    ///
    /// # Errors
    /// `param_invalid` where the cursor is none of this list's with these filters.
    pub(super) fn of(call: &Call, list: &str, account: Uuid) -> Result<Self, Error> {
        let limit = call.params.text("limit").and_then(|text| text.parse().ok()).unwrap_or(LIMIT_DEFAULT);
        let mut scope = account.as_bytes().to_vec();
        fingerprint_part(&mut scope, list);
        for (name, value) in call.params.named().filter(|(name, _)| !matches!(*name, "limit" | "cursor")) {
            let items = match value {
                param::Value::Null => continue,
                param::Value::One(text) => std::slice::from_ref(text),
                param::Value::Many(items) => items,
            };
            fingerprint_part(&mut scope, name);
            items.iter().for_each(|item| fingerprint_part(&mut scope, item));
        }
        let below = call.params.text("cursor").map(|cursor| read(cursor, &scope)).transpose()?;
        Ok(Self { limit: limit.clamp(1, LIMIT_MAX), below, scope })
    }

    /// How many rows to ask for: one more than is shown tells whether there is another page.
    pub(super) fn rows_wanted(&self) -> i64 {
        i64::try_from(self.limit).unwrap_or(i64::MAX).saturating_add(1)
    }

    /// The rows to show, of those that were found, and the cursor of the next page, where there is one.
    pub(super) fn cut<T>(&self, mut rows: Vec<T>, place: impl Fn(&T) -> Place) -> (Vec<T>, Option<String>) {
        let has_more = rows.len() > self.limit;
        rows.truncate(self.limit);
        let cursor = rows.last().filter(|_| has_more).map(|last| self.cursor(place(last)));
        (rows, cursor)
    }

    /// The cursor of the page that begins below a place.
    pub(super) fn cursor(&self, place: Place) -> String {
        let mut bytes = Vec::with_capacity(CURSOR_BYTES);
        bytes.push(VERSION);
        bytes.extend_from_slice(&place.at.timestamp_micros().to_be_bytes());
        bytes.extend_from_slice(place.id.as_bytes());
        bytes.extend_from_slice(&checksum(&bytes, &self.scope));
        URL_SAFE_NO_PAD.encode(bytes)
    }
}

/// The place in a cursor.
fn read(cursor: &str, scope: &[u8]) -> Result<Place, Error> {
    let malformed = || invalid("cursor", "is none of this API's; the first page is the one without it");
    let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| malformed())?;
    let (place, check) = bytes.split_last_chunk::<CHECK_BYTES>().ok_or_else(malformed)?;
    let (version, rest) = place.split_first().ok_or_else(malformed)?;
    if *version != VERSION || bytes.len() != CURSOR_BYTES {
        return Err(malformed());
    }
    if *check != checksum(place, scope) {
        return Err(invalid("cursor", "belongs to another list, to other filters or to another account"));
    }
    let (micros, id) = rest.split_first_chunk().ok_or_else(malformed)?;
    let at = DateTime::from_timestamp_micros(i64::from_be_bytes(*micros)).ok_or_else(malformed)?;
    // Whoever makes up a checksum as well is not to make the database stumble.
    if !(0..SECONDS_END).contains(&at.timestamp()) {
        return Err(malformed());
    }
    Ok(Place { at, id: Uuid::from_slice(id).map_err(|_| malformed())? })
}

fn checksum(place: &[u8], scope: &[u8]) -> [u8; CHECK_BYTES] {
    let hash = Sha256::new().chain_update(place).chain_update(scope).finalize();
    hash.first_chunk().copied().unwrap_or_default()
}

/// Two times, each where it is asked for.
type Span = (Option<DateTime<Utc>>, Option<DateTime<Utc>>);

/// The times of a call between which rows came to be: at or after `from`, and before `to`.
pub(super) fn span(call: &Call) -> Result<Span, Error> {
    let time = |name: &str| {
        let parse = |text: &str| text.parse().map_err(|_| invalid(name, "must be a time like 2026-10-30T12:00:00Z"));
        call.params.text(name).map(parse).transpose()
    };
    let (from, to): Span = (time("from")?, time("to")?);
    if from.zip(to).is_some_and(|(from, to)| from >= to) {
        return Err(invalid("from", "must be before to"));
    }
    Ok((from, to))
}

/// The JSON Schema of a page: the rows as a member of this name, and the cursor.
pub(super) fn schema(member: &str, row: &Value) -> Value {
    let cursor = json!({
        "type": ["string", "null"],
        "description": "Shows the next page as the parameter `cursor`, with the same filters. null: this is the last page.",
    });
    json!({
        "type": "object",
        "required": [member, "next_cursor"],
        "properties": { member: { "type": "array", "items": row }, "next_cursor": cursor },
    })
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::sync::Arc;
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;
    use crate::config::param::Params;
    use crate::database::read::Consistency;

    fn call(params: &[(&str, &str)]) -> Call {
        let one = |text: &str| param::Value::One(Cow::Owned(text.to_owned()));
        let params = params.iter().map(|(name, text)| ((*name).to_owned(), one(text))).collect();
        let method = Arc::from("GET");
        Call::new(method, Params::new(params), Default::default(), None, Consistency::Strong, None, Instant::now())
    }

    fn page(params: &[(&str, &str)]) -> Result<Page, Error> {
        Page::of(&call(params), "things", Uuid::nil())
    }

    fn place(micros: i64, id: u128) -> Place {
        Place { at: DateTime::from_timestamp_micros(micros).unwrap(), id: Uuid::from_u128(id) }
    }

    #[test]
    fn a_cursor_is_good_for_its_own_list_account_and_filters_alone() {
        let filters = [("kind", "transfer"), ("currency", "USD")];
        let cursor = page(&filters).unwrap().cursor(place(1, 2));
        let ask = |filters: &[(&str, &str)], list: &str, account: Uuid| {
            let params: Vec<_> = filters.iter().copied().chain([("cursor", &*cursor)]).collect();
            Page::of(&call(&params), list, account).map(|page| page.below)
        };
        assert_eq!(ask(&filters, "things", Uuid::nil()).unwrap(), Some(place(1, 2)));
        let another_limit = [filters[0], filters[1], ("limit", "7")];
        assert_eq!(
            ask(&another_limit, "things", Uuid::nil()).unwrap(),
            Some(place(1, 2)),
            "pages may differ in length"
        );
        let refused = [
            ask(&filters, "thing", Uuid::nil()),
            ask(&filters, "things", Uuid::from_u128(1)),
            ask(&filters[..1], "things", Uuid::nil()),
            ask(&[("kind", "transfer"), ("currency", "EUR")], "things", Uuid::nil()),
            ask(&[("kind", "transferc"), ("urrency", "USD")], "things", Uuid::nil()),
            ask(&[], "things", Uuid::nil()),
        ];
        for refused in refused {
            let error = refused.unwrap_err();
            assert_eq!((error.code.as_str(), error.detail.starts_with("cursor ")), ("param_invalid", true), "{error}");
        }
    }

    #[test]
    fn cursors_of_other_versions_and_times_that_there_are_not_are_refused() {
        let own = page(&[]).unwrap();
        let good = URL_SAFE_NO_PAD.decode(own.cursor(place(1, 2))).unwrap();
        let made_up = |version: u8, micros: i64| {
            let mut bytes = good[..good.len() - CHECK_BYTES].to_vec();
            bytes[0] = version;
            bytes[1..9].copy_from_slice(&micros.to_be_bytes());
            bytes.extend_from_slice(&checksum(&bytes, &own.scope));
            URL_SAFE_NO_PAD.encode(bytes)
        };
        assert!(page(&[("cursor", &made_up(VERSION, 1))]).is_ok());
        let others = [
            made_up(0, 1),
            made_up(2, 1),
            made_up(VERSION, -1),
            made_up(VERSION, i64::MAX),
            made_up(VERSION, i64::MIN),
        ];
        for cursor in others.iter().map(String::as_str).chain(["", "AA", "====", "e", "\u{e9}", &"A".repeat(10_000)]) {
            assert_eq!(page(&[("cursor", cursor)]).unwrap_err().code.as_str(), "param_invalid", "{cursor}");
        }
    }

    #[test]
    fn limits_are_held_whatever_a_manifest_allows() {
        for (asked, expected) in [("0", 1), ("1", 1), ("200", 200), ("100000", 200), ("-1", 50)] {
            assert_eq!(page(&[("limit", asked)]).unwrap().limit, expected, "{asked}");
        }
        assert_eq!(page(&[]).unwrap().limit, 50);
    }

    proptest! {
        /// Whatever is changed in a cursor, it is not taken for one; and every place comes back as it went in.
        #[test]
        fn no_change_of_a_cursor_passes(
            micros in 0..SECONDS_END * 1_000_000, id: u128, at in 0..CURSOR_BYTES, flip in 1u8..,
        ) {
            let cursor = page(&[]).unwrap().cursor(place(micros, id));
            prop_assert_eq!(page(&[("cursor", &cursor)]).unwrap().below, Some(place(micros, id)));
            let mut bytes = URL_SAFE_NO_PAD.decode(&cursor).unwrap();
            bytes[at] ^= flip;
            prop_assert!(page(&[("cursor", &URL_SAFE_NO_PAD.encode(bytes))]).is_err());
        }

        /// Pages one after another are the whole list, whatever their lengths.
        #[test]
        fn pages_are_the_list_cut(length in 0_u8..40, limits in prop::collection::vec(1usize..12, 1..8)) {
            let list: Vec<Place> = (0..length).map(|number| place(1_000 - i64::from(number / 3), number.into())).collect();
            let (mut seen, mut below, mut limits) = (Vec::new(), None, limits.iter().cycle());
            loop {
                let page = Page { limit: *limits.next().unwrap(), below, scope: Vec::new() };
                let start = below.map_or(0, |place| list.iter().position(|other| *other == place).unwrap() + 1);
                let rows = list[start..].iter().copied().take(usize::try_from(page.rows_wanted()).unwrap()).collect();
                let (shown, cursor) = page.cut(rows, |place| *place);
                prop_assert!(shown.len() <= page.limit);
                seen.extend(shown);
                let Some(cursor) = cursor else { break };
                below = Some(read(&cursor, &[]).unwrap());
            }
            prop_assert_eq!(seen, list);
        }
    }
}
