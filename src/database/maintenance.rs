//! Blocking connections for what is no request: migrations and imports.
//!
//! Sync Diesel needs libpq for Postgres; wrapped around a connection of diesel-async it does not, and TLS is the same as
//! everywhere. The connections live on a runtime of their own, so that they also work where no other runtime runs.

use std::io;
use std::time::Duration;

use diesel_async::AsyncPgConnection;
use diesel_async::async_connection_wrapper::AsyncConnectionWrapper;
use diesel_async::pooled_connection::PoolableConnection;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::connect::{ConnectError, Connector, Session};
use crate::config::ConfigError;
use crate::config::settings::DatabaseSettings;

/// How many connections an import may use.
const POOL_SIZE: u32 = 4;

/// What `diesel::…::load(&mut *connection)` and `MigrationHarness` take.
pub type MaintenanceConnection = AsyncConnectionWrapper<AsyncPgConnection>;

/// A pool of blocking connections to the primary, past a pooler where `database.direct_url` is set.
///
/// Not to be used on a thread that runs a runtime: use `spawn_blocking` there.
#[derive(Clone)]
pub struct MaintenancePool {
    pool: r2d2::Pool<Manager>,
}

/// A connection on loan.
pub type Pooled = r2d2::PooledConnection<Manager>;

impl MaintenancePool {
    /// A pool on the maintenance URL. Connects when a connection is asked for.
    ///
    /// # Errors
    /// When no URL is configured, or the one that is cannot be used.
    pub fn open(settings: &DatabaseSettings) -> Result<Self, MaintenanceError> {
        let direct = !settings.direct_url.is_empty();
        let key = if direct { "database.direct_url" } else { "database.url" };
        if settings.maintenance_url().is_empty() {
            return Err(MaintenanceError::Config(ConfigError::new(format!("{key}: not set; set DATABASE_URL"))));
        }
        let connector = Connector::new(key, settings.maintenance_url(), Session::Maintenance, settings)?;
        let manager = Manager { connector, runtime: Runtime::start()? };
        let pool = r2d2::Pool::builder()
            .max_size(POOL_SIZE)
            .min_idle(Some(0))
            .connection_timeout(settings.connect_timeout.0 + Duration::from_millis(250))
            .error_handler(Box::new(r2d2::NopErrorHandler))
            .build_unchecked(manager);
        Ok(Self { pool })
    }

    /// A connection.
    ///
    /// # Errors
    /// When the server cannot be reached, or all connections are in use.
    pub fn get(&self) -> Result<Pooled, MaintenanceError> {
        self.pool.get().map_err(|error| MaintenanceError::Pool(reason(&error)))
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum MaintenanceError {
    /// The settings do not do.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The runtime could not be started.
    #[error("cannot start a thread for database work: {0}")]
    Runtime(#[from] io::Error),
    /// No connection came in time; the text says why.
    #[error("no connection to the database: {0}")]
    Pool(String),
}

/// What kept the pool from a connection. It says first that it waited, which is its way and not the matter.
fn reason(error: &r2d2::Error) -> String {
    let text = error.to_string();
    match text.strip_prefix("timed out waiting for connection") {
        Some("") => "it did not answer in time".to_owned(),
        Some(reason) => reason.trim_start_matches(": ").to_owned(),
        None => text,
    }
}

/// Opens connections on the runtime that drives them.
pub struct Manager {
    connector: Connector,
    runtime: Runtime,
}

impl r2d2::ManageConnection for Manager {
    type Connection = MaintenanceConnection;
    type Error = ConnectError;

    fn connect(&self) -> Result<MaintenanceConnection, ConnectError> {
        let link = self.runtime.handle.block_on(self.connector.open())?;
        // The wrapper remembers the runtime that is entered where it is made.
        let _entered = self.runtime.handle.enter();
        Ok(AsyncConnectionWrapper::from(link.connection))
    }

    /// No round trip: whether the server is gone is known to the driver.
    fn is_valid(&self, _: &mut MaintenanceConnection) -> Result<(), ConnectError> {
        Ok(())
    }

    fn has_broken(&self, connection: &mut MaintenanceConnection) -> bool {
        PoolableConnection::is_broken(&mut **connection)
    }
}

/// A runtime with a thread that drives it until this is dropped.
struct Runtime {
    handle: Handle,
    _stop: oneshot::Sender<()>,
}

impl Runtime {
    fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let handle = runtime.handle().clone();
        std::thread::Builder::new().name("maintenance".to_owned()).spawn(move || {
            let _stopped = runtime.block_on(stopped);
        })?;
        Ok(Self { handle, _stop: stop })
    }
}
