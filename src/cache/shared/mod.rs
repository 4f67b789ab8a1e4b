//! L2: the entries of a fleet, in Redis.

pub mod codec;
