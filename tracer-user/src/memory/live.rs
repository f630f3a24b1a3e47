//! The memory of a live process, by `process_vm_readv`: no stop, no trap.

use libc::{c_ulong, iovec, process_vm_readv};

use super::reader::{ReadError, Reader};

/// Parts in one call: the kernel's limit, `UIO_MAXIOV`.
const MAX_PARTS: usize = 1024;

/// A live process's memory.
#[derive(Clone, Copy, Debug)]
pub struct LiveMemory {
    pid: u32,
}

impl LiveMemory {
    /// The memory of a process; nothing is opened or checked before the first read.
    #[must_use]
    pub const fn new(pid: u32) -> Self {
        Self { pid }
    }

    fn error(&self, address: u64, errno: &std::io::Error) -> ReadError {
        match errno.raw_os_error() {
            Some(libc::ESRCH) => ReadError::Gone,
            Some(libc::EPERM) => ReadError::NotPermitted { pid: self.pid },
            Some(libc::EFAULT) => ReadError::Fault { address },
            _ => ReadError::Other { address, errno: errno.to_string() },
        }
    }

    /// One call over several parts; returns the bytes transferred.
    fn call(&self, into: &mut [u8], remote: &[iovec]) -> Result<usize, std::io::Error> {
        let local = iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
        let pid =
            libc::pid_t::try_from(self.pid).map_err(|_| std::io::Error::from_raw_os_error(libc::ESRCH))?;
        // SAFETY: the local vector is the live exclusive buffer `into`; the remote one is only read by the
        // kernel, which checks its addresses in the other process.
        let count = unsafe {
            process_vm_readv(pid, &raw const local, 1, remote.as_ptr(), remote.len() as c_ulong, 0)
        };
        usize::try_from(count).map_err(|_| std::io::Error::last_os_error())
    }
}

impl Reader for LiveMemory {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let remote = [iovec { iov_base: address as *mut _, iov_len: into.len() }];
        let len = into.len();
        match self.call(into, &remote) {
            Ok(count) if count == len => Ok(()),
            // A process that is on its way out has no memory left: the kernel then reports a fault or an
            // empty read rather than that the process is gone.
            Ok(count) => Err(self.fault_or_gone(address.wrapping_add(count as u64))),
            Err(errno) => match self.error(address, &errno) {
                ReadError::Fault { address } => Err(self.fault_or_gone(address)),
                other => Err(other),
            },
        }
    }

    fn read_parts(
        &self,
        parts: &[(u64, usize)],
        into: &mut [u8],
        read: &mut [bool],
    ) -> Result<(), ReadError> {
        let mut remote = Vec::with_capacity(parts.len().min(MAX_PARTS));
        // Next part to read, and where its bytes go.
        let (mut part, mut offset) = (0, 0);
        while part < parts.len() {
            let chunk = &parts[part..parts.len().min(part + MAX_PARTS)];
            let size: usize = chunk.iter().map(|(_, size)| size).sum();
            remote.clear();
            remote.extend(
                chunk.iter().map(|(address, size)| iovec { iov_base: *address as *mut _, iov_len: *size }),
            );
            let mut done = match self.call(&mut into[offset..offset + size], &remote) {
                Ok(count) => count,
                Err(errno) => match self.error(chunk[0].0, &errno) {
                    ReadError::Fault { .. } => 0,
                    fatal => return Err(fatal),
                },
            };
            if done == size {
                read[part..part + chunk.len()].fill(true);
                part += chunk.len();
                offset += size;
                continue;
            }
            // The kernel stops at the first part that faults: skip that one.
            for (_, size) in chunk {
                let whole = done >= *size;
                read[part] = whole;
                part += 1;
                if !whole {
                    into[offset..offset + size].fill(0);
                    offset += size;
                    break;
                }
                done -= size;
                offset += size;
            }
        }
        if !read.is_empty() && read.iter().all(|ok| !ok) && self.is_gone() {
            return Err(ReadError::Gone);
        }
        Ok(())
    }
}

impl LiveMemory {
    fn fault_or_gone(&self, address: u64) -> ReadError {
        if self.is_gone() { ReadError::Gone } else { ReadError::Fault { address } }
    }

    /// Whether the process has no memory any more: it is gone, a zombie, or on its way there.
    fn is_gone(&self) -> bool {
        std::fs::read_to_string(format!("/proc/{}/statm", self.pid))
            .map_or(true, |statm| statm.starts_with("0 "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_itself_and_marks_faults() {
        let memory = LiveMemory::new(std::process::id());
        let value = 0x1122_3344_5566_7788_u64;
        let at = std::ptr::from_ref(&value) as u64;
        assert_eq!(memory.u64(at), Ok(value));
        assert!(matches!(memory.u64(8), Err(ReadError::Fault { .. })));
        let (bytes, read) = memory.read_batch(&[(at, 8), (8, 8), (at, 4)]).unwrap();
        assert_eq!(read, [true, false, true]);
        assert_eq!(bytes[..8], value.to_le_bytes());
        assert_eq!(bytes[8..16], [0; 8]);
        assert_eq!(bytes[16..], value.to_le_bytes()[..4]);
    }

    #[test]
    fn batches_larger_than_the_kernels_limit() {
        let memory = LiveMemory::new(std::process::id());
        let values: Vec<u64> = (0..5000).collect();
        let parts: Vec<(u64, usize)> = values.iter().map(|v| (std::ptr::from_ref(v) as u64, 8)).collect();
        let (bytes, read) = memory.read_batch(&parts).unwrap();
        assert!(read.iter().all(|ok| *ok));
        assert_eq!(bytes[8 * 4321..8 * 4322], 4321_u64.to_le_bytes());
    }

    #[test]
    fn a_process_that_ended_is_gone() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let memory = LiveMemory::new(child.id());
        child.wait().unwrap();
        assert_eq!(memory.u64(0x40_0000), Err(ReadError::Gone));
    }
}
