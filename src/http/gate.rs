//! The gate: whom a route with `auth` lets in.
//!
//! It looks before it asks. What is known of a credential is known at once, and such a request is answered like any other, out
//! of L1 where its route is shared. Only a credential that nobody here has seen lately is asked for; its request waits outside,
//! and then begins anew. Whoever is not let in learns nothing of parameters, nor of what there is.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use actix_http::header::HeaderValue;
use futures_util::FutureExt;
use serde_json::Value;

use super::headers::{self, Asked};
use super::pipeline::Pipeline;
use super::rate_limit::Rated;
use crate::auth::{Auth, Look};
use crate::config::auth::ClaimSetting;
use crate::config::manifest::access::{Access, AuthMethod};
use crate::database::row_settings::RowSettings;
use crate::error::{Code, Error};
use crate::identity::Identity;

/// How long a credential may be.
const CREDENTIAL_BYTES_MAX: usize = 8 * 1024;

/// What the gate says of a request.
pub enum Door {
    /// It is known who asks.
    Known(Arc<Identity>),
    /// The credential must be asked for first.
    Unknown(Box<Check>),
}

/// A credential that is to be asked for.
pub struct Check {
    method: AuthMethod,
    credential: Box<[u8]>,
    /// What was counted of the request that asks.
    pub rated: Rated,
}

/// What came of it.
pub struct Checked {
    /// When the request came.
    pub began: Instant,
    /// What was counted of it.
    pub rated: Rated,
    outcome: Result<Arc<Identity>, Error>,
}

/// Looks at what a request shows, and at what came of asking for it, where that was done.
///
/// # Errors
/// `unauthorized`, `credentials_invalid`, `credentials_expired`, `auth_unavailable`.
pub fn look(auth: &Auth, method: AuthMethod, asked: &Asked<'_>, checked: Option<&Checked>) -> Result<Door, Error> {
    let credential = credential(&asked.authorization)?;
    let identity = match checked {
        Some(checked) => checked.outcome.clone()?,
        None => match auth.look(method, credential, Instant::now()) {
            Look::Known(known) => known?,
            Look::Unknown => {
                let rated = Rated::default();
                return Ok(Door::Unknown(Box::new(Check { method, credential: credential.into(), rated })));
            }
        },
    };
    Ok(Door::Known(identity))
}

/// Whether who asks has all that the route wants.
///
/// # Errors
/// `scope_missing`
pub fn check_scopes(identity: &Identity, access: &Access) -> Result<(), Error> {
    if identity.has_scopes(&access.scopes) {
        return Ok(());
    }
    Err(Error::new(Code::ScopeMissing, format!("this route asks for: {}", access.scopes.join(" "))))
}

/// What is said of who asks to the database. What a credential does not say is said to be empty, whatever the role or the
/// database would have had for it.
///
/// # Errors
/// `claim_invalid`
pub fn rows(settings: &[ClaimSetting], identity: &Identity) -> Result<RowSettings, Error> {
    let value = |setting: &ClaimSetting| {
        let value = match identity.claims.get(&setting.claim) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        if value.contains('\0') {
            let detail = format!("the claim {} of the credential has a NUL in it", setting.claim);
            return Err(Error::new(Code::ClaimInvalid, detail));
        }
        Ok((setting.name.clone(), value))
    };
    settings.iter().map(value).collect()
}

/// How a credential could be checked that was shown to a route which asks for none: a signed token has dots in it, and a key has
/// none. Nothing where this instance checks neither.
///
/// # Errors
/// `credentials_invalid`
pub fn method_of(auth: &Auth, asked: &Asked<'_>) -> Result<Option<AuthMethod>, Error> {
    if auth.keys.is_none() && auth.tokens.is_none() {
        return Ok(None);
    }
    let is_token = credential(&asked.authorization)?.contains(&b'.');
    Ok(match (&auth.keys, &auth.tokens) {
        (Some(_), Some(_)) if is_token => Some(AuthMethod::Jwt),
        (Some(_), _) => Some(AuthMethod::Key),
        (None, _) => Some(AuthMethod::Jwt),
    })
}

