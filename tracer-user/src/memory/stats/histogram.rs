//! Histograms as the runtime keeps them (runtime/histogram.go), with the boundaries that `runtime/metrics` gives them.
//!
//! A time is put into a bucket by its highest bits alone. To Go 1.19 there are 16 buckets to each power of two and
//! no bucket for what is too long; from Go 1.20 on there are 4, none below 2^6 ns, and one for each end.

use super::super::reader::{Reader, field, u64_at};
use super::super::runtime::{Runtime, RuntimeError};

/// Counts of values between two bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// The least value in it; `None` has no least one.
    pub from: Option<u64>,
    /// The least value above it; `None` has no end.
    pub to: Option<u64>,
    /// How many there were.
    pub count: u64,
}

/// All buckets in order, without gaps between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    buckets: Vec<Bucket>,
}

/// How the counts of a time are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    /// Bits after the highest one that tell buckets apart.
    sub_bits: u32,
    /// Times with this many bits or fewer have the buckets of the first power together.
    min_bits: u32,
    /// The powers of two.
    powers: u32,
    /// Whether what is too long is counted behind what is negative.
    overflow: bool,
}

/// Go 1.18 and 1.19: `timeHistSubBucketBits` 4, `timeHistNumSuperBuckets` 45.
const FINE: Shape = Shape { sub_bits: 4, min_bits: 4, powers: 45, overflow: false };
/// Go 1.20 on: `timeHistSubBucketBits` 2, `timeHistMinBucketBits` 9, `timeHistMaxBucketBits` 48.
const COARSE: Shape = Shape { sub_bits: 2, min_bits: 8, powers: 40, overflow: true };

impl Shape {
    const fn counts(self) -> u32 {
        self.powers << self.sub_bits
    }

    /// The shape that has its fields where the layout says.
    fn of(underflow: Option<u32>, overflow: Option<u32>) -> Option<Self> {
        let underflow = underflow?;
        [FINE, COARSE].into_iter().find(|shape| {
            underflow == shape.counts() * 8 && overflow == shape.overflow.then_some(underflow + 8)
        })
    }

    const fn bytes(self) -> usize {
        (self.counts() as usize + 1 + self.overflow as usize) * 8
    }

    /// The least time of a bucket, in ns. The buckets of the first power begin at 0 and those of each next at the
    /// power (`timeHistogramMetricsBuckets`).
    const fn begin(self, index: u32) -> u64 {
        let (power, sub) = (index >> self.sub_bits, (index & ((1 << self.sub_bits) - 1)) as u64);
        if power == 0 {
            return sub << (self.min_bits - self.sub_bits);
        }
        let bit = self.min_bits + power - 1;
        (1 << bit) | sub << (bit - self.sub_bits)
    }
}

impl Histogram {
    /// Buckets that begin at these values, the last of which ends nowhere, with one before them for what is less.
    pub(super) fn new(begins: &[u64], counts: impl IntoIterator<Item = u64>) -> Self {
        let mut froms = vec![None];
        froms.extend(begins.iter().copied().map(Some));
        let tos = froms.clone().into_iter().skip(1).chain([None]);
        let buckets = froms
            .into_iter()
            .zip(tos)
            .zip(counts)
            .map(|((from, to), count)| Bucket { from, to, count })
            .collect();
        Self { buckets }
    }

    fn of_times(shape: Shape, bytes: &[u8]) -> Self {
        let count = |index: u32| u64_at(bytes, index * 8);
        let mut begins: Vec<u64> = (0..shape.counts()).map(|index| shape.begin(index)).collect();
        let mut counts = vec![count(shape.counts())];
        counts.extend((0..shape.counts()).map(count));
        if shape.overflow {
            begins.push(shape.begin(shape.counts()));
            counts.push(count(shape.counts() + 1));
        }
        Self::new(&begins, counts)
    }

    /// Every bucket, the empty ones too.
    #[must_use]
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// How many values there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, bucket| sum.saturating_add(bucket.count))
    }

    /// A bound that this share of the values stays below: the end of the bucket that the last of them is in. `None`
    /// without values, or if that bucket has no end.
    #[must_use]
    pub fn below(&self, share: f64) -> Option<u64> {
        let total = self.count();
        // Counts of events fit into the 53 bits exactly, or the last digits do not matter.
        let wanted = ((total as f64 * share).ceil() as u64).clamp(1, total.max(1));
        let mut sum = 0_u64;
        for bucket in &self.buckets {
            sum = sum.saturating_add(bucket.count);
            if total != 0 && sum >= wanted {
                return bucket.to;
            }
        }
        None
    }

    /// What came since an earlier reading of the same histogram.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = earlier.buckets.iter().map(|bucket| bucket.count).chain(std::iter::repeat(0));
        let buckets = self
            .buckets
            .iter()
            .zip(before)
            .map(|(bucket, before)| Bucket { count: bucket.count.saturating_sub(before), ..*bucket })
            .collect();
        Self { buckets }
    }
}

