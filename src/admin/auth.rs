//! Who may use the admin listener: whoever has one of its tokens, and has not tried too many others before.

use std::collections::HashMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use actix_web::http::header::HeaderValue;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::config::units::Secret;
use crate::error::Error;
use crate::http::headers::{bearer, is_one_of};

/// Wrong tokens of one address in a window; beyond it nothing of that address is heard until the window ends.
const FAILURES_MAX: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses whose failures are counted.
const ADDRESSES_MAX: usize = 4096;
/// Characters of the text that an audit line quotes.
const QUOTED_CHARS_MAX: usize = 1024;

/// The door.
pub(super) struct Gate {
    tokens: Vec<Secret>,
    failures: Mutex<Failures>,
    /// Requests without any token: so many are written down of an address, and none of them is held against it.
    nameless: Mutex<Failures>,
}

/// Why the door stays shut.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shut {
    /// The token is missing or wrong.
    Unauthorized,
    /// Too many wrong ones came from this address; it is heard again after this time.
    Limited(Duration),
}

/// Someone with a token, as the audit log knows them.
#[derive(Debug)]
pub(super) struct Caller {
    peer: IpAddr,
    /// The beginning of the token's SHA-256: it tells tokens apart and opens nothing.
    token: String,
}

impl Gate {
    pub(super) fn new(tokens: &Secret) -> Self {
        Self { tokens: tokens.list(), failures: Mutex::default(), nameless: Mutex::default() }
    }

    /// Whether any token opens it.
    pub(super) fn has_tokens(&self) -> bool {
        !self.tokens.is_empty()
    }

    /// Lets a caller in. A right token does not help while its address is shut out, or guessing would only be slowed down. Whoever
    /// names none has guessed nothing and is not counted: any site's page can have a browser ask that way, and could shut its
    /// operator out.
    pub(super) fn admit(
        &self,
        peer: IpAddr,
        authorization: Option<&HeaderValue>,
        now: Instant,
    ) -> Result<Caller, Shut> {
        let given = authorization.and_then(bearer).filter(|token| !token.is_empty());
        let Some(given) = given else {
            let wait = self.failures.lock().shut_out(peer, now);
            if wait.is_none() && self.nameless.lock().count(peer, now) <= FAILURES_MAX {
                log::warn!(target: "mainstay::audit", peer:% = peer; "no token");
            }
            return Err(wait.map_or(Shut::Unauthorized, Shut::Limited));
        };
        self.admit_token(peer, given, now)
    }

    /// As [`Gate::admit`], of a token that came in a form.
    pub(super) fn admit_token(&self, peer: IpAddr, given: &[u8], now: Instant) -> Result<Caller, Shut> {
        if let Some(wait) = self.failures.lock().shut_out(peer, now) {
            return Err(Shut::Limited(wait));
        }
        if is_one_of(given, &self.tokens) {
            return Ok(Caller { peer, token: fingerprint(given) });
        }
        let failures = self.failures.lock().count(peer, now);
        log::warn!(target: "mainstay::audit", peer:% = peer, failures; "a wrong token");
        Err(Shut::Unauthorized)
    }
}

