//! How often clients may ask for what L1 does not have: rates of a client, of a client on a route, and of a route. And how often
//! an API key may be used, whatever answers.
//!
//! The counting is `governor`'s (GCRA: a bucket that fills evenly). What is told of it follows
//! draft-ietf-httpapi-ratelimit-headers-11: `RateLimit-Policy` and `RateLimit`, on refusals and on answers for one client alone.
//! On answers that caches share they would tell one client of another's rate.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use actix_http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_http::{HttpMessage, Request};
use arc_swap::ArcSwap;
use governor::clock::{Clock, DefaultClock};
use governor::middleware::{StateInformationMiddleware, StateSnapshot};
use governor::state::keyed::DashMapStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{NotUntil, Quota, RateLimiter};
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::client::Client;
use super::headers;
use super::surface::Endpoint;
use crate::config::ConfigError;
use crate::config::overload::{Rate, RouteRates};
use crate::config::settings::Settings;
use crate::error::{Code, Error};
use crate::identity::Key;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// How many times clients are counted between two looks at how many there are, as a part of those that are kept.
const LOOKS: usize = 4;
/// How many different rates keys may have, before their counts begin anew.
const KEY_RATES_MAX: usize = 256;

/// The rates of clients and of keys on all routes, and how clients are known.
pub struct Rates {
    per_client: Option<Each<Client>>,
    /// Of keys that have no rate of their own.
    per_key: Option<Rate>,
    /// The counts of keys, by the rate that each has.
    keys: Mutex<HashMap<Rate, Arc<Each<Prefix>>>>,
    clients_max: usize,
    client_header: HeaderName,
    /// Whether requests come with the origin secret, so that their headers are the CDN's.
    trusts_header: bool,
    warned: AtomicBool,
}

/// The rates of one route.
pub struct RouteLimits {
    per_client: Option<Each<Client>>,
    per_key: Option<Each<Prefix>>,
    total: Option<Total>,
}

/// The public part of a key.
type Prefix = Arc<str>;

/// What the rates that apply to a request say of it.
#[derive(Clone, Debug, Default)]
pub struct Rated(SmallVec<[Standing; 3]>);

/// Whose rate it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    /// Of a client, on all routes.
    Client,
    /// Of a client, on one route.
    RouteClient,
    /// Of a key, on all routes.
    Key,
    /// Of a key, on one route.
    RouteKey,
    /// Of all together, on one route.
    Total,
}

/// What one rate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    policy: Policy,
    rate: Rate,
    /// How many more may come at once; none where this one may not.
    left: Result<u32, Duration>,
}

type Limiter<K, S, C> = RateLimiter<K, S, C, StateInformationMiddleware>;

/// One rate, counted for each client or key.
struct Each<K: Hash + Eq + Clone, C: Clock = DefaultClock> {
    rate: Rate,
    clock: C,
    counts: ArcSwap<Limiter<K, DashMapStateStore<K>, C>>,
    clients_max: usize,
    checks: AtomicUsize,
}

/// One rate, counted for all together.
struct Total {
    rate: Rate,
    clock: DefaultClock,
    count: Limiter<NotKeyed, InMemoryState, DefaultClock>,
}

impl Rates {
    /// Counts that begin now.
    ///
    /// # Errors
    /// Where `rate_limit.client_header` is no header's name.
    pub fn new(settings: &Settings) -> Result<Self, ConfigError> {
        let limits = &settings.rate_limit;
        let client_header = limits.client_header.parse();
        Ok(Self {
            per_client: limits.per_client.map(|rate| Each::new(rate, limits.clients_max, DefaultClock::default())),
            per_key: limits.per_key,
            keys: Mutex::default(),
            clients_max: limits.clients_max,
            client_header: client_header
                .map_err(|error| ConfigError::new(format!("rate_limit.client_header: {error}")))?,
            trusts_header: !settings.server.origin_secret.is_empty(),
            warned: AtomicBool::new(false),
        })
    }

