//! Who waits for a place, and who gets the next one: the more urgent first, and of the equally urgent the one who came first.
//!
//! Where it is full, the last of the least urgent makes room for who is more urgent. Nothing is spawned, no time is known.

use std::collections::VecDeque;

/// How urgent work is, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Somebody waits for the answer.
    Foreground,
    /// An answer that is stale was given, and is to be renewed.
    Revalidate,
    /// An answer is still fresh, and is renewed ahead of its time.
    Early,
    /// Nobody has asked: hot answers after a change, audits.
    Background,
}

impl Priority {
    /// All, the most urgent first.
    pub const ALL: [Self; 4] = [Self::Foreground, Self::Revalidate, Self::Early, Self::Background];

    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Foreground => "foreground",
            Self::Revalidate => "revalidate",
            Self::Early => "early",
            Self::Background => "background",
        }
    }
}

/// A queue of `T`s.
#[derive(Debug)]
pub struct Queue<T> {
    lines: [VecDeque<(u64, T)>; 4],
    len_max: usize,
    next: u64,
}

/// What [`Queue::push`] came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Pushed<T> {
    /// It waits, as this number; who had to make room for it is given back.
    Waits(u64, Option<T>),
    /// There is no room.
    Full,
}

impl<T> Queue<T> {
    /// An empty queue for so many.
    pub fn new(len_max: usize) -> Self {
        Self { lines: std::array::from_fn(|_| VecDeque::new()), len_max, next: 0 }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.lines.iter().map(VecDeque::len).sum()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.lines.iter().all(VecDeque::is_empty)
    }

    /// How many would get a place before who comes now.
    pub fn ahead(&self, priority: Priority) -> usize {
        let ahead = Priority::ALL.iter().zip(&self.lines).filter(|(other, _)| **other <= priority);
        ahead.map(|(_, line)| line.len()).sum()
    }

    /// Takes one more in.
    pub fn push(&mut self, priority: Priority, waiter: T) -> Pushed<T> {
        let mut makes_room = None;
        if self.len() >= self.len_max {
            let less_urgent = Priority::ALL.iter().zip(&mut self.lines).rev();
            let mut less_urgent = less_urgent.take_while(|(other, _)| **other > priority);
            match less_urgent.find_map(|(_, line)| line.pop_back()) {
                Some((_, other)) => makes_room = Some(other),
                None => return Pushed::Full,
            }
        }
        self.next += 1;
        let number = self.next;
        if let Some(line) = self.line(priority) {
            line.push_back((number, waiter));
        }
        Pushed::Waits(number, makes_room)
    }

    /// The next to get a place.
    pub fn pop(&mut self) -> Option<T> {
        self.lines.iter_mut().find_map(VecDeque::pop_front).map(|(_, waiter)| waiter)
    }

    /// Takes one out who waits no longer.
    pub fn remove(&mut self, priority: Priority, number: u64) -> Option<T> {
        let line = self.line(priority)?;
        // Numbers rise along a line.
        let at = line.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        line.remove(at).map(|(_, waiter)| waiter)
    }

    fn line(&mut self, priority: Priority) -> Option<&mut VecDeque<(u64, T)>> {
        Priority::ALL.iter().zip(&mut self.lines).find(|(other, _)| **other == priority).map(|(_, line)| line)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_more_urgent_go_first_and_equals_in_the_order_they_came() {
        let mut queue = Queue::new(10);
        for (name, priority) in [
            ("audit", Priority::Background),
            ("miss 1", Priority::Foreground),
            ("early", Priority::Early),
            ("stale", Priority::Revalidate),
            ("miss 2", Priority::Foreground),
        ] {
            assert!(matches!(queue.push(priority, name), Pushed::Waits(_, None)));
        }
        assert_eq!((queue.ahead(Priority::Foreground), queue.ahead(Priority::Revalidate)), (2, 3));
        let order: Vec<&str> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, ["miss 1", "miss 2", "stale", "early", "audit"]);
        assert!(queue.is_empty());
    }

    #[test]
    fn the_least_urgent_makes_room() {
        let mut queue = Queue::new(2);
        queue.push(Priority::Background, "first audit");
        queue.push(Priority::Background, "second audit");
        assert_eq!(queue.push(Priority::Background, "third audit"), Pushed::Full);
        assert!(matches!(queue.push(Priority::Foreground, "miss"), Pushed::Waits(_, Some("second audit"))));
        assert!(matches!(queue.push(Priority::Early, "early"), Pushed::Waits(_, Some("first audit"))));
        assert_eq!(queue.push(Priority::Early, "another"), Pushed::Full, "equals do not push each other out");
        assert_eq!(Queue::new(0).push(Priority::Foreground, "nobody waits here"), Pushed::Full);
    }

    proptest! {
        /// Beside a list that is sorted each time.
        #[test]
        fn it_is_a_stable_sorted_list_with_a_bound(steps in prop::collection::vec((0_usize..4, 0_u8..4), 0..200)) {
            const LEN_MAX: usize = 8;
            let mut queue = Queue::new(LEN_MAX);
            let mut model: Vec<(Priority, u64)> = Vec::new();
            for (priority, step) in steps {
                let priority = Priority::ALL[priority];
                match step {
                    0 => {
                        model.sort_unstable();
                        let next = (!model.is_empty()).then(|| model.remove(0).1);
                        prop_assert_eq!(queue.pop(), next);
                    }
                    1 if !model.is_empty() => {
                        let (priority, number) = model.swap_remove(model.len() / 2);
                        prop_assert_eq!(queue.remove(priority, number), Some(number));
                        prop_assert_eq!(queue.remove(priority, number), None, "it is gone");
                    }
                    _ => {
                        let number = queue.next + 1;
                        let pushed = queue.push(priority, number);
                        model.sort_unstable();
                        let has_room = model.len() < LEN_MAX || model.last().is_some_and(|(last, _)| *last > priority);
                        prop_assert_eq!(pushed != Pushed::Full, has_room);
                        if has_room {
                            model.truncate(LEN_MAX - 1);
                            model.push((priority, number));
                        }
                    }
                }
                prop_assert_eq!(queue.len(), model.len());
                prop_assert!(queue.len() <= LEN_MAX);
            }
        }
    }
}
