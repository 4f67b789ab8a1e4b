//! From what manifests watch to triggers: what there is, what there should be, and the SQL between the two.

use std::collections::{BTreeMap, BTreeSet};

use diesel::connection::SimpleConnection;
use diesel::sql_types::{Array, BigInt, Bool, Nullable, Text};
use diesel::{Connection, QueryResult, QueryableByName, RunQueryDsl, sql_query};

use super::watched::{RELATIONS, Relation, Trigger, table_all, table_any};
use crate::config::manifest::Watch;
use crate::database::maintenance::MaintenanceConnection;

/// More distinct tags in one statement are told as all of the table.
const STATEMENT_TAGS_MAX: usize = 10_000;

/// A longer tag is told as all of the table: what is told is kept, sent to everybody, and bounded by the number of tags.
const TAG_BYTES_MAX: usize = 1024;

/// Keeps the body of a function apart from what is around it.
const QUOTES: &str = "$mainstay$";

/// A trigger takes a lock that writers wait behind. Whoever holds the table for longer than this makes the step fail instead.
const LOCK_TIMEOUT: &str = "5s";

/// What serving takes: to read the feed, and to say how far one has read; to look up keys, and to say that they were used.
const GRANTS: &str = "GRANT USAGE ON SCHEMA mainstay TO {role}; \
    GRANT SELECT ON mainstay.change_feed, mainstay.cursors, mainstay.pruned, mainstay.hard_purges, mainstay.watches TO {role}; \
    GRANT EXECUTE ON FUNCTION mainstay.attach(text, text, text), mainstay.advance(text, pg_snapshot, text), \
    mainstay.touch(text), mainstay.detach(text), mainstay.covers(pg_snapshot, pg_snapshot), mainstay.purge(text[], boolean), mainstay.fenced(bigint, text), mainstay.prune(interval, interval), \
    mainstay.find_api_keys(text[]), mainstay.note_api_key_uses(text[]) TO {role}";

/// What is to be done.
#[derive(Debug, Default)]
pub struct Plan {
    /// Each in a transaction of its own: functions, then table by table.
    pub steps: Vec<String>,
    /// What nobody asks for any more, and stays until it is dropped in a contract step.
    pub kept: Vec<String>,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The manifest asks for what cannot be.
    #[error("watch: {0}")]
    Refused(String),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] diesel::result::Error),
}

#[derive(QueryableByName)]
struct Found {
    #[diesel(sql_type = Text)]
    spelling: String,
    #[diesel(sql_type = Nullable<BigInt>)]
    root: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    relation: Option<i64>,
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    function: String,
    #[diesel(sql_type = Nullable<Text>)]
    kind: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    persistence: Option<String>,
    #[diesel(sql_type = Bool)]
    is_child: bool,
    #[diesel(sql_type = Bool)]
    is_replicated: bool,
    #[diesel(sql_type = Array<Text>)]
    triggers: Vec<String>,
    #[diesel(sql_type = Array<Text>)]
    columns: Vec<String>,
}

impl Found {
    fn relation(self) -> Option<Relation> {
        Some(Relation {
            root: self.root?,
            oid: self.relation?,
            name: self.name,
            function: self.function,
            kind: self.kind?,
            persistence: self.persistence?,
            is_child: self.is_child,
            is_replicated: self.is_replicated,
            triggers: self.triggers.iter().filter_map(|text| Trigger::parse(text)).collect(),
            columns: self.columns,
        })
    }
}

/// What spellings of tables lead to; nothing where there is no such table.
///
/// # Errors
/// When the server cannot be asked, or a spelling is no name at all.
pub fn relations(
    conn: &mut MaintenanceConnection,
    spellings: &[String],
) -> QueryResult<BTreeMap<String, Vec<Relation>>> {
    let mut found: BTreeMap<String, Vec<Relation>> = BTreeMap::new();
    for row in sql_query(RELATIONS).bind::<Array<Text>, _>(spellings).load::<Found>(conn)? {
        found.entry(row.spelling.clone()).or_default().extend(row.relation());
    }
    Ok(found)
}

