//! The tags that the edge has yet to hear of. Times are passed in.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::cache::tag::EVERYTHING;

/// Tags that are kept; more of them become one, for everything. Their paths would come to as much.
const TAGS_MAX: usize = 1000;

/// Tags, and when they were purged.
#[derive(Debug, Default)]
pub struct Pending {
    tags: BTreeMap<String, Purged>,
}

/// When a tag was purged since it was last told.
#[derive(Clone, Copy, Debug)]
struct Purged {
    first: Instant,
    last: Instant,
}

impl Pending {
    /// Adds purged tags.
    pub fn add<'a>(&mut self, tags: impl Iterator<Item = &'a str>, now: Instant) {
        for tag in tags {
            let is_too_many = self.tags.len() >= TAGS_MAX && !self.tags.contains_key(tag);
            if tag == EVERYTHING || is_too_many {
                self.add_everything(now);
            } else {
                self.add_one(tag, now);
            }
        }
    }

    fn add_one(&mut self, tag: &str, now: Instant) {
        let purged = self.tags.entry(tag.to_owned()).or_insert(Purged { first: now, last: now });
        purged.last = now;
    }

    fn add_everything(&mut self, now: Instant) {
        let first = self.tags.values().map(|purged| purged.first).min().unwrap_or(now);
        self.tags = BTreeMap::from([(EVERYTHING.to_owned(), Purged { first, last: now })]);
    }

    /// How many tags there are.
    pub fn len(&self) -> usize {
        self.tags.len()
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.tags.is_empty()
    }

    /// The tags whose first purge is at least so old that every inner tier has heard of it. One that was purged again since stays:
    /// the edge may ask before all have heard of that. None goes without being told, however often it is purged.
    pub fn take(&mut self, settle_time: Duration, now: Instant) -> Vec<String> {
        let is_settled = |at: Instant| now.saturating_duration_since(at) >= settle_time;
        let mut taken = Vec::new();
        self.tags.retain(|tag, purged| {
            if !is_settled(purged.first) {
                return true;
            }
            taken.push(tag.clone());
            purged.first = purged.last;
            !is_settled(purged.last)
        });
        taken
    }

    /// Forgets what another instance has told by now.
    pub fn forget_before(&mut self, at: Instant) {
        self.tags.retain(|_, purged| purged.last >= at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: Duration = Duration::from_secs(2);

    #[test]
    fn a_tag_is_told_once_the_inner_tiers_have_heard_of_it_and_again_if_it_was_purged_since() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut pending = Pending::default();
        pending.add(["rates", "fees"].into_iter(), at(0));
        pending.add(["rates"].into_iter(), at(1));
        assert_eq!(pending.take(SETTLE, at(1)), Vec::<String>::new());
        assert_eq!(pending.take(SETTLE, at(2)), ["fees", "rates"]);
        assert_eq!(pending.len(), 1, "of the second purge of rates not all may have heard");
        assert_eq!(pending.take(SETTLE, at(2)), Vec::<String>::new());
        assert_eq!(pending.take(SETTLE, at(3)), ["rates"]);
        assert!(pending.is_empty());
    }

    #[test]
    fn a_tag_that_never_rests_is_told_all_the_same() {
        let start = Instant::now();
        let mut pending = Pending::default();
        let mut told = 0;
        for tenth in 0..200 {
            let now = start + Duration::from_millis(100 * tenth);
            pending.add(["rates"].into_iter(), now);
            told += pending.take(SETTLE, now).len();
        }
        assert_eq!(told, 9, "once in the time that it takes to settle");
    }

    #[test]
    fn too_many_tags_are_everything() {
        let now = Instant::now();
        let mut pending = Pending::default();
        let names: Vec<String> = (0..=TAGS_MAX).map(|number| format!("rates:{number}")).collect();
        pending.add(names.iter().map(String::as_str), now);
        assert_eq!(pending.take(Duration::ZERO, now), [EVERYTHING]);
    }

    #[test]
    fn what_is_purged_after_everything_is_told_by_its_name() {
        let start = Instant::now();
        let mut pending = Pending::default();
        pending.add([EVERYTHING].into_iter(), start);
        pending.add(["rates"].into_iter(), start + SETTLE / 2);
        assert_eq!(pending.take(SETTLE, start + SETTLE), [EVERYTHING]);
        assert_eq!(pending.take(SETTLE, start + SETTLE * 2), ["rates"]);
        assert!(pending.is_empty());
    }

    #[test]
    fn who_does_not_tell_forgets_what_another_has_told() {
        let start = Instant::now();
        let mut pending = Pending::default();
        pending.add(["old"].into_iter(), start);
        pending.add(["new"].into_iter(), start + SETTLE);
        pending.forget_before(start + SETTLE);
        assert_eq!(pending.take(Duration::ZERO, start + SETTLE), ["new"]);
    }
}
