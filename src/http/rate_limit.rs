//! How often clients may ask for what L1 does not have: rates of a client, of a client on a route, and of a route.
//!
//! The counting is `governor`'s (GCRA: a bucket that fills evenly). What is told of it follows
//! draft-ietf-httpapi-ratelimit-headers-11: `RateLimit-Policy` and `RateLimit`, on refusals and on answers for one client alone.
//! On answers that caches share they would tell one client of another's rate.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use actix_http::header::{HeaderMap, HeaderName};
use actix_http::{HttpMessage, Request};
use arc_swap::ArcSwap;
use governor::clock::{Clock, DefaultClock};
use governor::middleware::{StateInformationMiddleware, StateSnapshot};
use governor::state::keyed::DashMapStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{NotUntil, Quota, RateLimiter};
use smallvec::SmallVec;

use super::client::Client;
use super::headers;
use super::surface::Endpoint;
use crate::config::ConfigError;
use crate::config::overload::{Rate, RouteRates};
use crate::config::settings::Settings;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// How many times clients are counted between two looks at how many there are, as a part of those that are kept.
const LOOKS: usize = 4;

/// The rate of clients on all routes, and how clients are known.
pub struct Rates {
    per_client: Option<PerClient>,
    client_header: HeaderName,
    /// Whether requests come with the origin secret, so that their headers are the CDN's.
    trusts_header: bool,
    warned: AtomicBool,
}

/// The rates of one route.
pub struct RouteLimits {
    per_client: Option<PerClient>,
    total: Option<Total>,
}

/// What the rates that apply to a request say of it.
#[derive(Debug, Default)]
pub struct Rated(SmallVec<[Standing; 3]>);

/// What one rate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    policy: &'static str,
    rate: Rate,
    /// How many more may come at once; none where this one may not.
    left: Result<u32, Duration>,
}

type Limiter<K, S, C> = RateLimiter<K, S, C, StateInformationMiddleware>;

/// One rate, counted for each client.
struct PerClient<C: Clock = DefaultClock> {
    rate: Rate,
    clock: C,
    counts: ArcSwap<Limiter<Client, DashMapStateStore<Client>, C>>,
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
            per_client: limits.per_client.map(|rate| PerClient::new(rate, limits.clients_max, DefaultClock::default())),
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

    /// Counts a request. A client that is over its own rate uses up nothing of what all share.
    pub fn count(&self, endpoint: &Endpoint, client: Option<Client>) -> Rated {
        let mut rated = Rated::default();
        let per_client = [("route", &endpoint.limits.per_client), ("client", &self.per_client)];
        for (policy, limit) in per_client {
            if let Some((limit, client)) = limit.as_ref().zip(client)
                && rated.note(policy, limit.rate, limit.count(client))
            {
                return rated;
            }
        }
        if let Some(total) = &endpoint.limits.total {
            rated.note("total", total.rate, total.count());
        }
        rated
    }
}