    /// Who sends a request that has passed the origin secret, where anyone wants to know.
    pub fn client(&self, request: &Request, endpoint: &Endpoint) -> Option<Client> {
        if self.per_client.is_none() && endpoint.limits.per_client.is_none() {
            return None;
        }
        self.address(request)
    }

    /// Who sends a request that has passed the origin secret: whom its CDN names, else the other end of the connection.
    pub fn address(&self, request: &Request) -> Option<Client> {
        let named = || {
            // The nearest proxy adds its word at the end: of a line, or as a line of its own.
            let value = request.headers().get_all(&self.client_header).last()?;
            Client::named(&self.client_header, value)
        };
        if !self.trusts_header {
            return Client::of_peer(request);
        }
        named().or_else(|| {
            if !self.warned.swap(true, Ordering::Relaxed) {
                log::warn!(
                    "requests carry the origin secret, but no address in {}: rates count the CDN's own addresses",
                    self.client_header
                );
            }
            Client::of_peer(request)
        })
    }

    /// Counts a request that goes past L1, beside what was counted of it before. Who is over a rate of his own uses up nothing of
    /// what all share.
    pub fn count(&self, endpoint: &Endpoint, client: Option<Client>, rated: &mut Rated) {
        self.count_client(endpoint, client, rated);
        if let Some(total) = &endpoint.limits.total
            && rated.refused().is_none()
        {
            rated.note(Policy::Total, total.rate, total.count());
        }
    }

    /// Counts a request by whom it comes from.
    pub fn count_client(&self, endpoint: &Endpoint, client: Option<Client>, rated: &mut Rated) {
        let Some(client) = client else { return };
        let limits = [(Policy::RouteClient, &endpoint.limits.per_client), (Policy::Client, &self.per_client)];
        for (policy, limit) in limits {
            if let Some(limit) = limit
                && rated.note(policy, limit.rate, limit.count(&client))
            {
                return;
            }
        }
    }

    /// Counts a request by the key that it shows.
    pub fn count_key(&self, endpoint: &Endpoint, key: &Key, rated: &mut Rated) {
        if let Some(limit) = &endpoint.limits.per_key
            && rated.note(Policy::RouteKey, limit.rate, limit.count(&key.prefix))
        {
            return;
        }
        if let Some(rate) = key.rate.or(self.per_key) {
            rated.note(Policy::Key, rate, self.keys_of(rate).count(&key.prefix));
        }
    }

    /// The counts of the keys that have a rate.
    fn keys_of(&self, rate: Rate) -> Arc<Each<Prefix>> {
        let mut keys = self.keys.lock();
        // Whoever makes keys does not make up a rate for each. If they do, memory must not grow with it.
        if keys.len() >= KEY_RATES_MAX && !keys.contains_key(&rate) {
            keys.clear();
        }
        let begin = || Arc::new(Each::new(rate, self.clients_max, DefaultClock::default()));
        Arc::clone(keys.entry(rate).or_insert_with(begin))
    }
}

impl RouteLimits {
    /// Counts that begin now, for so many clients at most.
    pub fn new(rates: RouteRates, clients_max: usize) -> Self {
        let clock = DefaultClock::default();
        Self {
            per_client: rates.per_client.map(|rate| Each::new(rate, clients_max, clock.clone())),
            per_key: rates.per_key.map(|rate| Each::new(rate, clients_max, clock.clone())),
            total: rates.total.map(|rate| Total {
                rate,
                count: RateLimiter::direct_with_clock(quota(rate), clock.clone()).with_middleware(),
                clock,
            }),
        }
    }
}

impl Rated {
    /// Notes what a rate says; whether it refuses.
    fn note(&mut self, policy: Policy, rate: Rate, left: Result<u32, Duration>) -> bool {
        self.0.push(Standing { policy, rate, left });
        left.is_err()
    }

