//! Settings and manifest.

mod manifest;
mod settings;
