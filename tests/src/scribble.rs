//! A process whose memory says anything at all: what a hostile target could do to who reads it.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;

use anyhow::{Context, Result, ensure};

/// Longest stretch of memory that is scribbled on; the heap's first megabytes hold all that a small program has.
const LONGEST: usize = 8 << 20;

/// What words are replaced by.
#[derive(Clone, Copy, Debug)]
pub enum Junk {
    /// Bits without a meaning.
    Noise,
    /// All bits set: the largest of all numbers.
    Ones,
    /// Numbers below 256.
    Small,
    /// Another word of the same stretch: pointers that point, but not to what they should.
    Moved,
}

/// What is done to a process.
#[derive(Clone, Copy, Debug)]
pub struct Scribble {
    /// What words are replaced by.
    pub junk: Junk,
    /// One word in so many is.
    pub one_in: u64,
    /// Which ones.
    pub seed: u64,
}

impl fmt::Display for Scribble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in one of {} words, seed {}", self.junk, self.one_in, self.seed)
    }
}

impl Scribble {
    /// Scribbles on all memory that the process may write, its stack aside. Only stopped processes survive that.
    ///
    /// # Errors
    /// Its memory can't be written.
    pub fn apply(&self, pid: u32) -> Result<()> {
        let told = || format!("can't scribble on the memory of process {pid}");
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).with_context(told)?;
        let memory =
            OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem")).with_context(told)?;
        let (mut random, mut changed) = (Random(self.seed | 1), 0_u64);
        for (begin, length) in maps.lines().filter_map(writable) {
            let mut bytes = vec![0; length];
            memory.read_exact_at(&mut bytes, begin).with_context(told)?;
            changed += self.change(&mut bytes, &mut random);
            memory.write_all_at(&bytes, begin).with_context(told)?;
        }
        ensure!(changed > 100, "hardly anything of process {pid} was changed:\n{maps}");
        Ok(())
    }

    fn change(&self, bytes: &mut [u8], random: &mut Random) -> u64 {
        let before = bytes.to_vec();
        let words = before.len() / 8;
        let mut changed = 0;
        for (word, old) in bytes.chunks_exact_mut(8).zip(before.chunks_exact(8)) {
            // Most of memory is zero, and stays so: no one would look there.
            if old == [0; 8] || !random.next().is_multiple_of(self.one_in) {
                continue;
            }
            let new = match self.junk {
                Junk::Noise => random.next().to_le_bytes(),
                Junk::Ones => [0xff; 8],
                Junk::Small => (random.next() % 256).to_le_bytes(),
                Junk::Moved => {
                    let at = (random.next() % words as u64) as usize * 8;
                    before[at..at + 8].try_into().unwrap_or_default()
                }
            };
            word.copy_from_slice(&new);
            changed += 1;
        }
        changed
    }
}

/// Address and length of a line of `/proc/PID/maps`, if it is memory of the program itself that it may write.
fn writable(line: &str) -> Option<(u64, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, permissions) = (fields.next()?, fields.next()?);
    if !permissions.starts_with("rw") || line.ends_with(']') {
        return None;
    }
    let (begin, end) = range.split_once('-')?;
    let (begin, end) = (u64::from_str_radix(begin, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    Some((begin, usize::try_from(end - begin).ok()?.min(LONGEST)))
}

/// Marsaglia's xorshift: the same numbers in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
