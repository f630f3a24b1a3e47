//! The end of a process: when, and with which status.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::identity::TargetError;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It left with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
    /// It runs another program now: it called `execve`.
    Exec,
    /// It ended, and this kernel (before 6.15) tells its status only to the parent.
    Unknown,
}

impl Exit {
    /// Decodes a wait status.
    #[must_use]
    pub const fn from_status(status: i32) -> Self {
        let signal = status & 0x7f;
        if signal == 0 { Self::Code((status >> 8) & 0xff) } else { Self::Signal(signal) }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "killed by {}", signal_name(*signal)),
            Self::Exec => f.write_str("it runs another program now (exec)"),
            Self::Unknown => f.write_str("ended; its status is not known on this kernel"),
        }
    }
}

/// The name of a signal that ends a process, `signal N` for another or one without a name (real-time signals).
#[must_use]
pub fn signal_name(signal: i32) -> String {
    match signal {
        libc::SIGHUP => "SIGHUP".into(),
        libc::SIGINT => "SIGINT".into(),
        libc::SIGQUIT => "SIGQUIT".into(),
        libc::SIGILL => "SIGILL".into(),
        libc::SIGTRAP => "SIGTRAP".into(),
        libc::SIGABRT => "SIGABRT".into(),
        libc::SIGBUS => "SIGBUS".into(),
        libc::SIGFPE => "SIGFPE".into(),
        libc::SIGKILL => "SIGKILL".into(),
        libc::SIGSEGV => "SIGSEGV".into(),
        libc::SIGPIPE => "SIGPIPE".into(),
        libc::SIGTERM => "SIGTERM".into(),
        libc::SIGSYS => "SIGSYS".into(),
        libc::SIGUSR1 => "SIGUSR1".into(),
        libc::SIGUSR2 => "SIGUSR2".into(),
        libc::SIGALRM => "SIGALRM".into(),
        libc::SIGVTALRM => "SIGVTALRM".into(),
        libc::SIGPROF => "SIGPROF".into(),
        libc::SIGSTKFLT => "SIGSTKFLT".into(),
        libc::SIGIO => "SIGIO".into(),
        libc::SIGPWR => "SIGPWR".into(),
        libc::SIGXCPU => "SIGXCPU".into(),
        libc::SIGXFSZ => "SIGXFSZ".into(),
        other => format!("signal {other}"),
    }
}

/// A handle that tells one process's end, whoever gets its pid afterwards.
#[derive(Debug)]
pub struct Watch {
    pid: u32,
    pidfd: OwnedFd,
}

impl Watch {
    /// Opens the handle.
    ///
    /// # Errors
    /// [`TargetError`] if the process is gone.
    pub fn new(pid: u32) -> Result<Self, TargetError> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(TargetError::Gone { pid })?;
        let pidfd = pidfd_open(raw, PidfdFlags::empty()).map_err(|errno| match errno {
            rustix::io::Errno::SRCH => TargetError::Gone { pid },
            other => TargetError::Io { pid, what: "a pidfd", source: other.into() },
        })?;
        Ok(Self { pid, pidfd })
    }

    /// Waits at most `timeout` for the end; `None` if the process still runs.
    #[must_use]
    pub fn wait(&self, timeout: Duration) -> Option<Exit> {
        self.await_end(timeout).then(|| self.status())
    }

    /// Whether the process has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.await_end(Duration::ZERO)
    }

    fn await_end(&self, timeout: Duration) -> bool {
        let timeout = Timespec::try_from(timeout).ok();
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        poll(&mut fds, timeout.as_ref()).is_ok_and(|ready| ready > 0)
    }

    /// The status of a process that has ended, once it has been reaped or while it still waits for that; which may take some
    /// hundred milliseconds.
    #[must_use]
    pub fn status(&self) -> Exit {
        // The pidfd has it once the parent has reaped; until then the process is a zombie, which keeps its
        // pid and shows its status in /proc. Between the two neither may have it for a moment.
        for _ in 0..20 {
            if let Some(status) =
                pidfd_exit_status(self.pidfd.as_raw_fd()).or_else(|| zombie_status(self.pid))
            {
                return Exit::from_status(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Exit::Unknown
    }
}

/// The status of a zombie: `exit_code`, field 52 of `/proc/PID/stat` (proc(5)).
fn zombie_status(pid: u32) -> Option<i32> {
    zombie_code(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

pub(super) fn zombie_code(stat: &str) -> Option<i32> {
    // The name may hold anything; what follows its last parenthesis starts with field 3, the state.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    (fields.next()? == "Z").then_some(())?;
    fields.nth(52 - 4)?.parse().ok()
}

/// `struct pidfd_info`, include/uapi/linux/pidfd.h, Linux 6.15.
#[repr(C)]
struct PidfdInfo {
    mask: u64,
    cgroupid: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    ruid: u32,
    rgid: u32,
    euid: u32,
    egid: u32,
    suid: u32,
    sgid: u32,
    fsuid: u32,
    fsgid: u32,
    exit_code: i32,
}
const _: () = assert!(size_of::<PidfdInfo>() == 64);

const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// `_IOWR(0xff, 11, struct pidfd_info)` with the first published size, 64 bytes.
const PIDFD_GET_INFO: u64 = (3 << 30) | (64 << 16) | (0xff << 8) | 11;

fn pidfd_exit_status(pidfd: i32) -> Option<i32> {
    let mut info = MaybeUninit::<PidfdInfo>::zeroed();
    // SAFETY: all-zero bytes are a valid PidfdInfo.
    let info = unsafe { info.assume_init_mut() };
    info.mask = PIDFD_INFO_EXIT;
    // SAFETY: the request reads and writes exactly the 64 bytes of the struct, which is live.
    let result = unsafe { libc::ioctl(pidfd, PIDFD_GET_INFO as _, std::ptr::from_mut(info)) };
    (result == 0 && info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_live_process_has_not_ended() {
        let watch = Watch::new(std::process::id()).unwrap();
        assert_eq!(watch.wait(Duration::ZERO), None);
    }

    #[test]
    fn tells_codes_and_signals() {
        for (script, expected) in [("exit 3", Exit::Code(3)), ("kill -SEGV $$", Exit::Signal(libc::SIGSEGV))]
        {
            let mut child = Command::new("sh").args(["-c", &format!("sleep 0.2; {script}")]).spawn().unwrap();
            let watch = Watch::new(child.id()).unwrap();
            let reaper = std::thread::spawn(move || child.wait());
            let exit = watch.wait(Duration::from_secs(5)).unwrap();
            reaper.join().unwrap().unwrap();
            assert!(exit == expected || exit == Exit::Unknown, "{exit:?}");
        }
    }

    #[test]
    fn tells_the_status_of_a_zombie() {
        let mut child = Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        let watch = Watch::new(child.id()).unwrap();
        assert_eq!(watch.wait(Duration::from_secs(5)), Some(Exit::Code(7)));
        child.wait().unwrap();
    }

    #[test]
    fn decodes_wait_statuses() {
        assert_eq!(Exit::from_status(2 << 8), Exit::Code(2));
        assert_eq!(Exit::from_status(libc::SIGABRT | 0x80), Exit::Signal(libc::SIGABRT));
    }
}
