//! L2: the entries of a fleet, in Redis, and the right to fill them for all of it.
//!
//! Nothing here is needed to answer a request. Every call ends within `redis.timeout`, or at once while the breaker is open,
//! and what it could not find out it says: the request goes on as if there were no Redis.

pub mod codec;
pub mod commands;
mod scripts;
pub mod target;
pub mod waiters;

use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::IntCounter;
use redis::{Cmd, FromRedisValue};
use tokio::task::JoinHandle;

use self::codec::{Codec, FORMAT, HEAD_BYTES, Kept, NotOurs};
use self::commands::{Commands, Unavailable};
use self::scripts::Script;
use self::waiters::{Waiters, Waiting};
use super::entry::{Entry, Origin};
use super::key::Key;
use crate::config::ConfigError;
use crate::config::settings::{CacheSettings, RedisSettings};
use crate::telemetry::metrics::{LookupResult, Metrics};
use crate::telemetry::traces;
use crate::telemetry::traces::{Link, SpanKind};

/// Longer values are packed and unpacked on threads for blocking work, so that no other request waits for it.
const BLOCKING_BYTES: usize = 32 * 1024;

/// Longer values are not shared: they would hold up the lookups that come after them on the same connection.
const VALUE_BYTES_MAX: usize = 1024 * 1024;

/// The shared cache.
pub struct Shared {
    namespace: String,
    channel: String,
    retention: Duration,
    lease_timeout: Duration,
    codec: Arc<Codec>,
    commands: Commands,
    waiters: Arc<Waiters>,
    /// Who wakes those who wait; nobody where nobody waits.
    listener: Option<JoinHandle<()>>,
    /// Whether it may be written to.
    writes: bool,
    misses: IntCounter,
    corrupt: IntCounter,
    unavailable: IntCounter,
}

/// Which value a lookup has found, so that a later one can be told from it. The default: none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen(Vec<u8>);

impl Seen {
    fn of(value: &[u8]) -> Self {
        Self(value.get(..HEAD_BYTES).unwrap_or(value).to_vec())
    }
}

/// What was found.
pub struct Found {
    /// The entry, to be judged like any other.
    pub entry: Arc<Entry>,
    /// Which one it is.
    pub seen: Seen,
}

/// What a lookup came to.
pub enum Look {
    /// An entry that answers the request.
    Found(Found),
    /// No such entry.
    Nothing,
    /// Redis is of no help.
    Unavailable,
}

impl Look {
    /// What was found, if anything.
    pub fn found(self) -> Option<Found> {
        match self {
            Self::Found(found) => Some(found),
            Self::Nothing | Self::Unavailable => None,
        }
    }
}

/// Whose turn it is to fill a key.
pub enum Turn {
    /// The caller's. While Redis is of no help it is everybody's.
    Lead(Lease),
    /// Nobody's: somebody has filled it since the caller looked.
    Found(Found),
    /// Another instance's, which may be waited for. Then the caller asks again whose turn it is: the holder may have died.
    Wait(Waiting),
}

/// The right to fill a key for the fleet. It ends by itself after `redis.lease_timeout`.
#[must_use = "whoever waits for it waits until it is put or released"]
pub struct Lease {
    key: Key,
    token: String,
}

impl Shared {
    /// The shared cache of the settings, for one who fills it. Runs on the current runtime; connects when it is needed.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn new(
        redis: &RedisSettings,
        cache: &CacheSettings,
        body_bytes_max: usize,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, ConfigError> {
        let mut shared = Self::reading(redis, cache, body_bytes_max, metrics)?;
        let listening =
            Arc::clone(&shared.waiters).listen(Arc::clone(shared.commands.target()), shared.channel.clone());
        (shared.listener, shared.writes) = (Some(tokio::spawn(listening)), true);
        Ok(shared)
    }

    /// As [`Shared::new`], for one who only looks: it sends no command that writes, and needs no right to one.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn reading(
        redis: &RedisSettings,
        cache: &CacheSettings,
        body_bytes_max: usize,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, ConfigError> {
        let namespace = cache.namespace.clone();
        if namespace.contains(['{', '}']) {
            return Err(ConfigError::new("cache.namespace: no braces, which decide where a cluster keeps a key"));
        }
        let commands = Commands::new(redis, metrics)?;
        let lookups = |result: LookupResult| metrics.lookups.with_label_values(&["L2", result.as_str()]);
        Ok(Self {
            channel: format!("{namespace}:filled"),
            retention: cache.retention.0,
            lease_timeout: redis.lease_timeout.0,
            codec: Arc::new(Codec::new(&namespace, body_bytes_max)),
            commands,
            waiters: Arc::default(),
            listener: None,
            writes: false,
            misses: lookups(LookupResult::Miss),
            corrupt: lookups(LookupResult::Corrupt),
            unavailable: lookups(LookupResult::Unavailable),
            namespace,
        })
    }

