//! Method tables: which concrete types the linker knew to be used as which interfaces.

use super::image::Image;
use super::types::{TypeName, type_name};

/// Most tables that are read: the largest programs have some tens of thousands.
const MOST: usize = 1 << 18;

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

/// Reads all tables that the linker made; the runtime makes more on demand.
pub(super) fn itabs(image: &Image, types: u64) -> Vec<Itab> {
    let Ok(go) = gobin::GoBinary::try_parse(image.bytes()) else { return Vec::new() };
    go.itab_pairs()
        .take(MOST)
        .filter_map(|pair| {
            Some(Itab {
                address: pair.itab_va,
                interface: type_name(image, types, pair.iface_type_va)?,
                concrete: type_name(image, types, pair.concrete_type_va)?,
            })
        })
        .collect()
}
