//! One pool a node. A connection that has done its work goes back; whatever was interrupted is thrown away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::{self, Metrics, RecycleError, RecycleResult, Timeouts};
use diesel_async::pooled_connection::PoolableConnection;
use tokio::sync::Semaphore;

use super::connect::{ConnectError, Connector, Link};
use crate::config::ConfigError;
use crate::config::settings::DatabaseSettings;

/// How many connections a node is asked to open at once: a server that comes back is not met by a stampede of logins.
const OPENING_MAX: usize = 4;

/// Opens and recycles the connections of one node.
pub struct Manager(Arc<Origin>);

/// What the shards of a pool share.
struct Origin {
    connector: Connector,
    epoch: AtomicU64,
    opening: Semaphore,
}

/// A connection, and the epoch it was opened in.
pub struct Pooled {
    /// The connection.
    pub link: Link,
    epoch: u64,
}

impl managed::Manager for Manager {
    type Type = Pooled;
    type Error = ConnectError;

    async fn create(&self) -> Result<Pooled, ConnectError> {
        let _turn = self.0.opening.acquire().await;
        let epoch = self.0.epoch.load(Ordering::Acquire);
        let link = self.0.connector.open().await?;
        Ok(Pooled { link, epoch })
    }

    /// No round trip: that the server went away is known to the driver, that it became another is known to the sampler.
    async fn recycle(&self, pooled: &mut Pooled, _: &Metrics) -> RecycleResult<ConnectError> {
        if pooled.epoch != self.0.epoch.load(Ordering::Acquire) {
            return Err(RecycleError::message("the node has become another since"));
        }
        if pooled.link.connection.is_broken() {
            return Err(RecycleError::message("the connection is closed, or was left inside a transaction"));
        }
        Ok(())
    }
}

/// Why no connection was handed out.
#[derive(Debug)]
pub enum NoConnection {
    /// All are in use.
    Busy,
    /// The node cannot be reached.
    Failed(ConnectError),
    /// The pool is closed.
    Closed,
}

/// The pool of one node, in one shard a worker.
///
/// A connection is driven on the thread that opened it. Used from another one, each answer wakes two threads, which
/// costs a third of the throughput of short reads; so a thread uses its own shard first, and others only when that is empty.
pub struct Pool {
    shards: Vec<managed::Pool<Manager>>,
    origin: Arc<Origin>,
    wait_timeout: Duration,
    connect_timeout: Duration,
}

impl Pool {
    /// A pool for so many workers; it opens connections when they are asked for.
    ///
    /// # Errors
    /// Never in practice: the builder refuses timeouts without a runtime, and it is given one.
    pub fn new(connector: Connector, workers: usize, settings: &DatabaseSettings) -> Result<Self, ConfigError> {
        let opening = Semaphore::new(OPENING_MAX);
        let origin = Arc::new(Origin { connector, epoch: AtomicU64::new(0), opening });
        let count = workers.clamp(1, settings.pool_size.max(1));
        let shards = (0..count).map(|shard| {
            // The sizes add up to the whole: the first shards take what does not divide.
            let size = settings.pool_size / count + usize::from(shard < settings.pool_size % count);
            managed::Pool::builder(Manager(origin.clone())).max_size(size).runtime(Runtime::Tokio1).build()
        });
        let shards = shards.collect::<Result<_, _>>();
        let shards = shards.map_err(|error| ConfigError::new(format!("database.pool_size: {error}")))?;
        let (wait_timeout, connect_timeout) = (settings.wait_timeout.0, settings.connect_timeout.0);
        Ok(Self { shards, origin, wait_timeout, connect_timeout })
    }

    /// The connector behind the pool.
    pub fn connector(&self) -> &Connector {
        &self.origin.connector
    }

    /// A connection, within its share of `left`: of this thread's shard, of another, or the next that comes back to its own.
    ///
    /// # Errors
    /// When all are in use for too long, or none can be opened.
    pub async fn lease(&self, left: Duration) -> Result<Lease, NoConnection> {
        let own = thread_number() % self.shards.len().max(1);
        let (before, from_own) = self.shards.split_at_checked(own).unwrap_or_default();
        let mut failed = None;
        for shard in from_own.iter().chain(before) {
            // Where none can be opened, for want of an address of the node perhaps, those that are open may be as well as ever.
            if failed.is_some() && shard.status().available == 0 {
                continue;
            }
            match self.lease_of(shard, Duration::ZERO, left).await {
                Err(NoConnection::Busy) => {}
                Err(NoConnection::Failed(error)) => failed = Some(error),
                outcome => return outcome,
            }
        }
        match (failed, from_own.first()) {
            (Some(error), _) => Err(NoConnection::Failed(error)),
            (None, Some(shard)) => self.lease_of(shard, self.wait_timeout.min(left), left).await,
            (None, None) => Err(NoConnection::Closed),
        }
    }

