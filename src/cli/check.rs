//! `mainstay check`: what can only be known with the database at hand. Every statement is prepared and planned as the role
//! that will run it, with the declared types; nothing is executed.

use std::collections::BTreeSet;
use std::path::Path;

use clap::Args;
use diesel::connection::SimpleConnection;
use diesel::sql_types::{Array, Nullable, Text};
use diesel::{Connection, QueryableByName, RunQueryDsl, sql_query};

use super::{Failure, FolderArgs, connection, upstreams, watches};
use crate::app::{Parts, problems};
use crate::config::manifest::statement::Statement;
use crate::config::manifest::{Manifest, Problem, Route, Source};
use crate::config::param::{Param, Place};
use crate::config::settings::DatabaseSettings;
use crate::database::maintenance::{MaintenanceConnection, Pooled};
use crate::ramp;
use crate::source::sql::typed_sql;

pub(super) const HELP: &str = "\
Connects with DATABASE_URL, as the role that will serve, and changes nothing. Exit code 1 where something is wrong.
--strict also fails on warnings: tables that a cached route reads and no watch names, and functions whose answer changes by
itself, like now() and random(), and watched tables of a migrated database whose triggers are missing or disabled. watch = []
says that a route lives by time alone.
Of upstreams, and of PRIMARY_ORIGIN, it sees whether their names resolve here, and warns of those that no route names, of a
catch-all without auth beside routes with auth to the same upstream, and of a PRIMARY_ORIGIN on another machine that is asked
by plain HTTP. Without DATABASE_URL a manifest can be checked whose routes are all answered by upstreams.";

#[derive(Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    folder: FolderArgs,
    /// Fail on warnings, too.
    #[arg(long)]
    strict: bool,
}

/// What was found about one route, or one upstream.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) errors: Vec<String>,
    pub(super) warnings: Vec<String>,
}

impl Findings {
    const fn is_empty(&self) -> bool {
        self.errors.is_empty() && self.warnings.is_empty()
    }
}

pub(super) fn run(args: &CheckArgs, parts: &Parts) -> Result<(), Failure> {
    let settings = args.folder.settings_or_problems(Vec::new(), parts)?;
    let manifest = parts.served_manifest(args.folder.dir(), &settings).map_err(problems)?;
    let file = args.folder.dir().join("routes.toml");
    // An instance of upstream routes alone has no database.
    let mut database = if needs_database(&manifest, &settings.database) {
        let mut conn = serving_connection(&settings.database)?;
        Some((role_of(&mut conn)?, conn))
    } else {
        None
    };
    let (mut errors, mut warnings) = (0, 0);
    let mut count = |found: &Findings| {
        errors += found.errors.len();
        warnings += found.warnings.len();
    };
    for upstream in &manifest.upstreams {
        let found = upstreams::check(upstream, &manifest);
        count(&found);
        print(&format!("upstream {}", upstream.name), upstream.line, &file, &found);
    }
    if let Some(origin) = settings.forward.upstream(&settings.limits)? {
        let warnings = settings.forward.warning().map(str::to_owned).into_iter().collect();
        let found = Findings { errors: upstreams::unreachable(&origin), warnings };
        count(&found);
        found.errors.iter().for_each(|reason| say!("forward.primary_origin: error: {reason}"));
        found.warnings.iter().for_each(|sentence| say!("warning: {sentence}"));
    }
    for route in &manifest.routes {
        let mut found = match &mut database {
            Some((role, conn)) => check(route, role, conn),
            None => Findings::default(),
        };
        found.warnings.extend(upstreams::way_around(route, &manifest));
        count(&found);
        print(&format!("route {}", route.path), route.line, &file, &found);
        if found.is_empty() {
            say!("ok  {} {}", route.methods.join(","), route.path);
        }
    }
    if let Some((role, conn)) = &mut database
        && let Some(lacking) = watches::lacking(&manifest, role, conn)?
    {
        say!("{}: error: {lacking}", file.display());
        errors += 1;
    }
    if let Some((role, conn)) = &mut database
        && manifest.routes.iter().any(|route| ramp::moves_money(&route.source))
        && let Some(grants) = ramp::grants::grants(conn, &watches::unquoted(role)).map_err(Failure::new)?
    {
        say!(
            "{}: error: accounts and ledger: {role} may not use them; run `mainstay migrate`, or {grants}",
            file.display()
        );
        errors += 1;
    }
    summary(&manifest, errors, warnings);
    if errors > 0 || (args.strict && warnings > 0) {
        return Err(Failure::Failed(format!("{errors} errors, {warnings} warnings in {}", file.display())));
    }
    Ok(())
}

/// A connection as the role that serves, which is not always the one that migrates.
fn serving_connection(settings: &DatabaseSettings) -> Result<Pooled, Failure> {
    let settings = DatabaseSettings { direct_url: Default::default(), ..settings.clone() };
    connection(&settings)
}