/// Whether what is shown is of another scheme, and so for who stands behind an upstream route.
pub fn is_for_another(asked: &Asked<'_>) -> bool {
    asked.authorization.iter().all(|line| headers::bearer(line).is_none())
}

/// The one credential of a request (RFC 6750, section 2.1). In the query or in a body it is none: those are logged and kept.
fn credential<'a>(authorization: &[&'a HeaderValue]) -> Result<&'a [u8], Error> {
    let wrong = |detail: &'static str| Err(Error::new(Code::CredentialsInvalid, detail));
    let line = match authorization {
        [] => return Err(Error::new(Code::Unauthorized, "this path asks for Authorization: Bearer, and a credential")),
        [line] => line,
        _ => return wrong("Authorization stands there more than once"),
    };
    if line.as_bytes().trim_ascii().eq_ignore_ascii_case(b"Bearer") {
        return wrong("nothing follows Authorization: Bearer");
    }
    let Some(credential) = headers::bearer(line) else {
        return wrong("Authorization must be Bearer, a space, and a credential");
    };
    if credential.len() > CREDENTIAL_BYTES_MAX {
        return wrong("the credential is longer than 8192 bytes");
    }
    let is_of_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
    if credential.is_empty() || !credential.iter().all(is_of_token) {
        return wrong("the credential has characters that none has");
    }
    Ok(credential)
}

impl Pipeline {
    /// Has a credential checked, for a request that came then. It waits no longer than the request may, and only so many wait.
    pub(super) async fn check(&self, check: Box<Check>, began: Instant) -> Checked {
        let Check { method, credential, rated } = *check;
        let Some(_place) = self.admission.waiters.take(1) else {
            let error = Error::new(Code::Overloaded, "as many requests as may are waiting");
            return Checked { began, rated, outcome: Err(error) };
        };
        let deadline = began + self.settings.limits.request_timeout.0;
        let asking = AssertUnwindSafe(self.auth.ask(method, &credential, deadline)).catch_unwind();
        let outcome = match tokio::time::timeout_at(deadline.into(), asking).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => {
                log::error!("the check of a credential panicked");
                Err(Error::new(Code::Internal, "the request failed; the log says why"))
            }
            Err(_) => Err(Error::new(Code::AuthUnavailable, "the credential could not be checked in time")),
        };
        Checked { began, rated, outcome }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&'static str]) -> Result<String, (Code, String)> {
        let lines: Vec<_> = lines.iter().map(|line| HeaderValue::from_static(line)).collect();
        let lines: Vec<_> = lines.iter().collect();
        let credential = credential(&lines).map_err(|error| (error.code, error.detail.into_owned()))?;
        Ok(String::from_utf8(credential.to_vec()).unwrap())
    }

    #[test]
    fn a_credential_is_what_follows_bearer_in_the_only_line() {
        for line in ["Bearer ms_abc.DEF-0~+/==", "bearer ms_abc.DEF-0~+/==", "BEARER   ms_abc.DEF-0~+/== "] {
            assert_eq!(read(&[line]).as_deref(), Ok("ms_abc.DEF-0~+/=="), "{line:?}");
        }
    }

    #[test]
    fn whatever_else_is_sent_is_told_what_is_wrong_with_it() {
        let long: &'static str = format!("Bearer {}", "a".repeat(CREDENTIAL_BYTES_MAX + 1)).leak();
        assert_eq!(read(&[]).unwrap_err().0, Code::Unauthorized);
        for (lines, says) in [
            (&["Bearer a", "Bearer a"][..], "more than once"),
            (&["Basic YTpi"], "must be Bearer"),
            (&["Bearer"], "nothing follows"),
            (&["bearer  "], "nothing follows"),
            (&[""], "must be Bearer"),
            (&["Bearera"], "must be Bearer"),
            (&["a"], "must be Bearer"),
            (&["Bearer a b"], "characters"),
            (&["Bearer a,b"], "characters"),
            (&["Bearer \"a\""], "characters"),
            (&[long], "longer than 8192"),
        ] {
            let (code, detail) = read(lines).unwrap_err();
            assert_eq!(code, Code::CredentialsInvalid, "{lines:?}");
            assert!(detail.contains(says), "{lines:?}: {detail}");
        }
    }
}
