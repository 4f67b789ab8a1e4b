//! Labels' values that the program chooses among: each enum knows all of its names, so that the table can list them.

/// Makes an enum whose variants have stable names.
macro_rules! named {
    ($(
        $(#[$about:meta])*
        pub enum $enum:ident { $($(#[$variant_about:meta])* $variant:ident = $name:literal,)+ }
    )+) => { $(
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $enum { $($(#[$variant_about])* $variant,)+ }

        impl $enum {
            /// All names.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// The label's value.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    )+ };
}

named! {
    /// What a look at a credential came to.
    pub enum AuthResult {
        /// It was checked lately, and nobody was asked.
        Remembered = "remembered",
        /// It is right.
        Accepted = "accepted",
        /// It is not, or it has expired.
        Refused = "refused",
        /// Nobody could be asked, and an earlier check counted.
        Stale = "stale",
        /// Nobody could be asked.
        Unavailable = "unavailable",
    }

    /// What a lookup in a cache layer came to.
    pub enum LookupResult {
        /// A fresh entry.
        Hit = "hit",
        /// A stale one that is served while it is refreshed.
        Stale = "stale",
        /// One that is too old to serve before the source was asked.
        Expired = "expired",
        /// Nothing.
        Miss = "miss",
        /// Something that is damaged, or was not written by this fleet: as good as nothing.
        Corrupt = "corrupt",
        /// The layer did not answer in time, or was not asked at all.
        Unavailable = "unavailable",
    }
}
