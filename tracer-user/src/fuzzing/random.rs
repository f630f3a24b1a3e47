//! Numbers without a meaning, the same in each run.

/// Marsaglia's xorshift.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Numbers that depend on the seed alone.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub const fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `limit`, 0 where that is 0.
    pub const fn below(&mut self, limit: u64) -> u64 {
        // The low bits of such a generator are its worst.
        (self.word() >> 11) % if limit == 0 { 1 } else { limit }
    }

    /// Some bytes: noise, or all the same.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let same = (self.below(3) == 0).then(|| self.word() as u8);
        (0..len).map(|_| same.unwrap_or_else(|| self.word() as u8)).collect()
    }
}
