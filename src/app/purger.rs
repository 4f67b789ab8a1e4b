//! Purges of an instance that nobody tells anything: what it is told by its own operators is all there is.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::admin::purge::{Order, Purger, Report};
use crate::cache::tag::Tag;
use crate::error::Error;
use crate::http::pipeline::Pipeline;

/// Purges here alone.
pub(super) struct Alone {
    pub(super) pipeline: Arc<Pipeline>,
}

impl Purger for Alone {
    fn purge(&self, order: Order) -> BoxFuture<'_, Result<Report, Error>> {
        let tags: Vec<Tag> = order.tags.into_iter().map(Tag::new).collect();
        let fence = self.pipeline.cache.fences.change(|ledger| {
            ledger.purge_here(&tags, None, order.hard);
            ledger.told()
        });
        let report = Report {
            id: format!("{:016x}", fastrand::u64(..)),
            fence,
            known: 1,
            confirmed: 1,
            reached: vec![self.pipeline.settings.region.clone()],
            unreached: Vec::new(),
        };
        async { Ok(report) }.boxed()
    }
}
