//! The bus: one log of messages for a fleet, a stream in Redis.
//!
//! The stream's ids are positions, so that Redis itself keeps the order: it refuses an id that is not greater than the last
//! one, which is what stops a publisher that was paused and has been overtaken. Each message names the last one before it
//! that had tags; whoever reads the stream sees by that whether anything is missing, however it got lost.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use redis::streams::{StreamId, StreamRangeReply, StreamReadOptions, StreamReadReply};
use redis::{Cmd, FromRedisValue, Value, cmd};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::fence::{HardPurges, Message};
use super::shared::Shared;
use super::shared::commands::Unavailable;
use super::shared::target::Connection;
use super::tag::Tag;
use crate::position::{Lsn, Position, SystemId, Timeline};

/// How long an instance counts as present after it was heard of.
const PRESENCE_TIME: Duration = Duration::from_secs(5);
/// How long confirmations of a purge are kept for whoever asked for it.
const CONFIRMATION_TIME: Duration = Duration::from_secs(60);
/// How long what was spent in a month is remembered: until nobody's clock is in that month.
const SPENT_TIME: Duration = Duration::from_secs(40 * 24 * 60 * 60);
/// Messages taken from the stream at once.
pub const READ_MAX: usize = 1000;
/// How much longer than it was to wait a read may take.
const READ_TIME_MAX: Duration = Duration::from_secs(2);
/// What Redis says of an id that is not greater than the last one.
const OVERTAKEN: &str = "equal or smaller";

/// In the place of what a fill must have read, where there is no database to read.
const NOTHING_TO_READ: &str = "-";

/// Renews a lease that is still ours.
const RENEW: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0";
/// Gives a lease back that is still ours.
const RELEASE: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";
/// Puts a value in the place of another one.
const REPLACE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) return 1 end return 0";
/// What a server says of itself: that which has the key, among those of a cluster.
const SERVER: &str = "return redis.call('INFO', 'server')";
/// Notes that an instance is there, by Redis' own clock, and forgets those that have gone.
const PRESENT: &str = "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000) \
    redis.call('ZADD', KEYS[1], now, ARGV[1]) redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2]) \
    redis.call('PEXPIRE', KEYS[1], ARGV[2]) return redis.call('ZCARD', KEYS[1])";

/// Adds to a count, unless it would be more than it may. It is forgotten a while after it was begun.
const SPEND: &str = "local n = tonumber(redis.call('GET', KEYS[1]) or '0') + tonumber(ARGV[1]) \
    if n > tonumber(ARGV[2]) then return 0 end redis.call('INCRBY', KEYS[1], ARGV[1]) \
    redis.call('PEXPIRE', KEYS[1], ARGV[3], 'NX') return 1";

/// The stream of one fleet.
pub struct Bus {
    shared: Arc<Shared>,
    namespace: String,
    /// This instance, among those of the fleet.
    instance: String,
    stream_entries_max: u64,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// It is in the stream.
    Done,
    /// The stream is past it: another publisher has gone on.
    Overtaken,
}

/// What a read of the stream brought.
pub struct Delivery {
    /// Its place, after which to go on.
    pub at: Position,
    /// The message; none where it is none of this version.
    pub message: Option<Message>,
    /// How long ago it was published, by the publisher's clock and this machine's; zero where theirs is ahead.
    pub delay: Option<Duration>,
}

/// A message as it stands in the stream; its position is the entry's id and the stream's name.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    reads: Option<String>,
    #[serde(rename = "p")]
    prev: String,
    #[serde(rename = "t")]
    through: String,
    #[serde(rename = "c", default, skip_serializing_if = "String::is_empty")]
    cursor: String,
    #[serde(rename = "s", default, skip_serializing_if = "Vec::is_empty")]
    soft: Vec<String>,
    #[serde(rename = "h", default, skip_serializing_if = "Vec::is_empty")]
    hard: Vec<String>,
    #[serde(rename = "i", default, skip_serializing_if = "Vec::is_empty")]
    purges: Vec<i64>,
}

/// The text of a message in the stream; `None` for one that has no place in the chain.
fn encode(message: &Message) -> Option<String> {
    let names = |tags: &[Tag]| tags.iter().map(|tag| tag.name().to_owned()).collect();
    let wire = Wire {
        reads: match message.reads {
            Some(reads) => Some(reads.to_string()).filter(|_| reads != message.at),
            None => Some(NOTHING_TO_READ.to_owned()),
        },
        prev: message.prev?.to_string(),
        through: message.through.to_string(),
        cursor: message.cursor.clone(),
        soft: names(&message.soft),
        hard: names(&message.hard),
        purges: message.purges.clone(),
    };
    serde_json::to_string(&wire).ok()
}

