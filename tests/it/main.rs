//! The parts of the library against real servers; the modules mirror `src/`.

mod database;
mod support;
