//! Viewers, and the CDN between them and the origins: what the regional origin of theirs does not answer, the failover origin is
//! asked for.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};

use crate::ground::url;
use crate::history::{History, KEYS, Seen};
use crate::report::{Class, Tally};
use crate::site::{FAILOVER, Site};
use crate::support::{Reply, request_within};

/// How long the CDN waits for an origin, beyond what the origin itself allows for a request.
const ORIGIN_TIME_MAX: Duration = Duration::from_secs(13);
/// Rest between two requests of a viewer, on average.
const CACHED_PAUSE: Duration = Duration::from_millis(5);
const OTHER_PAUSE: Duration = Duration::from_millis(30);
/// Rest between two commits.
const WRITE_PAUSE: Duration = Duration::from_millis(30);

/// What all of them share.
pub struct World {
    pub site: Site,
    pub history: History,
    pub tally: Mutex<Tally>,
    pub is_over: AtomicBool,
    next_new: AtomicU64,
}

/// An answer, and which origin gave it.
pub struct Answer {
    pub reply: Reply,
    pub origin: usize,
    pub life: usize,
    /// What the origin of the region had said, where it was the failover origin that gave it.
    pub refused: Option<Reply>,
}

impl World {
    pub fn new(site: Site) -> Self {
        Self {
            site,
            history: History::new(),
            tally: Mutex::default(),
            is_over: AtomicBool::new(false),
            next_new: AtomicU64::new(0),
        }
    }

    /// A GET as a CDN's origin group sends it: on a failure of the connection, and on what says that the origin failed, the same
    /// request goes to the other one.
    pub fn ask(&self, region: usize, path: &str, headers: &[(&str, &str)]) -> Answer {
        let of = |origin: usize| {
            let (life, base) = self.site.place(origin);
            let reply = request_within(ORIGIN_TIME_MAX, "GET", &format!("{base}{path}"), headers, None);
            Answer { reply, origin, life, refused: None }
        };
        let first = of(region);
        match first.reply.status {
            0 | 500 | 502 | 503 | 504 => Answer { refused: Some(first.reply), ..of(FAILOVER) },
            _ => first,
        }
    }

    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    fn count(&self, class: Class, began: Instant, answer: &Answer) {
        let is_failed = answer.reply.status != 200;
        if is_failed && class == Class::Cached {
            let refused = answer.refused.as_ref().map(|reply| format!(" (before: {} {})", reply.status, reply.body));
            let why = format!("{}{}", answer.reply.body, refused.unwrap_or_default());
            self.history.failed(answer.origin, answer.reply.status, &why);
        }
        self.tally.lock().unwrap().add(class, began.elapsed(), is_failed, answer.origin == FAILOVER);
    }

    /// Reads what is cached, all the time.
    pub fn read_cached(&self, region: usize, mut random: fastrand::Rng) {
        while self.goes_on() {
            let key = random.usize(0..KEYS);
            let asked = Instant::now();
            let answer = self.ask(region, &format!("/public/counters/{key}"), &[]);
            self.count(Class::Cached, asked, &answer);
            if answer.reply.status == 200 {
                let cache = answer.reply.cache().to_owned();
                let is_claimed = claims(&answer);
                let (instance, life, value) = (answer.origin, answer.life, value(&answer.reply));
                self.history.seen(Seen { instance, life, key, value, asked, is_claimed, cache });
            }
            sleep(CACHED_PAUSE.mul_f64(random.f64() * 2.0));
        }
    }

    /// Reads what nobody has read before.
    pub fn read_new(&self, region: usize, mut random: fastrand::Rng) {
        while self.goes_on() {
            let asked = Instant::now();
            let id = self.next_new.fetch_add(1, Ordering::Relaxed);
            let answer = self.ask(region, &format!("/public/new/{id}"), &[]);
            self.count(Class::New, asked, &answer);
            sleep(OTHER_PAUSE.mul_f64(random.f64() * 2.0));
        }
    }

    /// Reads what must not be old, and finds out whether it is.
    pub fn read_strong(&self, region: usize, mut random: fastrand::Rng) {
        while self.goes_on() {
            let key = random.usize(0..KEYS);
            let (asked, last) = (Instant::now(), self.history.last(key));
            let answer = self.ask(region, &format!("/public/counters/{key}"), &[("X-Consistency", "strong")]);
            self.count(Class::Strong, asked, &answer);
            if answer.reply.status == 200 {
                assert!(value(&answer.reply) >= last, "a strong read shows less than {last}: {:?}", answer.reply);
            }
            sleep(OTHER_PAUSE.mul_f64(random.f64() * 2.0));
        }
    }

    /// Commits, straight on the primary. Where it dies under a commit, it is found out afterwards whether that counts.
    pub fn write(&self, mut random: fastrand::Rng) {
        let connect = || Client::connect(&url(&self.site.ground.primary), NoTls);
        let mut client = connect().unwrap();
        let mut value_of = |key: usize, update: bool| {
            let sql = if update {
                "UPDATE counters SET value = value + 1 WHERE id = $1 RETURNING value"
            } else {
                "SELECT value FROM counters WHERE id = $1"
            };
            let id = i32::try_from(key).unwrap();
            let row = client.query_one(sql, &[&id]);
            if row.is_err()
                && let Ok(again) = connect()
            {
                client = again;
            }
            row.ok().map(|row| row.get::<_, i64>(0))
        };
        while self.goes_on() {
            let key = random.usize(0..KEYS);
            let mut value = value_of(key, true);
            while value.is_none() && self.goes_on() {
                sleep(WRITE_PAUSE);
                value = value_of(key, false);
            }
            let last = self.history.last(key);
            if let Some(value) = value.filter(|value| *value > last) {
                self.history.committed(key, value);
            }
            sleep(WRITE_PAUSE.mul_f64(random.f64() * 2.0));
        }
    }

    /// Whether everything is in use again: each region reads the source, the primary, and claims what it has to be current; and
    /// the failover origin has all that is cached.
    pub fn is_well(&self, region: usize) -> bool {
        let id = self.next_new.fetch_add(1, Ordering::Relaxed);
        let by_own = |answer: Answer| answer.reply.status == 200 && answer.origin == region;
        let (_, base) = self.site.place(region);
        let (_, failover) = self.site.place(FAILOVER);
        let is_ok = |url: String| request_within(ORIGIN_TIME_MAX, "GET", &url, &[], None).status == 200;
        let current = self.ask(region, "/public/counters/0", &[]);
        claims(&current)
            && by_own(current)
            && by_own(self.ask(region, &format!("/public/new/{id}"), &[]))
            && by_own(self.ask(region, "/public/counters/0", &[("X-Consistency", "strong")]))
            && is_ok(format!("{base}/health/edge"))
            && (0..KEYS).all(|key| is_ok(format!("{failover}/public/counters/{key}")))
    }
}

/// Whether an answer claims to be current: it is not marked stale, and no failover origin's.
fn claims(answer: &Answer) -> bool {
    answer.origin != FAILOVER && !answer.reply.cache().contains("ttl=-")
}

pub fn value(reply: &Reply) -> i64 {
    reply.json()["value"].as_i64().unwrap_or_else(|| panic!("no value: {reply:?}"))
}