    /// Commands of others to the same Redis.
    pub fn commands(&self) -> &Commands {
        &self.commands
    }

    /// Whether Redis answers.
    pub async fn is_reachable(&self) -> bool {
        self.commands.query::<redis::Value>(&redis::cmd("PING")).await.is_ok()
    }

    /// Looks an entry up, in one wave. What is found counts as a lookup once its caller has judged it; all else is counted
    /// here.
    pub async fn look(&self, key: Key, canonical: &[u8], fingerprint: &[u8; 16]) -> Look {
        let mut span = traces::span("L2 look", SpanKind::Client);
        let look = self.find(key, canonical, fingerprint).await;
        let result = match &look {
            Look::Found(_) => "found",
            Look::Nothing => "nothing",
            Look::Unavailable => "unavailable",
        };
        span.set("mainstay.result", result);
        look
    }

    async fn find(&self, key: Key, canonical: &[u8], fingerprint: &[u8; 16]) -> Look {
        let asked = Instant::now();
        let Ok((left_ms, value)) = self.ask_entry(key).await else {
            self.unavailable.inc();
            return Look::Unavailable;
        };
        let Some(value) = value else {
            self.misses.inc();
            return Look::Nothing;
        };
        let seen = Seen::of(&value);
        match self.decode(key, value, left_ms, asked).await {
            Ok(entry) if entry.answers(canonical, fingerprint) => Look::Found(Found { entry: Arc::new(entry), seen }),
            Ok(_) => {
                self.misses.inc();
                Look::Nothing
            }
            Err(NotOurs) => {
                self.corrupt.inc();
                if self.writes {
                    // Else its stamp, whatever that says now, could keep the next entry out.
                    let _gone_or_not: Result<(), _> = self.eval(scripts::REMOVE, key, &[&seen.0]).await;
                }
                Look::Nothing
            }
        }
    }

    /// Asks for the right to fill a key, once a lookup has found nothing or what it found is of no use: that is `seen`.
    pub async fn lead(&self, key: Key, canonical: &[u8], fingerprint: &[u8; 16], seen: &Seen) -> Turn {
        let mut span = traces::span("L2 lease", SpanKind::Client);
        let turn = self.take_turn(key, canonical, fingerprint, seen).await;
        let result = match &turn {
            Turn::Lead(_) => "lead",
            Turn::Found(_) => "found",
            Turn::Wait(_) => "wait",
        };
        span.set("mainstay.result", result);
        turn
    }

    async fn take_turn(&self, key: Key, canonical: &[u8], fingerprint: &[u8; 16], seen: &Seen) -> Turn {
        let asked = Instant::now();
        // Before Redis is asked: whoever is done after that wakes this one.
        let waiting = self.waiters.register(key);
        let lease = Lease { key, token: token() };
        let lease_ms = millis(self.lease_timeout);
        let args: [&[u8]; 3] = [&seen.0, lease.token.as_bytes(), lease_ms.as_bytes()];
        let answer: Result<(u8, i64, Vec<u8>), _> = self.eval(scripts::LEAD, key, &args).await;
        match answer {
            Ok((1, left_ms, value)) => {
                let seen = Seen::of(&value);
                match self.decode(key, value, left_ms, asked).await {
                    Ok(entry) if entry.answers(canonical, fingerprint) => {
                        Turn::Found(Found { entry: Arc::new(entry), seen })
                    }
                    Ok(_) | Err(NotOurs) => Turn::Lead(lease),
                }
            }
            Ok((2, left_ms, token)) => {
                Turn::Wait(waiting.at_most(span(left_ms).min(self.lease_timeout)).behind(leader(&token)))
            }
            // Where Redis took too long it may have given the lease all the same: then this is its token.
            Ok(_) | Err(Unavailable) => Turn::Lead(lease),
        }
    }

