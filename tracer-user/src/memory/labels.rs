//! A goroutine's pprof labels, from what `g.labels` points to (runtime/pprof/label.go).

use super::reader::{Reader, u8_at, u64_at};

/// Most labels of a goroutine that are kept.
pub const MAX_LABELS: usize = 256;
/// Most bytes of a key or value that are kept.
const MAX_TEXT: u64 = 1024;
/// More labels than anyone sets: what claims to have more is not read.
const ABSURD: u64 = 1 << 20;
/// From this minor version of Go on, labels are a slice; before, a map.
const FIRST_WITH_SLICE: u16 = 24;

/// The labels of a goroutine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels {
    /// Keys and values, in the order of the keys. What is not UTF-8 in them is replaced.
    pub pairs: Vec<(String, String)>,
    /// How many more labels there are.
    pub left_out: usize,
    /// How many keys and values are longer than what is kept of them.
    pub cut: usize,
}

/// A string header.
#[derive(Clone, Copy)]
struct Text {
    at: u64,
    len: u64,
}

impl Text {
    fn of(bytes: &[u8], offset: u32) -> Self {
        Self { at: u64_at(bytes, offset), len: u64_at(bytes, offset + 8) }
    }
}

/// Reads the labels at `pointer`; `None` if what is there does not hold together.
///
/// `budget` are the bytes that may be read yet.
pub(super) fn read<R: Reader>(memory: &R, pointer: u64, minor: u16, budget: &mut u64) -> Option<Labels> {
    let (mut texts, mut left_out) =
        if minor >= FIRST_WITH_SLICE { slice(memory, pointer)? } else { (map(memory, pointer, budget)?, 0) };
    left_out += texts.len().saturating_sub(MAX_LABELS);
    texts.truncate(MAX_LABELS);
    let parts: Vec<(u64, usize)> = texts
        .iter()
        .flat_map(|(key, value)| [key, value])
        .map(|text| (text.at, text.len.min(MAX_TEXT) as usize))
        .collect();
    // An empty string may point anywhere, also to nothing.
    let wanted: Vec<(u64, usize)> = parts.iter().copied().filter(|(_, len)| *len != 0).collect();
    take(budget, wanted.iter().map(|(_, len)| *len).sum::<usize>() + texts.len() * 32)?;
    let (bytes, read) = memory.read_batch(&wanted).ok()?;
    if read.iter().any(|ok| !ok) {
        return None;
    }
    let mut rest = bytes.as_slice();
    let mut strings = parts.iter().map(|(_, len)| {
        let (text, after) = rest.split_at(*len);
        rest = after;
        String::from_utf8_lossy(text).into_owned()
    });
    let mut pairs = Vec::with_capacity(texts.len());
    while let (Some(key), Some(value)) = (strings.next(), strings.next()) {
        pairs.push((key, value));
    }
    pairs.sort_unstable();
    let cut = texts.iter().flat_map(|(key, value)| [key, value]).filter(|text| text.len > MAX_TEXT).count();
    Some(Labels { pairs, left_out, cut })
}

fn take(budget: &mut u64, bytes: usize) -> Option<()> {
    *budget = budget.checked_sub(bytes as u64)?;
    Some(())
}

/// Go 1.24 on: `labelMap` is a structure with a slice of pairs of strings.
fn slice<R: Reader>(memory: &R, pointer: u64) -> Option<(Vec<(Text, Text)>, usize)> {
    let mut header = [0; 24];
    memory.read(pointer, &mut header).ok()?;
    let (at, len, cap) = (u64_at(&header, 0), u64_at(&header, 8), u64_at(&header, 16));
    if len > cap || cap > ABSURD || at & 7 != 0 {
        return None;
    }
    let kept = len.min(MAX_LABELS as u64) as usize;
    let mut bytes = vec![0; kept * 32];
    if kept != 0 {
        memory.read(at, &mut bytes).ok()?;
    }
    let texts = bytes.chunks_exact(32).map(|pair| (Text::of(pair, 0), Text::of(pair, 16))).collect();
    Some((texts, len as usize - kept))
}

