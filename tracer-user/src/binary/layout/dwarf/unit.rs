//! One unit of the types: where its structures are, and what a path of fields leads to.

use std::cell::Cell;
use std::collections::HashMap;

use gimli::{Abbreviation, Abbreviations, AttributeValue, UnitHeader, UnitOffset};

use super::sections::Strings;
use super::{Bytes, Entries, dwarf_error};
use crate::binary::layout::{FIELDS, LayoutError, SIZE};

/// The entries below one structure.
const MAX_ENTRIES: usize = 16 << 10;
/// Typedefs of typedefs.
const MAX_TYPEDEFS: usize = 16;
/// No field of ours is beyond this: `runtime.p`, the largest structure, has 16 KB.
const MAX_OFFSET: u64 = 1 << 20;

/// A field of a structure as DWARF has it.
struct Member<'data> {
    name: &'data [u8],
    offset: u64,
    target: Option<UnitOffset>,
}

/// What a typedef stands for.
enum Type<'data> {
    Structure { size: Option<u64>, members: Vec<Member<'data>> },
    Pointer,
    Other,
}

/// The entries and attributes that have been looked at in all units.
pub(super) struct Steps {
    pub(super) limit: u64,
    pub(super) done: Cell<u64>,
}

impl Steps {
    fn take(&self, count: u64) -> Result<(), LayoutError> {
        self.done.set(self.done.get() + count);
        if self.done.get() <= self.limit {
            Ok(())
        } else {
            Err(LayoutError::TooComplex { limit: self.limit })
        }
    }
}

/// A unit whose name has not been looked at, or is `runtime`.
pub(super) struct Unit<'data, 'table> {
    pub(super) header: UnitHeader<Bytes<'data>>,
    pub(super) abbreviations: &'table Abbreviations,
    pub(super) strings: Strings<'data>,
    pub(super) steps: &'table Steps,
}

impl<'data, 'table> Unit<'data, 'table> {
    fn entries(&self, at: Option<UnitOffset>) -> Result<Entries<'data, 'table>, LayoutError> {
        self.header.entries_raw(self.abbreviations, at).map_err(dwarf_error)
    }

