//! Warming: paths are asked for before clients do.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};

use super::auth::Caller;
use super::journal::Kind;
use super::{Desk, body_invalid, document, read_body};
use crate::error::{Code, Error};

/// Paths of one order.
const PATHS_MAX: usize = 100;
/// Paths that are asked for at once: warming must not take the sources away from those who are waited for.
const AT_ONCE: usize = 8;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    paths: Vec<String>,
}

#[derive(Serialize)]
struct Answer {
    results: Vec<Outcome>,
}

#[derive(Serialize)]
struct Outcome {
    path: String,
    /// What the next request for it gets.
    status: u16,
    /// `hit`: it was warm; `stored`: it is now; `none`: it is not.
    cache: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// `POST /admin/cache/warm`
pub(super) async fn warm(desk: &Desk, caller: &Caller, body: &[u8]) -> Result<Vec<u8>, Error> {
    let wish =
        read_body(body).and_then(check).inspect_err(|error| desk.audit(caller, Kind::Warm, "-", "-", Err(error)))?;
    let work = stream::iter(wish.paths).map(|path| one(desk, path)).buffered(AT_ONCE);
    let results: Vec<Outcome> = work.collect().await;
    let stored = results.iter().filter(|outcome| outcome.cache == "stored").count();
    desk.audit(caller, Kind::Warm, "-", &format!("{} paths, {stored} stored", results.len()), Ok("-"));
    document(&Answer { results })
}

fn check(wish: Wish) -> Result<Wish, Error> {
    let paths = wish.paths.len();
    if (1..=PATHS_MAX).contains(&paths) {
        Ok(wish)
    } else {
        Err(body_invalid(&format!("paths: 1 to {PATHS_MAX} paths, not {paths}")))
    }
}

async fn one(desk: &Desk, path: String) -> Outcome {
    let target = desk.parts.surface.load().resolve(&path);
    let outcome = match target {
        Ok(target) => Arc::clone(&desk.parts.pipeline).warm(target).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(warmed) => {
            let cache = match (warmed.was_fresh, warmed.stored) {
                (true, _) => "hit",
                (false, true) => "stored",
                (false, false) => "none",
            };
            Outcome { path, status: warmed.status, cache, code: None, detail: None }
        }
        Err(Error { code, detail, .. }) => {
            let (status, code, detail) = (code.info().status, Some(Code::as_str(code)), Some(detail.into_owned()));
            Outcome { path, status, cache: "none", code, detail }
        }
    }
}
