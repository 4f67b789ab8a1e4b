//! Making, revoking and listing keys: the work of operators, as the owner of the table.

use std::time::Duration;

use diesel::sql_types::{Array, BigInt, Binary, Bool, Jsonb, Nullable, Text};
use diesel::{QueryResult, QueryableByName, RunQueryDsl, sql_query};
use serde::Serialize;
use serde_json::{Map, Value};

use super::credential::{Shown, make_up, named_prefix};
use crate::config::manifest::access::is_scope;
use crate::config::overload::Rate;
use crate::config::units::Secret;
use crate::database::maintenance::MaintenanceConnection;

/// How long a name or an owner may be.
const NAME_BYTES_MAX: usize = 200;
/// Scopes, and claims, that a key may have.
const ITEMS_MAX: usize = 64;
/// How long a claim may be.
const CLAIM_BYTES_MAX: usize = 1024;
/// For how long a key may be good. Who means longer means for ever.
const LIFETIME_MAX: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);
/// What a key says of its owner and its scopes, and no claim may say otherwise.
const OWN_CLAIMS: [&str; 2] = ["sub", "scope"];

/// A key that is to be made.
#[derive(Clone, Debug, Default)]
pub struct NewKey {
    /// What it is for, to tell it from others.
    pub name: String,
    /// Who the caller will be; none: nobody but this key.
    pub owner: Option<String>,
    /// What the caller may do.
    pub scopes: Vec<String>,
    /// What else is known of the caller.
    pub claims: Map<String, Value>,
    /// How often it may be used.
    pub rate: Option<Rate>,
    /// For how long it is good; none: until it is revoked.
    pub lifetime: Option<Duration>,
}

/// A key that was made.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The key itself, which nobody can find out again.
    pub api_key: Secret,
    /// The public part of it.
    pub prefix: String,
    /// Who the caller will be.
    pub owner: String,
    /// When it expires, in RFC 3339.
    pub expires_at: Option<String>,
}

/// A key, as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName, Serialize)]
pub struct Listed {
    /// The public part of it.
    #[diesel(sql_type = Text)]
    pub prefix: String,
    /// What it is for.
    #[diesel(sql_type = Text)]
    pub name: String,
    /// Who the caller is.
    #[diesel(sql_type = Text)]
    pub owner: String,
    /// What the caller may do.
    #[diesel(sql_type = Array<Text>)]
    pub scopes: Vec<String>,
    /// What else is known of the caller.
    #[diesel(sql_type = Jsonb)]
    pub claims: Value,
    /// How often it may be used.
    #[diesel(sql_type = Nullable<Text>)]
    pub rate: Option<String>,
    /// When it was made; this and the other times are in RFC 3339.
    #[diesel(sql_type = Text)]
    pub created_at: String,
    /// When it expires.
    #[diesel(sql_type = Nullable<Text>)]
    pub expires_at: Option<String>,
    /// When it was revoked.
    #[diesel(sql_type = Nullable<Text>)]
    pub revoked_at: Option<String>,
    /// When it was last used, to a minute or so.
    #[diesel(sql_type = Nullable<Text>)]
    pub last_used_at: Option<String>,
    /// `active`, `expired` or `revoked`.
    #[diesel(sql_type = Text)]
    pub state: String,
}

/// What revoking a key came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// It is good no more.
    Now,
    /// It was not before.
    Before,
    /// There is no such key.
    Unknown,
}

