//! When snapshots are read and written.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::cache::shared::codec::Codec;
use crate::cache::snapshot;
use crate::http::pipeline::Pipeline;

/// The snapshot file of an instance.
pub struct Snapshots {
    file: PathBuf,
    codec: Codec,
    pipeline: Arc<Pipeline>,
    /// Purges for good, counted: what was written while one came is not kept.
    purges: AtomicU64,
    purged: Notify,
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
            purges: AtomicU64::new(0),
            purged: Notify::new(),
        })
    }

    /// Reads the file. One that cannot be used is said, and is no reason not to start. Blocks.
    pub fn load(&self) {
        let file = self.file.display();
        match snapshot::load(&self.file, &self.pipeline.cache.memory, &self.codec) {
            Ok(count) => log::info!("{} entries were read from {file}; they are stale until validated", count.entries),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => log::error!("cache.snapshot_file: {file} is not used: {error}"),
        }
    }

    /// Writes the file. Blocks.
    pub fn write(&self) {
        let cache = &self.pipeline.cache;
        let bytes_max = self.pipeline.settings.cache.snapshot_bytes_max;
        let purges = self.purges.load(Ordering::SeqCst);
        match snapshot::write(&self.file, &cache.memory, &cache.fences, &self.codec, bytes_max) {
            Ok(count) => log::debug!("{} entries were written to {}", count.entries, self.file.display()),
            Err(error) => log::error!("cache.snapshot_file: {} cannot be written: {error}", self.file.display()),
        }
        if self.purges.load(Ordering::SeqCst) != purges {
            self.remove();
        }
    }

    /// Something was purged for good: what the file holds of it must not come back, so the file goes at once.
    pub fn forget(&self) {
        self.purges.fetch_add(1, Ordering::SeqCst);
        self.remove();
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
