//! What memory is read from: a live process, a core file, or a fake in tests.

/// Why a read failed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReadError {
    /// The process ended.
    #[error("the process ended while its memory was read")]
    Gone,
    /// The kernel refused.
    #[error(
        "tried to read the memory of process {pid}: permission denied; run gotrail as root, or with CAP_SYS_PTRACE"
    )]
    NotPermitted {
        /// The process.
        pid: u32,
    },
    /// Nothing is mapped there.
    #[error("nothing is mapped at {address:#x}")]
    Fault {
        /// The address.
        address: u64,
    },
    /// Something was mapped there, but the core file does not hold it.
    #[error("the core file does not hold the memory at {address:#x}")]
    NotInCore {
        /// The address.
        address: u64,
    },
    /// Anything else that the kernel says.
    #[error("reading memory at {address:#x}: {errno}")]
    Other {
        /// The address.
        address: u64,
        /// The kernel's word.
        errno: String,
    },
}

/// A source of memory by virtual address.
pub trait Reader {
    /// Fills `into` from `address`.
    ///
    /// # Errors
    /// [`ReadError`]; a partial read is a fault.
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), ReadError>;

    /// Reads parts, each an address and a size, into consecutive parts of `into`, with as few calls as can be, and
    /// notes for each in `read` whether it was read; what was not is zero or partly filled.
    ///
    /// # Errors
    /// [`ReadError::Gone`] or [`ReadError::NotPermitted`]; faults only mark their part.
    ///
    /// # Panics
    /// If `into` is shorter than all parts together, or `read` than there are parts.
    fn read_parts(
        &self,
        parts: &[(u64, usize)],
        into: &mut [u8],
        read: &mut [bool],
    ) -> Result<(), ReadError> {
        let mut rest = into;
        for ((address, size), read) in parts.iter().zip(read) {
            let (part, after) = rest.split_at_mut(*size);
            rest = after;
            *read = match self.read(*address, part) {
                Ok(()) => true,
                Err(fatal @ (ReadError::Gone | ReadError::NotPermitted { .. })) => return Err(fatal),
                Err(_) => {
                    part.fill(0);
                    false
                }
            };
        }
        Ok(())
    }

    /// Likewise, into memory of its own.
    ///
    /// # Errors
    /// As [`Reader::read_parts`].
    fn read_batch(&self, parts: &[(u64, usize)]) -> Result<(Vec<u8>, Vec<bool>), ReadError> {
        let mut bytes = vec![0; parts.iter().map(|(_, size)| size).sum()];
        let mut read = vec![false; parts.len()];
        self.read_parts(parts, &mut bytes, &mut read)?;
        Ok((bytes, read))
    }

    /// Eight bytes, little-endian.
    ///
    /// # Errors
    /// As [`Reader::read`].
    fn u64(&self, address: u64) -> Result<u64, ReadError> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Four bytes, little-endian.
    ///
    /// # Errors
    /// As [`Reader::read`].
    fn u32(&self, address: u64) -> Result<u32, ReadError> {
        let mut bytes = [0; 4];
        self.read(address, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }
}

/// The address of a field. Wraps: a pointer that was read may be anything.
pub(super) const fn field(structure: u64, offset: u32) -> u64 {
    structure.wrapping_add(offset as u64)
}

/// Eight bytes of a structure that was read whole; 0 outside it.
pub(super) fn u64_at(bytes: &[u8], offset: u32) -> u64 {
    let at = offset as usize;
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// Four bytes of a structure that was read whole; 0 outside it.
pub(super) fn u32_at(bytes: &[u8], offset: u32) -> u32 {
    let at = offset as usize;
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// One byte of a structure that was read whole; 0 outside it.
pub(super) fn u8_at(bytes: &[u8], offset: u32) -> u8 {
    bytes.get(offset as usize).copied().unwrap_or(0)
}

#[cfg(test)]
pub(super) mod fake {
    use super::{ReadError, Reader};
    use std::collections::BTreeMap;

    /// Memory made of a few regions.
    #[derive(Default)]
    pub(crate) struct FakeMemory(pub(crate) BTreeMap<u64, Vec<u8>>);

    impl FakeMemory {
        pub(crate) fn put(&mut self, address: u64, bytes: &[u8]) {
            self.0.insert(address, bytes.to_vec());
        }
    }

    impl Reader for FakeMemory {
        fn read(&self, address: u64, into: &mut [u8]) -> Result<(), ReadError> {
            let fault = ReadError::Fault { address };
            let (start, bytes) = self.0.range(..=address).next_back().ok_or_else(|| fault.clone())?;
            let at = usize::try_from(address - start).unwrap();
            let part = bytes.get(at..at + into.len()).ok_or(fault)?;
            into.copy_from_slice(part);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fake::FakeMemory;
    use super::*;

    #[test]
    fn a_batch_marks_what_faults_and_keeps_the_rest() {
        let mut memory = FakeMemory::default();
        memory.put(0x1000, &[1, 2, 3, 4, 5, 6, 7, 8]);
        let (bytes, read) = memory.read_batch(&[(0x1004, 4), (0x2000, 4), (0x1000, 2)]).unwrap();
        assert_eq!(bytes, [5, 6, 7, 8, 0, 0, 0, 0, 1, 2]);
        assert_eq!(read, [true, false, true]);
    }

    #[test]
    fn fields_outside_a_structure_are_zero() {
        assert_eq!(u64_at(&[1; 8], 1), 0);
        assert_eq!(u32_at(&[1, 0, 0, 0], 0), 1);
        assert_eq!(u8_at(&[], 0), 0);
    }
}
