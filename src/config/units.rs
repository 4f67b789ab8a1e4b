//! The value types that settings and manifest share: times, and secrets that never print.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::IntoDeserializer;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A time span written as `"250ms"`, `"5m"`, `"1d"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map(Span).map_err(|error| {
            de::Error::custom(format!("{text:?} is not a time like \"250ms\", \"5m\" or \"1d\" ({error})"))
        })
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(self.0))
    }
}

/// Reads a list: an array of a file, or a comma list of the environment.
pub(super) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct Items<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Items<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array, or a comma list")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            items.map(|item| T::deserialize(item.to_owned().into_deserializer())).collect()
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut array: A) -> Result<Vec<T>, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = array.next_element()? {
                items.push(item);
            }
            Ok(items)
        }
    }

    deserializer.deserialize_any(Items(PhantomData))
}

/// A value that may be a credential: neither its `Debug` form nor its serialised one shows more than whether it is set.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself. Callers never log it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether nothing was configured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The members of a comma list, trimmed, empty ones left out.
    pub fn list(&self) -> Vec<Self> {
        self.0.split(',').map(str::trim).filter(|part| !part.is_empty()).map(Self::new).collect()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "(not set)" } else { "(hidden)" })
    }
}

impl Serialize for Secret {
    /// Whether it is set, never what it is.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.0.is_empty() { "" } else { "***" })
    }
}

/// Appends a part to bytes that will be hashed, with its length before it, so that no two lists of parts look alike.
pub fn fingerprint_part(out: &mut Vec<u8>, part: &str) {
    out.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
    out.extend_from_slice(part.as_bytes());
}
