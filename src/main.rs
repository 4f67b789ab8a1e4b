//! The `mainstay` program.

use std::process::ExitCode;

/// Small and fast for many short allocations of several threads, which is what serving is.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    mainstay::Builder::new().main()
}
