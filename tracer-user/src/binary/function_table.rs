//! Go's function table (`pclntab`), which stripping leaves in place: its records, its texts and its pc-value tables,
//! each read where it lies, for a file that is not in memory as a whole.

use std::borrow::Cow;
use std::ffi::CStr;

use gobin::structures::pclntab::{FuncData, PclntabMeta};

use super::image::Image;

/// A longer name of a function or a file is none: the end of one would be looked for in all of the file. Generic
/// functions have names of some thousand bytes.
pub(super) const MAX_NAME: usize = 16 << 10;
/// Bytes of a record with its tables, at most: 44 (`_func`, runtime/runtime2.go), and 4 for each of some twenty tables.
const MAX_RECORD: usize = 512;
/// Bytes of a pc-value table that are read at once.
const WINDOW: usize = 512;
/// Bytes that two numbers take at most.
const ENTRY: usize = 10;

/// Where the parts of the table are.
#[derive(Clone, Copy, Debug)]
pub(super) struct FunctionTable(pub(super) PclntabMeta);

/// What the table has of one function: `_func` (runtime/runtime2.go).
#[derive(Debug)]
pub(super) struct Record<'a> {
    pub(super) fields: FuncData,
    /// The record and the tables behind it.
    bytes: Cow<'a, [u8]>,
    shape: PclntabMeta,
}

impl FunctionTable {
    fn at(&self, part: usize, offset: usize) -> Option<usize> {
        self.0.offset.checked_add(part)?.checked_add(offset)
    }

    /// The record of a function, by its offset in the table.
    pub(super) fn record<'a>(&self, image: &'a Image, offset: u32) -> Option<Record<'a>> {
        let at = self.at(self.0.functab_offset, usize::try_from(offset).ok()?)?;
        let bytes = image.part(at, MAX_RECORD)?;
        let shape = PclntabMeta { offset: 0, functab_offset: 0, ..self.0 };
        let fields = shape.attach(&bytes)?.parse_func(0)?;
        Some(Record { fields, bytes, shape })
    }

    /// The name of a function at an offset that is in its record or in an inline tree.
    pub(super) fn name<'a>(&self, image: &'a Image, offset: u32) -> Option<Cow<'a, str>> {
        text(self.name_bytes(image, offset)?)
    }

    /// The same, whatever bytes it is of.
    pub(super) fn name_bytes<'a>(&self, image: &'a Image, offset: u32) -> Option<Cow<'a, [u8]>> {
        bytes(image, self.at(self.0.funcname_offset, usize::try_from(offset).ok()?)?)
    }

    /// The file by its number in a compilation unit (`funcfile`, runtime/symtab.go).
    pub(super) fn file<'a>(&self, image: &'a Image, unit: u32, number: u32) -> Option<Cow<'a, str>> {
        let index = usize::try_from(unit).ok()?.checked_add(usize::try_from(number).ok()?)?;
        let entry = image.part(self.at(self.0.cu_offset, index.checked_mul(4)?)?, 4)?;
        let offset = u32::from_le_bytes(*entry.first_chunk()?);
        text(bytes(image, self.at(self.0.filetab_offset, usize::try_from(offset).ok()?)?)?)
    }

    /// The pc-value table at an offset, none at 0: for each stretch of the code the offset from the function's entry
    /// at which it ends, and the value.
    pub(super) fn values<'a>(&self, image: &'a Image, offset: u32) -> Values<'a> {
        let at = if offset == 0 { None } else { usize::try_from(offset).ok() };
        let at = at.and_then(|offset| self.at(self.0.pctab_offset, offset)).unwrap_or(usize::MAX);
        let quantum = u32::from(self.0.min_lc);
        Values { image, at, window: Cow::Borrowed(&[]), used: 0, pc: 0, value: -1, quantum, first: true }
    }
}

impl Record<'_> {
    /// Offset of one of the pc-value tables that are told apart by number (`PCDATA_*`).
    pub(super) fn pcdata(&self, number: u32) -> Option<u32> {
        self.shape.attach(&self.bytes)?.pcdata_at(&self.fields, number)
    }

    /// Offset of one of the things that are told apart by number (`FUNCDATA_*`), from `moduledata.gofunc`.
    pub(super) fn funcdata(&self, number: u8) -> Option<u32> {
        /// An entry that is absent.
        const NONE: u32 = u32::MAX;
        self.shape.attach(&self.bytes)?.funcdata_at(&self.fields, number).filter(|offset| *offset != NONE)
    }
}

/// The bytes at a place of the file, up to the zero that ends them.
fn bytes(image: &Image, at: usize) -> Option<Cow<'_, [u8]>> {
    // Nearly all are short.
    let parts = [128, 1024, MAX_NAME].into_iter().map_while(|size| image.part(at, size));
    let (part, len) = parts
        .filter_map(|part| {
            let len = CStr::from_bytes_until_nul(&part).ok()?.count_bytes();
            Some((part, len))
        })
        .next()?;
    Some(match part {
        Cow::Borrowed(bytes) => Cow::Borrowed(bytes.get(..len)?),
        Cow::Owned(mut bytes) => {
            bytes.truncate(len);
            Cow::Owned(bytes)
        }
    })
}

fn text(bytes: Cow<'_, [u8]>) -> Option<Cow<'_, str>> {
    match bytes {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
        Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
    }
}

/// The entries of a pc-value table (`step` and `pcvalue`, runtime/symtab.go).
#[derive(Debug)]
pub(super) struct Values<'a> {
    image: &'a Image,
    /// Where the window begins in the file.
    at: usize,
    window: Cow<'a, [u8]>,
    /// Bytes of the window that are behind us.
    used: usize,
    pc: u32,
    value: i32,
    quantum: u32,
    first: bool,
}

impl Values<'_> {
    /// A number of seven bits a byte, the lowest first.
    fn number(&mut self) -> Option<u32> {
        let mut number = 0;
        for shift in (0..35).step_by(7) {
            let byte = *self.window.get(self.used)?;
            self.used += 1;
            number |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}

impl Iterator for Values<'_> {
    type Item = (u32, i32);

    fn next(&mut self) -> Option<Self::Item> {
        if self.window.len() - self.used < ENTRY {
            self.at = self.at.checked_add(self.used)?;
            self.used = 0;
            self.window = self.image.part(self.at, WINDOW)?;
        }
        let change = self.number()?;
        // No change ends the table, but that the first value may be what all begin with.
        if change == 0 && !self.first {
            return None;
        }
        self.first = false;
        let half = (change >> 1).cast_signed();
        self.value = self.value.wrapping_add(if change & 1 == 0 { half } else { !half });
        self.pc = self.pc.wrapping_add(self.number()?.wrapping_mul(self.quantum));
        Some((self.pc, self.value))
    }
}
