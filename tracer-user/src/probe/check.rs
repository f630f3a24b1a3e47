//! What was planned is still what is there.

use super::error::ProbeError;
use crate::binary::Site;
use crate::memory::{LiveMemory, Reader as _};
use crate::target::Target;

/// SAFE-2: the process is the one that was planned for, and its code is that of its file.
pub(super) fn check_sites(target: &Target, bias: u64, sites: &[Site]) -> Result<(), ProbeError> {
    let pid = target.pid();
    if !target.is_same() {
        return Err(ProbeError::Changed {
            pid,
            why: "it ended, runs another executable now, or its file was written to".to_owned(),
        });
    }
    let memory = LiveMemory::new(pid);
    for site in sites {
        let address = site.address.wrapping_add(bias);
        let mut bytes = vec![0; site.bytes.len()];
        memory
            .read(address, &mut bytes)
            .map_err(|e| ProbeError::Changed { pid, why: format!("its code can't be read: {e}") })?;
        if bytes != site.bytes && !is_shared(&bytes, &site.bytes) {
            return Err(ProbeError::Bytes { pid, function: site.function.clone(), address });
        }
    }
    Ok(())
}

/// Whether there is a breakpoint at each of the sites in a process.
pub(super) fn has_breakpoints(pid: u32, bias: u64, sites: &[&Site]) -> bool {
    let memory = LiveMemory::new(pid);
    sites.iter().all(|site| {
        let mut bytes = vec![0; site.bytes.len()];
        memory.read(site.address.wrapping_add(bias), &mut bytes).is_ok() && is_shared(&bytes, &site.bytes)
    })
}

/// Whether the bytes are those of a site that another uprobe user is on: the kernel shares it.
fn is_shared(bytes: &[u8], expected: &[u8]) -> bool {
    if cfg!(target_arch = "aarch64") {
        // BRK64_OPCODE_UPROBES (arch/arm64/include/asm/debug-monitors.h).
        return bytes == 0xd420_00a0_u32.to_le_bytes();
    }
    // int3 in the place of the first byte.
    bytes.first() == Some(&0xcc) && bytes.get(1..) == expected.get(1..)
}
