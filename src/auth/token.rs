//! What a session has seen, as text that its client carries: a position on the primary's log, signed.
//!
//! A token says nothing of who carries it and is worth nothing to anybody else: it holds a keyed hash of the subject. Nor does it
//! open anything. Who could forge one could make reads wait for a replica and go to the primary, so they are signed; who replays
//! an old one reads what he could read without.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use subtle::ConstantTimeEq;

use crate::config::auth::TOKEN_SKEW_MAX;
use crate::config::units::Secret;
use crate::position::{Lsn, Position, SystemId, Timeline};

/// The only form that there is so far.
const VERSION: u8 = 1;
/// Version, key, system, timeline, LSN, time of issue, subject.
const PAYLOAD_BYTES: usize = 1 + KEY_ID_BYTES + 8 + 4 + 8 + 8 + SUBJECT_BYTES;
const KEY_ID_BYTES: usize = 4;
const SUBJECT_BYTES: usize = 16;
const MAC_BYTES: usize = 32;
/// How long a token is; no other text is one.
pub const TOKEN_CHARS: usize = (PAYLOAD_BYTES + MAC_BYTES).div_ceil(3) * 4;

/// Why a text counts as no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It has not the form of one.
    Malformed,
    /// It has the form of another version.
    Version,
    /// None of our secrets has signed it.
    Forged,
    /// It is somebody else's.
    Foreign,
    /// It is too old.
    Expired,
    /// It is from a time to come.
    Future,
}

impl Refusal {
    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Version => "version",
            Self::Forged => "forged",
            Self::Foreign => "foreign",
            Self::Expired => "expired",
            Self::Future => "future",
        }
    }
}

/// Signs and reads tokens.
pub struct SessionTokens {
    /// The first signs, all of them are taken.
    keys: Vec<Key>,
    ttl: Duration,
}

struct Key {
    id: [u8; KEY_ID_BYTES],
    key: hmac::Key,
}

impl Key {
    fn new(secret: &Secret) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
        let id = first(hmac::sign(&key, b"key").as_ref());
        Self { id, key }
    }

    fn subject(&self, subject: &str) -> [u8; SUBJECT_BYTES] {
        first(self.tag(b"subject", subject.as_bytes()).as_ref())
    }

    /// What is signed for one purpose is worth nothing for another.
    fn tag(&self, purpose: &[u8], bytes: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(purpose);
        context.update(&[0]);
        context.update(bytes);
        context.sign()
    }
}

impl SessionTokens {
    /// Tokens of these secrets, good for so long; none without secrets.
    pub fn new(secrets: &[Secret], ttl: Duration) -> Option<Self> {
        let keys: Vec<Key> = secrets.iter().map(Key::new).collect();
        (!keys.is_empty()).then_some(Self { keys, ttl })
    }

    /// How long a token counts.
    pub const fn ttl(&self) -> Duration {
        self.ttl
    }

    /// A token for a subject that has seen all up to a position, as of a time since the epoch.
    pub fn issue(&self, position: Position, subject: &str, now: Duration) -> String {
        let Some(key) = self.keys.first() else { return String::new() };
        let mut bytes = Vec::with_capacity(PAYLOAD_BYTES + MAC_BYTES);
        bytes.push(VERSION);
        bytes.extend_from_slice(&key.id);
        bytes.extend_from_slice(&position.system.0.to_be_bytes());
        bytes.extend_from_slice(&position.timeline.0.to_be_bytes());
        bytes.extend_from_slice(&position.lsn.0.to_be_bytes());
        bytes.extend_from_slice(&now.as_secs().to_be_bytes());
        bytes.extend_from_slice(&key.subject(subject));
        let mac = key.tag(b"token", &bytes);
        bytes.extend_from_slice(mac.as_ref());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The position in a token of a subject, as of a time since the epoch.
    ///
    /// # Errors
    /// Why it counts as none.
    pub fn read(&self, text: &[u8], subject: &str, now: Duration) -> Result<Position, Refusal> {
        if text.len() != TOKEN_CHARS {
            return Err(Refusal::Malformed);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| Refusal::Malformed)?;
        let (payload, mac) = bytes.split_at_checked(PAYLOAD_BYTES).ok_or(Refusal::Malformed)?;
        let mut parts = Parts(payload);
        if parts.take::<1>()? != [VERSION] {
            return Err(Refusal::Version);
        }
        let id = parts.take::<KEY_ID_BYTES>()?;
        let key = self.keys.iter().find(|key| key.id == id).ok_or(Refusal::Forged)?;
        let expected = key.tag(b"token", payload);
        if !bool::from(expected.as_ref().ct_eq(mac)) {
            return Err(Refusal::Forged);
        }
        let position = Position {
            system: SystemId(u64::from_be_bytes(parts.take()?)),
            timeline: Timeline(u32::from_be_bytes(parts.take()?)),
            lsn: Lsn(u64::from_be_bytes(parts.take()?)),
        };
        let issued = Duration::from_secs(u64::from_be_bytes(parts.take()?));
        if !bool::from(key.subject(subject).ct_eq(&parts.take::<SUBJECT_BYTES>()?)) {
            return Err(Refusal::Foreign);
        }
        if issued > now.saturating_add(TOKEN_SKEW_MAX) {
            return Err(Refusal::Future);
        }
        if now > issued.saturating_add(self.ttl) {
            return Err(Refusal::Expired);
        }
        Ok(position)
    }
}

/// What is left of a payload.
struct Parts<'a>(&'a [u8]);

