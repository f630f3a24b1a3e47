//! Where in a frame live pointers are: the stack maps that the compiler makes for the collector.
//!
//! `getStackMap` (runtime/stack.go, from Go 1.21 on runtime/stkframe.go), `stackObjectRecord` (runtime/stack.go),
//! `stackmap` (runtime/symtab.go): the same from Go 1.18 to 1.27.

use super::image::Image;
use super::symbols::Symbols;

/// `FUNCDATA_ArgsPointerMaps`, `FUNCDATA_LocalsPointerMaps`, `FUNCDATA_StackObjects` (internal/abi/symtab.go).
const ARGUMENTS: u8 = 0;
const LOCALS: u8 = 1;
const OBJECTS: u8 = 2;
/// `PCDATA_StackMapIndex`.
const INDEX: u32 = 1;
/// `abi.ArgsSizeUnknown`.
const UNKNOWN: i32 = i32::MIN;
/// Bits of a map and objects of a frame that are believed.
const MOST_BITS: u32 = 1 << 20;
const MOST_OBJECTS: u64 = 1 << 12;

/// One bit for each word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WordMask {
    bytes: Vec<u8>,
    /// How many words it is about.
    pub(crate) words: u32,
}

impl WordMask {
    /// The numbers of the words that are pointers.
    pub(crate) fn pointers(&self) -> impl Iterator<Item = u64> {
        let is_set =
            |word: &u32| self.bytes.get(*word as usize / 8).is_some_and(|byte| byte >> (word % 8) & 1 != 0);
        (0..self.words).filter(is_set).map(u64::from)
    }
}

/// The pointers of a frame at one place of its function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FrameMap {
    /// Its local variables, of which the last ends where the saved frame pointer is.
    pub(crate) locals: WordMask,
    /// The function has local variables, of which it may be that none is a pointer.
    pub(crate) has_locals: bool,
    /// Its arguments.
    pub(crate) arguments: WordMask,
    /// Variables whose address is taken: where (below the locals' end, or from the arguments on) and how long. They
    /// are alive only where a pointer leads to them.
    pub(crate) objects: Vec<(i32, u32)>,
}

impl Symbols {
    /// The pointers of a frame that is at a linked address: at a call, of which this is the return address. `None`
    /// where no map tells: all words of the frame may be pointers then.
    pub(crate) fn frame_map(&self, image: &Image, address: u64) -> Option<FrameMap> {
        let entry = self.at(address.saturating_sub(1)).or_else(|| self.at(address))?;
        let at_entry = self.at(address).is_some_and(|function| function.entry == address);
        let function = if at_entry { self.at(address)? } else { entry };
        let record = self.record(image, function)?;
        let index = if at_entry {
            None
        } else {
            self.pc_value(image, record.pcdata(INDEX).unwrap_or(0), address - 1 - function.entry)
        };
        let index = index.filter(|index| *index != -1).unwrap_or(0);
        let index = u32::try_from(index).ok()?;
        let data = |which: u8| self.gofunc()?.checked_add(u64::from(record.funcdata(which)?));
        let mut map = FrameMap::default();
        if let Some(at) = data(LOCALS) {
            map.locals = mask(image, at, index)?;
            map.has_locals = true;
        }
        if record.fields.args == UNKNOWN {
            return None;
        }
        if record.fields.args > 0 {
            // The map may be about fewer words than the arguments have.
            map.arguments = mask(image, data(ARGUMENTS)?, index)?;
        }
        if let Some(at) = data(OBJECTS) {
            let count = image.read_u64(at).filter(|count| *count <= MOST_OBJECTS)?;
            let records = image.read(at.checked_add(8)?, usize::try_from(count).ok()? * 16)?;
            map.objects = records
                .chunks_exact(16)
                .filter_map(|record| {
                    let (offset, rest) = record.split_first_chunk::<4>()?;
                    let size = u32::from_le_bytes(*rest.first_chunk()?);
                    Some((i32::from_le_bytes(*offset), size))
                })
                .collect();
        }
        Some(map)
    }
}

/// One of the maps of a `stackmap`: their number and their bits, then the maps, each a whole number of bytes.
fn mask(image: &Image, at: u64, index: u32) -> Option<WordMask> {
    let header = image.read(at, 8)?;
    let (count, rest) = header.split_first_chunk::<4>()?;
    let (count, words) = (u32::from_le_bytes(*count), u32::from_le_bytes(*rest.first_chunk()?));
    if words > MOST_BITS || count > MOST_BITS {
        return None;
    }
    if words == 0 {
        return Some(WordMask::default());
    }
    let len = words.div_ceil(8);
    (index < count).then_some(())?;
    let start = at.checked_add(8)?.checked_add(u64::from(index) * u64::from(len))?;
    Some(WordMask { bytes: image.read(start, len as usize)?.into_owned(), words })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_words_from_the_lowest_on() {
        let mask = WordMask { bytes: vec![0b1000_0001, 0b0000_0110], words: 10 };
        assert_eq!(mask.pointers().collect::<Vec<_>>(), [0, 7, 9]);
    }
}
