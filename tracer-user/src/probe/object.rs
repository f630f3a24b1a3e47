//! The eBPF object that was built into this binary.

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
