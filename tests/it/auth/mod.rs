//! Who is let in, and that nobody sees what is another's.

mod gate;
mod instances;
mod jwt;
mod keys;
mod signer;
