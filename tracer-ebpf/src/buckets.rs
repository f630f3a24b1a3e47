//! Base-2 exponential buckets as OpenTelemetry defines them, in integers: the same bits in the kernel and outside.
//!
//! At scale s bucket i holds the values above `2^(i / 2^s)` up to and with `2^((i + 1) / 2^s)`
//! (opentelemetry.io/docs/specs/otel/metrics/data-model/#exponentialhistogram).

/// Scale of all distributions: four buckets to a doubling, each 19 % wide.
pub const SCALE: i32 = 2;
/// Buckets kept: up to 2^40 ns, 18 minutes; what is above is in the last one.
pub const BUCKETS: usize = 161;
/// OpenTelemetry's index of the first bucket kept, which holds the value 1; 0 is put there too.
pub const FIRST_INDEX: i32 = -1;

/// `2^63 * 2^(j / 4)`, rounded down, for j of 1 to 3. The exact numbers are irrational, so that an integer is above one
/// exactly if it is above it rounded down.
const EDGES: [u64; 3] = [0x9837_f051_8db8_a96f, 0xb504_f333_f9de_6484, 0xd744_fcca_d69d_6af4];

/// OpenTelemetry's index, at [`SCALE`], of a value above 0; 0 is taken for 1.
#[must_use]
#[inline(always)]
pub const fn index(value: u64) -> i32 {
    if value <= 1 {
        return FIRST_INDEX;
    }
    let zeros = value.leading_zeros();
    let mantissa = value << zeros;
    let octave = (63 - zeros) as i32 * 4;
    if mantissa == 1 << 63 {
        // A power of two is the upper bound of the bucket below.
        return octave - 1;
    }
    octave + (mantissa > EDGES[0]) as i32 + (mantissa > EDGES[1]) as i32 + (mantissa > EDGES[2]) as i32
}

/// The place of a value in an array of [`BUCKETS`].
#[must_use]
#[inline(always)]
pub const fn bucket(value: u64) -> usize {
    let at = (index(value) - FIRST_INDEX) as usize;
    if at >= BUCKETS { BUCKETS - 1 } else { at }
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use proptest::prelude::*;

    use super::*;

    /// The fourth power, exactly, in 32-bit digits.
    fn fourth_power(value: u64) -> Vec<u32> {
        let digits = [value as u32, (value >> 32) as u32];
        let mut product = vec![1_u32];
        for _ in 0..4 {
            let mut next = vec![0_u32; product.len() + 2];
            for (i, a) in product.iter().enumerate() {
                let mut carry = 0_u64;
                for (j, b) in digits.iter().enumerate() {
                    let sum = u64::from(*a) * u64::from(*b) + u64::from(next[i + j]) + carry;
                    next[i + j] = sum as u32;
                    carry = sum >> 32;
                }
                next[i + 2] = (u64::from(next[i + 2]) + carry) as u32;
            }
            product = next;
        }
        product
    }

    /// How the fourth power of a value compares to a power of two.
    fn compare(value: u64, exponent: i32) -> Ordering {
        if exponent < 0 {
            return Ordering::Greater;
        }
        let power = fourth_power(value);
        let mut other = vec![0_u32; power.len().max(exponent as usize / 32 + 1)];
        other[exponent as usize / 32] = 1 << (exponent % 32);
        let mut power = power;
        power.resize(other.len(), 0);
        power.iter().rev().cmp(other.iter().rev())
    }

    /// By the definition: `2^i < value^4 <= 2^(i + 1)`.
    fn is_right(value: u64) -> bool {
        let i = index(value);
        compare(value, i) == Ordering::Greater && compare(value, i + 1) != Ordering::Greater
    }

    #[test]
    fn the_edges_are_those_of_the_definition() {
        for exponent in 0..64 {
            let power = 1_u64 << exponent;
            for value in [power.saturating_sub(1), power, power + 1] {
                assert!(value == 0 || is_right(value), "{value}");
            }
            for edge in EDGES {
                let near = edge >> (63 - exponent);
                for value in near.saturating_sub(1)..=near.saturating_add(1) {
                    assert!(value == 0 || is_right(value), "{value}");
                }
            }
        }
        assert!(is_right(u64::MAX));
        assert_eq!((index(0), index(1), index(2), index(3), index(4)), (-1, -1, 3, 6, 7));
    }

    #[test]
    fn every_value_has_its_place() {
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(1), 0);
        assert_eq!(bucket(1 << 40), BUCKETS - 1);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    proptest! {
        #[test]
        fn any_value_is_in_the_bucket_of_the_definition(value in 1..u64::MAX, shift in 0..64_u32) {
            let value = (value >> shift).max(1);
            prop_assert!(is_right(value), "{value}");
            prop_assert!(bucket(value) < BUCKETS);
            prop_assert!(bucket(value) <= bucket(value.saturating_add(1)));
        }
    }
}
