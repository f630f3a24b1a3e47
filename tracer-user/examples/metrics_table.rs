//! Prints the table of `docs/stats.md`: which figure of `runtime/metrics` is where in the JSON of `gotrail stats`.
//!
//! `cargo xtask metrics` writes it there.

#![expect(clippy::print_stdout, reason = "printing is what it is for")]

fn main() {
    print!("{}", gotrail::memory::stats::markdown());
}
