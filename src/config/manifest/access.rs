//! Who may ask a route: `auth`, `scopes`, `shared`, and parameters that come from the caller's identity.

use std::path::Path;

use serde::Deserialize;

use super::{Problem, Watch};
use crate::config::auth::AuthSettings;
use crate::config::overload::RouteRates;
use crate::config::param::{Param, Place};

/// Why a route of one caller each cannot have a cache policy.
pub(super) const NOT_SHARED: &str = "[route.cache]: answers of a route with auth are each caller's own; shared = true says that all callers get the same";

/// The table of API keys. Its changes are told, so that a key that is revoked is refused at once.
pub const KEYS_TABLE: &str = "mainstay.api_keys";

/// How long a scope may be.
const SCOPE_BYTES_MAX: usize = 128;

/// What a caller of a route must show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// What proves who the caller is.
    pub method: AuthMethod,
    /// Scopes, all of which the caller must have.
    pub scopes: Vec<String>,
    /// Whether all callers get the same answer, out of the cache.
    pub shared: bool,
}

/// What proves who a caller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuthMethod {
    /// An API key.
    Key,
    /// A signed token (JWT).
    Jwt,
}

impl AuthMethod {
    /// As the manifest writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Jwt => "jwt",
        }
    }
}

/// The routes of which nobody could ever be let in, each with the setting that is missing. That there is no database for API keys is
/// no problem of the manifest's: as with queries, its routes answer 503 until there is one.
pub(super) fn lacking_keys(
    asking_tokens: Vec<(String, usize)>,
    settings: &AuthSettings,
    file: &Path,
) -> impl Iterator<Item = Problem> {
    let has_keys = !settings.jwks_url.is_empty() || !settings.jwks_file.is_empty();
    asking_tokens.into_iter().filter(move |_| !has_keys).map(|(path, line)| {
        let what = "auth = \"jwt\" needs the keys that sign tokens; set auth.jwks_url or auth.jwks_file";
        Problem { file: file.to_owned(), line, reason: format!("route {path}: {what}") }
    })
}

impl Access {
    /// The table whose changes end what was found out about callers.
    pub fn watch(&self) -> Option<Watch> {
        let tag = Some(format!("{KEYS_TABLE}:{{prefix}}"));
        (self.method == AuthMethod::Key).then(|| Watch { table: KEYS_TABLE.to_owned(), tag })
    }
}

/// `auth` as it is written.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawAuth {
    #[default]
    None,
    Key,
    Jwt,
}

/// What a route says of who may ask it.
pub(super) fn access(auth: RawAuth, scopes: Vec<String>, shared: bool) -> Result<Option<Access>, String> {
    let method = match auth {
        RawAuth::None if shared => return Err("shared = true is for routes with auth".to_owned()),
        RawAuth::None if !scopes.is_empty() => return Err("scopes are for routes with auth".to_owned()),
        RawAuth::None => return Ok(None),
        RawAuth::Key => AuthMethod::Key,
        RawAuth::Jwt => AuthMethod::Jwt,
    };
    match scopes.iter().find(|scope| !is_scope(scope)) {
        Some(scope) => Err(format!(
            "scope {scope:?}: printable characters without spaces, quotes, backslashes and commas, at most {SCOPE_BYTES_MAX}"
        )),
        None => Ok(Some(Access { method, scopes, shared })),
    }
}

/// Whether a text may be a scope (RFC 6749, section 3.3), and stand in a comma list.
pub fn is_scope(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= SCOPE_BYTES_MAX
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\,".contains(&byte))
}

/// What a route may not have beside its `auth`, or without one.
pub(super) fn check(
    access: Option<&Access>,
    params: &[Param],
    methods: &[String],
    rates: &RouteRates,
    has_shadow: bool,
) -> Result<(), String> {
    let says = |what: &str| Err(what.to_owned());
    check_claims(params, access)?;
    if rates.per_key.is_some() && access.is_none_or(|access| access.method != AuthMethod::Key) {
        return says("rate_limit.per_key is for routes with auth = \"key\"");
    }
    // Browsers ask beforehand what they may send, and show no credential with that.
    if access.is_some() && methods.iter().any(|method| method == "OPTIONS") {
        return says("OPTIONS comes without credentials, so a route with auth has it answered here; leave it out");
    }
    if has_shadow && access.is_some_and(|access| !access.shared) {
        return says("shadow: a comparison is made for nobody, and the route answers each caller by itself");
    }
    Ok(())
}

/// A claim is known of a caller who was checked, and makes an answer that caller's own.
fn check_claims(params: &[Param], access: Option<&Access>) -> Result<(), String> {
    let Some(param) = params.iter().find(|param| param.place == Place::Claim) else { return Ok(()) };
    let name = &param.name;
    match access {
        None => Err(format!("parameter {name}: in = \"claim\" needs auth = \"key\" or \"jwt\"")),
        Some(Access { shared: true, .. }) => {
            Err(format!("parameter {name}: in = \"claim\" and shared = true: the answer would not be the same for all"))
        }
        Some(_) => Ok(()),
    }
}
