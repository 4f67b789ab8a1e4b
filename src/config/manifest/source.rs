//! The source of a route: what the manifest may say, and what must fit together.

use std::path::Path;
use std::sync::Arc;

use super::raw::{Known, RawRoute, Upstreams};
use super::statement::Statement;
use super::upstream::{RawShadow, Shadow, WHOLE_QUERY, captures};
use super::{ResultShape, Source, beside};
use crate::config::param::{Param, Place};

/// The one source that a route names.
pub(super) fn source(
    raw: &RawRoute,
    file: &Path,
    known: &Known<'_>,
    params: &[Param],
    upstreams: &Upstreams,
) -> Result<Source, String> {
    if raw.shadow.is_some() && raw.upstream.is_none() {
        return Err("shadow is for upstream routes".to_owned());
    }
    match (&raw.sql, &raw.sql_file, &raw.handler, &raw.upstream) {
        (None, None, Some(_), None) | (None, None, None, Some(_)) if raw.result.is_some() => {
            Err("result is for sql; other sources decide themselves".to_owned())
        }
        (None, None, Some(name), None) if known.handlers.contains(&name.as_str()) => Ok(Source::Handler(name.clone())),
        (None, None, Some(name), None) => {
            Err(format!("no handler is called {name:?}; there are: {}", known.handlers.join(", ")))
        }
        (None, None, None, Some(name)) => {
            let upstream = upstreams.get(name).ok_or_else(|| format!("no upstream is called {name:?}"))?;
            let shadow = raw.shadow.as_ref().map(|shadow| twin(raw, shadow, file, params)).transpose()?;
            Ok(Source::Upstream { upstream: Arc::clone(upstream), shadow: shadow.map(Arc::new) })
        }
        (sql, sql_file, None, None) if sql.is_some() != sql_file.is_some() => {
            if raw.methods != ["GET"] {
                return Err("sql cannot write, so it is for GET alone; use a handler".to_owned());
            }
            let statement = statement(sql.as_ref(), sql_file.as_ref(), file, params)?;
            Ok(Source::Sql { statement, result: raw.result.unwrap_or(ResultShape::Rows) })
        }
        _ => Err("give exactly one of sql, sql_file, handler, upstream".to_owned()),
    }
}

/// The query that is compared with an upstream route: it takes the same parameters.
fn twin(raw: &RawRoute, shadow: &RawShadow, file: &Path, params: &[Param]) -> Result<Shadow, String> {
    if !raw.methods.iter().any(|method| method == "GET") {
        return Err("shadow is for routes with GET".to_owned());
    }
    if params.iter().any(|param| param.name == WHOLE_QUERY) && captures(&raw.path).any(|(_, is_rest)| is_rest) {
        return Err(
            "shadow: a catch-all has no one query that could take its place; declare the route by itself".to_owned()
        );
    }
    if shadow.sql.is_some() == shadow.sql_file.is_some() {
        return Err("shadow: give exactly one of sql, sql_file".to_owned());
    }
    let declared: Vec<Param> = params.iter().filter(|param| param.place != Place::WholeQuery).cloned().collect();
    let statement = statement(shadow.sql.as_ref(), shadow.sql_file.as_ref(), file, &declared)
        .map_err(|reason| format!("shadow: {reason}"))?;
    Ok(Shadow { statement, result: shadow.result.unwrap_or(ResultShape::Rows), sample: shadow.sample()? })
}

/// A declared statement, which uses all of the parameters.
fn statement(
    sql: Option<&String>,
    sql_file: Option<&String>,
    file: &Path,
    params: &[Param],
) -> Result<Statement, String> {
    let sql = match (sql, sql_file) {
        (Some(sql), _) => sql.clone(),
        (None, name) => {
            let path = beside(file, name.map_or("", String::as_str));
            std::fs::read_to_string(&path).map_err(|error| format!("sql_file {}: {error}", path.display()))?
        }
    };
    let statement = Statement::parse(&sql).map_err(|reason| format!("sql: {reason}"))?;
    if statement.words().any(|word| word == "set_config") {
        return Err(
            "sql: set_config would change the session for requests that come after; a route only reads".to_owned()
        );
    }
    let used = statement.placeholders_used();
    if used.len() > params.len() {
        return Err(format!("sql uses ${}, but {} parameters are declared", used.len(), params.len()));
    }
    let unused = (0..params.len()).find(|index| !used.get(*index).copied().unwrap_or(false));
    if let Some(param) = unused.and_then(|index| params.get(index)) {
        return Err(format!("parameter {} is declared, but sql does not use it", param.name));
    }
    Ok(statement)
}
