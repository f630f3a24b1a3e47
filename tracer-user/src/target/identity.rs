//! Who a process is: a pid alone is not enough, the kernel hands them out again.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use procfs::ProcError;
use procfs::process::Process;

use super::address_space::AddressSpace;
use super::files::{HeldFile, open_file};

/// The process flag of kernel threads (`include/linux/sched.h`).
const PF_KTHREAD: u32 = 0x0020_0000;
/// Largest executable that is read whole.
pub(super) const MAX_EXECUTABLE: u64 = 1 << 30;

/// What makes a process itself (IDENT-1). The build ID of the executable is the binary's to tell.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Process id in our PID namespace.
    pub pid: u32,
    /// Start time in clock ticks since boot, `/proc/PID/stat` field 22.
    pub start_ticks: u64,
    /// Device of the executable.
    pub exe_device: u64,
    /// Inode of the executable.
    pub exe_inode: u64,
}

/// Why a process can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// There is no such process.
    #[error(
        "looked for process {pid} in /proc: there is no such process; `gotrail ps` lists those that can be watched"
    )]
    Gone {
        /// The pid asked for.
        pid: u32,
    },
    /// The kernel refused.
    #[error(
        "tried to read {what} of process {pid}: permission denied; run gotrail as root or with CAP_SYS_PTRACE (processes that refuse even root, such as those of another user namespace, can't be watched)"
    )]
    NotPermitted {
        /// The pid asked for.
        pid: u32,
        /// What was read.
        what: &'static str,
    },
    /// The process has no executable file: a kernel thread.
    #[error("process {pid} has no executable: it is a kernel thread, not a Go program")]
    NoExecutable {
        /// The pid asked for.
        pid: u32,
    },
    /// The executable is larger than gotrail reads.
    #[error("the executable of process {pid} is larger than the {MAX_EXECUTABLE} bytes that gotrail reads")]
    TooLarge {
        /// The pid asked for.
        pid: u32,
    },
    /// Anything else.
    #[error("tried to read {what} of process {pid}: {source}")]
    Io {
        /// The pid asked for.
        pid: u32,
        /// What was read.
        what: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// A process now, compared with what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// It has not called `execve` since.
    pub same_program: bool,
    /// A signal or a debugger stopped it.
    pub stopped: bool,
}

/// A process that was found, and is known again by its [`Identity`].
#[derive(Clone, Debug)]
pub struct Target {
    /// Who it is.
    pub identity: Identity,
    /// Its name as the kernel keeps it.
    pub comm: String,
    /// Its command line.
    pub command: Vec<String>,
    /// Where its executable was, as the process itself sees the path.
    pub exe: PathBuf,
    /// Its pid in its own, innermost PID namespace: what the Go runtime's thread ids are numbered in.
    pub inner_pid: u32,
    /// Start in seconds since the epoch.
    pub started_unix: u64,
    /// Where its stack begins; each exec moves it, but not without randomised addresses.
    start_stack: u64,
    /// What it runs in, if that is held.
    address_space: Option<AddressSpace>,
    /// Size of its executable, and when that was last written, in seconds and nanoseconds.
    exe_stamp: (u64, i64, i64),
}

impl Target {
    /// Finds a process.
    ///
    /// # Errors
    /// [`TargetError`], by what the kernel said.
    pub fn open(pid: u32) -> Result<Self, TargetError> {
        let pid_i32 = i32::try_from(pid).map_err(|_| TargetError::Gone { pid })?;
        let process = Process::new(pid_i32).map_err(|e| from_proc(pid, "the /proc entry", e))?;
        let stat = process.stat().map_err(|e| from_proc(pid, "the state", e))?;
        let meta = fs::metadata(format!("/proc/{pid}/exe")).map_err(|source| match source.kind() {
            std::io::ErrorKind::PermissionDenied => {
                TargetError::NotPermitted { pid, what: "the executable link" }
            }
            std::io::ErrorKind::NotFound if stat.flags & PF_KTHREAD != 0 => TargetError::NoExecutable { pid },
            std::io::ErrorKind::NotFound => TargetError::Gone { pid },
            _ => TargetError::Io { pid, what: "the executable link", source },
        })?;
        let status = process.status().map_err(|e| from_proc(pid, "the status", e))?;
        let inner_pid = status.nspid.as_ref().and_then(|ids| ids.last()).map_or(pid, |id| id.unsigned_abs());
        Ok(Self {
            identity: Identity {
                pid,
                start_ticks: stat.starttime,
                exe_device: meta.dev(),
                exe_inode: meta.ino(),
            },
            comm: stat.comm,
            command: process.cmdline().unwrap_or_default(),
            exe: process.exe().unwrap_or_default(),
            inner_pid,
            started_unix: stat_start_unix(stat.starttime),
            start_stack: stat.startstack,
            address_space: None,
            exe_stamp: (meta.size(), meta.mtime(), meta.mtime_nsec()),
        })
    }

