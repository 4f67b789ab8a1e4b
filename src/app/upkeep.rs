//! Work on the maintenance pool, in the background.

use std::error::Error;
use std::sync::Arc;

use diesel::QueryResult;

use crate::config::settings::Settings;
use crate::database::maintenance::{MaintenanceConnection, MaintenancePool};

/// A pool that is opened when the first work needs it, and anew after one has failed.
pub(super) struct Upkeep {
    settings: Arc<Settings>,
    pool: Option<MaintenancePool>,
}

impl Upkeep {
    pub(super) fn new(settings: &Arc<Settings>) -> Self {
        Self { settings: Arc::clone(settings), pool: None }
    }

    /// Does something on a connection, on a thread that may block. Dropped before its end, the work goes on.
    ///
    /// # Errors
    /// Why it was not done, for the log.
    pub(super) async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut MaintenanceConnection) -> QueryResult<T> + Send + 'static,
    ) -> Result<T, String> {
        let (settings, kept) = (Arc::clone(&self.settings), self.pool.take());
        let work = move || -> Result<(MaintenancePool, T), Box<dyn Error + Send + Sync>> {
            let pool = match kept {
                Some(pool) => pool,
                None => MaintenancePool::open(&settings.database)?,
            };
            let done = work(&mut *pool.get()?)?;
            Ok((pool, done))
        };
        match actix_rt::task::spawn_blocking(work).await {
            Ok(Ok((pool, done))) => {
                self.pool = Some(pool);
                Ok(done)
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(panic) => Err(panic.to_string()),
        }
    }
}