/// The name of the role that a connection has logged in as, quoted where a GRANT needs it.
pub(super) fn role_of(conn: &mut MaintenanceConnection) -> Result<String, Failure> {
    #[derive(QueryableByName)]
    struct Role {
        #[diesel(sql_type = Text)]
        name: String,
    }
    let role = sql_query("SELECT quote_ident(current_user) AS name").get_result::<Role>(conn);
    role.map(|role| role.name).map_err(Failure::new)
}

/// Whether anything in a manifest asks a database, or could: a handler does as it likes.
fn needs_database(manifest: &Manifest, settings: &DatabaseSettings) -> bool {
    let asks = |route: &Route| {
        let watches = route.cache.as_ref().and_then(|policy| policy.watch.as_ref());
        let is_upstream = matches!(&route.source, Source::Upstream { shadow: None, .. });
        !is_upstream || watches.is_some_and(|watches| !watches.is_empty())
    };
    !settings.url.is_empty() || manifest.routes.iter().any(|route| asks(route))
}

fn print(subject: &str, line: usize, file: &Path, found: &Findings) {
    let at = |what: &str, reason: &String| Problem {
        file: file.to_owned(),
        line,
        reason: format!("{what}: {subject}: {reason}"),
    };
    found.errors.iter().for_each(|reason| say!("{}", at("error", reason)));
    found.warnings.iter().for_each(|reason| say!("{}", at("warning", reason)));
}

fn summary(manifest: &Manifest, errors: usize, warnings: usize) {
    say!("{} routes, {errors} errors, {warnings} warnings", manifest.routes.len());
}

fn check(route: &Route, role: &str, conn: &mut MaintenanceConnection) -> Findings {
    let mut found = Findings::default();
    let watched = watches::check(route, conn, &mut found);
    if let Source::Upstream { shadow: Some(shadow), .. } = &route.source {
        let declared = || route.params.iter().filter(|param| param.place != Place::WholeQuery);
        let types: Vec<String> = declared().map(Param::sql_type).collect();
        let arrays: Vec<bool> = declared().map(|param| param.array).collect();
        let planned = plan(conn, role, &typed_sql(&shadow.statement, &types), arrays.into_iter());
        found.errors.extend(planned.err().map(|error| format!("shadow: {error}")));
    }
    if let Source::Sql { statement, .. } = &route.source {
        let types: Vec<String> = route.params.iter().map(Param::sql_type).collect();
        match plan(conn, role, &typed_sql(statement, &types), route.params.iter().map(|param| param.array)) {
            Ok(tables) if route.is_cacheable() && !lives_by_time_alone(route) => {
                let unwatched = tables.difference(&watched);
                found.warnings.extend(unwatched.map(|table| {
                    let name = toml::Value::String(table.clone());
                    format!("it reads {table}, which no watch names; add watch = [{name}], or watch = [] to live by time alone")
                }));
            }
            Ok(_) => {}
            Err(error) => found.errors.push(error),
        }
        if route.is_cacheable() {
            found.warnings.extend(changing_functions(statement, conn).into_iter().map(|function| {
                format!("{function} changes its answer by itself, so a cached answer grows wrong; take the value as a parameter")
            }));
        }
    }
    found
}

fn lives_by_time_alone(route: &Route) -> bool {
    route.cache.as_ref().and_then(|policy| policy.watch.as_ref()).is_some_and(Vec::is_empty)
}

#[derive(QueryableByName)]
struct TableName {
    #[diesel(sql_type = Nullable<Text>)]
    name: Option<String>,
}

#[derive(QueryableByName)]
struct PlanRow {
    #[diesel(sql_type = diesel::sql_types::Json)]
    #[diesel(column_name = "QUERY PLAN")]
    plan: serde_json::Value,
}

/// Prepares a statement with text parameters, plans it without running it, and returns the tables that it reads,
/// partitions under the name of their parent.
fn plan(
    conn: &mut MaintenanceConnection,
    role: &str,
    sql: &str,
    arrays: impl ExactSizeIterator<Item = bool>,
) -> Result<BTreeSet<String>, String> {
    let count = arrays.len();
    let types: Vec<&str> = arrays.map(|is_array| if is_array { "text[]" } else { "text" }).collect();
    let (types, nulls) = match count {
        0 => (String::new(), String::new()),
        _ => (format!("({})", types.join(", ")), format!("({})", vec!["NULL"; count].join(", "))),
    };
    let mut outcome = Err("it was not planned".to_owned());
    // The transaction is always rolled back: nothing that is set here stays.
    let _ = conn.transaction::<(), diesel::result::Error, _>(|conn| {
        outcome = plan_in_transaction(conn, role, sql, &types, &nulls);
        Err(diesel::result::Error::RollbackTransaction)
    });
    let _ = conn.batch_execute("DEALLOCATE ALL");
    outcome
}