impl RouteLimits {
    /// Counts that begin now, for so many clients at most.
    pub fn new(rates: RouteRates, clients_max: usize) -> Self {
        let clock = DefaultClock::default();
        Self {
            per_client: rates.per_client.map(|rate| PerClient::new(rate, clients_max, clock.clone())),
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
    fn note(&mut self, policy: &'static str, rate: Rate, left: Result<u32, Duration>) -> bool {
        self.0.push(Standing { policy, rate, left });
        left.is_err()
    }

    /// The rate that refuses the request, and in how many seconds it would not.
    pub fn refused(&self) -> Option<(Rate, u64)> {
        let refusing = self.0.iter().find(|standing| standing.left.is_err())?;
        Some((refusing.rate, refusing.window_secs()))
    }

    /// Tells the client of all rates that were looked at.
    pub fn tell(&self, head: &mut HeaderMap) {
        if self.0.is_empty() {
            return;
        }
        let list = |item: fn(&Standing) -> String| self.0.iter().map(item).collect::<Vec<_>>().join(", ");
        head.insert(RATE_LIMIT_POLICY, headers::value(list(Standing::policy)));
        head.insert(RATE_LIMIT, headers::value(list(Standing::state)));
    }
}

impl Standing {
    fn policy(&self) -> String {
        format!("\"{}\";q={};w={}", self.policy, self.rate.count, self.rate.window.as_secs())
    }

    fn state(&self) -> String {
        format!("\"{}\";r={};t={}", self.policy, self.left.unwrap_or(0), self.window_secs())
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

impl<C: Clock + Clone> PerClient<C> {
    fn new(rate: Rate, clients_max: usize, clock: C) -> Self {
        let counts = ArcSwap::from_pointee(Self::start(rate, &clock));
        Self { rate, clock, counts, clients_max, checks: AtomicUsize::new(0) }
    }

    fn start(rate: Rate, clock: &C) -> Limiter<Client, DashMapStateStore<Client>, C> {
        RateLimiter::dashmap_with_clock(quota(rate), clock.clone()).with_middleware()
    }

    fn count(&self, client: Client) -> Result<u32, Duration> {
        self.look_after();
        left(self.counts.load().check_key(&client), &self.clock)
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

    fn per_client(rate: Rate, clients_max: usize) -> (PerClient<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (PerClient::new(rate, clients_max, clock.clone()), clock)
    }

    #[test]
    fn a_client_has_its_count_at_once_and_then_one_each_interval() {
        let (limit, clock) = per_client(rate(60, 60), 100);
        let (one, other) = (Client::V4(1), Client::V4(2));
        for left in (0..60).rev() {
            assert_eq!(limit.count(one), Ok(left));
        }
        assert_eq!(limit.count(one), Err(Duration::from_secs(1)));
        assert_eq!(limit.count(other), Ok(59), "everybody has their own");
        clock.advance(Duration::from_millis(999));
        assert_eq!(limit.count(one), Err(Duration::from_millis(1)));
        clock.advance(Duration::from_millis(1));
        assert_eq!(limit.count(one), Ok(0));
        assert!(limit.count(one).is_err());
    }

    /// Whatever comes, and in whatever order, never more are kept than allowed, and those who are kept are held.
    #[test]
    fn clients_that_are_kept_have_a_bound() {
        let (limit, clock) = per_client(rate(1, 60), 100);
        for client in 0..100_000 {
            let _counted = limit.count(Client::V6(client));
            assert!(limit.counts.load().len() <= 100, "{client}");
        }
        clock.advance(Duration::from_secs(120));
        let held = Client::V4(1);
        limit.count(held).unwrap();
        for client in 0..20 {
            limit.count(Client::V4(2 + client)).unwrap();
        }
        assert!(limit.count(held).is_err(), "few clients are all remembered");
    }

    #[test]
    fn clients_with_all_of_their_rate_are_forgotten_first() {
        let (limit, clock) = per_client(rate(1, 60), 100);
        for client in 0..60 {
            limit.count(Client::V4(client)).unwrap();
        }
        // An interval later than they have it all again: the library is careful.
        clock.advance(Duration::from_secs(121));
        let held = Client::V4(1_000);
        limit.count(held).unwrap();
        for client in 2_000..2_060 {
            limit.count(Client::V4(client)).unwrap();
        }
        assert!(limit.count(held).is_err(), "it was kept while the others went");
    }

    #[test]
    fn what_is_told_is_what_the_draft_says() {
        let mut rated = Rated::default();
        let mut head = HeaderMap::new();
        rated.tell(&mut head);
        assert!(head.is_empty(), "nothing is told of no rates");
        rated.note("route", rate(10, 1), Ok(9));
        rated.note("client", rate(6000, 60), Err(Duration::from_millis(1_200)));
        rated.tell(&mut head);
        assert_eq!(head.get("ratelimit-policy").unwrap(), "\"route\";q=10;w=1, \"client\";q=6000;w=60");
        assert_eq!(head.get("ratelimit").unwrap(), "\"route\";r=9;t=1, \"client\";r=0;t=2");
        assert_eq!(rated.refused(), Some((rate(6000, 60), 2)));
    }
}
