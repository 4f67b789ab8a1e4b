//! The hottest answers of routes with `on_change = "refresh"`: rendered again as soon as a change purges them, in place of
//! waiting for a request.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::pipeline::Pipeline;
use super::surface::Endpoint;
use crate::cache::entry::Entry;
use crate::cache::fence::Standing;
use crate::cache::key::Key;
use crate::config::param::Params;
use crate::nodes::queue::Priority;

/// Answers that are kept in mind.
const KEYS_MAX: usize = 1024;
/// Answers that one change has rendered again.
const REFRESHES_MAX: usize = 32;

/// How the answers in mind are asked for.
#[derive(Default)]
pub struct Hot(Mutex<HashMap<Key, Asked>>);

#[derive(Clone)]
struct Asked {
    endpoint: Arc<Endpoint>,
    params: Params,
    canonical: Box<[u8]>,
}

impl Pipeline {
    /// Keeps in mind how an answer is asked for. Where there are too many, those go that are hit least.
    pub(super) fn keep_in_mind(&self, endpoint: &Arc<Endpoint>, params: &Params, key: Key, canonical: &[u8]) {
        let mut kept = self.hot.0.lock();
        if kept.len() >= KEYS_MAX && !kept.contains_key(&key) {
            let mut hits: Vec<u64> = kept.iter().map(|(key, asked)| self.hits(*key, asked)).collect();
            let middle = hits.len() / 2;
            let cut = *hits.select_nth_unstable(middle).1;
            kept.retain(|key, asked| self.hits(*key, asked) > cut);
        }
        kept.entry(key).or_insert_with(|| Asked {
            endpoint: Arc::clone(endpoint),
            params: params.clone(),
            canonical: canonical.into(),
        });
    }

    fn hits(&self, key: Key, asked: &Asked) -> u64 {
        self.kept(key, asked).map_or(0, |entry| entry.hits())
    }

    fn kept(&self, key: Key, asked: &Asked) -> Option<Arc<Entry>> {
        self.cache.memory.peek(key, &asked.canonical, &asked.endpoint.route.fingerprint)
    }

    /// Renders the hottest of those answers again that a change has just purged. Never waits.
    pub fn refresh_hottest(self: &Arc<Self>) {
        let now = Instant::now();
        let purged = |entry: &Arc<Entry>| {
            entry.hits() > 0 && entry.standing(&self.cache.fences, entry.age(now), now) == Standing::Purged
        };
        let mut fallen: Vec<(u64, Key, Asked)> = {
            let kept = self.hot.0.lock();
            let fallen = kept.iter().filter_map(|(key, asked)| {
                let entry = self.kept(*key, asked).filter(purged)?;
                Some((entry.hits(), *key, asked.clone()))
            });
            fallen.collect()
        };
        fallen.sort_unstable_by_key(|(hits, ..)| std::cmp::Reverse(*hits));
        for (_, key, Asked { endpoint, params, canonical }) in fallen.into_iter().take(REFRESHES_MAX) {
            self.refresh(&endpoint, params, key, &canonical, Priority::Background);
        }
    }
}
