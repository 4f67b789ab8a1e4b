//! When snapshots are read and written.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::cache::shared::codec::Codec;
use crate::cache::snapshot::{self, Count};
use crate::http::pipeline::Pipeline;

/// The snapshot file of an instance.
pub struct Snapshots {
    file: PathBuf,
    codec: Codec,
    pipeline: Arc<Pipeline>,
    /// Held while a file is written: one at a time. Whether the last one could not be.
    failing: Mutex<bool>,
    /// Purges for good, counted: what was written while one came is not kept. Held while the file comes or goes.
    purges: Mutex<u64>,
    purged: Notify,
    /// Whether the process after this one keeps the file: what it has removed must not come back.
    is_given_up: AtomicBool,
}

impl Snapshots {
    /// The file that is set, if any.
    pub fn new(pipeline: &Arc<Pipeline>) -> Option<Self> {
        let settings = &pipeline.settings;
        let file = Some(&settings.cache.snapshot_file).filter(|file| !file.is_empty())?;
        Some(Self {
            file: PathBuf::from(file),
            codec: Codec::new(&settings.cache.namespace, settings.limits.response_bytes_max),
            pipeline: Arc::clone(pipeline),
            failing: Mutex::default(),
            purges: Mutex::default(),
            is_given_up: AtomicBool::default(),
            purged: Notify::new(),
        })
    }

    /// Reads the file. One that cannot be used is said, and is no reason not to start. Blocks.
    pub fn load(&self) {
        let file = self.file.display();
        let settings = &self.pipeline.settings;
        // What was purged for good is remembered for so long, and must not come back after that either.
        let (bytes_max, age_max) = (settings.cache.snapshot_bytes_max, settings.changes.hard_retention.0);
        match snapshot::load(&self.file, &self.pipeline.cache.memory, &self.codec, bytes_max, age_max) {
            Ok(count) => log::info!("{} entries were read from {file}; they are stale until validated", count.entries),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => log::error!("cache.snapshot_file: {file} is not used: {error}"),
        }
    }

    /// Writes the file, and says once when that begins to fail and when it ends to. Blocks.
    pub fn write(&self) {
        let mut failing = self.failing.lock();
        let (file, outcome) = (self.file.display(), self.try_write());
        match &outcome {
            Ok(_) if *failing => log::info!("cache.snapshot_file: {file} is written again"),
            Ok(Some(count)) => log::debug!("{} entries were written to {file}", count.entries),
            Ok(None) => log::debug!("a purge for good came while {file} was written: it is not kept"),
            Err(_) if *failing => {}
            Err(error) => log::error!("cache.snapshot_file: {file} cannot be written: {error}"),
        }
        *failing = outcome.is_err();
        let label = if outcome.is_ok() { "ok" } else { "failed" };
        self.pipeline.metrics.snapshots.with_label_values(&[label]).inc();
    }

    /// The file is somebody else's from now on.
    pub fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Relaxed);
    }

    fn try_write(&self) -> io::Result<Option<Count>> {
        let cache = &self.pipeline.cache;
        let bytes_max = self.pipeline.settings.cache.snapshot_bytes_max;
        let before = *self.purges.lock();
        let (draft, count) = snapshot::write(&self.file, &cache.memory, &cache.fences, &self.codec, bytes_max)?;
        let purges = self.purges.lock();
        if *purges != before || self.is_given_up.load(Ordering::Relaxed) {
            return Ok(None);
        }
        draft.publish(&self.file)?;
        Ok(Some(count))
    }

    /// Something was purged for good: what the file holds of it must not come back, so the file goes at once.
    pub fn forget(&self) {
        let mut purges = self.purges.lock();
        *purges += 1;
        self.remove();
        drop(purges);
        self.purged.notify_one();
    }

    fn remove(&self) {
        match std::fs::remove_file(&self.file) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                log::error!("cache.snapshot_file: {} cannot be removed: {error}", self.file.display());
            }
            _ => {}
        }
    }

    /// Writes the file now and then, for as long as the instance lives.
    pub async fn keep(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = sleep(self.pipeline.settings.cache.snapshot_interval.0) => {}
                () = self.purged.notified() => {}
            }
            let own = Arc::clone(&self);
            // It takes as long as the disk does, and no worker waits for it.
            let _written = actix_rt::task::spawn_blocking(move || own.write()).await;
        }
    }
}
