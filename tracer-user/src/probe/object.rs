//! The eBPF object that was built into this binary.

use aya::EbpfLoader;
use tracer_ebpf::{MAP_OPEN_CALLS, MAP_OPEN_WAITS, MAP_STACKS, MAP_SUMS};

use super::error::ProbeError;

/// The object's bytes; empty if there were none at build time (see build.rs).
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/gotrail-bpf"));

/// The object.
///
/// # Errors
/// [`ProbeError::NoObject`] if gotrail was built without it.
pub(super) fn object() -> Result<&'static [u8], ProbeError> {
    if OBJECT.is_empty() { Err(ProbeError::NoObject) } else { Ok(OBJECT) }
}

/// Makes the maps of switches and system calls as small as they can be: what is not used needs no memory.
pub(super) fn without_switches(loader: &mut EbpfLoader<'_>) {
    for name in [MAP_STACKS, MAP_OPEN_CALLS, MAP_OPEN_WAITS, MAP_SUMS] {
        loader.map_max_entries(name, 1);
    }
}
