//! What produces responses.