/// Why keys cannot be made, revoked or listed.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// What is asked for cannot be; the sentence names the culprit.
    #[error("{0}")]
    Invalid(String),
    /// The database has no table of keys.
    #[error(
        "this database has no table of API keys yet: run `mainstay migrate` with a manifest in which a route has auth = \"key\""
    )]
    NotMigrated,
    /// This role may not.
    #[error(
        "role {0} may not {1} API keys; connect as the owner of mainstay.api_keys, as `mainstay migrate` does (DATABASE_DIRECT_URL, else DATABASE_URL)"
    )]
    Denied(String, &'static str),
    /// The system has no randomness to give.
    #[error("the system gives no random numbers, so no key can be made")]
    NoRandomness,
    /// The database failed.
    #[error(transparent)]
    Database(#[from] diesel::result::Error),
}

/// Makes a key. In a transaction of the caller's it is there once that commits.
///
/// # Errors
/// When what is asked for cannot be, or the database refuses.
pub fn create(conn: &mut MaintenanceConnection, key: &NewKey) -> Result<Issued, IssueError> {
    const INSERT: &str = "INSERT INTO mainstay.api_keys (prefix, hash, name, owner, scopes, claims, rate, expires_at) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, clock_timestamp() + make_interval(secs => $8 / 1000.0)) \
        RETURNING to_char(expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS expires_at";
    #[derive(QueryableByName)]
    struct Inserted {
        #[diesel(sql_type = Nullable<Text>)]
        expires_at: Option<String>,
    }
    check(key).map_err(IssueError::Invalid)?;
    may(conn, "INSERT", "make")?;
    let whole = make_up().ok_or(IssueError::NoRandomness)?;
    let shown = Shown::parse(whole.as_bytes()).ok_or(IssueError::NoRandomness)?;
    let owner = key.owner.as_deref().unwrap_or(shown.prefix);
    let lifetime_ms = key.lifetime.map(|lifetime| i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX));
    let inserted = sql_query(INSERT)
        .bind::<Text, _>(shown.prefix)
        .bind::<Binary, _>(shown.hash().as_slice())
        .bind::<Text, _>(&key.name)
        .bind::<Text, _>(owner)
        .bind::<Array<Text>, _>(&key.scopes)
        .bind::<Jsonb, _>(Value::Object(key.claims.clone()))
        .bind::<Nullable<Text>, _>(key.rate.map(|rate| rate.to_string()))
        .bind::<Nullable<BigInt>, _>(lifetime_ms)
        .get_result::<Inserted>(conn)?;
    let (prefix, owner) = (shown.prefix.to_owned(), owner.to_owned());
    Ok(Issued { prefix, owner, expires_at: inserted.expires_at, api_key: Secret::new(whole) })
}

/// Revokes keys, each given by its prefix or as a whole, and says what became of each. It stays in the list as revoked.
///
/// # Errors
/// Where one of them is neither, and then none is revoked; where the database refuses.
pub fn revoke(conn: &mut MaintenanceConnection, keys: &[String]) -> Result<Vec<(String, Revoked)>, IssueError> {
    const REVOKE: &str = "WITH named AS (SELECT DISTINCT unnest($1) AS prefix), \
        now_revoked AS (UPDATE mainstay.api_keys k SET revoked_at = clock_timestamp() FROM named n \
            WHERE k.prefix = n.prefix AND k.revoked_at IS NULL RETURNING k.prefix) \
        SELECT n.prefix, k.prefix IS NOT NULL AS is_known, r.prefix IS NOT NULL AS is_now FROM named n \
        LEFT JOIN mainstay.api_keys k ON k.prefix = n.prefix LEFT JOIN now_revoked r ON r.prefix = n.prefix ORDER BY n.prefix";
    #[derive(QueryableByName)]
    struct Named {
        #[diesel(sql_type = Text)]
        prefix: String,
        #[diesel(sql_type = Bool)]
        is_known: bool,
        #[diesel(sql_type = Bool)]
        is_now: bool,
    }
    let prefix = |text: &String| {
        // It may be a key with a slip in it, which nobody else is to read.
        named_prefix(text).map(str::to_owned).ok_or_else(|| {
            IssueError::Invalid("a key is named by its prefix of 12 letters and digits, or as a whole".to_owned())
        })
    };
    let prefixes = keys.iter().map(prefix).collect::<Result<Vec<_>, _>>()?;
    may(conn, "UPDATE", "revoke")?;
    let rows = sql_query(REVOKE).bind::<Array<Text>, _>(prefixes).load::<Named>(conn)?;
    let revoked = |row: Named| {
        let outcome = match (row.is_known, row.is_now) {
            (_, true) => Revoked::Now,
            (true, false) => Revoked::Before,
            (false, false) => Revoked::Unknown,
        };
        (row.prefix, outcome)
    };
    Ok(rows.into_iter().map(revoked).collect())
}