/// The message of a stream entry; `None` where it is none of ours, or of another version.
fn decode(system: SystemId, id: &str, text: &str) -> Option<Message> {
    let at = position_of(system, id)?;
    let wire: Wire = serde_json::from_str(text).ok()?;
    let reads = match wire.reads.as_deref() {
        Some(NOTHING_TO_READ) => None,
        Some(text) => Some(text.parse().ok()?),
        None => Some(at),
    };
    let tags = |names: Vec<String>| names.into_iter().map(Tag::new).collect();
    Some(Message {
        at,
        reads,
        prev: Some(wire.prev.parse().ok()?),
        through: wire.through.parse().ok()?,
        cursor: wire.cursor,
        soft: tags(wire.soft),
        hard: tags(wire.hard),
        purges: wire.purges,
    })
}

/// `timeline-lsn`: Redis orders ids by the first number, then by the second, as positions are ordered.
fn id_of(position: Position) -> String {
    format!("{}-{}", position.timeline, position.lsn.0)
}

fn position_of(system: SystemId, id: &str) -> Option<Position> {
    let (timeline, lsn) = id.split_once('-')?;
    Some(Position { system, timeline: Timeline(timeline.parse().ok()?), lsn: Lsn(lsn.parse().ok()?) })
}

/// Hard purges as they are kept beside the stream.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HardWire {
    #[serde(rename = "t")]
    through: String,
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    all: Option<String>,
    #[serde(rename = "h")]
    tags: Vec<(String, String)>,
}

impl HardWire {
    fn of(purges: &HardPurges) -> Self {
        let tag = |(hash, at): &(u64, Position)| (format!("{hash:016x}"), at.to_string());
        Self {
            through: purges.through.to_string(),
            all: purges.all.map(|at| at.to_string()),
            tags: purges.tags.iter().map(tag).collect(),
        }
    }

    /// None where it is of another version.
    fn purges(self) -> Option<HardPurges> {
        let tag = |(hash, at): (String, String)| Some((u64::from_str_radix(&hash, 16).ok()?, at.parse().ok()?));
        Some(HardPurges {
            through: self.through.parse().ok()?,
            all: self.all.map(|at| at.parse()).transpose().ok()?,
            tags: self.tags.into_iter().map(tag).collect::<Option<_>>()?,
        })
    }
}

impl Bus {
    /// The bus of a namespace, as this instance sees it.
    pub fn new(shared: Arc<Shared>, namespace: &str, instance: &str, stream_entries_max: u64) -> Self {
        Self { shared, namespace: namespace.to_owned(), instance: instance.to_owned(), stream_entries_max }
    }

    fn key(&self, name: &str) -> String {
        format!("{}:bus:{name}", self.namespace)
    }

    fn stream(&self, system: SystemId) -> String {
        self.key(&format!("stream:{}", system.0))
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Unavailable> {
        self.shared.commands().run(async |connection| command.query_async(connection).await).await
    }

    /// Puts a message at the end of the stream.
    ///
    /// # Errors
    /// Where Redis cannot be reached, or refuses.
    pub async fn publish(&self, message: &Message) -> Result<Published, Unavailable> {
        let Some(text) = encode(message) else { return Ok(Published::Overtaken) };
        let mut add = cmd("XADD");
        add.arg(self.stream(message.at.system)).arg("MAXLEN").arg("~").arg(self.stream_entries_max);
        // Beside the message, where versions that do not know of it do not look.
        add.arg(id_of(message.at)).arg("m").arg(text).arg("at").arg(millis(since_epoch()));
        let added = self.shared.commands().run(async |connection| match add.query_async::<Value>(connection).await {
            Ok(_) => Ok(Published::Done),
            Err(error) if error.detail().is_some_and(|detail| detail.contains(OVERTAKEN)) => Ok(Published::Overtaken),
            Err(error) => Err(error),
        });
        added.await
    }

    /// The messages after a position, or all that are kept; waits so long for the first one. It takes a connection of its own, since a wait
    /// would hold up all others.
    ///
    /// # Errors
    /// Where Redis cannot be reached.
    pub async fn read(
        &self,
        connection: &mut Connection,
        system: SystemId,
        after: Option<Position>,
        wait: Duration,
    ) -> Result<Vec<Delivery>, Unavailable> {
        let after = after.map_or_else(|| "0-0".to_owned(), id_of);
        let block_ms = usize::try_from(wait.as_millis()).unwrap_or(0).max(1);
        let options = StreamReadOptions::default().block(block_ms).count(READ_MAX);
        let mut read = cmd("XREAD");
        read.arg(&options).arg("STREAMS").arg(self.stream(system)).arg(after);
        let reply = timeout(wait + READ_TIME_MAX, read.query_async::<Option<StreamReadReply>>(connection)).await;
        let reply = reply.map_err(|_| Unavailable)?.map_err(|error| {
            log::debug!("the stream cannot be read: {error}");
            Unavailable
        })?;
        let entries = reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids);
        let delivery = |entry: StreamId| {
            let (at, delay) = (position_of(system, &entry.id)?, delay_of(&entry));
            Some(Delivery { at, message: message_of(system, &entry), delay })
        };
        entries.map(|entry| delivery(entry).ok_or(Unavailable)).collect()
    }

