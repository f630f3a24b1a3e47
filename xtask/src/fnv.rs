//! FNV-1a, 64 bits: the key of the fixtures' cache.
//!
//! Written here because the key must be the same for every compiler release, which std's hashers don't
//! promise, and because a cache key needs no cryptography.

const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// A running hash.
pub(crate) struct Fnv1a(u64);

impl Fnv1a {
    /// A hash of nothing yet.
    pub(crate) fn new() -> Self {
        Self(OFFSET_BASIS)
    }

    /// Adds bytes as they are.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(PRIME);
        }
    }

    /// Adds one field with its length in front, so that ("ab", "c") and ("a", "bc") differ.
    pub(crate) fn field(&mut self, bytes: &[u8]) {
        self.write(&(bytes.len() as u64).to_le_bytes());
        self.write(bytes);
    }

    /// The hash of all that was added.
    pub(crate) fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(bytes: &[u8]) -> u64 {
        let mut hash = Fnv1a::new();
        hash.write(bytes);
        hash.finish()
    }

    #[test]
    fn agrees_with_the_published_vectors() {
        assert_eq!(hash(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(hash(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn fields_do_not_run_into_each_other() {
        let of = |fields: [&[u8]; 2]| {
            let mut hash = Fnv1a::new();
            fields.iter().for_each(|field| hash.field(field));
            hash.finish()
        };
        assert_ne!(of([b"ab", b"c"]), of([b"a", b"bc"]));
    }
}
