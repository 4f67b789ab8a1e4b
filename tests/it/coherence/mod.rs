//! Whole fleets on real servers, in the races that a shared cache before replicas is known to lose. `docs/coherence.md` has the
//! argument why this one does not.

mod audit;
mod counted;
pub mod fleet;
mod hard;
mod herd;
mod late_commit;
mod leader;
mod lost_redis;
mod monotone;
mod outage;
mod own_clock;
mod promotion;
mod publisher;
mod refresh;
mod restart;
mod silence;
mod unflushed;
mod versions;