    async fn lease_of(
        &self,
        shard: &managed::Pool<Manager>,
        wait: Duration,
        left: Duration,
    ) -> Result<Lease, NoConnection> {
        let timeouts = Timeouts {
            wait: Some(wait),
            // Waiting for a turn to open counts, too.
            create: Some((self.connect_timeout * 2).min(left)),
            recycle: Some(left),
        };
        match shard.timeout_get(&timeouts).await {
            Ok(object) => Ok(Lease::new(Held::Pooled(object))),
            Err(managed::PoolError::Timeout(managed::TimeoutType::Wait)) => Err(NoConnection::Busy),
            Err(managed::PoolError::Backend(error)) => Err(NoConnection::Failed(error)),
            Err(managed::PoolError::Closed) => Err(NoConnection::Closed),
            Err(error) => Err(NoConnection::Failed(ConnectError {
                target: self.connector().label().clone(),
                reason: error.to_string(),
                state: None,
            })),
        }
    }

    /// A new connection for one use, where those of the pool may all remember what is out of date.
    ///
    /// # Errors
    /// When none can be opened.
    pub async fn fresh(&self) -> Result<Lease, NoConnection> {
        let _turn = self.origin.opening.acquire().await;
        let link = self.origin.connector.open().await.map_err(NoConnection::Failed)?;
        Ok(Lease::new(Held::Own(link)))
    }

    /// Connections opened before now are not handed out again: the node has become another.
    pub fn new_epoch(&self) {
        self.origin.epoch.fetch_add(1, Ordering::AcqRel);
        for shard in &self.shards {
            shard.retain(|_, _| false);
        }
    }

    /// Connections open and in use, for the metrics.
    pub fn usage(&self) -> PoolUsage {
        self.shards.iter().map(managed::Pool::status).fold(PoolUsage::default(), |sum, shard| PoolUsage {
            open: sum.open + shard.size,
            idle: sum.idle + shard.available,
            waiting: sum.waiting + shard.waiting,
            size_max: sum.size_max + shard.max_size,
        })
    }

    /// Hands out nothing more.
    pub fn close(&self) {
        self.shards.iter().for_each(managed::Pool::close);
    }
}

/// Threads that read are numbered as they come, which spreads workers evenly over the shards.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed));
    NUMBER.with(|number| *number)
}

/// How full a pool is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolUsage {
    /// Connections that are open.
    pub open: usize,
    /// Those of them that nobody uses.
    pub idle: usize,
    /// Requests that wait for one.
    pub waiting: usize,
    /// The bound of `open`.
    pub size_max: usize,
}

/// A connection on loan. It goes back only by [`Lease::give_back`]: dropped in the middle of a query, by a deadline or a
/// client that went away, the connection still has an answer to come, and is closed.
pub struct Lease {
    held: Option<Held>,
}

enum Held {
    Pooled(managed::Object<Manager>),
    /// Opened for one use, outside the pool's bound.
    Own(Link),
}

impl Lease {
    fn new(held: Held) -> Self {
        Self { held: Some(held) }
    }

    /// The connection.
    pub fn link(&mut self) -> Option<&mut Link> {
        self.held.as_mut().map(|held| match held {
            Held::Pooled(pooled) => &mut pooled.link,
            Held::Own(link) => link,
        })
    }

    /// Whether it was handed out before. What breaks on such a connection may say nothing of the server as it is now.
    pub fn has_served(&self) -> bool {
        matches!(&self.held, Some(Held::Pooled(object)) if managed::Object::metrics(object).recycle_count > 0)
    }

    /// Returns the connection to its pool.
    pub fn give_back(mut self) {
        drop(self.held.take());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(Held::Pooled(object)) = self.held.take() {
            drop(managed::Object::take(object));
        }
    }
}
