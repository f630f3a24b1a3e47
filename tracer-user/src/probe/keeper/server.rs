//! The keeper's own process.

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, recvmsg, send,
};
use rustix::process::{Signal, getppid, set_parent_process_death_signal, setpriority_process, setsid};
use rustix::thread::set_name;

use super::link;
use super::warm::Warmth;
use super::wire::{
    BEGIN, END, KEPT, MAX_SITES, Message, OFF, ON, Order, PREPARE, REFUSED, RENEW, Site, TRACE, TRACEPOINTS,
    Why,
};
use crate::memory::monotonic_ns;

/// Tiers that a keeper serves at most.
const MAX_TIERS: usize = 8;
/// Longest lease: what asks for more is given this.
const MAX_LEASE_NS: u64 = 10_000_000_000;

/// Up to this a lease is a window, or the short first one of what stays on, which has to end quickly: a program that begins a
/// storm in it has nothing saved up. To be ready for that takes a hundredth of a processor, too much for what stays on.
const WINDOW_NS: u64 = 250_000_000;

/// The keeper's nice value where it can't be more than that.
const URGENT: i32 = -10;

/// A tier's programs and where they go, and the links while it is on.
struct Tier {
    place: Place,
    target: OwnedFd,
    lease: Option<Lease>,
}

enum Place {
    Sites {
        program: OwnedFd,
        executable: OwnedFd,
        pid: u32,
        sites: Vec<Site>,
    },
    /// [`TRACEPOINTS`], in their order.
    Tracepoints([OwnedFd; 2]),
}

impl Place {
    /// Puts the programs there. What was done when something fails is undone by the drop.
    fn link(&self) -> io::Result<Vec<OwnedFd>> {
        match self {
            Self::Sites { program, executable, pid, sites } => {
                Ok(vec![link::create(program.as_fd(), executable.as_fd(), *pid, sites)?])
            }
            Self::Tracepoints(programs) => programs
                .iter()
                .zip(TRACEPOINTS)
                .map(|(program, name)| link::trace(program.as_fd(), name))
                .collect(),
        }
    }
}

struct Lease {
    links: Vec<OwnedFd>,
    until_ns: u64,
    is_window: bool,
}

impl Drop for Lease {
    /// The last first: nobody is told of an end who was not told of the begin.
    fn drop(&mut self) {
        while let Some(link) = self.links.pop() {
            drop(link);
        }
    }
}

/// Serves the gotrail at the other end of standard input until it closes that; `parent` is its process id.
pub(in crate::probe) fn run(parent: Option<u32>) -> ExitCode {
    // Not among the processes that a terminal stops (Ctrl-Z) or interrupts together.
    let _ = setsid();
    let _ = set_name(c"gotrail-keeper");
    close_others();
    hurry();
    // The socket's end tells that gotrail is gone; this tells it even if a child of gotrail's still holds the other end.
    let armed = set_parent_process_death_signal(Some(Signal::KILL));
    let alive = getppid().map(|pid| pid.as_raw_nonzero().get().cast_unsigned());
    if armed.is_err() || alive != parent || parent.is_none() {
        return ExitCode::FAILURE;
    }
    let stdin = io::stdin();
    Keeper { socket: stdin.as_fd(), tiers: BTreeMap::new(), warmth: Warmth::begin() }.serve();
    ExitCode::SUCCESS
}

/// Late is dear: next to no work, but it must be done in time. Not permitted is not fatal.
///
/// A real-time thread need not wait for the end of another one's slice, and the kernel lets it have the lock of a process's
/// memory, which each trap of that process reads under, before the next tick (kernel/locking/rwsem.c, `rwsem_try_write_lock`).
fn hurry() {
    if !make_real_time() {
        let _ = setpriority_process(None, URGENT);
    }
}

/// Whether a keeper may have real-time threads, which takes more than `CAP_SYS_NICE` where the kernel has groups of them
/// (`CONFIG_RT_GROUP_SCHED`): tried in a thread that ends.
#[must_use]
pub fn may_be_real_time() -> bool {
    std::thread::spawn(make_real_time).join().is_ok_and(|done| done)
}

/// Makes the calling thread one, of the least priority; whether that was allowed.
fn make_real_time() -> bool {
    const LEAST: libc::c_int = 1;
    // SAFETY: sched_setscheduler(2) of the calling thread reads the one number that its parameter is on Linux.
    let result =
        unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_RR, std::ptr::from_ref(&LEAST)) };
    result == 0
}

/// Closes whatever was inherited beyond the three standard descriptors.
fn close_others() {
    // SAFETY: close_range(2) closes descriptors that nothing in this process has opened or knows of. Kernels before 5.9
    // refuse it; all that gotrail opens is closed on exec anyway.
    unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
}

struct Keeper<'a> {
    socket: BorrowedFd<'a>,
    tiers: BTreeMap<u32, Tier>,
    warmth: Warmth,
}

