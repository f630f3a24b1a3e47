//! The wire ABI between gotrail's eBPF programs and its user-space agent, and the decisions that the
//! programs take.
//!
//! This is the only definition of every record, map name and counter that crosses the kernel border. All
//! of it is `repr(C)`, little-endian, without implicit padding, and holds integers only: no `bool` and no
//! `enum` crosses. Each record has a size assert; [`ABI_VERSION`] is checked by both sides.
//!
//! The crate is `no_std` and is compiled for the host too, where the decisions ([`decide`]) are tested
//! against a fake memory.

#![cfg_attr(not(test), no_std)]

pub mod abi;
pub mod buckets;
pub mod decide;
#[cfg(test)]
mod hostile;
pub mod on_cpu;
pub mod switch;
pub mod walk;

pub use abi::*;
