//! Whole fleets on real servers, in the races that a shared cache before replicas is known to lose. `docs/coherence.md` has the
//! argument why this one does not.

mod audit;
mod fleet;
mod lost_redis;
mod publisher;
mod refresh;
mod restart;
mod silence;
