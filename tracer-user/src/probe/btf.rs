//! Where in the running kernel's structures a member is, by the types that the kernel describes itself with (BTF,
//! Documentation/bpf/btf.rst). The library that loads the programs reads them too, but does not tell.

use std::fs;
use std::io;

use tracer_ebpf::KernelOffsets;

/// Largest description that is read; that of a kernel with all modules built in is some 10 MiB.
const MOST: u64 = 64 << 20;
const MAGIC: u16 = 0xeb9f;
/// How deep structures without a name are followed.
const DEPTH: u32 = 8;

// Kinds of types (include/uapi/linux/btf.h), by how much follows each.
const INT: u32 = 1;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const DECL_TAG: u32 = 17;
const ENUM64: u32 = 19;

/// Where the programs find what they need of the running kernel.
///
/// # Errors
/// The kernel does not say, and why.
pub(super) fn kernel_offsets() -> io::Result<KernelOffsets> {
    const PATH: &str = "/sys/kernel/btf/vmlinux";
    if fs::metadata(PATH)?.len() > MOST {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let bytes = fs::read(PATH)?;
    let types = Types::parse(&bytes).ok_or_else(|| unknown("not BTF"))?;
    let of = |structure: &str, member: &str| {
        types
            .offset(structure, member)
            .ok_or_else(|| unknown(&format!("no member {member} in struct {structure}")))
    };
    Ok(KernelOffsets {
        task_tgid: of("task_struct", "tgid")?,
        task_exit_code: of("task_struct", "exit_code")?,
        task_signal: of("task_struct", "signal")?,
        signal_flags: of("signal_struct", "flags")?,
        signal_group_exit_code: of("signal_struct", "group_exit_code")?,
    })
}

fn unknown(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

/// The types of a kernel.
struct Types<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type begins; the number of the first is 1.
    begins: Vec<u32>,
}

/// A member of a structure.
struct Member {
    name: u32,
    of: u32,
    /// In bits.
    offset: u32,
}

impl<'a> Types<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        // In the kernel's own byte order, which is little on both architectures.
        if u16::from_le_bytes(*bytes.first_chunk()?) != MAGIC {
            return None;
        }
        let field = |at: usize| word(bytes, at).map(|n| n as usize);
        let (header, types_at, types_len) = (field(4)?, field(8)?, field(12)?);
        let (strings_at, strings_len) = (field(16)?, field(20)?);
        let body = bytes.get(header..)?;
        let types = body.get(types_at..types_at.checked_add(types_len)?)?;
        let strings = body.get(strings_at..strings_at.checked_add(strings_len)?)?;
        let (mut begins, mut at) = (Vec::new(), 0);
        while at < types.len() {
            begins.push(u32::try_from(at).ok()?);
            let info = word(types, at + 4)?;
            at += 12 + follows(info >> 24 & 0x1f, info as usize & 0xffff);
        }
        Some(Self { types, strings, begins })
    }

    /// Where a member of a structure begins, in bytes.
    fn offset(&self, structure: &str, member: &str) -> Option<u64> {
        let at = self.begins.iter().map(|at| *at as usize).find(|at| {
            word(self.types, at + 4).is_some_and(|info| info >> 24 & 0x1f == STRUCT && info & 0xffff != 0)
                && word(self.types, *at).is_some_and(|name| self.is(name, structure))
        })?;
        let bits = self.find(at, member, DEPTH)?;
        bits.is_multiple_of(8).then(|| u64::from(bits / 8))
    }

    /// Looks for a member in the structure at a place, and in those without a name that are in it. In bits.
    fn find(&self, at: usize, wanted: &str, depth: u32) -> Option<u32> {
        let info = word(self.types, at + 4)?;
        if !matches!(info >> 24 & 0x1f, STRUCT | UNION) {
            return None;
        }
        // With this flag the upper byte is the size of a bit field.
        let mask = if info >> 31 == 0 { u32::MAX } else { 0x00ff_ffff };
        let members = (0..info as usize & 0xffff).map_while(|i| {
            let at = at + 12 + 12 * i;
            let offset = word(self.types, at + 8)? & mask;
            Some(Member { name: word(self.types, at)?, of: word(self.types, at + 4)?, offset })
        });
        for member in members {
            if member.name == 0 {
                let inner = self.begins.get((member.of as usize).checked_sub(1)?);
                let found = inner
                    .filter(|_| depth > 0)
                    .and_then(|inner| self.find(*inner as usize, wanted, depth - 1));
                if let Some(found) = found {
                    return member.offset.checked_add(found);
                }
            } else if self.is(member.name, wanted) {
                return Some(member.offset);
            }
        }
        None
    }

    fn is(&self, name: u32, wanted: &str) -> bool {
        let rest = self.strings.get(name as usize..).unwrap_or_default();
        rest.strip_prefix(wanted.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    }
}

/// How many bytes follow a type of this kind with so many parts.
const fn follows(kind: u32, parts: usize) -> usize {
    match kind {
        INT | VAR | DECL_TAG => 4,
        ARRAY => 12,
        STRUCT | UNION | DATASEC | ENUM64 => 12 * parts,
        ENUM | FUNC_PROTO => 8 * parts,
        _ => 0,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct outer { int first; struct { int inner; }; unsigned bit : 3; };`
    fn described() -> Vec<u8> {
        let strings = b"\0int\0outer\0first\0inner\0bit\0";
        let name = |name: &[u8]| {
            let with_end = [name, b"\0"].concat();
            strings.windows(with_end.len()).position(|w| w == with_end).unwrap() as u32
        };
        let structure = |count: u32, flag: u32| STRUCT << 24 | count | flag << 31;
        let types = [
            [name(b"int"), INT << 24, 4, 32].as_slice(),
            &[0, structure(1, 0), 4, name(b"inner"), 1, 0],
            &[
                name(b"outer"),
                structure(3, 1),
                12,
                name(b"first"),
                1,
                0,
                0,
                2,
                32,
                name(b"bit"),
                1,
                3 << 24 | 65,
            ],
        ]
        .concat();
        let types: Vec<u8> = types.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        bytes.extend([1, 0]);
        for word in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            bytes.extend(word.to_le_bytes());
        }
        [&bytes[..], &types, strings].concat()
    }

    #[test]
    fn members_are_found_in_structures_without_a_name_too() {
        let bytes = described();
        let types = Types::parse(&bytes).unwrap();
        assert_eq!(types.offset("outer", "first"), Some(0));
        assert_eq!(types.offset("outer", "inner"), Some(4));
        // It begins in the midst of a byte.
        assert_eq!(types.offset("outer", "bit"), None);
        assert_eq!(types.offset("outer", "firs"), None);
        assert_eq!(types.offset("inner", "first"), None);
    }

    #[test]
    fn what_is_cut_short_is_no_description() {
        let bytes = described();
        for len in 0..bytes.len() {
            assert!(Types::parse(&bytes[..len]).is_none(), "{len} bytes");
        }
    }

    #[test]
    fn this_kernel_describes_itself() {
        let Ok(offsets) = kernel_offsets() else { return };
        // Both are behind what a task begins with, and apart.
        assert!(offsets.task_tgid > 64 && offsets.task_signal > offsets.task_tgid, "{offsets:?}");
        assert_ne!(offsets.signal_flags, offsets.signal_group_exit_code);
    }
}
