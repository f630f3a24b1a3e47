//! The memory of a process that has ended, from its core file and its executable.
//!
//! A core leaves out what was never written and is in a file: code, constants and the function table are read from
//! the executable. What is in neither is unknown, and never taken for zero.

use std::sync::Arc;

use super::reader::{ReadError, Reader};
use crate::binary::Image;
use crate::target::{CoreFile, Mapping};

/// Memory of a core file.
#[derive(Clone, Debug)]
pub struct CoreMemory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    core: Arc<CoreFile>,
    executable: Image,
    /// Where the executable was mapped, in the order of the addresses.
    mappings: Vec<Mapping>,
}

impl CoreMemory {
    /// The memory of a core file, whose executable was mapped there.
    #[must_use]
    pub fn new(core: Arc<CoreFile>, executable: Image, mut mappings: Vec<Mapping>) -> Self {
        mappings.sort_by_key(|mapping| mapping.start);
        Self(Arc::new(Inner { core, executable, mappings }))
    }

    /// Reads as far as one piece goes, which is not nothing; returns how many bytes.
    fn piece(&self, address: u64, into: &mut [u8]) -> Result<usize, ReadError> {
        let Inner { core, .. } = &*self.0;
        let len = |most: u64| into.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        let Some(segment) = core.segment(address) else {
            return match self.mapped(address) {
                Some(bytes) => Ok(copy(bytes, into)),
                None => Err(ReadError::Fault { address }),
            };
        };
        let at = address - segment.address;
        if at < segment.file_size {
            let len = len(segment.file_size - at);
            let count = core.read_at(segment.offset + at, &mut into[..len]).map_err(|error| {
                let errno = error.to_string();
                ReadError::Other { address, errno }
            })?;
            return if count == 0 { Err(ReadError::NotInCore { address }) } else { Ok(count) };
        }
        // Nothing of it was written, so that it is as it was mapped, if nobody could write to it.
        let len = len(segment.memory_size - at);
        match self.mapped(address) {
            Some(bytes) if !segment.writable => Ok(copy(bytes, &mut into[..len])),
            _ => Err(ReadError::NotInCore { address }),
        }
    }

    /// The executable's bytes from an address to the end of their mapping.
    fn mapped(&self, address: u64) -> Option<&[u8]> {
        let Inner { executable, mappings, .. } = &*self.0;
        let behind = mappings.partition_point(|mapping| mapping.start <= address);
        let mapping = mappings.get(behind.checked_sub(1)?).filter(|mapping| address < mapping.end)?;
        let from = usize::try_from(mapping.offset.checked_add(address - mapping.start)?).ok()?;
        let rest = executable.bytes().get(from..)?;
        let len = usize::try_from(mapping.end - address).unwrap_or(usize::MAX);
        Some(&rest[..rest.len().min(len)]).filter(|rest| !rest.is_empty())
    }
}

fn copy(from: &[u8], into: &mut [u8]) -> usize {
    let len = from.len().min(into.len());
    into[..len].copy_from_slice(&from[..len]);
    len
}

impl Reader for CoreMemory {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let mut done = 0;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = address.checked_add(done as u64).ok_or(ReadError::Fault { address })?;
            done += self.piece(at, rest)?;
        }
        Ok(())
    }
}
