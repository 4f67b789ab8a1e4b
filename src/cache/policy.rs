//! The pure rules of time: what an entry of some age is good for (RFC 9111, RFC 5861), and when a hot one is refreshed
//! before it expires.

use std::time::Duration;

use crate::config::settings::EARLY_REFRESH_BETA_MAX;

/// How long an entry is good for what, counted from when its source was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Fresh until this age.
    pub fresh: Duration,
    /// Past freshness, served for this long while it is refreshed behind.
    pub stale_while_revalidate: Duration,
    /// Past freshness, served for this long when the source fails.
    pub stale_if_error: Duration,
}

/// What an entry may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Served as it is; so much freshness is left.
    Fresh(Duration),
    /// Served at once and refreshed behind; expired so long ago.
    Revalidate(Duration),
    /// Served only when the source fails; expired so long ago.
    IfError(Duration),
    /// Not served.
    Gone,
}

impl Limits {
    /// What an entry of this age may be used for.
    pub fn at(&self, age: Duration) -> Freshness {
        let Some(past) = age.checked_sub(self.fresh).filter(|past| !past.is_zero()) else {
            return Freshness::Fresh(self.fresh.saturating_sub(age));
        };
        if past <= self.stale_while_revalidate {
            Freshness::Revalidate(past)
        } else if past <= self.stale_if_error {
            Freshness::IfError(past)
        } else {
            Freshness::Gone
        }
    }

    /// How long an entry can be of any use.
    pub fn retention(&self) -> Duration {
        self.fresh.saturating_add(self.stale_while_revalidate.max(self.stale_if_error))
    }
}

/// Whether a hit refreshes an entry that is still fresh, so that a hot key never expires under load (XFetch: Vattani,
/// Chierichetti and Lowenstein, VLDB 2015): yes if `−β · cost · ln(random) ≥ left`.
///
/// `random` is in (0, 1]. Keys that are asked for often draw often, and so refresh early; cold keys expire in peace.
pub fn refreshes_early(left: Duration, cost: Duration, beta: f64, random: impl FnOnce() -> f64) -> bool {
    // −ln of a uniform draw exceeds 32 once in 10^14: nearly all hits end here, on whole numbers and without a draw.
    if left > cost.saturating_mul(32 * EARLY_REFRESH_BETA_MAX) || beta <= 0.0 {
        return false;
    }
    -beta * cost.as_secs_f64() * random().ln() >= left.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        fresh: Duration::from_secs(10),
        stale_while_revalidate: Duration::from_secs(5),
        stale_if_error: Duration::from_secs(60),
    };

    #[test]
    fn an_entry_is_good_for_less_and_less() {
        let at = |secs| LIMITS.at(Duration::from_secs(secs));
        let secs = Duration::from_secs;
        assert_eq!(at(0), Freshness::Fresh(secs(10)));
        assert_eq!(at(10), Freshness::Fresh(secs(0)));
        assert_eq!(at(11), Freshness::Revalidate(secs(1)));
        assert_eq!(at(15), Freshness::Revalidate(secs(5)));
        assert_eq!(at(16), Freshness::IfError(secs(6)));
        assert_eq!(at(70), Freshness::IfError(secs(60)));
        assert_eq!(at(71), Freshness::Gone);
        assert_eq!(LIMITS.retention(), secs(70));
    }

    #[test]
    fn early_refresh_grows_likely_toward_the_end() {
        let (cost, ms) = (Duration::from_millis(100), Duration::from_millis);
        let mut random = fastrand::Rng::with_seed(7);
        let mut share = |left| {
            let draws = (0..10_000).filter(|_| refreshes_early(left, cost, 1.0, || 1.0 - random.f64()));
            draws.count()
        };
        assert_eq!(share(ms(5_000)), 0);
        let (far, near) = (share(ms(300)), share(ms(100)));
        // The law says e^(−left/cost): 5 % and 37 %.
        assert!((300..700).contains(&far), "{far}");
        assert!((3_400..4_000).contains(&near), "{near}");
        assert_eq!(share(ms(0)), 10_000);
        assert!(!refreshes_early(ms(0), cost, 0.0, || 0.5), "beta 0 turns it off");
    }
}
