//! Integration tests. Those named `root_` need root and a kernel that loads eBPF programs.
//!
//! What a test promises stands in its name: `root_loss_1_...` is about LOSS-1 of the design.

#![expect(clippy::unwrap_used, reason = "an error of the harness is a failed test, and its chain says why")]
#![expect(clippy::panic, reason = "helpers of tests fail as tests do")]

mod bursts;
mod churn;
mod core_file;
mod cost;
mod counts;
mod crash;
mod cycles;
mod deadlock;
mod demo;
mod dump;
mod ends;
mod export;
mod fleet;
mod forms;
mod holders;
mod hostile;
mod inspect;
mod kinds;
mod lean;
mod lifetimes;
mod matrix;
mod pgo;
mod profile;
mod programs;
mod real_program;
mod reasons;
mod refusals;
mod stats;
mod switches;
mod syscalls;
mod tampered;
mod vm;
mod waits;
