//! What is found most often, in bounded memory: the space-saving counters of Metwally, Agrawal and El Abbadi (ICDT 2005).

use std::collections::{BTreeSet, HashMap};

/// Names that are counted at once.
const COUNTED_MAX: usize = 1000;
/// Bytes of a name.
const NAME_BYTES_MAX: usize = 200;

/// Counts names. Where there are more than a thousand, the rarest give their place and their count to what is new, so that counts
/// are upper bounds from then on.
#[derive(Default)]
pub(super) struct Top {
    counts: HashMap<String, u64>,
    by_count: BTreeSet<(u64, String)>,
    /// All that was counted.
    pub total: u64,
    /// Whether names had to give way.
    pub is_approximate: bool,
}

impl Top {
    pub(super) fn count(&mut self, name: &str) {
        // It came over the network, and goes to a terminal.
        let mut name: String = name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        name.truncate(name.floor_char_boundary(NAME_BYTES_MAX));
        self.total += 1;
        let count = match self.counts.get(&name) {
            Some(count) => *count,
            None if self.counts.len() >= COUNTED_MAX => {
                self.is_approximate = true;
                self.by_count.pop_first().map_or(0, |(count, rarest)| {
                    self.counts.remove(&rarest);
                    count
                })
            }
            None => 0,
        };
        self.by_count.remove(&(count, name.clone()));
        self.by_count.insert((count + 1, name.clone()));
        self.counts.insert(name, count + 1);
    }

    /// The most frequent ones, of equals the last by name first.
    pub(super) fn first(&self, most: usize) -> impl Iterator<Item = (&str, u64)> {
        self.by_count.iter().rev().take(most).map(|(count, name)| (name.as_str(), *count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_names_are_found_among_any_number_of_others() {
        let mut top = Top::default();
        for number in 0..50_000 {
            top.count(&format!("/scan/{number}"));
            if number % 10 == 0 {
                top.count("/often\u{1b}[2J");
            }
        }
        let (name, count) = top.first(1).next().unwrap();
        assert_eq!(name, "/often\u{fffd}[2J");
        assert!((5_000..=5_100).contains(&count), "{count}");
        assert!(top.is_approximate);
        assert_eq!((top.total, top.counts.len(), top.by_count.len()), (55_000, COUNTED_MAX, COUNTED_MAX));
    }
}
