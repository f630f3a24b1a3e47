//! Every parser on input that is not what it should be: the bodies of the fuzz targets, on what they found and on
//! changes that are the same in each run. Held to a bound of memory and of time, each.

#![expect(clippy::unwrap_used, reason = "an error of the harness is a failed test, and its chain says why")]

mod changed;
mod cut;
mod found;
mod limits;
mod shared;

#[global_allocator]
static ALLOCATOR: limits::Counting = limits::Counting;