fn plan_in_transaction(
    conn: &mut MaintenanceConnection,
    role: &str,
    sql: &str,
    types: &str,
    nulls: &str,
) -> Result<BTreeSet<String>, String> {
    let say = |error: diesel::result::Error| sentence(&error, role);
    conn.batch_execute("SET TRANSACTION READ ONLY; SET LOCAL plan_cache_mode = force_generic_plan").map_err(say)?;
    // As a member of FROM, as it will be run: that is where a statement that writes is refused.
    let wrapped = format!("SELECT row_to_json(mainstay_q) FROM (\n{sql}\n) AS mainstay_q");
    conn.batch_execute(&format!("PREPARE mainstay_check {types} AS {wrapped}")).map_err(say)?;
    let explain = format!("EXPLAIN (FORMAT JSON, VERBOSE) EXECUTE mainstay_check {nulls}");
    let rows = sql_query(explain).load::<PlanRow>(conn).map_err(say)?;
    let mut read = BTreeSet::new();
    rows.iter().for_each(|row| relations(&row.plan, &mut read));
    let names: Vec<String> = read.into_iter().collect();
    const ROOTS: &str = "SELECT coalesce(pg_partition_root(to_regclass(name)), to_regclass(name))::regclass::text AS name \
         FROM unnest($1) AS name";
    let roots = sql_query(ROOTS).bind::<Array<Text>, _>(names).load::<TableName>(conn).map_err(say)?;
    Ok(roots.into_iter().filter_map(|root| root.name).collect())
}

/// All relations that a plan names, quoted.
fn relations(plan: &serde_json::Value, into: &mut BTreeSet<String>) {
    use crate::source::sql::quote_identifier as quote;
    match plan {
        serde_json::Value::Object(node) => {
            let text = |key| node.get(key).and_then(serde_json::Value::as_str);
            if let (Some(schema), Some(name)) = (text("Schema"), text("Relation Name")) {
                into.insert(format!("{}.{}", quote(schema), quote(name)));
            }
            node.values().for_each(|child| relations(child, into));
        }
        serde_json::Value::Array(children) => children.iter().for_each(|child| relations(child, into)),
        _ => {}
    }
}

/// The server's words, with the GRANT that is missing where that is the matter.
fn sentence(error: &diesel::result::Error, role: &str) -> String {
    let diesel::result::Error::DatabaseError(_, information) = error else {
        return error.to_string();
    };
    let message = information.message();
    let object = message.strip_prefix("permission denied for ").and_then(|rest| rest.split_once(' '));
    let grant = match object {
        Some(("table" | "view", name)) => format!("; GRANT SELECT ON {} TO {role}", quoted(name)),
        Some(("schema", name)) => format!("; GRANT USAGE ON SCHEMA {} TO {role}", quoted(name)),
        Some(("function", name)) => format!("; GRANT EXECUTE ON FUNCTION {name} TO {role}"),
        _ => String::new(),
    };
    let hint = information.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
    format!("sql: {message}{hint}{grant}")
}

/// A name as SQL wants it. The server's words have it bare.
fn quoted(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.chars().all(is_plain) && !name.starts_with(|c: char| c.is_ascii_digit()) {
        return name.to_owned();
    }
    crate::source::sql::quote_identifier(name)
}

/// Functions in a statement whose answer depends on when they are asked.
fn changing_functions(statement: &Statement, conn: &mut MaintenanceConnection) -> Vec<String> {
    /// Called without parentheses; reserved, so that no column is called so.
    const KEYWORDS: [&str; 5] = ["current_timestamp", "current_date", "current_time", "localtime", "localtimestamp"];
    /// Stable in the eyes of Postgres, within one transaction.
    const STABLE: [&str; 4] = ["now", "transaction_timestamp", "statement_timestamp", "age"];
    const VOLATILE: &str = "SELECT DISTINCT proname::text AS name FROM pg_proc \
         WHERE provolatile = 'v' AND proname = ANY($1)";
    let calls: BTreeSet<String> = statement.calls().collect();
    let mut found: BTreeSet<String> = statement.words().filter(|word| KEYWORDS.contains(&word.as_str())).collect();
    found.extend(STABLE.iter().filter(|name| calls.contains(**name)).map(ToString::to_string));
    let words: Vec<String> = calls.into_iter().collect();
    match sql_query(VOLATILE).bind::<Array<Text>, _>(words).load::<TableName>(conn) {
        Ok(rows) => found.extend(rows.into_iter().filter_map(|row| row.name)),
        Err(error) => log::warn!("the functions of a statement could not be looked up: {error}"),
    }
    found.into_iter().collect()
}