/// The keys that may be used, and where all are asked for those that no longer may, too; the newest last.
///
/// # Errors
/// When the database refuses.
pub fn list(conn: &mut MaintenanceConnection, all: bool) -> Result<Vec<Listed>, IssueError> {
    const LIST: &str = "SELECT * FROM (SELECT k.prefix, k.name, k.owner, k.scopes, k.claims, k.rate, \
            CASE WHEN k.revoked_at IS NOT NULL THEN 'revoked' WHEN k.expires_at <= clock_timestamp() THEN 'expired' ELSE 'active' END AS state, \
            to_char(k.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS created_at, \
            to_char(k.expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS expires_at, \
            to_char(k.revoked_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS revoked_at, \
            to_char(u.last_used_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS last_used_at, k.created_at AS made \
        FROM mainstay.api_keys k LEFT JOIN mainstay.api_key_uses u ON u.prefix = k.prefix) AS keys \
        WHERE $1 OR state = 'active' ORDER BY made, prefix";
    may(conn, "SELECT", "list")?;
    Ok(sql_query(LIST).bind::<Bool, _>(all).load(conn)?)
}

/// Whether the table is there, and this role may do that to it.
fn may(conn: &mut MaintenanceConnection, privilege: &str, verb: &'static str) -> Result<(), IssueError> {
    const MAY: &str = "SELECT quote_ident(current_user) AS role, c.oid IS NOT NULL AS is_there, \
        coalesce(has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, $1), false) AS is_allowed \
        FROM (SELECT) AS one LEFT JOIN pg_namespace n ON n.nspname = 'mainstay' \
        LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = 'api_keys'";
    #[derive(QueryableByName)]
    struct May {
        #[diesel(sql_type = Text)]
        role: String,
        #[diesel(sql_type = Bool)]
        is_there: bool,
        #[diesel(sql_type = Bool)]
        is_allowed: bool,
    }
    let found: QueryResult<May> = sql_query(MAY).bind::<Text, _>(privilege).get_result(conn);
    match found? {
        May { is_there: false, .. } => Err(IssueError::NotMigrated),
        May { is_allowed: false, role, .. } => Err(IssueError::Denied(role, verb)),
        May { .. } => Ok(()),
    }
}

/// What is wrong with a key that is to be made.
fn check(key: &NewKey) -> Result<(), String> {
    let NewKey { name, owner, scopes, claims, lifetime, .. } = key;
    let is_name =
        |text: &str| !text.trim().is_empty() && text.len() <= NAME_BYTES_MAX && !text.chars().any(char::is_control);
    if !is_name(name) {
        return Err(format!("name: a text of at most {NAME_BYTES_MAX} bytes without control characters"));
    }
    if owner.as_deref().is_some_and(|owner| !is_name(owner)) {
        return Err(format!("owner: a text of at most {NAME_BYTES_MAX} bytes without control characters"));
    }
    if let Some(scope) = scopes.iter().find(|scope| !is_scope(scope)) {
        return Err(format!("scope {scope:?}: printable characters without spaces, quotes, backslashes and commas"));
    }
    if scopes.len() > ITEMS_MAX || claims.len() > ITEMS_MAX {
        return Err(format!("a key has at most {ITEMS_MAX} scopes, and as many claims"));
    }
    for (name, value) in claims {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(is_plain) {
            return Err(format!("claim {name:?}: letters, digits, _, . and -"));
        }
        if OWN_CLAIMS.contains(&name.as_str()) {
            return Err(format!("claim {name}: follows from the owner and the scopes"));
        }
        // Postgres keeps no zero character in JSON.
        let text = value.to_string();
        if text.len() > CLAIM_BYTES_MAX || text.contains("\\u0000") {
            return Err(format!("claim {name}: at most {CLAIM_BYTES_MAX} bytes, and no zero character"));
        }
    }
    match lifetime {
        Some(lifetime) if *lifetime < Duration::from_secs(1) => Err("expires: at least one second".to_owned()),
        Some(lifetime) if *lifetime > LIFETIME_MAX => {
            Err("expires: at most 100 years; without it a key never does".to_owned())
        }
        _ => Ok(()),
    }
}
