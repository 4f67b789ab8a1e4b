//! The form of a key: `mk_`, a prefix of 12 letters and digits by which it is known, `_`, and a secret of 43 of them.

use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};

/// What every key begins with, so that people and scanners of repositories see what it is.
const MARK: &str = "mk_";
/// 62^12: two keys never share one by accident.
const PREFIX_BYTES: usize = 12;
/// 62^43 is more than 2^256.
const SECRET_BYTES: usize = 43;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// What is kept of a key.
pub(super) type Hash = [u8; 32];

/// A key as it was shown: well-formed, and not more than that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shown<'a> {
    whole: &'a str,
    /// The public part.
    pub(super) prefix: &'a str,
}

impl<'a> Shown<'a> {
    /// Reads a key; none where it has not the form of one.
    pub(super) fn parse(credential: &'a [u8]) -> Option<Self> {
        let whole = std::str::from_utf8(credential).ok()?;
        let (prefix, secret) = whole.strip_prefix(MARK)?.split_once('_')?;
        let is_part = |text: &str, bytes| text.len() == bytes && text.bytes().all(|byte| ALPHABET.contains(&byte));
        (is_part(prefix, PREFIX_BYTES) && is_part(secret, SECRET_BYTES)).then_some(Self { whole, prefix })
    }

    /// What stands for it wherever it is kept, here and in the database. That a table is searched by it may show in time how
    /// much of a hash is right, which brings nobody nearer to the key.
    pub(super) fn hash(&self) -> Hash {
        Sha256::digest(self.whole).into()
    }
}

/// The prefix that a text names: a prefix, or a key, or its beginning.
pub(super) fn named_prefix(text: &str) -> Option<&str> {
    let text = text.strip_prefix(MARK).unwrap_or(text);
    let prefix = text.split_once('_').map_or(text, |(prefix, _)| prefix);
    let is_prefix = prefix.len() == PREFIX_BYTES && prefix.bytes().all(|byte| ALPHABET.contains(&byte));
    is_prefix.then_some(prefix)
}

/// Makes a key up, which nobody keeps; none where the system has no randomness to give.
pub(super) fn make_up() -> Option<String> {
    let (prefix, secret) = (random_text(PREFIX_BYTES)?, random_text(SECRET_BYTES)?);
    Some(format!("{MARK}{prefix}_{secret}"))
}

/// Letters and digits, each as likely as any other.
fn random_text(length: usize) -> Option<String> {
    let random = SystemRandom::new();
    let mut text = String::with_capacity(length);
    while text.len() < length {
        let mut bytes = [0; 64];
        random.fill(&mut bytes).ok()?;
        // The last few values of a byte would make the first letters likelier.
        let letters = bytes.iter().filter(|byte| usize::from(**byte) < ALPHABET.len() * 4);
        let letters = letters.filter_map(|byte| ALPHABET.get(usize::from(*byte) % ALPHABET.len()));
        text.extend(letters.map(|letter| char::from(*letter)).take(length - text.len()));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_made_up_is_read_again() {
        let keys: Vec<String> = (0..100).map(|_| make_up().unwrap()).collect();
        for key in &keys {
            assert_eq!(key.len(), 3 + 12 + 1 + 43);
            let shown = Shown::parse(key.as_bytes()).unwrap();
            assert_eq!(named_prefix(key), Some(shown.prefix));
            assert_eq!(named_prefix(shown.prefix), Some(shown.prefix));
            assert_eq!(named_prefix(&format!("mk_{}", shown.prefix)), Some(shown.prefix));
        }
        let letters: std::collections::BTreeSet<char> = keys.concat().chars().collect();
        assert_eq!(letters.len(), 62 + 1, "all letters and digits, and the _");
    }

    #[test]
    fn another_form_is_no_key() {
        let key = make_up().unwrap();
        let cut = |bytes: usize| key.get(..bytes).unwrap().to_owned();
        for wrong in [
            String::new(),
            cut(58),
            format!("{key}a"),
            key.to_uppercase().replacen("MK", "mk", 1).replace('_', "-"),
            key.replacen("mk_", "mk-", 1),
            key.replacen("mk_", "Mk_", 1),
            format!(" {key}"),
            format!("{}!", cut(58)),
            format!("{}é", cut(57)),
        ] {
            assert_eq!(Shown::parse(wrong.as_bytes()), None, "{wrong:?}");
        }
        assert_eq!(Shown::parse(&[0xff; 59]), None);
        assert_eq!((named_prefix(""), named_prefix("mk_"), named_prefix("abc")), (None, None, None));
    }

    proptest! {
        #[test]
        fn nothing_that_is_shown_does_any_harm(credential: Vec<u8>, tail in "[ -~]{0,70}") {
            let _ = Shown::parse(&credential);
            let _ = Shown::parse(format!("mk_{tail}").as_bytes());
            let _ = named_prefix(&tail);
        }
    }
}
