//! Keeping an executable from being written to until somebody has made way: a read lease (fcntl(2), `F_SETLEASE`).
//!
//! Whoever opens the file to write to it, or cuts it, waits until the lease is given back, for at most
//! `/proc/sys/fs/lease-break-time` (45 s). While a process runs it the kernel refuses that anyway.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;

/// include/uapi/asm-generic/fcntl.h.
const F_SETOWN_EX: libc::c_int = 15;
const F_OWNER_TID: libc::c_int = 0;

/// How often the thread looks whether it is still wanted.
const LOOK: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 500_000_000 };

/// `struct f_owner_ex`.
#[repr(C)]
struct Owner {
    kind: libc::c_int,
    pid: libc::pid_t,
}

/// A lease that is held. It is given back when this is dropped, or when somebody wants to write.
#[derive(Debug)]
pub struct Guard {
    unwanted: Arc<AtomicBool>,
    broken: Arc<AtomicBool>,
}

impl Guard {
    /// Takes a lease on a file that is open for reading. When somebody wants to write to it, `make_way` is called, on a
    /// thread of the guard's own; he waits until it returns.
    ///
    /// # Errors
    /// The file is open for writing, its file system has no leases, or it is another user's and we have no `CAP_LEASE`.
    pub fn take(file: &File, make_way: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        // Of the same open file: the lease lasts for as long as anybody has it, also who holds the probes.
        let file = file.try_clone()?;
        let (unwanted, broken) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (is_unwanted, is_broken) = (Arc::clone(&unwanted), Arc::clone(&broken));
        let (sender, taken) = channel();
        std::thread::Builder::new().name("guard".to_owned()).spawn(move || {
            let result = lease(&file);
            let held = result.is_ok();
            // Whoever asked waits for this.
            drop(sender.send(result));
            if !held {
                return;
            }
            while !is_unwanted.load(Ordering::Acquire) {
                if !wait(&file) {
                    continue;
                }
                is_broken.store(true, Ordering::Release);
                make_way();
                break;
            }
            // An error means that the kernel has taken it back.
            // SAFETY: the descriptor is open, and no pointer is passed.
            unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
        })?;
        taken.recv().map_err(io::Error::other)??;
        Ok(Self { unwanted, broken })
    }

    /// Whether somebody wanted to write.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.unwanted.store(true, Ordering::Release);
    }
}

/// The set of the signal by which the kernel tells.
fn signals() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset writes the set, which is then whole.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGIO);
        set.assume_init()
    }
}

/// Takes the lease for this thread, to which alone the kernel tells.
fn lease(file: &File) -> io::Result<()> {
    let set = signals();
    // SAFETY: gettid has no arguments and can't fail.
    let owner = Owner { kind: F_OWNER_TID, pid: unsafe { libc::gettid() } };
    // SAFETY: the set and the owner are live and of the types that the calls ask for; the descriptor is open.
    let results = unsafe {
        [
            // Blocked, it waits to be taken; its default is to end the process.
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()),
            libc::fcntl(file.as_raw_fd(), F_SETOWN_EX, &raw const owner),
            libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK),
        ]
    };
    if results == [0; 3] { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Waits a while for somebody who wants to write.
fn wait(file: &File) -> bool {
    let (set, look) = (signals(), LOOK);
    // SAFETY: the set and the time are live; nothing is written where a null pointer is given.
    let signal = unsafe { libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const look) };
    // The kernel may be asked as well: what is left of a lease that is to be given back is none.
    // SAFETY: the descriptor is open, and no pointer is passed.
    signal == libc::SIGIO || unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) } == libc::F_UNLCK
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::sync::atomic::AtomicU32;
    use std::time::{Duration, Instant};

    #[test]
    fn safe_2_who_writes_waits_until_way_is_made() {
        let path = std::env::temp_dir().join(format!("gotrail-guard-{}", std::process::id()));
        std::fs::write(&path, "old").unwrap();
        let file = File::open(&path).unwrap();
        let calls = Arc::new(AtomicU32::new(0));
        let called = Arc::clone(&calls);
        let guard = Guard::take(&file, move || {
            std::thread::sleep(Duration::from_millis(100));
            called.fetch_add(1, Ordering::AcqRel);
        });
        let Ok(guard) = guard else {
            // Some file systems have none.
            println!("SKIPPED safe_2_who_writes_waits_until_way_is_made: no leases in {}", path.display());
            std::fs::remove_file(&path).unwrap();
            return;
        };
        // Readers are let through.
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert!(!guard.is_broken());
        let begun = Instant::now();
        std::fs::write(&path, "new").unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(100), "{:?}", begun.elapsed());
        assert_eq!(calls.load(Ordering::Acquire), 1);
        assert!(guard.is_broken());
        // Nobody is held up by what was given back, and nobody can be guarded against who is there already.
        let writer = OpenOptions::new().write(true).open(&path).unwrap();
        assert!(Guard::take(&file, || {}).is_err());
        drop(writer);
        std::fs::remove_file(&path).unwrap();
    }
}
