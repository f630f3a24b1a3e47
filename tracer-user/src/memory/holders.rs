//! Whose stacks hold an address: who can reach what others wait on, as far as stacks tell.

use std::collections::{HashMap, HashSet};

use super::reader::{Reader, u64_at};
use super::runtime::{Runtime, RuntimeError};

/// Bytes of one stack that are searched.
const STACK_MOST: u64 = 256 * 1024;
/// Bytes of stacks that are searched in all: some seconds.
const MOST: u64 = 1 << 34;
/// Places that are told in all: far more than there are in a program whose stacks were not made for this.
const MOST_FOUND: usize = 1 << 24;
/// Goroutines at a time.
const BATCH: usize = 64;

/// What a search of all stacks found.
#[derive(Clone, Debug, Default)]
pub struct Holders {
    /// By address: the goroutines whose stack has it, in the order of their ids.
    pub by_address: HashMap<u64, Vec<u64>>,
    /// Goroutines whose stack was not searched: they run, changed meanwhile, or it could not be read.
    pub not_searched: usize,
    /// Stacks that are larger than what was searched of them.
    pub cut: usize,
}

impl<R: Reader> Runtime<'_, R> {
    /// Searches the used part of the stacks of all goroutines that do not run for some addresses.
    ///
    /// # Errors
    /// [`RuntimeError::Read`].
    pub fn holders(&self, of: &HashSet<u64>) -> Result<Holders, RuntimeError> {
        let mut holders = Holders::default();
        if of.is_empty() {
            return Ok(holders);
        }
        let layout = &self.binary.layout().g;
        let (mut left, mut room) = (MOST, MOST_FOUND);
        let size = layout.size as usize;
        let (at, len, _) = self.slice(self.binary.globals().allgs)?;
        let read = |parts: &[(u64, usize)]| self.memory.read_batch(parts).map_err(|e| self.read_error(e));
        for chunk in self.pointers(at, len)?.chunks(BATCH) {
            let parts: Vec<(u64, usize)> = chunk.iter().map(|g| (*g, size)).collect();
            let (before, is_read) = read(&parts)?;
            let mut searched = Vec::new();
            for ((g, bytes), is_read) in chunk.iter().zip(before.chunks_exact(size)).zip(is_read) {
                if !is_read || !self.status(bytes).is_alive() {
                    continue;
                }
                match self.start(bytes) {
                    Some(start) if start.len(STACK_MOST) as u64 <= left => {
                        left -= start.len(STACK_MOST) as u64;
                        holders.cut += usize::from(start.hi - start.sp > STACK_MOST);
                        searched.push((*g, bytes, (start.sp, start.len(STACK_MOST))));
                    }
                    _ => holders.not_searched += 1,
                }
            }
            let stacks: Vec<(u64, usize)> = searched.iter().map(|(.., stack)| *stack).collect();
            let (bytes, are_read) = read(&stacks)?;
            let (after, _) = read(&searched.iter().map(|(g, ..)| (*g, size)).collect::<Vec<_>>())?;
            let mut rest = bytes.as_slice();
            for (((_, before, (_, len)), is_read), after) in
                searched.iter().zip(are_read).zip(after.chunks_exact(size))
            {
                let (stack, behind) = rest.split_at(*len);
                rest = behind;
                if !is_read || !self.unchanged(before, after) {
                    holders.not_searched += 1;
                    continue;
                }
                let found: HashSet<u64> = stack
                    .chunks_exact(8)
                    .map(|word| u64_at(word, 0))
                    .filter(|word| of.contains(word))
                    .collect();
                let Some(after) = room.checked_sub(found.len()) else {
                    holders.not_searched += 1;
                    continue;
                };
                room = after;
                for address in found {
                    holders.by_address.entry(address).or_default().push(u64_at(before, layout.goid));
                }
            }
        }
        holders.by_address.values_mut().for_each(|goids| goids.sort_unstable());
        Ok(holders)
    }
}