impl Keeper<'_> {
    fn serve(&mut self) {
        loop {
            let now = monotonic_ns();
            let due: Vec<u32> = self
                .tiers
                .iter()
                .filter(|(_, tier)| tier.lease.as_ref().is_some_and(|lease| lease.until_ns <= now))
                .map(|(tier, _)| *tier)
                .collect();
            for tier in due {
                self.drop_lease(tier, Why::Deadline);
            }
            let next = self.tiers.values().filter_map(|tier| tier.lease.as_ref()).map(|l| l.until_ns).min();
            let timeout = next.map(|at| Duration::from_nanos(at.saturating_sub(monotonic_ns())));
            let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
            let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
            match poll(&mut fds, timeout.as_ref()) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) if self.receive() => {}
                _ => break,
            }
        }
        self.warmth.keep_until(0);
        // At once, and together: the kernel takes tens of milliseconds for each.
        std::thread::scope(|scope| {
            for tier in std::mem::take(&mut self.tiers).into_values() {
                scope.spawn(move || drop(tier));
            }
        });
    }

    /// Takes one order; `false` when there will be none any more.
    fn receive(&mut self) -> bool {
        const SPACE: usize = rustix::cmsg_space!(ScmRights(3));
        let mut bytes = vec![0_u8; size_of::<Order>() + MAX_SITES * size_of::<Site>()];
        let mut space = [MaybeUninit::uninit(); SPACE];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            self.socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
        );
        let length = match received {
            Ok(message) if message.bytes != 0 && !message.flags.contains(ReturnFlags::TRUNC) => message.bytes,
            Err(Errno::AGAIN | Errno::INTR) => return true,
            _ => return false,
        };
        let fds: Vec<OwnedFd> = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .collect();
        let Some((head, rest)) = bytes.get(..length).and_then(|b| b.split_at_checked(size_of::<Order>()))
        else {
            return false;
        };
        let order: Order = bytemuck::pod_read_unaligned(head);
        match order.kind {
            PREPARE => self.prepare(&order, rest, fds),
            TRACE => {
                let Ok([enter, exit, target]) = <[OwnedFd; 3]>::try_from(fds) else { return false };
                self.insert(order.tier, Place::Tracepoints([enter, exit]), target)
            }
            BEGIN => {
                self.begin(&order);
                true
            }
            RENEW => {
                if let Some(lease) = self.tiers.get_mut(&order.tier).and_then(|tier| tier.lease.as_mut()) {
                    lease.until_ns = deadline(&order);
                    lease.is_window = order.lease_ns <= WINDOW_NS;
                    tell(KEPT, order.tier, monotonic_ns(), 0);
                }
                self.keep_ready();
                true
            }
            END => {
                self.drop_lease(order.tier, Why::Asked);
                true
            }
            _ => false,
        }
    }

    fn prepare(&mut self, order: &Order, rest: &[u8], fds: Vec<OwnedFd>) -> bool {
        let count = rest.len() / size_of::<Site>();
        let Ok([program, executable, target]) = <[OwnedFd; 3]>::try_from(fds) else { return false };
        if count == 0 || count != order.sites as usize {
            return false;
        }
        let sites = rest.chunks_exact(size_of::<Site>()).map(bytemuck::pod_read_unaligned).collect();
        self.insert(order.tier, Place::Sites { program, executable, pid: order.pid, sites }, target)
    }

    fn insert(&mut self, tier: u32, place: Place, target: OwnedFd) -> bool {
        let has_room = self.tiers.len() < MAX_TIERS;
        if has_room {
            self.tiers.insert(tier, Tier { place, target, lease: None });
        }
        has_room
    }

    fn begin(&mut self, order: &Order) {
        let Some(tier) = self.tiers.get_mut(&order.tier) else { return };
        if let Some(lease) = &mut tier.lease {
            (lease.until_ns, lease.is_window) = (deadline(order), order.lease_ns <= WINDOW_NS);
            self.keep_ready();
            return;
        }
        let (kind, detail) = match tier.place.link() {
            // The process that has the number now is the one that was meant, if that one has not ended (IDENT-1).
            Ok(links) if has_ended(tier.target.as_fd()) => {
                drop(links);
                (OFF, Why::TargetGone.to_wire())
            }
            Ok(links) => {
                let is_window = order.lease_ns <= WINDOW_NS;
                tier.lease = Some(Lease { links, until_ns: deadline(order), is_window });
                (ON, 0)
            }
            Err(error) => (REFUSED, error.raw_os_error().unwrap_or(0).cast_unsigned()),
        };
        tell(kind, order.tier, monotonic_ns(), detail);
        self.keep_ready();
    }

    /// For the end of the last window.
    fn keep_ready(&self) {
        let windows = self.tiers.values().filter_map(|tier| tier.lease.as_ref()).filter(|l| l.is_window);
        self.warmth.keep_until(windows.map(|lease| lease.until_ns).max().unwrap_or(0));
    }

    fn drop_lease(&mut self, tier: u32, why: Why) {
        let Some(known) = self.tiers.get_mut(&tier) else { return };
        let Some(lease) = known.lease.take() else { return };
        let at_ns = monotonic_ns();
        self.keep_ready();
        // The kernel takes tens of milliseconds to return when the probes have gone, in which another tier's must be able to go.
        let closed = move || {
            drop(lease);
            tell(OFF, tier, at_ns, why.to_wire());
        };
        let thread = std::thread::Builder::new().name("gotrail-keeper".to_owned()).stack_size(64 << 10);
        if thread.spawn(closed).is_err() {
            // The links went with what the thread would have done.
            tell(OFF, tier, at_ns, why.to_wire());
        }
    }
}

/// Tells it if gotrail listens. It may be stopped, with its socket full: then it learns from what it finds.
fn tell(kind: u32, tier: u32, at_ns: u64, detail: u32) {
    let message = Message { kind, tier, at_ns, detail, padding: 0 };
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let _ = send(rustix::stdio::stdin(), bytemuck::bytes_of(&message), flags);
}

fn deadline(order: &Order) -> u64 {
    monotonic_ns().saturating_add(order.lease_ns.min(MAX_LEASE_NS))
}

fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready != 0)
}