/// A bucket of a `map[string]string`: 8 bytes of hashes, 8 keys, 8 values, and the next bucket (`bmap`,
/// runtime/map.go, Go 1.18 to 1.23).
const BUCKET: usize = 8 + 8 * 16 + 8 * 16 + 8;
/// `hashWriting` and `sameSizeGrow`, `emptyOne`, and the `evacuated` marks (runtime/map.go).
const WRITING: u8 = 4;
const SAME_SIZE_GROW: u8 = 8;
const EMPTY_ONE: u8 = 1;
const MIN_TOP_HASH: u8 = 5;
/// Longest chain of buckets that is followed; a longer one is a ring.
const MAX_LINKS: usize = 64;

/// Up to Go 1.23: `labelMap` is a `map[string]string`, so `pointer` leads to a pointer to an `hmap`.
///
/// All keys that are in new buckets, and in old ones that were not moved yet, are the whole map; their number
/// must be the one that the map itself has.
fn map<R: Reader>(memory: &R, pointer: u64, budget: &mut u64) -> Option<Vec<(Text, Text)>> {
    let at = memory.u64(pointer).ok()?;
    if at == 0 {
        return Some(Vec::new());
    }
    let mut header = [0; 48];
    memory.read(at, &mut header).ok()?;
    let (count, flags, shift) = (u64_at(&header, 0), u8_at(&header, 8), u8_at(&header, 9));
    let (buckets, old) = (u64_at(&header, 16), u64_at(&header, 24));
    if count == 0 {
        return Some(Vec::new());
    }
    if flags & WRITING != 0 || shift > 12 || count > 1 << 16 {
        return None;
    }
    let mut texts = Vec::new();
    if old != 0 {
        let old_shift = if flags & SAME_SIZE_GROW == 0 { shift.checked_sub(1)? } else { shift };
        table(memory, (old, 1 << old_shift), true, budget, &mut texts)?;
    }
    table(memory, (buckets, 1 << shift), false, budget, &mut texts)?;
    (texts.len() as u64 == count).then_some(texts)
}

