//! `mainstay init`: a first `routes.toml` from a live schema, for its owner to prune.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs;

use clap::Args;
use diesel::sql_types::{Array, Nullable, Text};
use diesel::{QueryableByName, RunQueryDsl, sql_query};

use super::{Failure, FolderArgs, maintenance_connection, put};
use crate::source::sql::quote_identifier;

#[derive(Args)]
pub(super) struct InitArgs {
    #[command(flatten)]
    folder: FolderArgs,
    /// The schema whose tables are taken.
    #[arg(long, default_value = "public")]
    schema: String,
    /// Print the manifest instead of writing it.
    #[arg(long)]
    stdout: bool,
}

#[derive(QueryableByName)]
struct Table {
    #[diesel(sql_type = Text)]
    name: String,
    /// With its schema, quoted where it must be, as a watch names it.
    #[diesel(sql_type = Text)]
    qualified: String,
    #[diesel(sql_type = Array<Text>)]
    columns: Vec<String>,
    #[diesel(sql_type = Nullable<Text>)]
    key: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    key_type: Option<String>,
}

/// Tables that the role may read, with their columns, and their primary key where it is one column.
const TABLES: &str = "\
    SELECT c.relname::text AS name, format('%I.%I', n.nspname, c.relname) AS qualified, \
      (SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a \
       WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns, \
      k.attname::text AS key, format_type(k.atttypid, NULL) AS key_type \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary AND i.indnkeyatts = 1 \
    LEFT JOIN pg_attribute k ON k.attrelid = c.oid AND k.attnum = i.indkey[0] \
    WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT c.relispartition \
      AND c.relname NOT LIKE '\\_\\_%' AND has_table_privilege(c.oid, 'SELECT') \
      AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) \
    ORDER BY c.relname";

const HEADER: &str = "\
# The surface of this API. Take out what nobody should read: every column below will be public.
# `mainstay check` proves it against the database, `mainstay serve` runs it, SIGHUP reads it again.
";

pub(super) fn run(args: &InitArgs) -> Result<(), Failure> {
    let settings = args.folder.settings_if_any(Vec::new())?;
    let mut conn = maintenance_connection(&settings)?;
    let tables = sql_query(TABLES).bind::<Text, _>(&args.schema).load::<Table>(&mut *conn).map_err(Failure::new)?;
    if tables.is_empty() {
        return Err(Failure::Failed(format!(
            "schema {} has no table that this role may read; try --schema, or GRANT SELECT",
            args.schema
        )));
    }
    let text: String = std::iter::once(HEADER.to_owned()).chain(all_routes(&tables)).collect();
    if args.stdout {
        put(text.trim_end());
        return Ok(());
    }
    let file = args.folder.dir().join("routes.toml");
    if file.exists() {
        return Err(Failure::Failed(format!("{} exists already; use --stdout, or another --config", file.display())));
    }
    let write = || fs::create_dir_all(args.folder.dir()).and_then(|()| fs::write(&file, text));
    write().map_err(|error| Failure::Failed(format!("{}: {error}", file.display())))?;
    say!("wrote {} with the routes of {} tables; look it over, then: mainstay check", file.display(), tables.len());
    Ok(())
}

/// The routes of all tables, each under a path of its own.
fn all_routes(tables: &[Table]) -> impl Iterator<Item = String> {
    // The server answers the one itself, and routes below the other are private where they do not say otherwise.
    let mut taken: HashSet<String> = ["health", "account"].map(str::to_owned).into();
    tables.iter().map(move |table| {
        let wanted = path_segment(&table.name);
        let numbered = (2..).map(|number| format!("{wanted}-{number}"));
        let free = std::iter::once(wanted.clone()).chain(numbered).find(|path| taken.insert(path.clone()));
        routes(table, &free.unwrap_or(wanted))
    })
}

/// The routes of a table: a page of its rows in the order of the key, and one row by its key.
fn routes(table: &Table, path: &str) -> String {
    let qualified = &table.qualified;
    let columns: Vec<String> = table.columns.iter().map(|column| quote_identifier(column)).collect();
    let columns = columns.join(", ");
    let watch = toml_string(qualified);
    let cache = format!(
        "  [route.cache]\n  ttl = \"10s\"\n  stale_while_revalidate = \"10s\"\n  stale_if_error = \"1h\"\n  watch = [{watch}]\n"
    );
    let key = table.key.as_ref().zip(table.key_type.as_deref().and_then(param_type));
    let mut out = String::new();
    let limit = "{ name = \"limit\", in = \"query\", type = \"integer\", default = 50, min = 1, max = 500 }";
    let written = match key {
        Some((key, kind)) => {
            let quoted = quote_identifier(key);
            let page = format!(
                "SELECT {columns} FROM {qualified} WHERE $1 IS NULL OR {quoted} > $1 ORDER BY {quoted} LIMIT $2"
            );
            let one = format!("SELECT {columns} FROM {qualified} WHERE {quoted} = $1");
            write!(
                out,
                "\n# A page of {name}, in the order of {key}; after = the last {key} of the page before.\n\
                 [[route]]\npath   = \"/{path}\"\nsql    = {page}\nparams = [\n  \
                 {{ name = \"after\", in = \"query\", type = \"{kind}\", optional = true }},\n  {limit},\n]\n{cache}\
                 \n[[route]]\npath   = \"/{path}/{{key}}\"\nsql    = {one}\nresult = \"row\"\n\
                 params = [{{ name = \"key\", in = \"path\", type = \"{kind}\" }}]\n{cache}",
                name = one_line(&table.name),
                key = one_line(key),
                page = toml_string(&page),
                one = toml_string(&one),
            )
        }
        None => {
            let page = format!("SELECT {columns} FROM {qualified} LIMIT $1");
            write!(
                out,
                "\n[[route]]\npath   = \"/{path}\"\nsql    = {}\nparams = [{limit}]\n{cache}",
                toml_string(&page)
            )
        }
    };
    written.map(|()| out).unwrap_or_default()
}

/// A name as a path segment that the manifest takes.
fn path_segment(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '-' }).collect()
}

/// A name as it may stand in a comment.
fn one_line(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn toml_string(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// The parameter type for a key's column; `None` for types that no parameter has.
fn param_type(sql: &str) -> Option<&'static str> {
    Some(match sql {
        "smallint" | "integer" | "bigint" => "integer",
        "text" | "character varying" | "character" => "text",
        "numeric" => "number",
        "uuid" => "uuid",
        "date" => "date",
        "timestamp with time zone" | "timestamp without time zone" => "timestamp",
        _ => return None,
    })
}
