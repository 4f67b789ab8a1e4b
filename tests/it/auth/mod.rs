//! Who asks: API keys on real servers.

mod instances;
mod keys;