fn fingerprint(token: &[u8]) -> String {
    Sha256::digest(token).iter().take(4).fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl Caller {
    /// Somebody who has shown a token with this fingerprint before.
    pub(super) fn new(peer: IpAddr, token: String) -> Self {
        Self { peer, token }
    }

    /// The fingerprint of their token.
    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// As the journal names them.
    pub(super) fn name(&self) -> String {
        format!("token {}", self.token)
    }

    /// Writes down what was done, or why it was not. The texts may be the caller's own: they are cut, and quoted so that none of
    /// them can look like another line.
    pub(super) fn audit(&self, action: &str, mode: &str, what: &str, outcome: Result<&str, &Error>) {
        let what: String = what.escape_debug().take(QUOTED_CHARS_MAX).collect();
        let (result, id) = match outcome {
            Ok(id) => ("done", id),
            Err(error) => (error.code.as_str(), "-"),
        };
        log::info!(
            target: "mainstay::audit",
            peer:% = self.peer, token:% = self.token, action, mode, what:% = what, id, result;
            "{action} {mode} {what}: {result}"
        );
    }
}

/// Wrong tokens by address.
#[derive(Default)]
struct Failures(HashMap<IpAddr, Window>);

struct Window {
    began: Instant,
    failures: u32,
}

impl Window {
    fn left(&self, now: Instant) -> Option<Duration> {
        WINDOW.checked_sub(now.saturating_duration_since(self.began)).filter(|left| !left.is_zero())
    }
}

impl Failures {
    /// For how long an address is not heard.
    fn shut_out(&self, peer: IpAddr, now: Instant) -> Option<Duration> {
        self.0.get(&peer).filter(|window| window.failures >= FAILURES_MAX)?.left(now)
    }

    /// Counts a wrong token and says how many it were.
    fn count(&mut self, peer: IpAddr, now: Instant) -> u32 {
        if self.0.len() >= ADDRESSES_MAX && !self.0.contains_key(&peer) {
            self.0.retain(|_, window| window.left(now).is_some());
        }
        if self.0.len() >= ADDRESSES_MAX && !self.0.contains_key(&peer) {
            // So many addresses at once are one attacker: their count starts over, and memory stays bounded.
            self.0.clear();
        }
        let window = self.0.entry(peer).or_insert(Window { began: now, failures: 0 });
        if window.left(now).is_none() {
            *window = Window { began: now, failures: 0 };
        }
        window.failures = window.failures.saturating_add(1);
        window.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn admit(gate: &Gate, header: &'static str, now: Instant) -> Result<String, Shut> {
        let header = HeaderValue::from_static(header);
        gate.admit(PEER, Some(&header).filter(|value| !value.is_empty()), now).map(|caller| caller.token)
    }

    #[test]
    fn any_token_of_the_list_opens_and_is_known_by_its_fingerprint() {
        let (gate, now) = (Gate::new(&Secret::new("one, two")), Instant::now());
        for header in ["Bearer one", "bearer two", "BEARER  two "] {
            assert!(admit(&gate, header, now).is_ok(), "{header}");
        }
        assert_eq!(admit(&gate, "Bearer one", now), Ok("7692c3ad".to_owned()));
        for header in ["", "Bearer", "Bearer ", "Bearer on", "Bearer onee", "one", "Basic one", "Bearer one, two"] {
            assert_eq!(admit(&gate, header, now), Err(Shut::Unauthorized), "{header}");
        }
    }

    #[test]
    fn too_many_wrong_tokens_shut_an_address_out_for_a_while() {
        let (gate, now) = (Gate::new(&Secret::new("one")), Instant::now());
        for _ in 0..FAILURES_MAX {
            assert_eq!(admit(&gate, "Bearer two", now), Err(Shut::Unauthorized));
        }
        let later = now + Duration::from_secs(20);
        assert_eq!(admit(&gate, "Bearer one", later), Err(Shut::Limited(Duration::from_secs(40))));
        let other = IpAddr::from([127, 0, 0, 2]);
        assert!(gate.admit(other, Some(&HeaderValue::from_static("Bearer one")), later).is_ok(), "others are heard");
        assert!(admit(&gate, "Bearer one", now + WINDOW).is_ok());
        assert_eq!(admit(&gate, "Bearer two", now + WINDOW), Err(Shut::Unauthorized), "the count starts over");
    }

    #[test]
    fn whoever_names_no_token_shuts_nobody_out() {
        let (gate, now) = (Gate::new(&Secret::new("one")), Instant::now());
        for header in ["", "Bearer ", "Basic two"].iter().cycle().take(30) {
            assert_eq!(admit(&gate, header, now), Err(Shut::Unauthorized), "{header}");
        }
        assert!(admit(&gate, "Bearer one", now).is_ok());
        for _ in 0..FAILURES_MAX {
            assert_eq!(admit(&gate, "Bearer two", now), Err(Shut::Unauthorized));
        }
        assert_eq!(admit(&gate, "", now), Err(Shut::Limited(WINDOW)), "an address that guesses is not heard at all");
    }

    #[test]
    fn addresses_without_end_cost_no_memory_without_end() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        for number in 0..u32::try_from(3 * ADDRESSES_MAX).unwrap() {
            failures.count(IpAddr::from(number.to_be_bytes()), now);
        }
        assert!(failures.0.len() <= ADDRESSES_MAX);
    }
}