    /// The process id in our namespace.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.identity.pid
    }

    /// A path that names the executable's inode whatever mount namespace it is in, also after it was
    /// replaced on disk.
    #[must_use]
    pub fn exe_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/exe", self.pid()))
    }

    /// Reads the executable whole.
    ///
    /// # Errors
    /// [`TargetError`], by what the kernel said.
    pub fn read_executable(&self) -> Result<Arc<[u8]>, TargetError> {
        self.hold_executable().map(|(bytes, _)| bytes)
    }

    /// Reads the executable whole, and holds it.
    ///
    /// # Errors
    /// As [`Self::read_executable`].
    pub fn hold_executable(&self) -> Result<(Arc<[u8]>, HeldFile), TargetError> {
        let pid = self.pid();
        let io = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::PermissionDenied => TargetError::NotPermitted { pid, what: "its executable" },
            std::io::ErrorKind::NotFound => TargetError::Gone { pid },
            std::io::ErrorKind::FileTooLarge => TargetError::TooLarge { pid },
            _ => TargetError::Io { pid, what: "its executable", source },
        };
        let held = open_file(&self.exe_path()).and_then(HeldFile::new).map_err(io)?;
        Ok((held.read().map_err(io)?, held))
    }

    /// Holds what the process runs in now, which costs a descriptor: [`Self::look`] then knows each exec. Not permitted is
    /// as before.
    #[must_use]
    pub fn hold(mut self) -> Self {
        self.address_space = AddressSpace::of(self.pid());
        self
    }

    /// What `/proc` says of the process now: whether it still runs the program it ran when it was opened (an
    /// exec of the same file included: it moves the stack, and ends what [`Self::hold`] holds), and whether it is
    /// stopped. `None` if it is gone.
    #[must_use]
    pub fn look(&self) -> Option<Look> {
        // First: who ends lets go of its address space before that is seen, and has no stack by then.
        let left = self.address_space.as_ref().is_some_and(AddressSpace::is_left);
        let stat = Process::new(i32::try_from(self.pid()).ok()?).ok()?.stat().ok()?;
        // A zombie has no stack any more.
        let zombie = stat.state == 'Z' || stat.startstack == 0;
        let same = stat.starttime == self.identity.start_ticks
            && (zombie || stat.startstack == self.start_stack && !left);
        Some(Look { same_program: same, stopped: matches!(stat.state, 'T' | 't') })
    }

    /// Whether the pid still belongs to the process that was opened, running the same file, unchanged.
    #[must_use]
    pub fn is_same(&self) -> bool {
        Self::open(self.pid())
            .is_ok_and(|now| now.identity == self.identity && now.exe_stamp == self.exe_stamp)
    }
}

/// Every process id in /proc.
#[must_use]
pub fn process_ids() -> Vec<u32> {
    let mut pids: Vec<u32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    pids
}

fn stat_start_unix(ticks: u64) -> u64 {
    procfs::boot_time_secs().unwrap_or(0) + ticks / procfs::ticks_per_second().max(1)
}

fn from_proc(pid: u32, what: &'static str, error: ProcError) -> TargetError {
    match error {
        ProcError::NotFound(_) => TargetError::Gone { pid },
        ProcError::PermissionDenied(_) => TargetError::NotPermitted { pid, what },
        ProcError::Io(source, _) if source.raw_os_error() == Some(libc::ESRCH) => TargetError::Gone { pid },
        ProcError::Io(source, _) => TargetError::Io { pid, what, source },
        other => TargetError::Io { pid, what, source: std::io::Error::other(other.to_string()) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_itself_and_stays_the_same() {
        let target = Target::open(std::process::id()).unwrap();
        assert!(target.is_same());
        assert!(target.read_executable().unwrap().starts_with(b"\x7fELF"));
    }

    #[test]
    fn ident_1_another_start_time_is_another_process() {
        let mut target = Target::open(std::process::id()).unwrap();
        target.identity.start_ticks += 1;
        assert!(!target.is_same());
    }

    #[test]
    fn a_missing_process_is_gone() {
        assert!(matches!(Target::open(u32::MAX - 1), Err(TargetError::Gone { .. })));
        assert!(matches!(Target::open(4_000_000), Err(TargetError::Gone { .. })));
    }

    #[test]
    fn a_kernel_thread_has_no_executable() {
        // Process 2 is kthreadd wherever the host's own PID namespace is seen.
        if fs::read_to_string("/proc/2/comm").is_ok_and(|comm| comm.trim() == "kthreadd") {
            assert!(matches!(Target::open(2), Err(TargetError::NoExecutable { pid: 2 })));
        }
    }
}
