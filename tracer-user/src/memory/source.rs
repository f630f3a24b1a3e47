//! The two sources of memory that commands read.

use super::core_file::CoreMemory;
use super::live::LiveMemory;
use super::reader::{ReadError, Reader};

/// A live process, or the core file of one that has ended.
#[derive(Clone, Debug)]
pub enum Source {
    /// A live process.
    Live(LiveMemory),
    /// A core file.
    Core(CoreMemory),
}

impl Reader for Source {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), ReadError> {
        match self {
            Self::Live(memory) => memory.read(address, into),
            Self::Core(memory) => memory.read(address, into),
        }
    }

    fn read_parts(
        &self,
        parts: &[(u64, usize)],
        into: &mut [u8],
        read: &mut [bool],
    ) -> Result<(), ReadError> {
        match self {
            Self::Live(memory) => memory.read_parts(parts, into, read),
            Self::Core(memory) => memory.read_parts(parts, into, read),
        }
    }
}
