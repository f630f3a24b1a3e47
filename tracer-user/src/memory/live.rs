//! The memory of a live process, by `process_vm_readv`: no stop, no trap. Where that call is not there or not
//! permitted (a kernel without it, a container's seccomp filter), and for what it can't read but the kernel can, by
//! `/proc/PID/mem`.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use libc::{c_ulong, iovec, process_vm_readv};

use super::reader::{ReadError, Reader};

/// Parts in one call: the kernel's limit, `UIO_MAXIOV`.
const MAX_PARTS: usize = 1024;

/// A live process's memory.
#[derive(Clone, Debug)]
pub struct LiveMemory {
    pid: u32,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// `/proc/PID/mem`, once it was needed. It stays that of the program that ran then: after an exec it is empty.
    file: OnceLock<Option<File>>,
    /// The call was refused, and the file is all there is.
    by_file: AtomicBool,
}

impl LiveMemory {
    /// The memory of a process; nothing is opened or checked before the first read.
    #[must_use]
    pub fn new(pid: u32) -> Self {
        Self { pid, state: Arc::default() }
    }

    fn error(&self, address: u64, errno: &std::io::Error) -> ReadError {
        match errno.raw_os_error() {
            Some(libc::ESRCH) => ReadError::Gone,
            Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => ReadError::NotPermitted { pid: self.pid },
            Some(libc::EFAULT) => ReadError::Fault { address },
            _ => ReadError::Other { address, errno: errno.to_string() },
        }
    }

    /// Whether all is read by the file: it must be, or a call just failed with this error and the file can be opened.
    fn by_file(&self, refused: Option<&std::io::Error>) -> bool {
        if self.state.by_file.load(Ordering::Relaxed) {
            return true;
        }
        let refused = refused.and_then(std::io::Error::raw_os_error);
        let by_file = matches!(refused, Some(libc::ENOSYS | libc::EPERM)) && self.file().is_some();
        if by_file {
            self.state.by_file.store(true, Ordering::Relaxed);
        }
        by_file
    }

    fn file(&self) -> Option<&File> {
        self.state.file.get_or_init(|| File::open(format!("/proc/{}/mem", self.pid)).ok()).as_ref()
    }

    /// Reads by the file. A fault may also be that the process is gone.
    fn read_file(&self, address: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let fault = |done: usize| ReadError::Fault { address: address.wrapping_add(done as u64) };
        // The kernel takes no offset with the highest bit set.
        let Some(file) = self.file().filter(|_| address.leading_zeros() > 0) else { return Err(fault(0)) };
        let mut done = 0;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, address.wrapping_add(done as u64)) {
                // The memory that the file stands for is no more (`mem_rw`, fs/proc/base.c).
                Ok(0) => return Err(ReadError::Gone),
                Ok(count) => done += count,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EIO | libc::EFAULT | libc::EINVAL) => return Err(fault(done)),
                    _ => return Err(self.error(address, &error)),
                },
            }
        }
        Ok(())
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
        // A process that is on its way out has no memory left: the kernel then reports a fault or an empty read
        // rather than that the process is gone.
        let from_file = |into: &mut [u8]| match self.read_file(address, into) {
            Err(ReadError::Fault { .. }) if self.is_gone() => Err(ReadError::Gone),
            result => result,
        };
        if self.by_file(None) {
            return from_file(into);
        }
        let remote = [iovec { iov_base: address as *mut _, iov_len: into.len() }];
        let len = into.len();
        match self.call(into, &remote) {
            Ok(count) if count == len => Ok(()),
            // What a mapping does not let the process itself read, the file may.
            Ok(_) => from_file(into),
            Err(errno) if self.by_file(Some(&errno)) => from_file(into),
            Err(errno) => match self.error(address, &errno) {
                ReadError::Fault { .. } => from_file(into),
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
            let call = |into: &mut [u8]| if self.by_file(None) { Ok(0) } else { self.call(into, &remote) };
            let mut done = match call(&mut into[offset..offset + size]) {
                Ok(count) => count,
                // One by one then, by the file.
                Err(errno) if self.by_file(Some(&errno)) => 0,
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
            // The kernel stops at the first part that faults: that one is left to the file.
            for (address, size) in chunk {
                let whole = done >= *size;
                if whole {
                    done -= size;
                } else {
                    done = 0;
                }
                let into = &mut into[offset..offset + size];
                offset += size;
                read[part] = whole
                    || match self.read_file(*address, into) {
                        Ok(()) => true,
                        Err(fatal @ (ReadError::Gone | ReadError::NotPermitted { .. })) => return Err(fatal),
                        Err(_) => {
                            into.fill(0);
                            false
                        }
                    };
                part += 1;
                if !whole && !self.by_file(None) {
                    break;
                }
            }
        }
        if !read.is_empty() && read.iter().all(|ok| !ok) && self.is_gone() {
            return Err(ReadError::Gone);
        }
        Ok(())
    }
}

