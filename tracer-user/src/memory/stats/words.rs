//! Words of a structure, those that this version has, in one read.

use super::super::reader::{ReadError, Reader, field, u64_at};
use super::super::runtime::{Runtime, RuntimeError};

/// The low half of a word: 32 bits, little-endian on both architectures.
pub(super) const fn low(word: u64) -> u32 {
    (word & 0xffff_ffff) as u32
}

/// The low byte of a word.
pub(super) const fn byte(word: u64) -> u8 {
    (word & 0xff) as u8
}

impl<R: Reader> Runtime<'_, R> {
    /// The words at some offsets from a loaded address. `None` where the version has no such field, or nothing is
    /// mapped there.
    pub(super) fn words_at<const N: usize>(
        &self,
        base: u64,
        offsets: [Option<u32>; N],
    ) -> Result<[Option<u64>; N], RuntimeError> {
        let parts: Vec<(u64, usize)> =
            offsets.iter().flatten().map(|offset| (field(base, *offset), 8)).collect();
        let mut found = [None; N];
        if parts.is_empty() {
            return Ok(found);
        }
        let (bytes, read) = self.memory.read_batch(&parts).map_err(|e| self.read_error(e))?;
        let mut words = bytes.chunks_exact(8).zip(read).map(|(word, read)| read.then(|| u64_at(word, 0)));
        for (slot, _) in found.iter_mut().zip(offsets).filter(|(_, offset)| offset.is_some()) {
            *slot = words.next().flatten();
        }
        Ok(found)
    }

    /// The words at some offsets in a global; nothing if the global is not known.
    pub(super) fn words<const N: usize>(
        &self,
        linked: Option<u64>,
        offsets: [Option<u32>; N],
    ) -> Result<[Option<u64>; N], RuntimeError> {
        match linked {
            Some(linked) => self.words_at(self.global(linked), offsets),
            None => Ok([None; N]),
        }
    }

    /// The first word of a global.
    pub(super) fn word(&self, linked: Option<u64>) -> Result<Option<u64>, RuntimeError> {
        self.words(linked, [Some(0)]).map(|[word]| word)
    }

    /// Some bytes, or nothing if they are not mapped.
    pub(super) fn bytes_at(&self, address: u64, size: usize) -> Result<Option<Vec<u8>>, RuntimeError> {
        let mut bytes = vec![0; size];
        match self.memory.read(address, &mut bytes) {
            Ok(()) => Ok(Some(bytes)),
            Err(fatal @ (ReadError::Gone | ReadError::NotPermitted { .. })) => Err(self.read_error(fatal)),
            Err(_) => Ok(None),
        }
    }
}
