//! Who is let in, and that nobody sees what is another's.

mod gate;
mod signer;