impl Parts<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        let (part, rest) = self.0.split_first_chunk().ok_or(Refusal::Malformed)?;
        self.0 = rest;
        Ok(*part)
    }
}

/// The first bytes of a longer hash.
fn first<const N: usize>(hash: &[u8]) -> [u8; N] {
    hash.first_chunk().copied().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TTL: Duration = Duration::from_secs(300);
    const NOW: Duration = Duration::from_secs(1_800_000_000);

    fn tokens(secrets: &str) -> SessionTokens {
        SessionTokens::new(&Secret::new(secrets).list(), TTL).unwrap()
    }

    fn position(system: u64, timeline: u32, lsn: u64) -> Position {
        Position { system: SystemId(system), timeline: Timeline(timeline), lsn: Lsn(lsn) }
    }

    #[test]
    fn a_token_is_short_and_text_for_urls_and_cookies_and_names_nobody() {
        let issue = |subject| tokens("0123456789abcdef").issue(position(7, 1, 9), subject, NOW);
        let token = issue("key:alice");
        assert_eq!((token.len(), TOKEN_CHARS), (TOKEN_CHARS, 108));
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{token}");
        assert_ne!(token, issue("key:bob"));
        let bytes = URL_SAFE_NO_PAD.decode(token).unwrap();
        assert!(!bytes.windows(5).any(|window| window == b"alice"));
    }

    #[test]
    fn it_counts_from_its_issue_until_its_end_but_for_what_clocks_differ() {
        let tokens = tokens("0123456789abcdef");
        let second = Duration::from_secs(1);
        let token = tokens.issue(position(7, 1, 9), "", NOW);
        let read = |now| tokens.read(token.as_bytes(), "", now);
        assert_eq!(read(NOW), Ok(position(7, 1, 9)));
        assert_eq!(read(NOW - TOKEN_SKEW_MAX), Ok(position(7, 1, 9)));
        assert_eq!(read(NOW - TOKEN_SKEW_MAX - second), Err(Refusal::Future));
        assert_eq!(read(NOW + TTL), Ok(position(7, 1, 9)));
        assert_eq!(read(NOW + TTL + second), Err(Refusal::Expired));
        let last = tokens.issue(position(7, 1, 9), "", Duration::from_secs(u64::MAX));
        assert_eq!(tokens.read(last.as_bytes(), "", NOW), Err(Refusal::Future));
    }

    #[test]
    fn secrets_are_rotated_without_losing_what_was_signed_before() {
        let (old, both, new) =
            (tokens("old-secret-of-us"), tokens("new-secret-of-us, old-secret-of-us"), tokens("new-secret-of-us"));
        let (before, after) = (old.issue(position(7, 1, 9), "a", NOW), both.issue(position(7, 1, 10), "a", NOW));
        assert_eq!(both.read(before.as_bytes(), "a", NOW), Ok(position(7, 1, 9)));
        assert_eq!(new.read(after.as_bytes(), "a", NOW), Ok(position(7, 1, 10)));
        assert_eq!(new.read(before.as_bytes(), "a", NOW), Err(Refusal::Forged));
        assert_eq!(old.read(after.as_bytes(), "a", NOW), Err(Refusal::Forged));
        assert!(SessionTokens::new(&[], TTL).is_none());
    }

    #[test]
    fn another_version_is_told_from_a_forgery() {
        let mut bytes = URL_SAFE_NO_PAD.decode(tokens("0123456789abcdef").issue(position(7, 1, 9), "", NOW)).unwrap();
        bytes[0] = 2;
        let text = URL_SAFE_NO_PAD.encode(bytes);
        assert_eq!(tokens("0123456789abcdef").read(text.as_bytes(), "", NOW), Err(Refusal::Version));
    }

    proptest! {
        #[test]
        fn what_is_issued_is_read_by_its_subject_alone(system: u64, timeline: u32, lsn: u64, subject: String, other: String) {
            let tokens = tokens("0123456789abcdef");
            let token = tokens.issue(position(system, timeline, lsn), &subject, NOW);
            prop_assert_eq!(tokens.read(token.as_bytes(), &subject, NOW), Ok(position(system, timeline, lsn)));
            prop_assume!(other != subject);
            prop_assert_eq!(tokens.read(token.as_bytes(), &other, NOW), Err(Refusal::Foreign));
        }

        #[test]
        fn any_character_that_is_another_makes_it_none(lsn: u64, at in 0..TOKEN_CHARS, byte: u8) {
            let tokens = tokens("0123456789abcdef");
            let mut token = tokens.issue(position(7, 1, lsn), "a", NOW).into_bytes();
            prop_assume!(token[at] != byte);
            token[at] = byte;
            prop_assert!(tokens.read(&token, "a", NOW).is_err());
        }

        #[test]
        fn no_other_bytes_are_one(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[A-Za-z0-9_-]{108}") {
            let tokens = tokens("0123456789abcdef");
            prop_assert!(tokens.read(&bytes, "", NOW).is_err());
            prop_assert!(tokens.read(text.as_bytes(), "", NOW).is_err());
        }
    }
}
