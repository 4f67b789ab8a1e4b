//! What the tests of this folder share.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::credential::Hash;
use super::lookup::{Found, Row};
use crate::cache::fence::{Fences, SilenceLimits};
use crate::config::auth::AuthSettings;
use crate::config::settings::{Layers, Settings};
use crate::database::read::Role;
use crate::position::{Lsn, Position, SystemId, Timeline};

pub(super) const HASH: Hash = [7; 32];
pub(super) const PREFIX: &str = "abcdefghijkl";

/// The defaults.
pub(super) fn settings() -> AuthSettings {
    let layers = Layers { dir: Path::new("/nowhere"), env: HashMap::new(), flags: Vec::new() };
    Settings::load(layers).unwrap().auth
}

pub(super) fn at(lsn: u64) -> Position {
    Position { lsn: Lsn(lsn), ..Position::start_of(SystemId(1), Timeline(1)) }
}

/// Fences of an instance that began at 100.
pub(super) fn fences() -> Fences {
    let fences = Fences::new(100, SilenceLimits { max: Duration::from_secs(2), hard_max: None });
    fences.change(|ledger| ledger.begin(at(100), Some(at(100))));
    fences
}

/// A key whose hash is [`HASH`].
pub(super) fn row() -> Row {
    Row {
        prefix: PREFIX.to_owned(),
        hash: HASH.to_vec(),
        owner: "ann".to_owned(),
        scopes: Vec::new(),
        claims: Value::Null,
        rate: None,
        left_ms: None,
        is_revoked: false,
    }
}

/// What the primary says, asked by an instance that was told through 100.
pub(super) fn found(row: Option<Row>, now: Instant) -> Found {
    Found { row, role: Role::Primary, told: Some(at(100)), as_of: None, at: now }
}
