//! `mainstay routes`: the whole surface of the API, as the server will read it.

use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use super::{Failure, FolderArgs, put};
use crate::app::{Parts, problems};
use crate::config::manifest::{Manifest, Route, Source};
use crate::config::settings::Settings;
use crate::database::read::Database;
use crate::http::openapi::{Columns, Document, Facts, look_at_all};

/// How long the first look at the nodes is waited for.
const SAMPLE_TIME_MAX: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(super) struct RoutesArgs {
    #[command(flatten)]
    folder: FolderArgs,
    /// Print a JSON array instead of a table.
    #[arg(long)]
    json: bool,
    /// Print the OpenAPI document, as /openapi.json has it. With DATABASE_URL set it looks at the columns of queries.
    #[arg(long, conflicts_with = "json")]
    openapi: bool,
}

#[derive(Serialize)]
struct Row {
    methods: String,
    path: String,
    source: String,
    consistency: &'static str,
    auth: &'static str,
    scopes: Vec<String>,
    shared: bool,
    cache_control: String,
    params: String,
}

impl Row {
    /// `key shared (read, write)`
    fn auth_text(&self) -> String {
        let shared = if self.shared { " shared" } else { "" };
        let scopes = if self.scopes.is_empty() { String::new() } else { format!(" ({})", self.scopes.join(", ")) };
        format!("{}{shared}{scopes}", self.auth)
    }
}

pub(super) fn run(args: &RoutesArgs, parts: &Parts) -> Result<(), Failure> {
    let settings = args.folder.settings_or_problems(Vec::new(), parts)?;
    let manifest = parts.manifest(args.folder.dir(), settings.consistency.account_reads).map_err(problems)?;
    if args.openapi {
        return print_document(args, parts, &manifest);
    }
    let rows: Vec<Row> = manifest.routes.iter().map(|route| row(route)).collect();
    if args.json {
        say!("{}", serde_json::to_string_pretty(&rows).map_err(Failure::new)?);
        return Ok(());
    }
    let width = |cell: fn(&Row) -> &str| rows.iter().map(|row| cell(row).len()).max().unwrap_or(0);
    let (methods, paths) = (width(|row| &row.methods), width(|row| &row.path));
    let sources = width(|row| &row.source);
    let auths = rows.iter().map(|row| row.auth_text().len()).max().unwrap_or(0);
    for row in &rows {
        say!(
            "{:methods$}  {:paths$}  {:sources$}  {:8}  {:auths$}  {}{}{}",
            row.methods,
            row.path,
            row.source,
            row.consistency,
            row.auth_text(),
            row.cache_control,
            if row.params.is_empty() { "" } else { "  ?" },
            row.params,
        );
    }
    Ok(())
}

fn print_document(args: &RoutesArgs, parts: &Parts, manifest: &Manifest) -> Result<(), Failure> {
    let settings = args.folder.settings(Vec::new())?;
    let columns = if settings.database.url.is_empty() { Columns::new() } else { columns(manifest, &settings)? };
    let document = Document::new(&manifest.routes, &parts.registry, &columns, &Facts::new(&settings));
    put(&serde_json::to_string_pretty(&document.json).map_err(Failure::new)?);
    Ok(())
}

/// The columns of all queries. Who has a database at hand wants a document that is whole.
fn columns(manifest: &Manifest, settings: &Settings) -> Result<Columns, Failure> {
    let work = async {
        let database = Database::start(settings)?;
        let until = Instant::now() + SAMPLE_TIME_MAX;
        while database.status().nodes.iter().any(|node| !node.sampled) && Instant::now() < until {
            actix_rt::time::sleep(Duration::from_millis(20)).await;
        }
        Ok::<_, Failure>(look_at_all(manifest, &database).await)
    };
    match actix_rt::System::new().block_on(work)? {
        (columns, missing) if missing.is_empty() => Ok(columns),
        (_, missing) => Err(Failure::Failed(format!(
            "the database does not tell the columns of {}; `mainstay check` says why",
            missing.join(", ")
        ))),
    }
}

fn row(route: &Route) -> Row {
    let params = route.params.iter().filter(|param| param.place == crate::config::param::Place::Query);
    Row {
        methods: route.methods.join(","),
        path: route.path.clone(),
        source: match &route.source {
            Source::Sql { .. } => "sql".to_owned(),
            Source::Handler(name) => name.clone(),
            Source::Upstream { upstream, shadow: None } => format!("upstream {}", upstream.name),
            Source::Upstream { upstream, shadow: Some(_) } => format!("upstream {} + shadow", upstream.name),
        },
        consistency: route.consistency.as_str(),
        auth: route.access.as_ref().map_or("none", |access| access.method.as_str()),
        scopes: route.access.as_ref().map(|access| access.scopes.clone()).unwrap_or_default(),
        shared: route.access.as_ref().is_some_and(|access| access.shared),
        cache_control: route.cache_control(),
        params: params.map(|param| param.name.as_str()).collect::<Vec<_>>().join("&"),
    }
}