impl LiveMemory {
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

    /// Whatever the kernel does not let us do with the call.
    fn by_file() -> LiveMemory {
        let memory = LiveMemory::new(std::process::id());
        memory.state.by_file.store(true, Ordering::Relaxed);
        memory
    }

    #[test]
    fn the_file_says_what_the_call_says() {
        let values: Vec<u64> = (0..5000).collect();
        let at = |index: usize| std::ptr::from_ref(&values[index]) as u64;
        let mut parts: Vec<(u64, usize)> = (0..values.len()).map(|index| (at(index), 8)).collect();
        parts.insert(2000, (8, 16));
        parts.insert(1000, (at(7), 0));
        parts.push((u64::MAX - 4, 8));
        let (by_call, by_file) = (LiveMemory::new(std::process::id()), by_file());
        assert_eq!(by_call.read_batch(&parts), by_file.read_batch(&parts));
        assert_eq!(by_call.read_batch(&parts).unwrap().1.iter().filter(|ok| !**ok).count(), 2);
        assert_eq!(by_file.u64(at(4321)), Ok(4321));
        assert!(matches!(by_file.u64(8), Err(ReadError::Fault { .. })));
        assert!(matches!(by_file.u64(u64::MAX - 4), Err(ReadError::Fault { .. })));
    }

    /// Memory of this process, unmapped at its end.
    struct Mapped(*mut libc::c_void, usize);

    impl Mapped {
        fn new(len: usize) -> Self {
            let (protection, flags) =
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            // SAFETY: a new private mapping, where the kernel chooses.
            let at = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
            assert_ne!(at, libc::MAP_FAILED);
            Self(at, len)
        }

        fn fill(&self, byte: u8) {
            // SAFETY: the mapping is ours alone, writable, and so long.
            unsafe { std::ptr::write_bytes(self.0.cast::<u8>(), byte, self.1) };
        }

        fn advise(&self, advice: libc::c_int) -> bool {
            // SAFETY: the mapping is ours, and none of the advices that are given here drops its contents.
            unsafe { libc::madvise(self.0, self.1, advice) == 0 }
        }

        fn protect(&self, protection: libc::c_int) {
            // SAFETY: the mapping is ours alone, and no reference into it exists.
            assert_eq!(unsafe { libc::mprotect(self.0, self.1, protection) }, 0);
        }
    }

    impl Drop for Mapped {
        fn drop(&mut self) {
            // SAFETY: the mapping is ours, and nothing refers to it any more.
            unsafe { libc::munmap(self.0, self.1) };
        }
    }

    #[test]
    fn huge_pages_and_those_that_were_put_aside_are_read() {
        const LEN: usize = 8 << 20;
        let mapped = Mapped::new(LEN);
        // As far as this kernel has them; without swap the second does nothing to anonymous memory.
        mapped.advise(libc::MADV_HUGEPAGE);
        mapped.fill(0x5a);
        mapped.advise(libc::MADV_PAGEOUT);
        for memory in [LiveMemory::new(std::process::id()), by_file()] {
            let mut bytes = vec![0; LEN];
            memory.read(mapped.0 as u64, &mut bytes).unwrap();
            assert!(bytes.iter().all(|byte| *byte == 0x5a));
        }
    }

    #[test]
    fn what_the_process_itself_may_not_read_is_read_by_the_file() {
        let mapped = Mapped::new(4 << 12);
        mapped.fill(7);
        mapped.protect(libc::PROT_NONE);
        let memory = LiveMemory::new(std::process::id());
        let at = mapped.0 as u64;
        assert_eq!(memory.u64(at + 8), Ok(0x0707_0707_0707_0707));
        let (bytes, read) = memory.read_batch(&[(at, 8), (8, 8), (at + 4096, 8)]).unwrap();
        assert_eq!(read, [true, false, true]);
        assert_eq!(bytes[16..], [7; 8]);
        assert!(!memory.by_file(None), "one fault is no refusal");
    }

    #[test]
    fn a_process_that_ended_is_gone() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let memory = LiveMemory::new(child.id());
        child.wait().unwrap();
        assert_eq!(memory.u64(0x40_0000), Err(ReadError::Gone));
        assert_eq!(memory.read_batch(&[(0x40_0000, 8), (0x50_0000, 8)]), Err(ReadError::Gone));
    }
}
