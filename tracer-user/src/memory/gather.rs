//! Many small reads by few large ones.
//!
//! What a call of `process_vm_readv` costs is mostly the finding of pages, once for each part of the call. Goroutines'
//! `g` structures and small stacks lie side by side in the runtime's spans, so neighbours are read as one part.

use super::reader::{ReadError, Reader};

/// Parts that are this close are read as one. Less than a page: no page is touched that has nothing of what is
/// wanted.
const GAP: u64 = 2048;

/// What was read of some parts; the memory that it takes is used again by the next reading.
#[derive(Default)]
pub(super) struct Gather {
    bytes: Vec<u8>,
    /// For each part where it is in `bytes`; `None` if it could not be read.
    places: Vec<Option<(usize, usize)>>,
    order: Vec<(u64, u32)>,
    ranges: Vec<(u64, usize)>,
    read: Vec<bool>,
}

impl Gather {
    /// Reads parts, each an address and a length, in any order; they may overlap.
    ///
    /// # Errors
    /// As [`Reader::read_parts`]; a part that faults is only marked.
    pub(super) fn read<R: Reader>(&mut self, memory: &R, parts: &[(u64, usize)]) -> Result<(), ReadError> {
        self.order.clear();
        // Far fewer parts than 2^32 are asked for at a time.
        self.order.extend((0_u32..).zip(parts).map(|(index, (address, _))| (*address, index)));
        self.order.sort_unstable();
        self.places.clear();
        self.places.resize(parts.len(), None);
        self.ranges.clear();
        // Where the range that is being built begins in `bytes`.
        let mut base = 0;
        for &(address, index) in &self.order {
            let len = parts[index as usize].1;
            // Nothing is behind the end of the address space.
            let Some(end) = address.checked_add(len as u64) else { continue };
            match self.ranges.last_mut() {
                // In order of their addresses, so that no part begins before its range; and no more than all parts
                // and the gaps between them is read, which has the size of memory that is held at once.
                Some((start, size)) if address <= start.saturating_add(*size as u64).saturating_add(GAP) => {
                    *size = (*size).max((end - *start) as usize);
                }
                last => {
                    base += last.map_or(0, |(_, size)| *size);
                    self.ranges.push((address, len));
                }
            }
            let start = self.ranges.last().map_or(address, |(start, _)| *start);
            self.places[index as usize] = Some((base + (address - start) as usize, len));
        }
        self.fetch(memory, 0)?;
        if self.read.contains(&false) {
            self.read_apart(memory, parts)?;
        }
        Ok(())
    }

    /// Reads the ranges to behind what is in `bytes`.
    fn fetch<R: Reader>(&mut self, memory: &R, from: usize) -> Result<(), ReadError> {
        let total: usize = self.ranges.iter().map(|(_, size)| size).sum();
        // What is there from before is written over, or marked as not read.
        if self.bytes.len() < from + total {
            self.bytes.resize(from + total, 0);
        }
        self.read.clear();
        self.read.resize(self.ranges.len(), false);
        memory.read_parts(&self.ranges, &mut self.bytes[from..from + total], &mut self.read)
    }

    /// A range of which a page is missing is read part by part.
    fn read_apart<R: Reader>(&mut self, memory: &R, parts: &[(u64, usize)]) -> Result<(), ReadError> {
        let total: usize = self.ranges.iter().map(|(_, size)| size).sum();
        let mut again = Vec::new();
        let mut ranges = self.ranges.iter().zip(&self.read).peekable();
        for &(address, index) in &self.order {
            if self.places[index as usize].is_none() {
                continue;
            }
            // The last range that does not begin behind the part.
            while ranges.peek().is_some()
                && ranges.clone().nth(1).is_some_and(|((start, _), _)| *start <= address)
            {
                ranges.next();
            }
            if ranges.peek().is_some_and(|(_, read)| !**read) {
                again.push(index);
            }
        }
        self.ranges = again.iter().map(|index| parts[*index as usize]).collect();
        self.fetch(memory, total)?;
        let mut at = total;
        for (index, read) in again.into_iter().zip(&self.read) {
            let len = parts[index as usize].1;
            self.places[index as usize] = read.then_some((at, len));
            at += len;
        }
        Ok(())
    }

    /// The bytes of a part, by its index; `None` if it could not be read.
    pub(super) fn part(&self, index: usize) -> Option<&[u8]> {
        let (at, len) = (*self.places.get(index)?)?;
        self.bytes.get(at..at + len)
    }

    /// All parts, in the order in which they were asked for.
    pub(super) fn parts(&self) -> impl Iterator<Item = Option<&[u8]>> {
        (0..self.places.len()).map(|index| self.part(index))
    }
}

#[cfg(test)]
mod tests {
    use super::super::reader::fake::FakeMemory;
    use super::*;

    fn memory() -> FakeMemory {
        let mut memory = FakeMemory::default();
        memory.put(0x1000, &(0..=255).collect::<Vec<u8>>());
        memory.put(0x9000, &[7; 16]);
        memory
    }

    #[test]
    fn parts_come_in_the_order_in_which_they_were_asked_for() {
        let mut gather = Gather::default();
        let parts = [(0x9008, 4), (0x1010, 2), (0x1000, 3), (0x1011, 4), (0x1000, 0)];
        gather.read(&memory(), &parts).unwrap();
        assert_eq!(gather.ranges, [(0x1000, 21), (0x9008, 4)]);
        let found: Vec<Option<&[u8]>> = gather.parts().collect();
        assert_eq!(
            found,
            [Some(&[7; 4][..]), Some(&[16, 17]), Some(&[0, 1, 2]), Some(&[17, 18, 19, 20]), Some(&[])]
        );
        assert_eq!(gather.part(5), None);
    }

    #[test]
    fn a_part_that_faults_takes_none_of_its_neighbours_along() {
        let mut gather = Gather::default();
        // One range with the second, of which nothing is mapped.
        let parts = [(0x10f0, 8), (0x1100, 8), (0x9000, 2), (u64::MAX - 3, 8), (0x10f8, 8)];
        gather.read(&memory(), &parts).unwrap();
        let found: Vec<Option<u8>> = gather.parts().map(|part| part.map(|bytes| bytes[0])).collect();
        assert_eq!(found, [Some(0xf0), None, Some(7), None, Some(0xf8)]);
        // What was left from that is not taken for what is read now.
        gather.read(&memory(), &[(0x5000, 8), (0x1001, 1)]).unwrap();
        assert_eq!(gather.part(0), None);
        assert_eq!(gather.part(1), Some(&[1][..]));
    }
}
