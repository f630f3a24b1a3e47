//! All g structures in few reads: those that lie side by side are read as one.
//!
//! `runtime.allgs` only grows, and its entries stay where they are (`allgadd`, runtime/proc.go, Go 1.18 to 1.27), so
//! what is to be read is worked out once for each entry.

use super::super::reader::Reader;
use super::super::runtime::{Runtime, RuntimeError};

/// Bytes between two structures that are read along rather than begin another read.
const GAP: u64 = 2048;
/// Bytes of one read; where one can't be had, so much is missing.
const MOST_SPAN: u64 = 64 * 1024;
/// Bytes that are read and looked at in one go: they fit into a CPU's cache.
const CHUNK: usize = 256 * 1024;

/// One entry of the list, within the bytes of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) index: usize,
    pub(super) address: u64,
    /// Which part of its chunk it is in, and where in the bytes of all parts.
    pub(super) part: usize,
    pub(super) offset: usize,
}

/// What is read in one go.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// Address and length of what is read.
    pub(super) parts: Vec<(u64, usize)>,
    /// The entries that are in it.
    pub(super) members: Vec<Member>,
}

/// What is to be read.
#[derive(Debug, Default)]
pub(super) struct Spans {
    addresses: Vec<u64>,
    chunks: Vec<Chunk>,
}

impl Spans {
    /// Takes in what the list has more than before; returns how many entries are beyond `most`.
    pub(super) fn extend<R: Reader>(
        &mut self,
        runtime: &Runtime<'_, R>,
        most: usize,
    ) -> Result<u64, RuntimeError> {
        let allgs = runtime.binary.globals().allgs;
        let (at, len, _) = runtime.slice(allgs)?;
        let wanted = usize::try_from(len).unwrap_or(usize::MAX).min(most);
        let beyond = len - wanted as u64;
        let known = self.addresses.len();
        if wanted <= known {
            return Ok(beyond);
        }
        let more = runtime.pointers(at.wrapping_add(known as u64 * 8), (wanted - known) as u64)?;
        // The array moves when it grows: what was read of the old one with the new one's length is not believed.
        if runtime.slice(allgs)?.0 == at && more.iter().all(|g| *g != 0 && g & 7 == 0) {
            self.addresses.extend(more);
            self.chunks = chunks(&self.addresses, runtime.binary.layout().g.size);
        }
        Ok(beyond)
    }

    /// Entries that are known.
    pub(super) fn len(&self) -> usize {
        self.addresses.len()
    }

    pub(super) fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }
}

fn chunks(addresses: &[u64], size: u32) -> Vec<Chunk> {
    let size = u64::from(size);
    let mut sorted: Vec<(u64, usize)> = addresses.iter().copied().zip(0..).collect();
    sorted.sort_unstable();
    let mut chunks: Vec<Chunk> = Vec::new();
    // Bytes of the chunk before its last part.
    let mut before = 0;
    for (address, index) in sorted {
        let last = chunks.last_mut().and_then(|chunk| chunk.parts.last_mut());
        let joins = last.filter(|(start, len)| {
            let end = start.saturating_add(*len as u64);
            address >= *start
                && address.saturating_sub(end) <= GAP
                && (address - *start).saturating_add(size) <= MOST_SPAN
        });
        if let Some((start, len)) = joins {
            // Two entries may be the same where memory lies.
            *len = (*len).max((address - *start + size) as usize);
        } else {
            let used = |chunk: &Chunk| chunk.parts.iter().map(|(_, len)| len).sum::<usize>();
            before = chunks.last().map_or(0, used);
            if chunks.is_empty() || before >= CHUNK {
                chunks.push(Chunk::default());
                before = 0;
            }
            if let Some(chunk) = chunks.last_mut() {
                chunk.parts.push((address, size as usize));
            }
        }
        if let Some(chunk) = chunks.last_mut()
            && let Some((start, _)) = chunk.parts.last()
        {
            let offset = before + (address - *start) as usize;
            chunk.members.push(Member { index, address, part: chunk.parts.len() - 1, offset });
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_read_as_one_and_each_is_found_in_the_bytes() {
        let addresses = [0x9000, 0x1000, 0x1200, 0x1000 + 440, 0x20_0000];
        let chunks = chunks(&addresses, 440);
        assert_eq!(chunks.len(), 1);
        assert_eq!(chunks[0].parts, [(0x1000, 0x200 + 440), (0x9000, 440), (0x20_0000, 440)]);
        let place = |index: usize| {
            let member = chunks[0].members.iter().find(|member| member.index == index).unwrap();
            assert_eq!(member.address, addresses[index]);
            (member.part, member.offset)
        };
        assert_eq!([place(1), place(3), place(2)], [(0, 0), (0, 440), (0, 0x200)]);
        assert_eq!([place(0), place(4)], [(1, 0x200 + 440), (2, 0x200 + 880)]);
    }

    #[test]
    fn no_read_is_without_bound_whatever_the_addresses() {
        let many: Vec<u64> = (0..5000).map(|i| 0x1000 + i * 448).chain([u64::MAX - 500]).collect();
        let chunks = chunks(&many, 448);
        let mut members = 0;
        for chunk in &chunks {
            let bytes: usize = chunk.parts.iter().map(|(_, len)| len).sum();
            assert!(bytes <= CHUNK + MOST_SPAN as usize, "{bytes}");
            assert!(chunk.parts.iter().all(|(_, len)| *len as u64 <= MOST_SPAN));
            assert!(chunk.members.iter().all(|member| member.offset + 448 <= bytes));
            members += chunk.members.len();
        }
        assert_eq!(members, many.len());
    }
}
