//! The time of a log, which goes forward, whatever single lines say.

/// Lines are written once a request is done, so that they are a little out of order: up to this they are taken to be of now.
const BACK_MAX_MS: i64 = 3_600_000;
/// Nobody is asked nothing for so long: one line that says so has its time wrong.
const FORWARD_MAX_MS: i64 = 24 * 3_600_000;

/// Tells the time.
#[derive(Debug, Default)]
pub(super) struct Clock {
    now_ms: Option<i64>,
    /// A time far from now, which one line has said.
    doubted_ms: Option<i64>,
    /// The first and the last time that there was.
    pub span_ms: Option<(i64, i64)>,
    /// Lines that were behind the one before.
    pub behind: u64,
    /// How often two lines agreed that it was much earlier than thought, as where logs were put together in the wrong order.
    pub restarts: u64,
}

/// What time it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tick {
    /// So late, in milliseconds since 1970.
    At(i64),
    /// So late, and that is earlier than it was: what happened before has not happened yet.
    Back(i64),
}

impl Clock {
    /// Takes the time of the next line. A jump that is too long to believe must be said by two lines in a row.
    pub(super) fn tick(&mut self, time_ms: i64) -> Tick {
        let now_ms = self.now_ms.unwrap_or(time_ms);
        let jump_ms = time_ms - now_ms;
        if jump_ms < 0 {
            self.behind += 1;
        }
        let is_believed = (-BACK_MAX_MS..=FORWARD_MAX_MS).contains(&jump_ms);
        let is_confirmed = self.doubted_ms.take().is_some_and(|doubted| (time_ms - doubted).abs() <= BACK_MAX_MS);
        match (is_believed, is_confirmed) {
            (true, _) => self.set(time_ms.max(now_ms)),
            (false, true) if jump_ms < 0 => {
                self.restarts += 1;
                self.set(time_ms);
                return Tick::Back(time_ms);
            }
            (false, true) => self.set(time_ms),
            (false, false) => self.doubted_ms = Some(time_ms),
        }
        Tick::At(self.now_ms.unwrap_or(time_ms))
    }

    fn set(&mut self, now_ms: i64) {
        self.now_ms = Some(now_ms);
        let (first, last) = self.span_ms.unwrap_or((now_ms, now_ms));
        self.span_ms = Some((first.min(now_ms), last.max(now_ms)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    #[test]
    fn single_lines_do_not_turn_the_clock() {
        let mut clock = Clock::default();
        let t = 1_000 * HOUR;
        assert_eq!(clock.tick(t), Tick::At(t));
        assert_eq!(clock.tick(t - 500), Tick::At(t), "a little out of order");
        assert_eq!(clock.tick(t + 10 * HOUR), Tick::At(t + 10 * HOUR), "a quiet night");
        assert_eq!(clock.tick(t * 9), Tick::At(t + 10 * HOUR), "one line from the far future");
        assert_eq!(clock.tick(1), Tick::At(t + 10 * HOUR), "one from the past");
        assert_eq!(clock.tick(t + 11 * HOUR), Tick::At(t + 11 * HOUR));
        assert_eq!((clock.behind, clock.restarts), (2, 0));
        assert_eq!(clock.span_ms, Some((t, t + 11 * HOUR)));
    }

    #[test]
    fn two_lines_do() {
        let mut clock = Clock::default();
        let t = 1_000 * HOUR;
        assert_eq!([t, t + 100 * HOUR, t + 101 * HOUR].map(|t| clock.tick(t)).last(), Some(&Tick::At(t + 101 * HOUR)));
        assert_eq!([t - HOUR, t].map(|t| clock.tick(t)), [Tick::At(t + 101 * HOUR), Tick::Back(t)]);
        assert_eq!(clock.restarts, 1);
        assert_eq!(clock.span_ms, Some((t, t + 101 * HOUR)));
    }
}
