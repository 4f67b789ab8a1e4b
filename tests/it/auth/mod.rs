//! Who asks: API keys on real servers.

mod keys;