    /// The error of a request that is one too many, where it is.
    ///
    /// # Errors
    /// `rate_limited`, naming the rate.
    pub fn check(&self) -> Result<(), Error> {
        let Some(Standing { policy, rate, .. }) = self.refused() else { return Ok(()) };
        Err(Error::new(Code::RateLimited, format!("more than {rate} requests came {}", policy.whose())))
    }

    fn refused(&self) -> Option<&Standing> {
        self.0.iter().find(|standing| standing.left.is_err())
    }

    /// Whether no rate was looked at.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What another look at the same request has found.
    pub fn extend(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }

    /// Tells the client of all rates that were looked at, and when to come again where one refuses.
    pub fn tell(&self, head: &mut HeaderMap) {
        if self.0.is_empty() {
            return;
        }
        if let Some(refusing) = self.refused() {
            head.insert(header::RETRY_AFTER, HeaderValue::from(refusing.window_secs()));
        }
        let list = |item: fn(&Standing) -> String| self.0.iter().map(item).collect::<Vec<_>>().join(", ");
        head.insert(RATE_LIMIT_POLICY, headers::value(list(Standing::policy)));
        head.insert(RATE_LIMIT, headers::value(list(Standing::state)));
    }
}

impl Policy {
    /// Its name in the headers.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::RouteClient => "route",
            Self::Key => "key",
            Self::RouteKey => "route-key",
            Self::Total => "total",
        }
    }

    /// To stand after "requests came".
    const fn whose(self) -> &'static str {
        match self {
            Self::Client => "from this client",
            Self::RouteClient => "from this client on this route",
            Self::Key => "with this key",
            Self::RouteKey => "with this key on this route",
            Self::Total => "on this route from all clients together",
        }
    }
}

impl Standing {
    fn policy(&self) -> String {
        format!("\"{}\";q={};w={}", self.policy.as_str(), self.rate.count, self.rate.window.as_secs())
    }

    fn state(&self) -> String {
        format!("\"{}\";r={};t={}", self.policy.as_str(), self.left.unwrap_or(0), self.window_secs())
    }

    /// Seconds in which no more may come than are left: until one may again, or until all is as it was.
    fn window_secs(&self) -> u64 {
        let span = match self.left {
            Ok(left) => self.rate.interval().saturating_mul(self.rate.count.get().saturating_sub(left)),
            Err(wait) => wait,
        };
        (span.as_secs() + u64::from(span.subsec_nanos() > 0)).max(1)
    }
}

impl<K: Hash + Eq + Clone, C: Clock + Clone> Each<K, C> {
    fn new(rate: Rate, clients_max: usize, clock: C) -> Self {
        let counts = ArcSwap::from_pointee(Self::start(rate, &clock));
        Self { rate, clock, counts, clients_max, checks: AtomicUsize::new(0) }
    }

    fn start(rate: Rate, clock: &C) -> Limiter<K, DashMapStateStore<K>, C> {
        RateLimiter::dashmap_with_clock(quota(rate), clock.clone()).with_middleware()
    }

    fn count(&self, one: &K) -> Result<u32, Duration> {
        self.look_after();
        left(self.counts.load().check_key(one), &self.clock)
    }

    /// Now and then, forgets clients who have all of their rate again: they are as good as new. Where that is not enough, all
    /// are forgotten: who has so many addresses is not held by a rate of each of them, and memory must not grow.
    fn look_after(&self) {
        let part = (self.clients_max / LOOKS).max(1);
        if !self.checks.fetch_add(1, Ordering::Relaxed).is_multiple_of(part) {
            return;
        }
        let counts = self.counts.load();
        // Until the next look at most one part of them can come.
        if counts.len() + part > self.clients_max {
            counts.retain_recent();
            if counts.len() + part > self.clients_max.saturating_sub(part) {
                self.counts.store(Arc::new(Self::start(self.rate, &self.clock)));
            } else {
                counts.shrink_to_fit();
            }
        }
    }
}

