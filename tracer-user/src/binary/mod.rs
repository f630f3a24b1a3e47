//! One Go executable: what build it is, where its functions and globals are, how its runtime's structures
//! are laid out, and where probes may go. Pure functions over bytes, which whoever has the file gives: no process, no
//! kernel.

mod calls;
mod code;
mod contents;
mod error;
mod function_table;
mod globals;
mod image;
mod inlining;
mod itabs;
pub mod layout;
mod locate;
mod locking;
mod optional_globals;
mod read;
mod sites;
mod stackmap;
mod symbols;
mod system_calls;
mod toolchain;
mod types;
pub mod version;

pub(crate) use calls::is_standard_library;
pub use calls::{Argument, CallSite, Calls, Hazard};
pub use code::Cost;
#[cfg(feature = "fuzzing")]
pub(crate) use code::code_holds;
pub use code::{Holding, Operand};
pub use error::BinaryError;
pub use globals::Globals;
pub use image::{Architecture, Image, build_id_in};
pub use itabs::Itab;
pub use layout::{Layout, LayoutError, LayoutSource};
pub use locking::{Locking, LockingCode};
pub use optional_globals::OptionalGlobals;
pub use read::{Build, GoBinary, Program};
pub use sites::{Plan, Site, Substitute, Unavailable};
pub(crate) use stackmap::FrameMap;
pub(crate) use symbols::Steps;
pub use symbols::{Frame, Function, Symbols};
pub use toolchain::{ToolchainHazard, toolchain_hazards};
pub use types::TypeName;
pub use version::GoVersion;
