//! Who is let in, and that nobody sees what is another's.

mod failover;
mod gate;
mod instances;
mod jwt;
mod keys;
mod leaks;
pub mod people;
mod rates;
mod rows;
mod strong;