/// The pairs of an array of buckets and of those chained to them.
fn table<R: Reader>(
    memory: &R,
    (at, count): (u64, usize),
    old: bool,
    budget: &mut u64,
    into: &mut Vec<(Text, Text)>,
) -> Option<()> {
    take(budget, count * BUCKET)?;
    let mut bytes = vec![0; count * BUCKET];
    memory.read(at, &mut bytes).ok()?;
    for bucket in bytes.chunks_exact(BUCKET) {
        if old && (EMPTY_ONE + 1..MIN_TOP_HASH).contains(&bucket[0]) {
            continue;
        }
        let mut chained = bucket.to_vec();
        let mut links = 0;
        loop {
            for slot in 0..8_u32 {
                if chained[slot as usize] >= MIN_TOP_HASH {
                    into.push((Text::of(&chained, 8 + slot * 16), Text::of(&chained, 136 + slot * 16)));
                }
            }
            let next = u64_at(&chained, 264);
            if next == 0 {
                break;
            }
            links += 1;
            if links > MAX_LINKS {
                return None;
            }
            take(budget, BUCKET)?;
            memory.read(next, &mut chained).ok()?;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::reader::fake::FakeMemory;
    use super::*;

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn pairs(labels: &Labels) -> Vec<(&str, &str)> {
        labels.pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }

    #[test]
    fn a_slice_is_read_and_sorted() {
        let mut memory = FakeMemory::default();
        memory.put(0x100, &words(&[0x200, 2, 2]));
        memory.put(0x200, &words(&[0x300, 6, 0x310, 4, 0x320, 5, 0, 0]));
        memory.put(0x300, b"tenant");
        memory.put(0x310, b"acme");
        memory.put(0x320, b"shard");
        let labels = read(&memory, 0x100, 24, &mut (1 << 20)).unwrap();
        assert_eq!(pairs(&labels), [("shard", ""), ("tenant", "acme")]);
        assert_eq!((labels.left_out, labels.cut), (0, 0));
        memory.put(0x100, &words(&[0x200, 3, 2]));
        assert_eq!(read(&memory, 0x100, 24, &mut (1 << 20)), None, "longer than its capacity");
    }

    #[test]
    fn a_slice_too_long_is_cut_and_counted() {
        let mut memory = FakeMemory::default();
        memory.put(0x100, &words(&[0x10000, 300, 300]));
        memory.put(0x10000, &words(&[0x200, 2000, 0x200, 1]).repeat(300));
        memory.put(0x200, &[b'x'; 2000]);
        let labels = read(&memory, 0x100, 27, &mut (1 << 20)).unwrap();
        assert_eq!((labels.pairs.len(), labels.left_out, labels.cut), (256, 44, 256));
        assert_eq!(labels.pairs[0].0.len(), 1024);
    }

    fn bucket(hashes: [u8; 8], next: u64) -> Vec<u8> {
        let mut bytes = hashes.to_vec();
        // Each key is its hash, each value its length.
        for hash in hashes {
            bytes.extend(words(&[0x9000 + u64::from(hash), 1]));
        }
        for _ in 0..8 {
            bytes.extend(words(&[0x9000, 2]));
        }
        bytes.extend(words(&[next]));
        bytes
    }

    fn header(count: u64, flags: u8, shift: u8, buckets: u64, old: u64) -> Vec<u8> {
        let mut bytes = words(&[count, 0, buckets, old, 0, 0]);
        bytes[8] = flags;
        bytes[9] = shift;
        bytes
    }

    #[test]
    fn a_map_is_read_with_its_chains_and_what_was_not_moved_yet() {
        let mut memory = FakeMemory::default();
        memory.put(0x9000, &(0..=255).map(|i| if i < 128 { i } else { b'?' }).collect::<Vec<u8>>());
        memory.put(0x100, &words(&[0x200]));
        // One old bucket that was moved, one that was not and has a chain.
        memory.put(0x200, &header(4, 0, 2, 0x2000, 0x4000));
        let moved = bucket([2, 3, 0, 0, 0, 0, 0, 0], 0);
        let kept = bucket([b'a', 1, 0, 0, 0, 0, 0, 0], 0x6000);
        memory.put(0x4000, &[moved, kept].concat());
        memory.put(0x6000, &bucket([b'b', 0, 0, 0, 0, 0, 0, 0], 0));
        let empty = bucket([0; 8], 0);
        let new = bucket([0, b'c', 0, 0, 0, 0, 0, b'd'], 0);
        memory.put(0x2000, &[new, empty.clone(), empty.clone(), empty].concat());
        let labels = read(&memory, 0x100, 23, &mut (1 << 20)).unwrap();
        assert_eq!(
            labels.pairs.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(),
            ["a", "b", "c", "d"]
        );
        memory.put(0x200, &header(5, 0, 2, 0x2000, 0x4000));
        assert_eq!(read(&memory, 0x100, 23, &mut (1 << 20)), None, "not as many as the map says");
        memory.put(0x200, &header(4, WRITING, 2, 0x2000, 0x4000));
        assert_eq!(read(&memory, 0x100, 23, &mut (1 << 20)), None, "being written");
        memory.put(0x200, &header(0, 0, 0, 0, 0));
        assert_eq!(read(&memory, 0x100, 18, &mut (1 << 20)).unwrap(), Labels::default());
    }

    #[test]
    fn what_is_beyond_the_budget_is_not_read() {
        let mut memory = FakeMemory::default();
        memory.put(0x100, &words(&[0x200, 1, 1]));
        memory.put(0x200, &words(&[0x300, 6, 0x300, 6]));
        memory.put(0x300, b"tenant");
        assert!(read(&memory, 0x100, 24, &mut 44).is_some());
        assert_eq!(read(&memory, 0x100, 24, &mut 43), None);
    }

    #[test]
    fn a_chain_that_is_a_ring_ends() {
        let mut memory = FakeMemory::default();
        memory.put(0x100, &words(&[0x200]));
        memory.put(0x200, &header(1, 0, 0, 0x2000, 0));
        memory.put(0x2000, &bucket([0; 8], 0x2000));
        assert_eq!(read(&memory, 0x100, 20, &mut (1 << 20)), None);
    }
}
