//! A process that has links, and ends for them to go.
//!
//! A link must not go by close(2). The kernel looks up the page of each breakpoint to take it off, and refuses that to whoever
//! has a deadly signal pending (mm/gup.c, `__get_user_pages`): killed in close(2), a process leaves breakpoints behind for as
//! long as the program lives ("failed to unregister, leaking uprobe", kernel/events/uprobes.c). That is also so where one of
//! its own threads ends the process meanwhile. A process that ends has no signal pending and is sent none
//! (kernel/signal.c, `get_signal`, `prepare_signal`), if it has only one thread and ends by a signal: exit(2) forgets none that
//! has come just before. So each link, or those of one tier where each site takes one, is in a process of its own, which does
//! nothing but end when it is told to, or killed, or when whoever wants the link has ended.
//!
//! That leaves the moment in which the breakpoints come one after the other, a fraction of a millisecond for a tier: those who
//! ask for links ask again if a holder is killed in it, and with the new link go the breakpoints of the old one too.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, set_parent_process_death_signal,
    waitpid,
};
use rustix::thread::set_name;

use super::link::Ready;
use super::wire::{Message, ON, REFUSED};
use crate::memory::monotonic_ns;

/// The signal by which a holder ends on its own: whoever ends by SIGKILL was killed.
pub(super) const OWN_END: libc::c_int = libc::SIGUSR1;

/// A child that holds links.
pub(super) struct Holder {
    pid: Pid,
    handle: OwnedFd,
    socket: OwnedFd,
}

/// What a holder says of its links.
pub(super) enum Answer {
    /// They are there since then, `CLOCK_MONOTONIC` ns.
    Made(u64),
    /// The kernel refused one, with this errno: there is none.
    Refused(u32),
    /// It was killed.
    Died,
}

impl Holder {
    /// Starts one for these links.
    ///
    /// # Errors
    /// No process or socket can be had.
    pub(super) fn start(ready: &Ready) -> io::Result<Self> {
        let (socket, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // SAFETY: the child calls nothing but what allocates no memory and takes no lock, as `hold` promises.
        match unsafe { libc::fork() } {
            // Though it be stopped, it goes with the keeper.
            0 => hold(ready, theirs.as_fd(), Some(Signal::KILL)),
            ..0 => Err(io::Error::last_os_error()),
            number => {
                let pid = Pid::from_raw(number).ok_or(Errno::SRCH)?;
                // Not waited for yet: the number is still its own.
                match pidfd_open(pid, PidfdFlags::empty()) {
                    Ok(handle) => Ok(Self { pid, handle, socket }),
                    Err(error) => {
                        drop(socket);
                        bury(pid);
                        Err(error.into())
                    }
                }
            }
        }
    }

    /// What to poll for its answer.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// What to poll for its end: its links are gone then.
    pub(super) fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// Its answer, waited for.
    pub(super) fn answer(&self) -> Answer {
        answer(self.socket.as_fd())
    }

    /// Lets it end, once it has answered.
    pub(super) fn end(&self) {
        // Whatever it is doing: it may have been stopped. One that has gone is well.
        let _ = pidfd_send_signal(&self.handle, Signal::KILL);
    }

    /// Waits for its end.
    pub(super) fn bury(self) {
        bury(self.pid);
    }
}

fn bury(pid: Pid) {
    while matches!(waitpid(Some(pid), WaitOptions::empty()), Err(Errno::INTR)) {}
}

/// Waits for what a holder says.
pub(super) fn answer(socket: BorrowedFd<'_>) -> Answer {
    let mut bytes = [0; size_of::<Message>()];
    loop {
        match recv(socket, &mut bytes, RecvFlags::empty()) {
            Ok((_, length)) if length == bytes.len() => {
                let message: Message = bytemuck::pod_read_unaligned(&bytes);
                return match message.kind {
                    ON => Answer::Made(message.at_ns),
                    _ => Answer::Refused(message.detail),
                };
            }
            Err(Errno::INTR) => {}
            _ => return Answer::Died,
        }
    }
}

/// Makes links, tells the other end of a socket, and holds them until that is closed or the process is killed, which it is by
/// the death of the thread that started it, if that is wanted.
///
/// Allocates no memory and takes no lock: this may be a child of fork(2).
pub(super) fn hold(ready: &Ready, socket: BorrowedFd<'_>, with_parent: Option<Signal>) -> ! {
    block_signals();
    let _ = set_name(c"gotrail-holder");
    close_all_but(ready, socket);
    let made = ready.make(socket);
    // Not before: it would leave breakpoints behind.
    let _ = set_parent_process_death_signal(with_parent);
    let told = tell(socket, &made).is_ok();
    let mut nothing = [MaybeUninit::<u8>::uninit(); 1];
    while told && made.is_ok() {
        match recv(socket, &mut nothing[..], RecvFlags::empty()) {
            Ok((_, 1..)) | Err(Errno::INTR) => {}
            _ => break,
        }
    }
    end()
}

/// Ends this process by [`OWN_END`].
fn end() -> ! {
    // SAFETY: the set is made before it is read, and the process ends by the signal, which is let through before it is sent: one
    // that had waited would be found by the same way as any other, and another one could come in between.
    unsafe {
        let mut own = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(own.as_mut_ptr());
        libc::sigaddset(own.as_mut_ptr(), OWN_END);
        libc::sigprocmask(libc::SIG_UNBLOCK, own.as_ptr(), std::ptr::null_mut());
        libc::kill(libc::getpid(), OWN_END);
        // Not reached: nobody handles or ignores that signal.
        libc::_exit(0)
    }
}

/// Tells what became of the links.
fn tell(socket: BorrowedFd<'_>, made: &io::Result<()>) -> Result<(), Errno> {
    let (kind, detail) = match made {
        Ok(()) => (ON, 0),
        Err(error) => (REFUSED, error.raw_os_error().unwrap_or(libc::EIO).cast_unsigned()),
    };
    let message = Message { kind, tier: 0, at_ns: monotonic_ns(), detail, padding: 0 };
    send(socket, bytemuck::bytes_of(&message), SendFlags::NOSIGNAL).map(drop)
}

/// One that ends a process is as deadly as SIGKILL, which alone can't be blocked.
fn block_signals() {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset(3) writes the whole set, which sigprocmask(2) then only reads; this process has one thread, and no
    // function is installed.
    unsafe {
        libc::signal(OWN_END, libc::SIG_DFL);
        libc::sigfillset(all.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), std::ptr::null_mut());
    }
}

/// What else was inherited: the ends of other holders' sockets, and of the keeper's own, are not to be kept open here.
fn close_all_but(ready: &Ready, socket: BorrowedFd<'_>) {
    let [first, second] = ready.descriptors().map(|fd| fd.as_raw_fd().cast_unsigned());
    // The last descriptor goes first (fs/file_table.c, `fput`): links, which get the next that is free, are to go before the
    // executable, whose lease is given back with it. So 1 and 2, which are of /dev/null, stay.
    let mut kept = [1, 2, first, second, socket.as_raw_fd().cast_unsigned()];
    kept.sort_unstable();
    let mut next = 0;
    for fd in kept {
        close_range(next, fd);
        next = fd + 1;
    }
    close_range(next, u32::MAX);
}

/// Closes those from one on and below another.
fn close_range(from: u32, below: u32) {
    if from < below {
        // SAFETY: close_range(2) closes descriptors whose owners are not used any more in this process, which ends without
        // dropping them. Kernels before 5.9 refuse it: the links still go with this process or, a little later, others.
        unsafe { libc::syscall(libc::SYS_close_range, from, below - 1, 0_u32) };
    }
}
