//! Method tables: which concrete types the linker knew to be used as which interfaces.

use gobin::structures::moduledata::Moduledata;

use super::image::Image;
use super::types::{TypeName, type_name};

/// Most tables that are read: the largest programs have some tens of thousands.
const MOST: usize = 1 << 18;
/// Bytes of all names together.
const MOST_TEXT: usize = 32 << 20;

/// One `runtime.itab` (internal/abi/iface.go): the table behind values of an interface that hold a concrete type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Itab {
    /// Linked address of the table.
    pub address: u64,
    /// The interface.
    pub interface: TypeName,
    /// The type of the value.
    pub concrete: TypeName,
}

/// Where the linker put the tables.
#[derive(Clone, Copy, Debug)]
pub(super) enum ItabSource {
    /// An array of pointers to them: address and number.
    Pointers(u64, u64),
    /// One behind the other, from Go 1.27 on: first address and that behind the last.
    InPlace(u64, u64),
}

impl ItabSource {
    pub(super) fn of(module: &Moduledata) -> Option<Self> {
        if let Some(links) = &module.itablinks {
            return Some(Self::Pointers(links.ptr, links.len));
        }
        let start = module.types.checked_add(module.itaboffset?)?;
        Some(Self::InPlace(start, start.checked_add(module.itabsize?)?))
    }

    /// The addresses of the tables.
    fn addresses(self, image: &Image) -> Vec<u64> {
        match self {
            Self::Pointers(at, count) => {
                let count = usize::try_from(count).unwrap_or(MOST).min(MOST);
                let bytes = image.read(at, count * 8).unwrap_or_default();
                bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect()
            }
            Self::InPlace(start, end) => {
                let next = |at: &u64| at.checked_add(size(image, *at)?);
                let all = std::iter::successors(Some(start), next);
                all.take_while(|at| *at < end).take(MOST).collect()
            }
        }
    }
}

/// Bytes of a table (`ITab.Size`, internal/abi/iface.go): four words, and one more for each further method of the
/// interface where there are methods.
fn size(image: &Image, at: u64) -> Option<u64> {
    if image.read_u64(at.checked_add(24)?)? == 0 {
        return Some(32);
    }
    // `InterfaceType.Methods` (internal/abi/type.go), a slice behind the descriptor and the package's path.
    let methods = image.read_u64(image.read_u64(at)?.checked_add(64)?)?;
    methods.checked_sub(1)?.checked_mul(8)?.checked_add(32)
}

/// Reads all tables that the linker made; the runtime makes more on demand.
pub(super) fn itabs(image: &Image, source: Option<ItabSource>, types: u64) -> Vec<Itab> {
    let mut left = MOST_TEXT;
    let tables = source.map(|source| source.addresses(image)).unwrap_or_default();
    tables
        .into_iter()
        .filter_map(|address| {
            let interface = type_name(image, types, image.read_u64(address)?)?;
            let concrete = type_name(image, types, image.read_u64(address.checked_add(8)?)?)?;
            // Names may be shared, so that a small file can name far more than it holds.
            left = left.checked_sub(interface.name.len() + concrete.name.len())?;
            Some(Itab { address, interface, concrete })
        })
        .collect()
}
