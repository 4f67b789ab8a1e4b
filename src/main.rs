//! The `mainstay` program.

use std::process::ExitCode;

/// Small and fast for many short allocations of several threads, which is what serving is.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The allocator asks for huge pages. An instance that does nothing yet would hold twice the memory in them, and one that has served
    // for long gives back none that is used in one place. Where the kernel has no such switch, it is so.
    let _unsupported = rustix::thread::disable_transparent_huge_pages(true);
    mainstay::Builder::new().main()
}