/// A table with all that is asked of it, under every spelling.
#[derive(Default)]
struct Table {
    relations: Vec<Relation>,
    spellings: BTreeSet<String>,
    tags: BTreeSet<String>,
}

/// Compares the database with what a manifest watches.
///
/// What other versions of the manifest have asked for stays, so that they can run beside this one, unless `contract` says
/// that there are none. Before the schema is there, nothing is installed: a dry run plans all of it.
///
/// # Errors
/// When a watch cannot be followed, or the server cannot be asked.
pub fn plan(conn: &mut MaintenanceConnection, watches: &[Watch], contract: bool) -> Result<Plan, PlanError> {
    let own: BTreeSet<(String, String)> =
        watches.iter().map(|watch| (watch.table.clone(), watch.tag.clone().unwrap_or_default())).collect();
    if let Some((table, tag)) = own.iter().find(|(table, tag)| table.contains(QUOTES) || tag.contains(QUOTES)) {
        return Err(PlanError::Refused(format!("{table}, {tag}: a name with {QUOTES} in it cannot be quoted")));
    }
    let stored = stored(conn)?;
    let mut plan = Plan::default();
    let asked: BTreeSet<_> = if contract { own.clone() } else { own.union(&stored).cloned().collect() };
    let tables = tables(conn, &asked, &own, &mut plan)?;
    for (table, tag) in stored.difference(&own).filter(|_| !contract) {
        let what = if tag.is_empty() { table.clone() } else { format!("{tag} of {table}") };
        plan.kept.push(format!("the watch of {what}"));
    }
    plan.steps.extend(bookkeeping(&asked, &stored));
    let bodies = bodies(conn)?;
    for table in tables.values() {
        plan.steps.extend(table.step(&bodies));
    }
    leftovers(conn, &tables, contract, &mut plan)?;
    Ok(plan)
}

