//! Harness of the integration tests: real Go processes, the real `gotrail`, a real kernel.
//!
//! `cargo xtask test` builds what is needed and runs them; the environment says where everything is
//! ([`mod@env`]). What a test starts ends with the test, also when it panics.

pub mod attach;
pub mod backend;
pub mod bpf;
pub mod code;
pub mod core_file;
pub mod damage;
pub mod env;
pub mod fixture;
pub mod gotool;
pub mod gotrace;
pub mod http;
pub mod json;
pub mod machine;
pub mod markers;
pub mod memory_limit;
pub mod oracle;
pub mod overlay;
pub mod process;
pub mod scratch;
pub mod scribble;
pub mod shop;
pub mod support;
pub mod trace;
pub mod traceback;
