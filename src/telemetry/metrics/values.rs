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

    /// What became of a request.
    pub enum Outcome {
        /// Answered out of a cache with what was fresh.
        Hit = "hit",
        /// Answered out of a cache with what was not.
        Stale = "stale",
        /// Answered by the source of a cached route, which ran for this request or for another one that it waited for.
        Miss = "miss",
        /// Answered past the cache: writes, strong reads, routes that are not shared.
        Bypass = "bypass",
        /// A page of the server itself, such as `/health/edge` or the answer to OPTIONS.
        Own = "own",
        /// Not answered, for what is wrong with the request: 4xx.
        Refused = "refused",
        /// Not answered, though nothing is wrong with the request: 5xx.
        Error = "error",
        /// Not answered: the client went away before there was an answer. Its status is 499.
        Gone = "gone",
    }

    /// Why a trace that was to be kept is lost.
    pub enum TraceDropped {
        /// More were to be kept than `traces.traces_per_second_max`.
        Rate = "rate",
        /// As many spans wait as `traces.queue_spans_max`.
        QueueFull = "queue_full",
        /// The collector could not be had.
        Unreachable = "unreachable",
        /// The collector would not have it.
        Refused = "refused",
    }

    /// Why a log line did not get out.
    pub enum LogDropped {
        /// Too many waited already.
        BufferFull = "buffer_full",
        /// It could not be written, as on a full disk.
        WriteFailed = "write_failed",
        /// RabbitMQ has no queue that it belongs to.
        Unroutable = "unroutable",
        /// The process ended before it was its turn.
        Shutdown = "shutdown",
        /// The access log had more lines in this second than `log.access_per_second_max`.
        OverRate = "over_rate",
    }

    /// Why an answer was served that was not fresh.
    pub enum StaleReason {
        /// Its time was over a moment ago, and it is renewed behind.
        Expired = "expired",
        /// What it shows has changed, and its route says `on_change = "stale"`.
        Changed = "changed",
        /// Nothing was heard for too long, so that nobody knows whether it has changed.
        Unknown = "unknown",
        /// The source failed.
        SourceFailed = "source_failed",
        /// A failover origin has nothing newer.
        Failover = "failover",
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
