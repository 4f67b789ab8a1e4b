//! Who is let in, and that nobody sees what is another's.

mod instances;
mod jwt;
mod keys;