    /// Stores an entry for the fleet, unless the one that is there was told more or the entry is too long, and ends the lease.
    pub async fn put(&self, key: Key, entry: &Arc<Entry>, lease: Option<Lease>) {
        let _span = traces::span("L2 put", SpanKind::Client);
        // Where there is nothing, that is not worth keeping longer than it can be of use.
        let retention = match entry.absence {
            Some(_) => self.retention.min(entry.limits.retention()),
            None => self.retention,
        };
        let (codec, entry, now) = (Arc::clone(&self.codec), Arc::clone(entry), Instant::now());
        let bytes = entry.body.bytes_kept();
        let value = beside(bytes, move || codec.encode(key, &entry, now, retention)).await;
        let Some(value) = value.filter(|value| value.len() <= VALUE_BYTES_MAX) else {
            if let Some(lease) = lease {
                self.release(lease).await;
            }
            return;
        };
        let token = lease.map(|lease| lease.token).unwrap_or_default();
        let (name, retention_ms) = (name(key), millis(retention));
        let args = [token.as_bytes(), self.channel.as_bytes(), name.as_bytes(), &value, retention_ms.as_bytes()];
        let _kept_or_not: Result<redis::Value, _> = self.eval(scripts::PUT, key, &args).await;
    }

    /// Ends a lease whose fill has failed: those who wait go on.
    pub async fn release(&self, lease: Lease) {
        let name = name(lease.key);
        let args = [lease.token.as_bytes(), self.channel.as_bytes(), name.as_bytes()];
        let _ended_or_not: Result<(), _> = self.eval(scripts::RELEASE, lease.key, &args).await;
    }

    /// The entry and how long it will be kept, in this order: an entry that is stored in between seems as old as the one before
    /// it, which costs a fill at most, where the old one would seem as young as the new one the other way round. The client
    /// for clusters sends commands again one by one, in whatever order; there a script does it, or, for one who may run none, one
    /// command after the other.
    async fn ask_entry(&self, key: Key) -> Result<(i64, Option<Vec<u8>>), Unavailable> {
        let is_cluster = self.commands.target().is_cluster();
        if is_cluster && self.writes {
            return self.eval(scripts::LOOK, key, &[]).await;
        }
        let key = self.entry_key(&name(key));
        if is_cluster {
            let left_ms = self.commands.query(redis::cmd("PTTL").arg(&key)).await?;
            return Ok((left_ms, self.commands.query(redis::cmd("GET").arg(&key)).await?));
        }
        let mut wave = redis::pipe();
        wave.cmd("PTTL").arg(&key).cmd("GET").arg(&key);
        self.commands.run(async |connection| wave.query_async(connection).await).await
    }

    async fn decode(&self, key: Key, value: Vec<u8>, left_ms: i64, asked: Instant) -> Result<Entry, NotOurs> {
        // A key that does not expire was not written by this program: its age is not known.
        let left = u64::try_from(left_ms).map(Duration::from_millis).map_err(|_| NotOurs)?;
        let (codec, bytes) = (Arc::clone(&self.codec), value.len());
        let decode = move || codec.decode(key, &value, Kept::Left(left), asked, Origin::Shared);
        beside(bytes, decode).await.unwrap_or(Err(NotOurs))
    }

    async fn eval<T: FromRedisValue>(&self, script: Script, key: Key, args: &[&[u8]]) -> Result<T, Unavailable> {
        let name = name(key);
        let mut command: Cmd = redis::cmd("EVAL");
        command.arg(script.text).arg(script.keys);
        command.arg(self.entry_key(&name));
        if script.keys > 1 {
            command.arg(format!("{}:lease:{{{name}}}", self.namespace));
        }
        args.iter().for_each(|arg| {
            command.arg(*arg);
        });
        self.commands.query(&command).await
    }

    /// The braces keep an entry and its lease in one slot of a cluster.
    fn entry_key(&self, name: &str) -> String {
        format!("{}:{}:{{{name}}}", self.namespace, char::from(FORMAT))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.listener.iter().for_each(JoinHandle::abort);
    }
}

/// The token of a lease: chance, and then the fill that takes it, where that is traced. To Redis and to instances of another version
/// it is a text like any other.
fn token() -> String {
    let chance = fastrand::u128(..);
    match traces::current() {
        Some(here) => format!("{chance:032x}-{}", here.link().text()),
        None => format!("{chance:032x}"),
    }
}

/// The fill of whose lease this is the token, where it says so.
fn leader(token: &[u8]) -> Option<Link> {
    let (_, fill) = std::str::from_utf8(token).ok()?.split_once('-')?;
    Link::read(fill)
}

fn name(key: Key) -> String {
    format!("{:032x}", key.0)
}

fn span(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

fn millis(span: Duration) -> String {
    span.as_millis().max(1).to_string()
}

/// Does work on so many bytes: at once where they are few, else on a thread for blocking work. `None` where that failed.
async fn beside<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    if bytes < BLOCKING_BYTES { Some(work()) } else { tokio::task::spawn_blocking(work).await.ok() }
}