/// Runs a plan, step by step.
///
/// # Errors
/// That of the step that failed; those before it stay.
pub fn apply(conn: &mut MaintenanceConnection, plan: &Plan) -> QueryResult<()> {
    for step in &plan.steps {
        conn.transaction(|conn| {
            conn.batch_execute(&format!("SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))?;
            conn.batch_execute(step)
        })?;
    }
    Ok(())
}

/// The grants that a serving role lacks; nothing where there is no such role.
///
/// # Errors
/// When the server cannot be asked.
pub fn grants(conn: &mut MaintenanceConnection, role: &str) -> QueryResult<Option<String>> {
    // Before the schema is there, all of them are missing.
    const LACKING: &str = "SELECT quote_ident(rolname) AS text FROM pg_roles r WHERE rolname = $1 AND NOT coalesce( \
        (SELECT has_schema_privilege(r.oid, n.oid, 'USAGE') \
            AND (SELECT bool_and(has_table_privilege(r.oid, c.oid, 'SELECT')) FROM pg_class c \
                 WHERE c.relnamespace = n.oid AND c.relname IN ('change_feed', 'cursors', 'pruned', 'hard_purges', 'watches')) \
            AND (SELECT bool_and(has_function_privilege(r.oid, p.oid, 'EXECUTE')) FROM pg_proc p \
                 WHERE p.pronamespace = n.oid AND p.proname IN ('attach', 'advance', 'touch', 'detach', 'covers', 'purge', 'fenced', 'prune', 'find_api_keys', 'note_api_key_uses')) \
         FROM pg_namespace n WHERE n.nspname = 'mainstay'), false)";
    let lacking = sql_query(LACKING).bind::<Text, _>(role).load::<Line>(conn)?;
    Ok(lacking.first().map(|role| GRANTS.replace("{role}", &role.text)))
}

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    text: String,
}

#[derive(QueryableByName)]
struct Pair {
    #[diesel(sql_type = Text)]
    one: String,
    #[diesel(sql_type = Text)]
    two: String,
}

fn pairs(conn: &mut MaintenanceConnection, sql: &str) -> QueryResult<Vec<(String, String)>> {
    Ok(sql_query(sql).load::<Pair>(conn)?.into_iter().map(|pair| (pair.one, pair.two)).collect())
}

/// What has been asked for before.
fn stored(conn: &mut MaintenanceConnection) -> QueryResult<BTreeSet<(String, String)>> {
    let there = pairs(conn, "SELECT '' AS one, '' AS two WHERE to_regclass('mainstay.watches') IS NOT NULL")?;
    if there.is_empty() {
        return Ok(BTreeSet::new());
    }
    Ok(pairs(conn, "SELECT tbl AS one, tag AS two FROM mainstay.watches")?.into_iter().collect())
}

/// The functions of triggers that there are, with their source.
fn bodies(conn: &mut MaintenanceConnection) -> QueryResult<BTreeMap<String, String>> {
    const BODIES: &str = "SELECT format('%I', proname) AS one, prosrc AS two FROM pg_proc \
        WHERE pronamespace = to_regnamespace('mainstay') AND prorettype = 'trigger'::regtype AND proname <> 'committing'";
    Ok(pairs(conn, BODIES)?.into_iter().collect())
}

/// Tables by identity. What this manifest asks for must be possible; what others have asked for is followed where it still is.
fn tables(
    conn: &mut MaintenanceConnection,
    asked: &BTreeSet<(String, String)>,
    own: &BTreeSet<(String, String)>,
    plan: &mut Plan,
) -> Result<BTreeMap<i64, Table>, PlanError> {
    let spellings: BTreeSet<String> = asked.iter().map(|(table, _)| table.clone()).collect();
    let found = relations(conn, &spellings.into_iter().collect::<Vec<_>>())?;
    let mut tables: BTreeMap<i64, Table> = BTreeMap::new();
    for (spelling, tag) in asked {
        let relations = found.get(spelling).map(Vec::as_slice).unwrap_or_default();
        match possible(spelling, tag, relations) {
            Ok(root) => {
                let table = tables.entry(root).or_default();
                table.relations = relations.to_vec();
                table.spellings.insert(spelling.clone());
                if !tag.is_empty() {
                    table.tags.insert(tag.clone());
                }
            }
            Err(reason) if own.contains(&(spelling.clone(), tag.clone())) => return Err(PlanError::Refused(reason)),
            Err(reason) => plan.kept.push(format!("a watch of an earlier manifest, which leads nowhere: {reason}")),
        }
    }
    Ok(tables)
}

fn possible(spelling: &str, tag: &str, relations: &[Relation]) -> Result<i64, String> {
    let Some(first) = relations.first() else { return Err(format!("there is no table {spelling}")) };
    if let Some((relation, reason)) = relations.iter().find_map(|one| Some((one, one.refusal()?))) {
        return Err(format!("{} {reason}", if relation.oid == relation.root { spelling } else { &relation.name }));
    }
    match columns_of(tag).find(|column| !first.columns.iter().any(|one| one == column)) {
        Some(column) => Err(format!("{spelling} has no column {column}, which tag {tag} names")),
        None => Ok(first.root),
    }
}

/// The columns that a tag is made of.
pub fn columns_of(tag: &str) -> impl Iterator<Item = &str> {
    tag.split('{').skip(1).filter_map(|part| part.split_once('}')).map(|(column, _)| column)
}

/// Writes down what is asked for, and strikes out what is not.
fn bookkeeping(asked: &BTreeSet<(String, String)>, stored: &BTreeSet<(String, String)>) -> Option<String> {
    let row = |(table, tag): &(String, String)| format!("({}, {})", literal(table), literal(tag));
    let list = |pairs: Vec<&(String, String)>| pairs.into_iter().map(row).collect::<Vec<_>>().join(", ");
    let (new, gone) = (list(asked.difference(stored).collect()), list(stored.difference(asked).collect()));
    let insert = format!("INSERT INTO mainstay.watches (tbl, tag) VALUES {new} ON CONFLICT DO NOTHING");
    let delete = format!("DELETE FROM mainstay.watches WHERE (tbl, tag) IN ({gone})");
    let parts: Vec<_> = [(new, insert), (gone, delete)]
        .into_iter()
        .filter(|(list, _)| !list.is_empty())
        .map(|(_, statement)| statement)
        .collect();
    (!parts.is_empty()).then(|| parts.join(";\n"))
}

impl Table {
    /// The SQL that brings a table's function and triggers to what they should be. What changed before its triggers were
    /// there was told to nobody, so all that depends on the table is purged with it.
    fn step(&self, bodies: &BTreeMap<String, String>) -> Option<String> {
        let function = &self.relations.first()?.function;
        let body = self.body();
        let mut statements = Vec::new();
        if bodies.get(function) != Some(&body) {
            statements.push(format!(
                "CREATE OR REPLACE FUNCTION mainstay.{function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER\n\
                 SET search_path = pg_catalog, pg_temp SET DateStyle = 'ISO, YMD' SET TimeZone = 'UTC' SET IntervalStyle = 'postgres'\n\
                 SET extra_float_digits = 1 SET standard_conforming_strings = on AS {QUOTES}{body}{QUOTES};\n\
                 REVOKE ALL ON FUNCTION mainstay.{function}() FROM PUBLIC"
            ));
        }
        for relation in &self.relations {
            for trigger in relation.wanted().difference(&relation.triggers) {
                let ((when, how), Trigger { name, enabled, .. }) = (trigger.events(), trigger);
                let enable = if enabled == "A" { "ENABLE ALWAYS" } else { "ENABLE REPLICA" };
                statements.push(format!(
                    "CREATE OR REPLACE TRIGGER {name} {when} ON {table} {how} EXECUTE FUNCTION mainstay.{function}();\n\
                     ALTER TABLE {table} {enable} TRIGGER {name}",
                    table = relation.name
                ));
            }
        }
        if statements.is_empty() {
            return None;
        }
        let all: Vec<_> = self.spellings.iter().map(|spelling| table_all(spelling)).collect();
        statements.push(format!("SELECT mainstay.purge({}, false)", array(&all)));
        Some(statements.join(";\n"))
    }

    /// The source of the function behind all of a table's triggers.
    ///
    /// A column that a tag names may be gone one day, and its type may be another: then all of the table is told, and the
    /// writer notices nothing.
    fn body(&self) -> String {
        let (templates, constants): (Vec<_>, Vec<_>) = self.tags.iter().partition(|tag| tag.contains('{'));
        let spellings: Vec<_> = self.spellings.iter().cloned().collect();
        let fixed: Vec<_> =
            self.spellings.iter().map(|spelling| table_any(spelling)).chain(constants.into_iter().cloned()).collect();
        let all: Vec<_> = self.spellings.iter().map(|spelling| table_all(spelling)).collect();
        let of_rows = |sources: &[&str]| {
            let select = |source: &&str| {
                templates
                    .iter()
                    .map(move |tag| format!("SELECT {} FROM {source} r", expression(tag, "r")))
                    .collect::<Vec<_>>()
            };
            let selects: Vec<_> = sources.iter().flat_map(select).collect();
            match selects.is_empty() {
                true => "'{}'::text[]".to_owned(),
                false => format!(
                    "ARRAY(SELECT DISTINCT tag FROM ({}) AS tags (tag) WHERE tag IS NOT NULL LIMIT {})",
                    selects.join(" UNION ALL "),
                    STATEMENT_TAGS_MAX + 1
                ),
            }
        };
        let of_row = |row: &str| {
            let tags: Vec<_> = templates.iter().map(|tag| expression(tag, row)).collect();
            format!("array_remove(ARRAY[{}]::text[], NULL)", tags.join(", "))
        };
        let (inserted, updated, deleted) =
            (of_rows(&["new_rows"]), of_rows(&["old_rows", "new_rows"]), of_rows(&["old_rows"]));
        let (new, old) = (of_row("NEW"), of_row("OLD"));
        let (spellings, fixed, all) = (array(&spellings), array(&fixed), array(&all));
        format!(
            "
DECLARE
    told text[] := {fixed};
    of_rows text[];
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        told := {all};
    ELSE
        BEGIN
            IF TG_LEVEL = 'ROW' THEN
                IF TG_OP <> 'DELETE' THEN told := told || {new}; END IF;
                IF TG_OP <> 'INSERT' THEN told := told || {old}; END IF;
            ELSE
                IF TG_OP = 'INSERT' THEN
                    IF NOT EXISTS (SELECT FROM new_rows) THEN RETURN NULL; END IF;
                    of_rows := {inserted};
                ELSIF TG_OP = 'UPDATE' THEN
                    IF NOT EXISTS (SELECT FROM new_rows) THEN RETURN NULL; END IF;
                    of_rows := {updated};
                ELSE
                    IF NOT EXISTS (SELECT FROM old_rows) THEN RETURN NULL; END IF;
                    of_rows := {deleted};
                END IF;
                told := CASE WHEN cardinality(of_rows) > {STATEMENT_TAGS_MAX} THEN {all} ELSE told || of_rows END;
            END IF;
            IF EXISTS (SELECT FROM unnest(told) AS one WHERE octet_length(one) > {TAG_BYTES_MAX}) THEN told := {all}; END IF;
        EXCEPTION WHEN OTHERS THEN
            told := {all};
        END;
    END IF;
    INSERT INTO mainstay.change_feed (tables, tags, kind) VALUES ({spellings}, told, 'soft');
    RETURN NULL;
END "
        )
    }
}

/// Triggers and functions of ours that no table of the plan has.
fn leftovers(
    conn: &mut MaintenanceConnection,
    tables: &BTreeMap<i64, Table>,
    contract: bool,
    plan: &mut Plan,
) -> QueryResult<()> {
    const TRIGGERS: &str = "SELECT t.tgrelid::regclass::text AS one, t.tgname || ' ' || t.tgenabled::text || ' ' || format('%I', p.proname) AS two \
        FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid WHERE p.pronamespace = to_regnamespace('mainstay') \
        AND NOT t.tgisinternal AND p.proname <> 'committing' AND t.tgrelid::bigint <> ALL ($1) ORDER BY 1, 2";
    let known: Vec<i64> = tables.values().flat_map(|table| table.relations.iter().map(|one| one.oid)).collect();
    let triggers = sql_query(TRIGGERS).bind::<Array<BigInt>, _>(known).load::<Pair>(conn)?;
    let functions: BTreeSet<_> =
        tables.values().filter_map(|table| table.relations.first()).map(|one| one.function.clone()).collect();
    let unused: Vec<_> = bodies(conn)?.into_keys().filter(|function| !functions.contains(function)).collect();
    let mut drops = Vec::new();
    for (table, trigger) in triggers.into_iter().filter_map(|pair| Some((pair.one, Trigger::parse(&pair.two)?))) {
        plan.kept.extend((!contract).then(|| format!("trigger {} on {table}", trigger.name)));
        drops.push(format!("DROP TRIGGER {} ON {table}", trigger.name));
    }
    drops.extend(unused.into_iter().map(|function| format!("DROP FUNCTION mainstay.{function}()")));
    if contract {
        plan.steps.extend((!drops.is_empty()).then(|| drops.join(";\n")));
    }
    Ok(())
}

/// The tag of a row, as SQL: null where one of its columns is.
fn expression(tag: &str, row: &str) -> String {
    let mut parts = Vec::new();
    for (index, part) in tag.split('{').enumerate() {
        match part.split_once('}').filter(|_| index > 0) {
            Some((column, rest)) => {
                parts.push(format!("{row}.\"{}\"::text", column.replace('"', "\"\"")));
                parts.push(literal(rest));
            }
            None => parts.push(literal(part)),
        }
    }
    parts.retain(|part| part != "''");
    parts.join(" || ")
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn array(items: &[String]) -> String {
    let items: Vec<_> = items.iter().map(|item| literal(item)).collect();
    format!("ARRAY[{}]::text[]", items.join(", "))
}
