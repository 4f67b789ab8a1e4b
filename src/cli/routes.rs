//! `mainstay routes`: the whole surface of the API, as the server will read it.

use clap::Args;
use serde::Serialize;

use super::{Failure, FolderArgs};
use crate::app::{Parts, problems};
use crate::config::manifest::{Route, Source};

#[derive(Args)]
pub(super) struct RoutesArgs {
    #[command(flatten)]
    folder: FolderArgs,
    /// Print a JSON array instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row {
    methods: String,
    path: String,
    source: String,
    consistency: &'static str,
    cache_control: String,
    params: String,
}

pub(super) fn run(args: &RoutesArgs, parts: &Parts) -> Result<(), Failure> {
    let settings = args.folder.settings(Vec::new())?;
    let manifest = parts.manifest(&args.folder.dir, settings.consistency.account_reads).map_err(problems)?;
    let rows: Vec<Row> = manifest.routes.iter().map(|route| row(route)).collect();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&rows).map_err(Failure::new)?);
        return Ok(());
    }
    let width = |cell: fn(&Row) -> &str| rows.iter().map(|row| cell(row).len()).max().unwrap_or(0);
    let (methods, paths) = (width(|row| &row.methods), width(|row| &row.path));
    let sources = width(|row| &row.source);
    for row in &rows {
        println!(
            "{:methods$}  {:paths$}  {:sources$}  {:8}  {}{}{}",
            row.methods,
            row.path,
            row.source,
            row.consistency,
            row.cache_control,
            if row.params.is_empty() { "" } else { "  ?" },
            row.params,
        );
    }
    Ok(())
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
        cache_control: route.cache_control(),
        params: params.map(|param| param.name.as_str()).collect::<Vec<_>>().join("&"),
    }
}
