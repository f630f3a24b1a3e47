//! Real files with something done to them: random bytes never get past an ELF header.

use std::ops::Range;
use std::sync::Arc;

use object::read::elf::ElfFile64;
use object::{LittleEndian, Object as _, ObjectSection as _, ObjectSegment as _};

use super::random::Random;

/// A real file, and the stretches of it that parsers look at.
#[derive(Clone, Debug)]
pub struct Base {
    /// What it is, for messages.
    pub name: String,
    bytes: Vec<u8>,
    regions: Vec<Range<usize>>,
}

/// Bytes at the begin of a stretch that are a stretch of their own: headers.
const HEAD: usize = 128;

impl Base {
    /// Takes a file.
    #[must_use]
    pub fn new(name: String, bytes: Vec<u8>) -> Self {
        let mut regions = vec![0..bytes.len().min(4096), 0..bytes.len().min(HEAD), 0..bytes.len()];
        if let Ok(file) = ElfFile64::<LittleEndian>::parse(&*bytes) {
            let range = |(offset, size): (u64, u64)| {
                let start = usize::try_from(offset).ok()?;
                let end = start.checked_add(usize::try_from(size).ok()?)?;
                (start < end && end <= bytes.len()).then_some(start..end)
            };
            let headers = file.elf_header().e_shoff.get(LittleEndian);
            let sections = file.elf_section_table().len() as u64;
            let sections = range((headers, sections * 64));
            let parts = file.sections().filter_map(|section| range(section.file_range()?));
            let segments = file.segments().filter_map(|segment| range(segment.file_range()));
            for part in sections.into_iter().chain(parts).chain(segments) {
                regions.push(part.start..part.end.min(part.start + HEAD));
                regions.push(part);
            }
        }
        regions.retain(|region| !region.is_empty());
        Self { name, bytes, regions }
    }

    /// The file as it is.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Takes bytes off the begin, fewer where there are fewer.
fn take<'a>(input: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(count.min(input.len()));
    *input = rest;
    taken
}

fn number(input: &mut &[u8], count: usize) -> u64 {
    take(input, count).iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Makes a file of an input: byte 0 chooses the base; bytes 1 to 3 say where it is cut (0: not at all); then
/// changes until the input ends, each of a stretch (1 byte), a place in it (3 bytes), what is done there (1 byte)
/// and with what.
#[must_use]
pub fn overlay(bases: &[Base], mut input: &[u8]) -> Option<Arc<[u8]>> {
    let input = &mut input;
    let base = bases.get(usize::try_from(number(input, 1)).ok()? % bases.len().max(1))?;
    let cut = usize::try_from(number(input, 3)).ok()?;
    let mut bytes = base.bytes.clone();
    while !input.is_empty() {
        let region = base.regions.get(usize::try_from(number(input, 1)).ok()? % base.regions.len().max(1))?;
        let place = region.start + usize::try_from(number(input, 3)).ok()? % region.len().max(1);
        change(&mut bytes, place, input);
    }
    if cut != 0 {
        bytes.truncate(cut % (bytes.len() + 1));
    }
    Some(bytes.into())
}

/// One change: bytes written, a number of bytes repeated, bytes moved here from elsewhere, a word changed a bit.
fn change(bytes: &mut [u8], place: usize, input: &mut &[u8]) {
    let kind = number(input, 1);
    let count = 1 + (kind >> 2 & 15) as usize;
    match kind & 3 {
        0 => {
            let new = take(input, count);
            if let Some(old) = bytes.get_mut(place..place + new.len()) {
                old.copy_from_slice(new);
            }
        }
        1 => {
            let value = number(input, 1) as u8;
            let end = bytes.len().min(place + (count * count * count));
            if let Some(old) = bytes.get_mut(place..end) {
                old.fill(value);
            }
        }
        2 => {
            let from = number(input, 3) as usize % bytes.len().max(1);
            let len = (count * 4).min(bytes.len() - from).min(bytes.len() - place);
            bytes.copy_within(from..from + len, place);
        }
        _ => {
            // A count, an offset or an address that is a bit off, of eight bytes or of four.
            let delta = i64::from(number(input, 1) as i8) << ((kind >> 2 & 7) * 4);
            let place = place & !3;
            if let Some(word) = bytes.get_mut(place..).and_then(|rest| rest.first_chunk_mut::<8>()) {
                let old = u64::from_le_bytes(*word);
                let new = if kind & 0x80 == 0 {
                    old.wrapping_add_signed(delta)
                } else {
                    old & !0xffff_ffff | u64::from((old as u32).wrapping_add(delta as u32))
                };
                *word = new.to_le_bytes();
            }
        }
    }
}

/// An input of [`overlay`] with some changes.
#[must_use]
pub fn overlay_input(random: &mut Random, base: u8) -> Vec<u8> {
    let mut input = vec![base];
    let cut = if random.below(8) == 0 { random.word() as u32 } else { 0 };
    input.extend(&cut.to_le_bytes()[..3]);
    for _ in 0..=random.below(6) {
        input.extend(random.bytes(1));
        // Mostly the begin of a stretch: tables begin with what the rest hangs on.
        let place = match random.below(3) {
            0 => random.below(64) as u32 & !7,
            1 => random.below(4096) as u32,
            _ => random.word() as u32,
        };
        input.extend(&place.to_le_bytes()[..3]);
        let kind = random.word() as u8;
        input.push(kind);
        let more = match kind & 3 {
            0 => 1 + usize::from(kind >> 2 & 15),
            2 => 3,
            _ => 1,
        };
        input.extend(random.bytes(more));
    }
    input
}