impl Total {
    fn count(&self) -> Result<u32, Duration> {
        left(self.count.check(), &self.clock)
    }
}

/// As many at once as the rate's count, and one more each interval.
fn quota(rate: Rate) -> Quota {
    let even = Quota::with_period(rate.interval()).unwrap_or_else(|| Quota::per_second(rate.count));
    even.allow_burst(rate.count)
}

fn left<C: Clock>(outcome: Result<StateSnapshot, NotUntil<C::Instant>>, clock: &C) -> Result<u32, Duration> {
    match outcome {
        Ok(state) => Ok(state.remaining_burst_capacity()),
        Err(not_until) => Err(not_until.wait_time_from(clock.now())),
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn rate(count: u32, window_secs: u64) -> Rate {
        Rate { count: count.try_into().unwrap(), window: Duration::from_secs(window_secs) }
    }

    fn per_client(rate: Rate, clients_max: usize) -> (Each<Client, FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Each::new(rate, clients_max, clock.clone()), clock)
    }

    #[test]
    fn a_client_has_its_count_at_once_and_then_one_each_interval() {
        let (limit, clock) = per_client(rate(60, 60), 100);
        let (one, other) = (Client::V4(1), Client::V4(2));
        for left in (0..60).rev() {
            assert_eq!(limit.count(&one), Ok(left));
        }
        assert_eq!(limit.count(&one), Err(Duration::from_secs(1)));
        assert_eq!(limit.count(&other), Ok(59), "everybody has their own");
        clock.advance(Duration::from_millis(999));
        assert_eq!(limit.count(&one), Err(Duration::from_millis(1)));
        clock.advance(Duration::from_millis(1));
        assert_eq!(limit.count(&one), Ok(0));
        assert!(limit.count(&one).is_err());
    }

    /// Whatever comes, and in whatever order, never more are kept than allowed, and those who are kept are held.
    #[test]
    fn clients_that_are_kept_have_a_bound() {
        let (limit, clock) = per_client(rate(1, 60), 100);
        for client in 0..100_000 {
            let _counted = limit.count(&Client::V6(client));
            assert!(limit.counts.load().len() <= 100, "{client}");
        }
        clock.advance(Duration::from_secs(120));
        let held = Client::V4(1);
        limit.count(&held).unwrap();
        for client in 0..20 {
            limit.count(&Client::V4(2 + client)).unwrap();
        }
        assert!(limit.count(&held).is_err(), "few clients are all remembered");
    }

    #[test]
    fn clients_with_all_of_their_rate_are_forgotten_first() {
        let (limit, clock) = per_client(rate(1, 60), 100);
        for client in 0..60 {
            limit.count(&Client::V4(client)).unwrap();
        }
        // An interval later than they have it all again: the library is careful.
        clock.advance(Duration::from_secs(121));
        let held = Client::V4(1_000);
        limit.count(&held).unwrap();
        for client in 2_000..2_060 {
            limit.count(&Client::V4(client)).unwrap();
        }
        assert!(limit.count(&held).is_err(), "it was kept while the others went");
    }

    #[test]
    fn what_is_told_is_what_the_draft_says() {
        let mut rated = Rated::default();
        let mut head = HeaderMap::new();
        rated.tell(&mut head);
        assert!(head.is_empty(), "nothing is told of no rates");
        rated.note(Policy::RouteClient, rate(10, 1), Ok(9));
        rated.note(Policy::Client, rate(6000, 60), Err(Duration::from_millis(1_200)));
        rated.tell(&mut head);
        assert_eq!(head.get("ratelimit-policy").unwrap(), "\"route\";q=10;w=1, \"client\";q=6000;w=60");
        assert_eq!(head.get("ratelimit").unwrap(), "\"route\";r=9;t=1, \"client\";r=0;t=2");
        assert_eq!(head.get("retry-after").unwrap(), "2");
        assert!(rated.check().unwrap_err().detail.contains("6000/m requests came from this client"));
    }
}