impl<R: Reader> Runtime<'_, R> {
    /// A histogram of times in a global; `None` where the version has none, or has one of another shape.
    pub(super) fn time_histogram(
        &self,
        linked: u64,
        offset: Option<u32>,
    ) -> Result<Option<Histogram>, RuntimeError> {
        let layout = &self.binary.layout().hist;
        let (Some(offset), Some(shape)) = (offset, Shape::of(layout.underflow, layout.overflow)) else {
            return Ok(None);
        };
        let bytes = self.bytes_at(field(self.global(linked), offset), shape.bytes())?;
        Ok(bytes.map(|bytes| Histogram::of_times(shape, &bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `timeHistogram.record` of Go 1.18 (`FINE`) and 1.20 (`COARSE`): the index of a time's bucket.
    fn index(shape: Shape, duration: u64) -> Option<u32> {
        let bits = 64 - duration.leading_zeros();
        if shape == FINE {
            if duration < 16 {
                return u32::try_from(duration).ok();
            }
            let power = bits - 4;
            let sub = (duration >> (power - 1)) % 16;
            return Some(power * 16 + sub as u32).filter(|index| *index < shape.counts());
        }
        let (bit, power) = if bits < 9 { (9, 0) } else { (bits, bits - 9 + 1) };
        let sub = (duration >> (bit - 1 - 2)) % 4;
        (power < shape.powers).then_some(power * 4 + sub as u32)
    }

    #[test]
    fn every_time_is_within_the_bounds_of_the_bucket_that_go_puts_it_into() {
        for shape in [FINE, COARSE] {
            let times = (0..64).flat_map(|bit| {
                let power = 1_u64 << bit;
                [power - 1, power, power + 1, power | power >> 1, power | power >> 2, power | power >> 3]
            });
            for time in times {
                let Some(index) = index(shape, time) else {
                    assert!(time >= shape.begin(shape.counts()), "{shape:?} {time}");
                    continue;
                };
                assert!(shape.begin(index) <= time, "{shape:?} {time} in {index}");
                assert!(time < shape.begin(index + 1), "{shape:?} {time} in {index}");
            }
        }
    }

    #[test]
    fn the_shape_is_told_by_the_layout_alone() {
        assert_eq!(Shape::of(Some(5760), None), Some(FINE));
        assert_eq!(Shape::of(Some(1280), Some(1288)), Some(COARSE));
        assert_eq!(Shape::of(Some(1280), None), None);
        assert_eq!(Shape::of(Some(1288), Some(1296)), None);
        assert_eq!(Shape::of(None, Some(8)), None);
    }

    #[test]
    fn both_ends_are_counted() {
        let mut bytes = vec![0; COARSE.bytes()];
        bytes[1280] = 3;
        bytes[1288] = 5;
        bytes[0] = 7;
        let histogram = Histogram::of_times(COARSE, &bytes);
        let buckets = histogram.buckets();
        assert_eq!(buckets.len(), 162);
        assert_eq!(buckets[0], Bucket { from: None, to: Some(0), count: 3 });
        assert_eq!(buckets[1], Bucket { from: Some(0), to: Some(64), count: 7 });
        assert_eq!(buckets[161], Bucket { from: Some(1 << 47), to: None, count: 5 });
        assert_eq!(histogram.count(), 15);
        let fine = Histogram::of_times(FINE, &vec![0; FINE.bytes()]);
        assert_eq!(fine.buckets().len(), 721);
        assert_eq!(fine.buckets()[720].to, None);
    }

    #[test]
    fn quantiles_are_bounds() {
        let histogram = Histogram::new(&[0, 10, 20], [0, 98, 1, 1]);
        assert_eq!(histogram.below(0.5), Some(10));
        assert_eq!(histogram.below(0.99), Some(20));
        assert_eq!(histogram.below(1.0), None);
        assert_eq!(Histogram::new(&[0], [0, 0]).below(0.5), None);
        let later = Histogram::new(&[0, 10, 20], [0, 99, 3, 1]);
        assert_eq!(later.since(&histogram).count(), 3);
    }
}
