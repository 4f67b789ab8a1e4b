//! Commands to Redis that never take longer than they may: each under a timeout, all behind one breaker, on connections that
//! come back by themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult, ServerErrorKind};
use tokio::sync::watch;
use tokio::time::{sleep, timeout_at};

use super::target::{Connection, Target};
use crate::config::ConfigError;
use crate::config::settings::RedisSettings;
use crate::nodes::breaker::{Breaker, BreakerState};
use crate::telemetry::metrics::Metrics;

/// Connections of a process: a worker that has one for itself wakes no other thread. Workers beyond as many share them.
const LINKS: usize = 16;
/// The first pause between two attempts to connect; each is twice as long as the one before, to `redis.open_time_max`.
const CONNECT_PAUSE: Duration = Duration::from_millis(20);
/// Redis' name among the nodes in metrics.
const NODE: &str = "redis";

/// Redis did not help. Why is logged and counted where it happened; a request goes on without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Redis is of no help now")]
pub struct Unavailable;

/// Why Redis did not help, as a closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Timeout,
    Connection,
    Full,
    ReadOnly,
    Loading,
    ClusterDown,
    Unauthorized,
    Refused,
}

impl Failure {
    fn of(error: &RedisError) -> Self {
        // Older servers report what a script ran into inside the text of another error.
        if error.code() == Some("OOM") || error.detail().is_some_and(|detail| detail.contains("OOM command")) {
            return Self::Full;
        }
        // Another password is wanted than the one that is set, or one where none is.
        if matches!(error.code(), Some("NOAUTH" | "WRONGPASS")) {
            return Self::Unauthorized;
        }
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::ReadOnly) => Self::ReadOnly,
            ErrorKind::Server(ServerErrorKind::BusyLoading) => Self::Loading,
            ErrorKind::Server(
                ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::Moved
                | ServerErrorKind::Ask,
            )
            | ErrorKind::ClusterConnectionNotFound => Self::ClusterDown,
            ErrorKind::Server(_) | ErrorKind::Extension => Self::Refused,
            _ => Self::Connection,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Connection => "connection",
            Self::Full => "full",
            Self::ReadOnly => "read_only",
            Self::Loading => "loading",
            Self::ClusterDown => "cluster_down",
            Self::Unauthorized => "unauthorized",
            Self::Refused => "refused",
        }
    }

    /// Whether it says something of the next command. A server that is full still reads, and a command that was refused
    /// says something of that command alone.
    const fn is_of_server(self) -> bool {
        !matches!(self, Self::Full | Self::Refused)
    }
}

/// Runs commands.
pub struct Commands {
    target: Arc<Target>,
    timeout: Duration,
    pause_max: Duration,
    breaker: Mutex<Breaker>,
    links: [Mutex<Option<Link>>; LINKS],
    metrics: Arc<Metrics>,
}

/// A connection that is there, or will be: whoever needs it waits for it as long as it may.
#[derive(Clone)]
struct Link(watch::Receiver<State>);

/// How far a connection is.
enum State {
    /// It is tried for the first time.
    Begun,
    /// It could not be made, and is tried again.
    Failing,
    Open(Connection),
}

thread_local! {
    static OWN_LINK: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % LINKS
    };
}

