//! Settings and manifest.