    /// Takes or renews the right to publish, for so long. It only saves work: whoever publishes without it is refused by
    /// the order of the stream, or publishes what is true.
    ///
    /// # Errors
    /// Where Redis cannot be reached.
    pub async fn lead(&self, time: Duration) -> Result<bool, Unavailable> {
        let (key, time_ms) = (self.key("leader"), u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        let renewed: i64 = self.ask(script(RENEW, &key).arg(&self.instance).arg(time_ms)).await?;
        if renewed == 1 {
            return Ok(true);
        }
        let mut take = cmd("SET");
        take.arg(&key).arg(&self.instance).arg("NX").arg("PX").arg(time_ms);
        let taken: Option<String> = self.ask(&take).await?;
        Ok(taken.is_some())
    }

    /// Whether this instance has that right.
    ///
    /// # Errors
    /// Where Redis cannot be reached.
    pub async fn leads(&self) -> Result<bool, Unavailable> {
        let leader: Option<String> = self.ask(cmd("GET").arg(self.key("leader"))).await?;
        Ok(leader.is_some_and(|leader| leader == self.instance))
    }

    /// Says for which cluster there is a stream, for those who cannot reach their database.
    ///
    /// # Errors
    /// Where Redis cannot be reached.
    pub async fn announce(&self, system: SystemId) -> Result<(), Unavailable> {
        let _ok: String = self.ask(cmd("SET").arg(self.key("system")).arg(system.0)).await?;
        Ok(())
    }

    /// The generation of a fleet without a database: the one that there is, or a new one. It does not outlive the server that it
    /// was begun on, nor its restart: what that has loaded may be of long ago, and there may be nobody left who knows better.
    ///
    /// # Errors
    /// Where Redis cannot be reached.
    pub async fn generation(&self) -> Result<SystemId, Unavailable> {
        let info: String = self.ask(&script(SERVER, &self.key("run"))).await?;
        let run = info.lines().find_map(|line| line.strip_prefix("run_id:")).ok_or(Unavailable)?;
        let kept: Option<String> = self.ask(cmd("GET").arg(self.key("run"))).await?;
        let is_same_run = kept.as_deref() == Some(run);
        let mut set = cmd("SET");
        set.arg(self.key("system")).arg(fastrand::u64(..));
        if is_same_run {
            set.arg("NX");
        }
        let _set_or_not: Option<String> = self.ask(&set).await?;
        if !is_same_run {
            // Afterwards: who dies in between leaves it to the next one.
            let _ok: String = self.ask(cmd("SET").arg(self.key("run")).arg(run)).await?;
        }
        self.system().await?.ok_or(Unavailable)
    }

    /// Begins a new generation in the place of one that lost messages, unless another instance has.
    ///
    /// # Errors
    /// Where Redis cannot be reached.
    pub async fn begin_generation(&self, lost: SystemId) -> Result<(), Unavailable> {
        let mut replace = script(REPLACE, &self.key("system"));
        let _replaced: i64 = self.ask(replace.arg(lost.0).arg(fastrand::u64(..))).await?;
        Ok(())
    }

    /// The position of the last message of the stream.
    ///
    /// # Errors
    /// Where Redis cannot be reached.
    pub async fn top(&self, system: SystemId) -> Result<Option<Position>, Unavailable> {
        let mut last = cmd("XREVRANGE");
        last.arg(self.stream(system)).arg("+").arg("-").arg("COUNT").arg(1);
        let reply: StreamRangeReply = self.ask(&last).await?;
        Ok(reply.ids.first().and_then(|entry| position_of(system, &entry.id)))
    }

    /// The cluster that was announced last.
    ///
    /// # Errors
    /// Where Redis cannot be reached.
    pub async fn system(&self) -> Result<Option<SystemId>, Unavailable> {
        let system: Option<u64> = self.ask(cmd("GET").arg(self.key("system"))).await?;
        Ok(system.map(SystemId))
    }

    /// Gives that right back.
    ///
    /// # Errors
    /// Where Redis cannot be reached.
    pub async fn follow(&self) -> Result<(), Unavailable> {
        let _was_ours: i64 = self.ask(script(RELEASE, &self.key("leader")).arg(&self.instance)).await?;
        Ok(())
    }

    /// Says that this instance is there, and learns how many are.
    ///
    /// # Errors
    /// Where Redis cannot be reached.
    pub async fn be_present(&self) -> Result<usize, Unavailable> {
        let mut present = script(PRESENT, &self.key("instances"));
        self.ask(present.arg(&self.instance).arg(millis(PRESENCE_TIME))).await
    }

    /// Says that this instance goes: it leads no more, and is not counted any more.
    ///
    /// # Errors
    /// Where Redis cannot be reached.
    pub async fn leave(&self) -> Result<(), Unavailable> {
        let mut remove = cmd("ZREM");
        let _removed: i64 = self.ask(remove.arg(self.key("instances")).arg(&self.instance)).await?;
        self.follow().await
    }

    /// Keeps all hard purges that were told, for those who come when nobody can be asked and the stream has lost its beginning.
    ///
    /// # Errors
    /// Where Redis cannot be reached.
    pub async fn keep_hard_purges(&self, purges: &HardPurges, retention: Duration) -> Result<(), Unavailable> {
        let Ok(text) = serde_json::to_string(&HardWire::of(purges)) else { return Ok(()) };
        let mut set = cmd("SET");
        set.arg(self.key("hard")).arg(text).arg("PX").arg(millis(retention));
        let _ok: String = self.ask(&set).await?;
        Ok(())
    }

    /// The hard purges that were kept last.
    ///
    /// # Errors
    /// Where Redis cannot be reached.
    pub async fn hard_purges(&self) -> Result<Option<HardPurges>, Unavailable> {
        let text: Option<String> = self.ask(cmd("GET").arg(self.key("hard"))).await?;
        Ok(text.and_then(|text| serde_json::from_str::<HardWire>(&text).ok()?.purges()))
    }

    /// Confirms that a purge is applied here.
    ///
    /// # Errors
    /// Where Redis cannot be reached.
    pub async fn confirm(&self, purge: i64) -> Result<(), Unavailable> {
        let key = self.key(&format!("confirmed:{purge}"));
        let mut add = cmd("SADD");
        add.arg(&key).arg(&self.instance);
        let _added: i64 = self.ask(&add).await?;
        let mut expire = cmd("PEXPIRE");
        expire.arg(&key).arg(millis(CONFIRMATION_TIME));
        let _set: i64 = self.ask(&expire).await?;
        Ok(())
    }

    /// How many instances have confirmed a purge.
    ///
    /// # Errors
    /// Where Redis cannot be reached.
    pub async fn confirmed(&self, purge: i64) -> Result<usize, Unavailable> {
        self.ask(cmd("SCARD").arg(self.key(&format!("confirmed:{purge}")))).await
    }

    /// Counts what the fleet spends in a month, and says whether that was within the bound; what was not is not counted. The count is
    /// as good as Redis' memory.
    ///
    /// # Errors
    /// Where Redis cannot be reached.
    pub async fn spend(&self, month: &str, count: u64, count_max: u64) -> Result<bool, Unavailable> {
        let mut spend = script(SPEND, &self.key(month));
        let taken: i64 = self.ask(spend.arg(count).arg(count_max).arg(millis(SPENT_TIME))).await?;
        Ok(taken == 1)
    }

    /// A connection for [`Bus::read`].
    ///
    /// # Errors
    /// Where Redis cannot be reached.
    pub async fn dedicated(&self) -> Result<Connection, Unavailable> {
        self.shared.commands().dedicated().await
    }
}

fn script(text: &str, key: &str) -> Cmd {
    let mut eval = cmd("EVAL");
    eval.arg(text).arg(1).arg(key);
    eval
}

fn message_of(system: SystemId, entry: &StreamId) -> Option<Message> {
    let text = entry.map.get("m").and_then(|value| String::from_redis_value(value.clone()).ok())?;
    let message = decode(system, &entry.id, &text);
    if message.is_none() {
        log::warn!("an entry of the stream is no message of this version: {}", entry.id);
    }
    message
}

/// How long ago an entry was published.
fn delay_of(entry: &StreamId) -> Option<Duration> {
    let published_ms = u64::from_redis_value(entry.map.get("at")?.clone()).ok()?;
    Some(since_epoch().saturating_sub(Duration::from_millis(published_ms)))
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
