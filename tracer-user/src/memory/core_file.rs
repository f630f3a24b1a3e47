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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::made_core;

    const PT_LOAD: u32 = 1;
    const READ_ONLY: u32 = 5;
    const WRITABLE: u32 = 6;

    fn mapping(start: u64, offset: u64) -> Mapping {
        Mapping { start, end: start + 0x3000, offset, executable: true }
    }

    #[test]
    fn what_a_core_left_out_is_the_executables_or_unknown_but_never_zero() {
        let headers = [
            // The first page of code was written, as the kernel does it.
            (PT_LOAD, READ_ONLY, 4096, 0x40_0000, 4096, 0x3000),
            (PT_LOAD, WRITABLE, 0, 0x50_0000, 0, 0x3000),
            (PT_LOAD, WRITABLE, 8192, 0x60_0000, 4096, 4096),
            (PT_LOAD, WRITABLE, 12288, 0x60_1000, 4096, 4096),
        ];
        let mut bytes = made_core(62, &headers, 12288 + 2048);
        bytes[4096..8192].fill(1);
        bytes[8192..12288].fill(2);
        bytes[12288..].fill(3);
        let core = Arc::new(CoreFile::parse(bytes).unwrap());
        let file: Arc<[u8]> = std::fs::read(std::env::current_exe().unwrap()).unwrap().into();
        let executable = Image::parse(Arc::clone(&file)).unwrap();
        let mappings = vec![mapping(0x50_0000, 0x3000), mapping(0x40_0000, 0), mapping(0x70_0000, 0)];
        let memory = CoreMemory::new(core, executable, mappings);

        let read = |address: u64, len: usize| {
            let mut bytes = vec![0xaa; len];
            memory.read(address, &mut bytes).map(|()| bytes)
        };
        // From the core, then from the executable, then from where the core does not even speak of it.
        let across = read(0x40_0ff8, 16).unwrap();
        assert_eq!(across[..8], [1; 8]);
        assert_eq!(across[8..], file[4096..4104]);
        assert_eq!(read(0x70_0004, 8).unwrap(), file[4..12]);
        // It may have been written to since.
        assert_eq!(read(0x50_0000, 8), Err(ReadError::NotInCore { address: 0x50_0000 }));
        // One segment follows the other.
        assert_eq!(read(0x60_0ffc, 8).unwrap(), [2, 2, 2, 2, 3, 3, 3, 3]);
        // The file ends within it.
        assert_eq!(read(0x60_1000 + 2040, 16), Err(ReadError::NotInCore { address: 0x60_1000 + 2048 }));
        assert_eq!(read(0x60_2000, 1), Err(ReadError::Fault { address: 0x60_2000 }));
        assert_eq!(read(u64::MAX, 8), Err(ReadError::Fault { address: u64::MAX }));
        let (bytes, are_read) = memory.read_batch(&[(0x60_0000, 2), (0x50_0000, 2), (0x40_0000, 1)]).unwrap();
        assert_eq!((bytes, are_read), (vec![2, 2, 0, 0, 1], vec![true, false, true]));
    }
}
