//! Finding what the Go linker wrote: build information, build ID, function table, module data.
//!
//! gobin knows their contents, but reads the ELF file around them with a general parser, and searches on in ways
//! that take a time and a memory of no bound in a hostile file: every string table is copied as a list, and
//! without a table each stretch of growing numbers is taken for one. So they are found here, each in one pass over
//! the file, and gobin reads what was found.

use gobin::formats::BinaryContext;
use gobin::metadata::BuildInfo;
use gobin::structures::PclntabVersion;
use gobin::structures::buildinfo;
use gobin::structures::moduledata::{LayoutHints, Moduledata};
use gobin::structures::pclntab::PclntabMeta;

use super::image::Image;

/// Bytes of build information that are read; that of the largest programs has some ten thousand.
const MAX_BUILD_INFO: usize = 1 << 20;
/// Its header: magic, size of a pointer, flags (debug/buildinfo/buildinfo.go).
const BUILD_INFO: &[u8] = b"\xff Go buildinf:";
const BUILD_INFO_HEADER: usize = 32;
/// The flag of strings in place, from Go 1.18 on.
const IN_PLACE: u8 = 2;

/// The build information that the Go linker put into writable data at 16-byte alignment
/// (cmd/link/internal/ld/data.go, `buildinfo`), in a section of its own where there are sections. Programs that
/// merely know the magic, such as this one, have it among their constants.
fn build_info_at(image: &Image) -> Option<&[u8]> {
    let is_one = |bytes: &[u8]| bytes.starts_with(BUILD_INFO) && bytes.len() >= BUILD_INFO_HEADER;
    let writable = || image.segments().iter().filter(|segment| segment.writable);
    if let Some(section) = image.section(".go.buildinfo")
        && is_one(section)
    {
        return Some(section);
    }
    writable().find_map(|segment| {
        let bytes = image.read_to_segment_end(segment.address)?;
        // Alignment is that of the address.
        let skip = usize::try_from(segment.address.wrapping_neg() % 16).unwrap_or(0);
        let aligned = bytes.get(skip..)?;
        let at = aligned.chunks(16).position(|chunk| chunk.starts_with(BUILD_INFO))? * 16;
        aligned.get(at..).filter(|rest| is_one(rest))
    })
}

/// Reads the build information and hands it on.
pub(super) fn with_build_info<T>(image: &Image, read: impl FnOnce(&BuildInfo<'_>) -> T) -> Option<T> {
    let found = build_info_at(image)?;
    if found.get(15)? & IN_PLACE == 0 {
        // Before Go 1.18: gobin takes the version from anywhere.
        let go_version = buildinfo::find_version_string(image.bytes());
        return Some(read(&BuildInfo { go_version, ..BuildInfo::default() }));
    }
    // What does not begin as an executable is not parsed as one.
    let context = BinaryContext::new(found.get(..MAX_BUILD_INFO).unwrap_or(found));
    Some(read(&buildinfo::extract(&context)?))
}

/// Little-endian words of eight bytes at a place of a header.
fn word(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?)).ok()
}

/// The header of a function table at a place of the file (`pcHeader`, runtime/symtab.go), if it holds together.
fn header(bytes: &[u8], offset: usize) -> Option<PclntabMeta> {
    let data = bytes.get(offset..)?;
    let version = match data.first_chunk()? {
        [0xf1, 0xff, 0xff, 0xff] => PclntabVersion::Go120,
        [0xf0, 0xff, 0xff, 0xff] => PclntabVersion::Go118,
        _ => return None,
    };
    let &[_, _, _, _, 0, 0, min_lc @ (1 | 4), ptr_size @ 8] = data.first_chunk()? else { return None };
    let field = |index: usize| word(data, 8 + index * 8);
    let meta = PclntabMeta {
        offset,
        version,
        min_lc,
        ptr_size,
        nfunc: field(0)?,
        nfiles: field(1)?,
        funcname_offset: field(3)?,
        cu_offset: field(4)?,
        filetab_offset: field(5)?,
        pctab_offset: field(6)?,
        functab_offset: field(7)?,
        text_start: 0,
        header_text_start: field(2).map(|at| at as u64).filter(|at| *at != 0),
    };
    let in_order =
        [meta.funcname_offset, meta.cu_offset, meta.filetab_offset, meta.pctab_offset, meta.functab_offset];
    // Each function has an entry of eight bytes, and one more ends the list.
    let entries = meta.nfunc.checked_add(1)?.checked_mul(8)?.checked_add(meta.functab_offset)?;
    (in_order.is_sorted() && entries <= data.len()).then_some(meta)
}

/// The function table: in its section, else wherever its magic is.
fn table(image: &Image) -> Option<PclntabMeta> {
    let bytes = image.bytes();
    let section = image.section_range(".gopclntab").and_then(|range| header(bytes, range.start));
    section.or_else(|| {
        // The first bytes tell nearly all places apart.
        let magic = |chunk: &[u8; 4]| matches!(chunk, [0xf0 | 0xf1, 0xff, 0xff, 0xff]);
        let places = bytes.as_chunks::<4>().0.iter().enumerate().filter(|(_, chunk)| magic(chunk));
        places.map(|(index, _)| index * 4).find_map(|offset| header(bytes, offset))
    })
}

/// The function table and the module data that points to it.
pub(super) fn tables(image: &Image, minor: u16) -> Option<(PclntabMeta, Moduledata)> {
    let table = table(image)?;
    let hints = LayoutHints {
        pclntab_version: table.version,
        go_minor: Some(u32::from(minor)),
        has_typelink_section: image.section(".typelink").is_some(),
        has_go_type_section: image.section(".go.type").is_some(),
    };
    let parse = |bytes: &[u8]| Moduledata::parse(bytes, table.ptr_size, hints);
    // A section of its own from Go 1.26 on.
    if let Some(module) = image.section(".go.module").and_then(parse) {
        return Some((table, module));
    }
    // Else known by its first word, the address of the table, and by what it must say of itself.
    let target = image.address(table.offset as u64)?.to_le_bytes();
    let within = |range: std::ops::Range<usize>| {
        let start = range.start.next_multiple_of(8);
        let words = image.bytes().get(start..range.end)?.as_chunks::<8>().0.iter().enumerate();
        words.filter(|(_, word)| **word == target).find_map(|(index, _)| {
            let module = parse(image.bytes().get(start + index * 8..)?)?;
            let sane = module.minpc < module.maxpc && module.types != 0;
            (sane && image.file_offset(module.funcnametab.ptr).is_some()).then_some(module)
        })
    };
    let module = [".noptrdata", ".data"]
        .into_iter()
        .find_map(|name| within(image.section_range(name)?))
        .or_else(|| within(0..image.bytes().len()))?;
    Some((table, module))
}