    /// Begins the next entry; `None` at the end of some entry's children. Attributes count as they may take no
    /// space in the file.
    fn begin(
        &self,
        entries: &mut Entries<'data, 'table>,
    ) -> Result<Option<&'table Abbreviation>, LayoutError> {
        let abbreviation = entries.read_abbreviation().map_err(dwarf_error)?;
        self.steps.take(1 + abbreviation.map_or(0, |known| known.attributes().len() as u64))?;
        Ok(abbreviation)
    }

    /// The name that the unit's root carries.
    pub(super) fn name(&self) -> Result<Option<&'data [u8]>, LayoutError> {
        let mut entries = self.entries(None)?;
        let Some(abbreviation) = self.begin(&mut entries)? else { return Ok(None) };
        for &specification in abbreviation.attributes() {
            let attribute = entries.read_attribute(specification).map_err(dwarf_error)?;
            if attribute.name() == gimli::DW_AT_name {
                return Ok(self.strings.get(&attribute.value()));
            }
        }
        Ok(None)
    }

    /// Where the structures that we want are declared, by name.
    pub(super) fn structures(&self) -> Result<HashMap<&'static str, UnitOffset>, LayoutError> {
        let mut wanted: Vec<&'static str> = FIELDS.iter().map(|field| field.strukt).collect();
        wanted.dedup();
        let mut found = HashMap::new();
        let mut entries = self.entries(None)?;
        while !entries.is_empty() && found.len() < wanted.len() {
            let offset = entries.next_offset();
            let Some(abbreviation) = self.begin(&mut entries)? else { continue };
            if abbreviation.tag() != gimli::DW_TAG_structure_type {
                entries.skip_attributes(abbreviation.attributes()).map_err(dwarf_error)?;
                continue;
            }
            for &specification in abbreviation.attributes() {
                let attribute = entries.read_attribute(specification).map_err(dwarf_error)?;
                if attribute.name() != gimli::DW_AT_name {
                    continue;
                }
                let name = self.strings.get(&attribute.value());
                if let Some(strukt) = wanted.iter().find(|strukt| name == Some(strukt.as_bytes())) {
                    found.entry(*strukt).or_insert(offset);
                }
            }
        }
        Ok(found)
    }

    pub(super) fn offsets(
        &self,
        structures: &HashMap<&'static str, UnitOffset>,
    ) -> Result<HashMap<&'static str, u32>, LayoutError> {
        let mut offsets = HashMap::new();
        // Many fields share a structure; each is read once.
        let mut types = HashMap::new();
        for field in FIELDS {
            let Some(&start) = structures.get(field.strukt) else { continue };
            for path in field.paths {
                if let Some(offset) = self.follow(&mut types, start, path)? {
                    offsets.insert(field.key, offset);
                    break;
                }
            }
        }
        Ok(offsets)
    }

    /// The offset of a path from a structure's start, if all of its names are there.
    fn follow(
        &self,
        types: &mut HashMap<UnitOffset, Type<'data>>,
        start: UnitOffset,
        path: &str,
    ) -> Result<Option<u32>, LayoutError> {
        let (path, pointer) = match path.strip_prefix('*') {
            Some(path) => (path, true),
            None => (path, false),
        };
        let mut at = Some(start);
        let mut total = 0u64;
        for name in path.split('.') {
            let Some(offset) = at else { return Ok(None) };
            let Type::Structure { size, members } = self.look(types, offset)? else { return Ok(None) };
            if name == SIZE {
                return Ok(size.and_then(believable));
            }
            let Some(member) = members.iter().find(|member| member.name == name.as_bytes()) else {
                return Ok(None);
            };
            total = total.saturating_add(member.offset);
            at = member.target;
        }
        if pointer {
            let Some(offset) = at else { return Ok(None) };
            if !matches!(self.look(types, offset)?, Type::Pointer) {
                return Ok(None);
            }
        }
        Ok(believable(total))
    }

    /// A type, read once.
    fn look<'known>(
        &self,
        types: &'known mut HashMap<UnitOffset, Type<'data>>,
        offset: UnitOffset,
    ) -> Result<&'known Type<'data>, LayoutError> {
        use std::collections::hash_map::Entry;
        match types.entry(offset) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(new) => Ok(new.insert(self.read_type(offset)?)),
        }
    }

    fn read_type(&self, mut offset: UnitOffset) -> Result<Type<'data>, LayoutError> {
        for _ in 0..MAX_TYPEDEFS {
            let mut entries = self.entries(Some(offset))?;
            let Some(abbreviation) = self.begin(&mut entries)? else { return Ok(Type::Other) };
            let (mut size, mut target) = (None, None);
            for &specification in abbreviation.attributes() {
                let attribute = entries.read_attribute(specification).map_err(dwarf_error)?;
                match attribute.name() {
                    gimli::DW_AT_byte_size => size = attribute.udata_value(),
                    gimli::DW_AT_type => target = self.reference(&attribute.value()),
                    _ => {}
                }
            }
            match (abbreviation.tag(), target) {
                (gimli::DW_TAG_structure_type, _) => {
                    let members =
                        if abbreviation.has_children() { self.members(&mut entries)? } else { Vec::new() };
                    return Ok(Type::Structure { size, members });
                }
                (gimli::DW_TAG_pointer_type, _) => return Ok(Type::Pointer),
                (gimli::DW_TAG_typedef, Some(next)) => offset = next,
                _ => return Ok(Type::Other),
            }
        }
        Ok(Type::Other)
    }

    /// The members that follow a structure's own attributes.
    fn members(&self, entries: &mut Entries<'data, 'table>) -> Result<Vec<Member<'data>>, LayoutError> {
        let depth = entries.next_depth();
        let mut members = Vec::new();
        for _ in 0..MAX_ENTRIES {
            if entries.is_empty() || entries.next_depth() < depth {
                break;
            }
            let direct = entries.next_depth() == depth;
            let Some(abbreviation) = self.begin(entries)? else { continue };
            if !direct || abbreviation.tag() != gimli::DW_TAG_member {
                entries.skip_attributes(abbreviation.attributes()).map_err(dwarf_error)?;
                continue;
            }
            let (mut name, mut offset, mut target) = (None, None, None);
            for &specification in abbreviation.attributes() {
                let attribute = entries.read_attribute(specification).map_err(dwarf_error)?;
                match attribute.name() {
                    gimli::DW_AT_name => name = self.strings.get(&attribute.value()),
                    gimli::DW_AT_data_member_location => offset = attribute.udata_value(),
                    gimli::DW_AT_type => target = self.reference(&attribute.value()),
                    _ => {}
                }
            }
            // A location that is an expression would have to be computed; Go's are constants.
            if let (Some(name), Some(offset)) = (name, offset) {
                members.push(Member { name, offset, target });
            }
        }
        Ok(members)
    }

    fn reference(&self, value: &AttributeValue<Bytes<'data>>) -> Option<UnitOffset> {
        match *value {
            AttributeValue::UnitRef(offset) => Some(offset),
            AttributeValue::DebugInfoRef(offset) => offset.to_unit_offset(&self.header),
            _ => None,
        }
    }
}

fn believable(offset: u64) -> Option<u32> {
    u32::try_from(offset).ok().filter(|_| offset <= MAX_OFFSET)
}
