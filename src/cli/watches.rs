//! What `mainstay check` says of watches: whether changes of a table can be followed, and whether the tags of a changed row
//! are those of the entries that it made wrong.

use std::collections::BTreeSet;

use diesel::sql_types::{Bool, Text};
use diesel::{QueryResult, QueryableByName, RunQueryDsl, sql_query};

use super::Failure;
use super::check::Findings;
use crate::config::manifest::access::KEYS_TABLE;
use crate::config::manifest::{Manifest, Route, Watch};
use crate::config::param::Scalar;
use crate::database::changes::watched::Relation;
use crate::database::changes::{guard, install};
use crate::database::maintenance::MaintenanceConnection;

/// The tables that a route watches, under the names by which plans are compared; what cannot be followed is an error, and what
/// could be and is not, a warning.
pub(super) fn check(route: &Route, conn: &mut MaintenanceConnection, found: &mut Findings) -> BTreeSet<String> {
    let watches: Vec<&Watch> = route.cache.iter().flat_map(|policy| policy.watch.iter().flatten()).collect();
    let mut tables = BTreeSet::new();
    for watch in watches {
        match table(route, watch, conn) {
            Ok((name, unnoticed)) => {
                tables.insert(name);
                found.warnings.extend(unnoticed.map(|reason| format!("watch: {reason}; run `mainstay migrate`")));
            }
            Err(reason) => found.errors.push(format!("watch: {reason}")),
        }
    }
    tables
}

/// What is lacking to follow changes, where the manifest watches any, and to look up API keys.
pub(super) fn lacking(
    manifest: &Manifest,
    role: &str,
    conn: &mut MaintenanceConnection,
) -> Result<Option<String>, Failure> {
    let watches = manifest.watches();
    let mut has = |what: &str| has(what, conn).map_err(Failure::new);
    if watches.iter().any(|watch| watch.table == KEYS_TABLE) && !has("to_regproc('mainstay.find_api_keys')")? {
        return Ok(Some("API keys: the database has no table of them; run `mainstay migrate`".to_owned()));
    }
    if watches.is_empty() || !has("to_regnamespace('mainstay')")? {
        return Ok(None);
    }
    let grants = install::grants(conn, &unquoted(role)).map_err(Failure::new)?;
    Ok(grants.map(|grants| format!("the change feed: {role} may not follow it; {grants}")))
}

/// Whether the database has what an expression looks for.
fn has(what: &str, conn: &mut MaintenanceConnection) -> QueryResult<bool> {
    let sql = format!("SELECT '' AS name, '' AS kind, true AS is_exact WHERE {what} IS NOT NULL");
    sql_query(sql).load::<Column>(conn).map(|found| !found.is_empty())
}

/// The name of a role, which comes as a GRANT wants it.
pub(super) fn unquoted(role: &str) -> String {
    let name = role.strip_prefix('"').and_then(|name| name.strip_suffix('"')).map(|name| name.replace("\"\"", "\""));
    name.unwrap_or_else(|| role.to_owned())
}

/// The name of a table, and why its changes go unnoticed where somebody has migrated and they do.
fn table(route: &Route, watch: &Watch, conn: &mut MaintenanceConnection) -> Result<(String, Option<String>), String> {
    let found = install::relations(conn, std::slice::from_ref(&watch.table))
        .map_err(|error| format!("{}: {error}", watch.table))?;
    let relations = found.into_values().next().unwrap_or_default();
    let Some(first) = relations.iter().find(|one| one.oid == one.root) else {
        return Err(format!("there is no table {}", watch.table));
    };
    if let Some((one, reason)) = relations.iter().find_map(|one| Some((one, one.refusal()?))) {
        return Err(format!("{} {reason}", if one.oid == one.root { &watch.table } else { &one.name }));
    }
    for column in watch.tag.iter().flat_map(|tag| install::columns_of(tag)) {
        tagged(route, watch, first, column, conn)?;
    }
    let is_migrated = has("to_regnamespace('mainstay')", conn).map_err(|error| error.to_string())?;
    let unnoticed = if is_migrated { guard::trouble(&relations) } else { None };
    Ok((plan_name(first, conn)?, unnoticed))
}

#[derive(QueryableByName)]
struct Column {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Bool)]
    is_exact: bool,
}

/// The name of a table as plans are compared by it.
fn plan_name(relation: &Relation, conn: &mut MaintenanceConnection) -> Result<String, String> {
    let sql = "SELECT to_regclass($1)::text AS name, '' AS kind, true AS is_exact";
    let row = sql_query(sql).bind::<Text, _>(&relation.name).get_result::<Column>(conn);
    row.map(|row| row.name).map_err(|error| error.to_string())
}

/// A column in a tag stands for the parameter of the same name, so the two must print alike. `is_exact`: values that are
/// equal for the database are so byte for byte.
fn tagged(
    route: &Route,
    watch: &Watch,
    relation: &Relation,
    column: &str,
    conn: &mut MaintenanceConnection,
) -> Result<(), String> {
    const COLUMN: &str = "SELECT a.attname::text AS name, CASE WHEN b.typtype = 'e' THEN 'enum' ELSE b.typname::text END AS kind, \
        coalesce((SELECT collisdeterministic FROM pg_collation WHERE oid = a.attcollation), true) AS is_exact \
        FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
        JOIN pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END \
        WHERE a.attrelid = to_regclass($1) AND a.attname = $2 AND a.attnum > 0 AND NOT a.attisdropped";
    let rows = sql_query(COLUMN).bind::<Text, _>(&relation.name).bind::<Text, _>(column).load::<Column>(conn);
    let rows = rows.map_err(|error| error.to_string())?;
    let Some(found) = rows.first() else {
        return Err(format!("{} has no column {column}, which its tag names", watch.table));
    };
    let Some(param) = route.params.iter().find(|param| param.name == column) else {
        return Err(format!("the tag of {} names {column}, which is no parameter", watch.table));
    };
    let prints_alike = match param.scalar {
        Scalar::Text => matches!(found.kind.as_str(), "text" | "varchar" | "bpchar" | "enum"),
        Scalar::Integer => matches!(found.kind.as_str(), "int2" | "int4" | "int8"),
        Scalar::Uuid => found.kind == "uuid",
        Scalar::Boolean => found.kind == "bool",
        Scalar::Date => found.kind == "date",
        Scalar::Number | Scalar::Timestamp => false,
    };
    if prints_alike && found.is_exact {
        return Ok(());
    }
    let kind = if found.is_exact { &found.kind } else { "text of a collation that takes different texts for equal" };
    Err(format!(
        "column {column} of {} is {kind}, whose values need not print as those of a parameter of type {}, so a change could \
         miss its entries; watch the table without a tag",
        watch.table,
        param.scalar.name()
    ))
}
