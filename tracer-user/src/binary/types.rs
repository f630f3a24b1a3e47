//! Names and kinds of Go types, for the values of panics.

use super::image::Image;

/// `abi.String`, internal/abi/type.go.
const KIND_STRING: u8 = 24;
/// `abi.KindMask`: the bits above hold flags up to Go 1.25.
const KIND_MASK: u8 = 0x1f;
/// A longer name is none: those of anonymous structures have some hundred bytes.
const MAX_NAME: usize = 16 << 10;
/// `abi.TFlagExtraStar`.
const EXTRA_STAR: u8 = 2;

/// What is known of a type from its descriptor in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeName {
    /// As `reflect.Type.String` gives it: `*fmt.wrapError`.
    pub name: String,
    /// `abi.Kind`.
    pub kind: u8,
}

impl TypeName {
    /// Whether its values are strings: the data word then points to a string header.
    #[must_use]
    pub const fn is_string(&self) -> bool {
        self.kind == KIND_STRING
    }

    /// The number in a value of an integer, boolean or floating-point kind, as text.
    #[must_use]
    pub fn number(&self, word: u64) -> Option<String> {
        // abi.Kind: 1 Bool, 2..=6 Int to Int64, 7..=12 Uint to Uintptr, 13 Float32, 14 Float64.
        Some(match self.kind {
            1 => (word & 1 != 0).to_string(),
            2 | 6 => (word as i64).to_string(),
            3 => (word as i8).to_string(),
            4 => (word as i16).to_string(),
            5 => (word as i32).to_string(),
            7 | 11 | 12 => word.to_string(),
            8 => (word as u8).to_string(),
            9 => (word as u16).to_string(),
            10 => (word as u32).to_string(),
            13 => f32::from_bits(word as u32).to_string(),
            14 => f64::from_bits(word).to_string(),
            _ => return None,
        })
    }
}

/// Reads the descriptor of the type at a linked address.
///
/// Layout of `abi.Type` (internal/abi/type.go, the same from Go 1.18 to 1.27): tflag at 20, kind at 23, Str
/// at 40, an offset from `moduledata.types` to a flag byte, a varint length and the name.
pub(super) fn type_name(image: &Image, types: u64, address: u64) -> Option<TypeName> {
    let descriptor = image.read(address, 48)?;
    let flags = *descriptor.get(20)?;
    let kind = *descriptor.get(23)? & KIND_MASK;
    let offset = i32::from_le_bytes(*descriptor.get(40..)?.first_chunk()?);
    let at = types.checked_add_signed(i64::from(offset))?;
    // Nearly all are short.
    let (used, len) = length(&image.read_some(at, 8)?)?;
    let end = used.checked_add(len)?;
    let bytes = image.read_some(at, end)?;
    let name = std::str::from_utf8(bytes.get(used..end)?).ok()?;
    let name = if flags & EXTRA_STAR != 0 { name.strip_prefix('*').unwrap_or(name) } else { name };
    Some(TypeName { name: name.to_owned(), kind })
}

/// Where a name begins behind its flags and its length, and how long it is.
fn length(bytes: &[u8]) -> Option<(usize, usize)> {
    let (mut len, mut used) = (0_usize, 1);
    for shift in (0..21).step_by(7) {
        let byte = *bytes.get(used)?;
        used += 1;
        len |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    (len <= MAX_NAME).then_some((used, len))
}