impl Commands {
    /// Commands to the Redis of the settings. A thread connects when it is told to, or when its first one comes.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn new(settings: &RedisSettings, metrics: &Arc<Metrics>) -> Result<Self, ConfigError> {
        let commands = Self {
            target: Arc::new(Target::new(settings)?),
            timeout: settings.timeout.0,
            pause_max: settings.open_time_max.0,
            breaker: Mutex::new(Breaker::new(
                settings.failures_to_open,
                settings.open_time.0,
                settings.open_time_max.0,
            )),
            links: Default::default(),
            metrics: Arc::clone(metrics),
        };
        commands.show(BreakerState::Closed);
        Ok(commands)
    }

    /// Where they go to.
    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }

    /// Opens the connection of this thread in the background. Else its first command would have to do that within `redis.timeout`,
    /// too.
    pub fn connect(&self) {
        self.link();
    }

    /// Whether connections are still being made, and it is not known how that ends.
    pub fn is_connecting(&self) -> bool {
        self.links.iter().any(|place| place.lock().as_ref().is_some_and(Link::has_begun))
    }

    /// Asks Redis something, in one wave. The answer is there within `redis.timeout`, or it is that Redis is of no help.
    ///
    /// # Errors
    /// [`Unavailable`], at once while the breaker is open.
    pub async fn run<T>(&self, ask: impl AsyncFnOnce(&mut Connection) -> RedisResult<T>) -> Result<T, Unavailable> {
        let began = Instant::now();
        if !self.admit(began) {
            return Err(Unavailable);
        }
        let link = self.link();
        let work = async {
            let mut connection = link.connection().await?;
            ask(&mut connection).await.map_err(|error| (Failure::of(&error), error.to_string()))
        };
        let outcome = timeout_at((began + self.timeout).into(), work).await;
        match outcome.unwrap_or_else(|_| Err((Failure::Timeout, "it did not answer in time".to_owned()))) {
            Ok(answer) => {
                self.succeeded();
                Ok(answer)
            }
            Err((failure, text)) => {
                self.failed(&link, failure, &text);
                Err(Unavailable)
            }
        }
    }

    /// Runs one command.
    ///
    /// # Errors
    /// [`Unavailable`], at once while the breaker is open.
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Unavailable> {
        self.run(async |connection| command.query_async(connection).await).await
    }

    /// A connection of the caller's own, for commands that block. It knows neither timeout nor breaker.
    ///
    /// # Errors
    /// [`Unavailable`], after `redis.connect_timeout` at most.
    pub async fn dedicated(&self) -> Result<Connection, Unavailable> {
        self.target.connect().await.map_err(|error| {
            self.target.say("no connection to Redis", &error);
            Unavailable
        })
    }

    fn admit(&self, now: Instant) -> bool {
        let mut breaker = self.breaker.lock();
        let is_admitted = breaker.admit(now);
        if is_admitted && breaker.state(now) != BreakerState::Closed {
            self.show(BreakerState::HalfOpen);
        }
        is_admitted
    }

    fn succeeded(&self) {
        let mut breaker = self.breaker.lock();
        if breaker.state(Instant::now()) != BreakerState::Closed {
            log::info!("Redis is in use again");
            self.show(BreakerState::Closed);
        }
        breaker.succeeded();
    }

    fn failed(&self, link: &Link, failure: Failure, text: &str) {
        self.metrics.redis_failures.with_label_values(&[failure.as_str()]).inc();
        // A cluster's connection loses one node and goes on with the others.
        if failure == Failure::Connection && !self.target.is_cluster() {
            self.links.iter().for_each(|place| drop(place.lock().take_if(|other| other.0.same_channel(&link.0))));
            self.link();
        }
        if !failure.is_of_server() {
            // It answered. What it says of one command it may say of each, such as where it wants a password.
            self.target.say("Redis refuses a command", &text);
            self.succeeded();
            return;
        }
        let now = Instant::now();
        let mut breaker = self.breaker.lock();
        let before = breaker.state(now);
        breaker.failed(now, fastrand::f64());
        if breaker.state(now) != BreakerState::Open || before == BreakerState::Open {
            return;
        }
        if before == BreakerState::Closed {
            log::warn!("Redis is left alone for a while: {text}");
        }
        self.show(BreakerState::Open);
        drop(breaker);
        // A connection on which nothing comes back may be dead without knowing. The next trial has a new one, which is made
        // meanwhile: that may take longer than a trial.
        self.links.iter().for_each(|place| drop(place.lock().take_if(|link| link.is_open())));
        self.link();
    }

    /// Whether Redis is asked, in contrast to being left alone.
    pub fn is_in_use(&self) -> bool {
        self.breaker.lock().state(Instant::now()) == BreakerState::Closed
    }

    fn show(&self, state: BreakerState) {
        self.metrics.node_up.with_label_values(&[NODE]).set(i64::from(state == BreakerState::Closed));
        self.metrics.node_breaker_state.with_label_values(&[NODE]).set(state.as_number());
    }

    /// The link of this thread. One that is not there yet connects in the background, until it succeeds or nobody wants it.
    fn link(&self) -> Link {
        let Some(place) = self.links.get(OWN_LINK.with(|own| *own)) else { return Link::dead() };
        let mut place = place.lock();
        if let Some(link) = place.as_ref().filter(|link| !link.is_dead()) {
            return link.clone();
        }
        let (sender, receiver) = watch::channel(State::Begun);
        tokio::spawn(connect(Arc::clone(&self.target), self.pause_max, sender));
        place.insert(Link(receiver)).clone()
    }
}

impl Link {
    /// A link that nobody connects.
    fn dead() -> Self {
        Self(watch::channel(State::Failing).1)
    }

    fn is_open(&self) -> bool {
        matches!(*self.0.borrow(), State::Open(_))
    }

    fn has_begun(&self) -> bool {
        matches!(*self.0.borrow(), State::Begun) && !self.is_dead()
    }

    /// Whether whoever was to connect it has gone, with the thread that it ran on.
    fn is_dead(&self) -> bool {
        !self.is_open() && self.0.has_changed().is_err()
    }

    async fn connection(&self) -> Result<Connection, (Failure, String)> {
        let known = self.0.borrow().connection();
        match known {
            Some(connection) => Ok(connection),
            None => {
                let mut link = self.0.clone();
                let open = link.wait_for(|state| matches!(state, State::Open(_))).await;
                let open = open.ok().and_then(|state| state.connection());
                open.ok_or_else(|| (Failure::Connection, "there is no connection".to_owned()))
            }
        }
    }
}

impl State {
    fn connection(&self) -> Option<Connection> {
        match self {
            Self::Open(connection) => Some(connection.clone()),
            Self::Begun | Self::Failing => None,
        }
    }
}

async fn connect(target: Arc<Target>, pause_max: Duration, link: watch::Sender<State>) {
    let mut pause = CONNECT_PAUSE;
    while !link.is_closed() {
        match target.connect().await {
            Ok(connection) => {
                link.send_replace(State::Open(connection));
                return;
            }
            Err(error) => {
                link.send_replace(State::Failing);
                target.say("no connection to Redis", &error);
            }
        }
        sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        pause = pause.saturating_mul(2).min(pause_max);
    }
}
