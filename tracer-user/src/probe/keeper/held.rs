//! Links that stay on for as long as gotrail wants them: in a holder that it starts itself.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags, pidfd_open, setsid};

use super::HOLDER_VERB;
use super::holder::{Answer, answer, hold};
use super::link::kind_of_uprobes;
use super::packet::{Packet, Received, receive, send};
use super::server::{close_others, hurry};
use super::wire::{Order, PREPARE, Site};
use crate::probe::kernel::Links;

/// How long a holder has for its answer: on a starved machine it takes a while to start.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// And for each site that takes a link of its own.
const EACH_WITHIN: Duration = Duration::from_millis(500);
/// How long a child that is to end is waited for before it is killed: it may have been stopped, or takes one link off after the
/// other and does not mind.
const ENDS_WITHIN: Duration = Duration::from_millis(500);
/// Holders that may be killed before they answer, by whomever.
const ATTEMPTS: u32 = 3;

/// A program on sites of a file, until this is dropped: that returns when the probes are gone.
///
/// Should gotrail end in whatever way, they go as well.
#[derive(Debug)]
pub(in crate::probe) struct Held {
    /// Both until it is to end.
    running: Option<(OwnedFd, Child)>,
}

impl Held {
    /// Puts it there, by one link or by one for each site. `pid` scopes that to one process, 0 to none.
    ///
    /// # Errors
    /// The kernel's, or no process can be had.
    pub(in crate::probe) fn start(
        program: BorrowedFd<'_>,
        executable: BorrowedFd<'_>,
        pid: u32,
        sites: &[Site],
        links: Links,
    ) -> io::Result<Self> {
        let single = links == Links::Single;
        let order = Order {
            kind: PREPARE,
            tier: 0,
            lease_ns: 0,
            pid,
            sites: u32::try_from(sites.len()).map_err(io::Error::other)?,
            single: u32::from(single),
            event_kind: if single { kind_of_uprobes()? } else { 0 },
        };
        let patience = ANSWERS_WITHIN + if single { EACH_WITHIN * order.sites } else { Duration::ZERO };
        let mut ended = None;
        for _ in 0..ATTEMPTS {
            let (socket, child) = spawn()?;
            match send(socket.as_fd(), &order, sites, &[program, executable]) {
                // The second is for its death to tell.
                Ok(()) | Err(Errno::PIPE) => {}
                Err(error) => {
                    drop(socket);
                    end(child);
                    return Err(error.into());
                }
            }
            if !is_there(socket.as_fd(), patience) {
                // Not killed, which would leave breakpoints behind: it ends as soon as it sees that nobody listens.
                drop(socket);
                let mut child = child;
                std::thread::spawn(move || drop(child.wait()));
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the process that is to hold them is silent",
                ));
            }
            match answer(socket.as_fd()) {
                Answer::Made(_) => return Ok(Self { running: Some((socket, child)) }),
                Answer::Refused(errno) => {
                    drop(socket);
                    end(child);
                    let error = io::Error::from_raw_os_error(errno.cast_signed());
                    let call = if single { "perf_event_open or bpf" } else { "bpf" };
                    return Err(io::Error::new(error.kind(), format!("{call}: {error}")));
                }
                Answer::Died => {
                    drop(socket);
                    // What it may have left behind goes with the next one's.
                    ended = end(child);
                    if ended.is_some_and(|status| status.code().is_some()) {
                        break;
                    }
                }
            }
        }
        let how = ended.map_or_else(|| "without a word".to_owned(), |status| format!("with {status}"));
        Err(io::Error::other(format!("the process that is to hold them ends {how}")))
    }

    /// Whether the holder has ended though it was not to, and with it the probes.
    pub(in crate::probe) fn has_ended(&self) -> bool {
        self.running.as_ref().is_none_or(|(socket, _)| is_there(socket.as_fd(), Duration::ZERO))
    }

    /// Takes the probes off, and returns when they are gone: whether somebody had done that before, by killing the holder.
    pub(in crate::probe) fn end(mut self) -> bool {
        self.end_once()
    }

    fn end_once(&mut self) -> bool {
        let Some((socket, child)) = self.running.take() else { return false };
        drop(socket);
        end(child).is_some_and(|status| status.signal() == Some(libc::SIGKILL))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.end_once();
    }
}

fn spawn() -> io::Result<(OwnedFd, Child)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let child = Command::new("/proc/self/exe")
        .arg0("gotrail-holder")
        .args([HOLDER_VERB, &std::process::id().to_string()])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok((ours, child))
}

/// Waits for a child that was told to end, and kills it if it does not, which one that makes links must not be. Returns how it
/// ended, unless it was killed here.
pub(super) fn end(mut child: Child) -> Option<ExitStatus> {
    let handle = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let handle = handle.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    if !handle.is_some_and(|handle| is_there(handle.as_fd(), ENDS_WITHIN)) {
        drop(child.kill());
        drop(child.wait());
        return None;
    }
    child.wait().ok()
}

/// Waits until there is something to read; whether there is.
pub(super) fn is_there(fd: BorrowedFd<'_>, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        let timeout = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).ok();
        match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], timeout.as_ref()) {
            Err(Errno::INTR) => {}
            result => return result.is_ok_and(|ready| ready != 0),
        }
    }
}

/// Holds what the gotrail at the other end of standard input wants to be held.
pub(in crate::probe) fn run() -> ExitCode {
    // Not among the processes that a terminal stops (Ctrl-Z) or interrupts together.
    let _ = setsid();
    close_others();
    hurry();
    let stdin = io::stdin();
    let packet = loop {
        match receive(stdin.as_fd(), RecvFlags::empty()) {
            Received::Packet(packet) => break packet,
            Received::Nothing => {}
            Received::End => return ExitCode::FAILURE,
        }
    };
    let Packet { order, sites, fds } = packet;
    let Ok([program, executable]) = <[OwnedFd; 2]>::try_from(fds) else { return ExitCode::FAILURE };
    hold(&order.links(program, executable, sites), stdin.as_fd(), None)
}
