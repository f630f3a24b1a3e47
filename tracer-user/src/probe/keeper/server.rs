//! The keeper's own process.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::process::{Signal, getppid, set_parent_process_death_signal, setpriority_process, setsid};
use rustix::thread::set_name;

use super::GOING_NS;
use super::holder::{Answer, Holder};
use super::link::Ready;
use super::packet::{Packet, Received, receive, send_message};
use super::warm::Warmth;
use super::wire::{BEGIN, END, HOLDER, KEPT, Message, OFF, ON, Order, PREPARE, REFUSED, RENEW, TRACE, Why};
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

/// Holders that may be killed before they answer, one after the other, before their tier is given up.
const ATTEMPTS: u32 = 3;

/// A tier's links, and who has them while it is on.
struct Tier {
    ready: Ready,
    target: OwnedFd,
    lease: Option<Lease>,
}

struct Lease {
    holder: Holder,
    state: State,
    /// As it was asked for last.
    length_ns: u64,
    attempts: u32,
    /// It was not wanted any more before it was there.
    unwanted: Option<Why>,
}

/// What a lease's holder is at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Makes the links.
    Making,
    /// Ends without having made them: with this errno, or since it was killed. No other is to be there before it has gone.
    Failed(Option<u32>),
    /// Has them since `from_ns`, until `until_ns`; when it was last kept on is `kept_ns`.
    On { from_ns: u64, kept_ns: u64, until_ns: u64 },
}

impl Lease {
    const fn until_ns(&self) -> Option<u64> {
        match self.state {
            State::On { until_ns, .. } => Some(until_ns),
            _ => None,
        }
    }

    fn is_window(&self) -> bool {
        self.length_ns <= WINDOW_NS
    }
}

/// Links that go.
struct Going {
    holder: Holder,
    tier: u32,
    at_ns: u64,
    why: Why,
}

/// Serves the gotrail at the other end of standard input until it closes that; `parent` is its process id.
pub(in crate::probe) fn run(parent: Option<u32>) -> ExitCode {
    // Not among the processes that a terminal stops (Ctrl-Z) or interrupts together.
    let _ = setsid();
    let _ = set_name(c"gotrail-keeper");
    close_others();
    ignore_ends();
    hurry();
    // The socket's end tells that gotrail is gone; this tells it even if a child of gotrail's still holds the other end.
    let armed = set_parent_process_death_signal(Some(Signal::KILL));
    let alive = getppid().map(|pid| pid.as_raw_nonzero().get().cast_unsigned());
    if armed.is_err() || alive != parent || parent.is_none() {
        return ExitCode::FAILURE;
    }
    let stdin = io::stdin();
    let (tiers, going) = (BTreeMap::new(), Vec::new());
    Keeper { socket: stdin.as_fd(), tiers, going, warmth: Warmth::begin() }.serve();
    ExitCode::SUCCESS
}

/// What asks a service's processes to end is for gotrail to hear, which then lets this one end.
fn ignore_ends() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
        // SAFETY: no function is installed that could be run.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Late is dear: next to no work, but it must be done in time. Not permitted is not fatal.
///
/// A real-time thread need not wait for the end of another one's slice, and the kernel lets it have the lock of a process's
/// memory, which each trap of that process reads under, before the next tick (kernel/locking/rwsem.c, `rwsem_try_write_lock`).
pub(super) fn hurry() {
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
pub(super) fn close_others() {
    // SAFETY: close_range(2) closes descriptors that nothing in this process has opened or knows of. Kernels before 5.9
    // refuse it; all that gotrail opens is closed on exec anyway.
    unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
}

struct Keeper<'a> {
    socket: BorrowedFd<'a>,
    tiers: BTreeMap<u32, Tier>,
    going: Vec<Going>,
    warmth: Warmth,
}

/// What there is to do.
enum Due {
    /// An order, or the end of them.
    Order,
    /// A tier's holder has something to say, or was killed.
    Holder(u32),
    /// The links of one of those that go are gone.
    Gone(usize),
}

impl Keeper<'_> {
    fn serve(&mut self) {
        loop {
            let now = monotonic_ns();
            let due: Vec<u32> = self
                .leases()
                .filter(|(_, lease)| lease.until_ns().is_some_and(|until_ns| until_ns <= now))
                .map(|(tier, _)| tier)
                .collect();
            for tier in due {
                self.drop_lease(tier, Why::Deadline);
            }
            // What can't be waited for is not to be kept on.
            let Ok(dues) = self.wait() else { return self.end() };
            for due in dues.into_iter().rev() {
                match due {
                    Due::Gone(index) => self.bury(index),
                    Due::Holder(tier) => self.hear(tier),
                    Due::Order if self.receive() => {}
                    Due::Order => return self.end(),
                }
            }
        }
    }

    fn leases(&self) -> impl Iterator<Item = (u32, &Lease)> {
        self.tiers.iter().filter_map(|(tier, state)| Some((*tier, state.lease.as_ref()?)))
    }

    /// Waits for the next thing to do or the next deadline, which may be none. Those that are gone come last, by their places.
    fn wait(&self) -> Result<Vec<Due>, Errno> {
        let next = self.leases().filter_map(|(_, lease)| lease.until_ns()).min();
        let timeout = next.map(|at| Duration::from_nanos(at.saturating_sub(monotonic_ns())));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let (mut fds, mut dues) = (vec![PollFd::new(&self.socket, PollFlags::IN)], vec![Due::Order]);
        for (tier, lease) in self.leases() {
            let fd = match lease.state {
                State::Making => lease.holder.socket(),
                _ => lease.holder.handle(),
            };
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
            dues.push(Due::Holder(tier));
        }
        for (index, going) in self.going.iter().enumerate() {
            fds.push(PollFd::from_borrowed_fd(going.holder.handle(), PollFlags::IN));
            dues.push(Due::Gone(index));
        }
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        }
        let ready = fds.into_iter().map(|fd| !fd.revents().is_empty());
        Ok(dues.into_iter().zip(ready).filter_map(|(due, ready)| ready.then_some(due)).collect())
    }

    /// Lets all links go, together since the kernel takes tens of milliseconds for each, and waits for that.
    fn end(&mut self) {
        self.warmth.keep_until(0);
        let leases = self.tiers.iter_mut().filter_map(|(tier, state)| Some((*tier, state.lease.take()?)));
        let mut leases: Vec<(u32, Lease)> = leases.collect();
        // Who makes links must not be killed, and does not take long.
        leases.sort_by_key(|(_, lease)| lease.state == State::Making);
        let mut again = Vec::new();
        for (tier, lease) in &leases {
            let died = match lease.state {
                State::Making => matches!(lease.holder.answer(), Answer::Died),
                state => state == State::Failed(None),
            };
            again.extend(died.then_some(*tier));
            lease.holder.end();
        }
        let going = std::mem::take(&mut self.going).into_iter().map(|going| going.holder);
        leases.into_iter().map(|(_, lease)| lease.holder).chain(going).for_each(Holder::bury);
        // What one may have left behind that was killed while it made links goes with the next one's.
        for holder in again.iter().filter_map(|tier| Holder::start(&self.tiers.get(tier)?.ready).ok()) {
            let _ = holder.answer();
            holder.end();
            holder.bury();
        }
    }

    /// Takes one order; `false` when there will be none any more.
    fn receive(&mut self) -> bool {
        let Packet { order, sites, fds } = match receive(self.socket, RecvFlags::DONTWAIT) {
            Received::Packet(packet) => packet,
            Received::Nothing => return true,
            Received::End => return false,
        };
        match order.kind {
            PREPARE => {
                let Ok([program, executable, target]) = <[OwnedFd; 3]>::try_from(fds) else { return false };
                self.insert(order.tier, order.links(program, executable, sites), target)
            }
            TRACE => {
                let Ok([enter, exit, target]) = <[OwnedFd; 3]>::try_from(fds) else { return false };
                self.insert(order.tier, Ready::Tracepoints([enter, exit]), target)
            }
            BEGIN => {
                self.begin(&order);
                true
            }
            RENEW => {
                if let Some(lease) = self.tiers.get_mut(&order.tier).and_then(|tier| tier.lease.as_mut()) {
                    renew(lease, &order);
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

    fn insert(&mut self, tier: u32, ready: Ready, target: OwnedFd) -> bool {
        let has_room = self.tiers.len() < MAX_TIERS;
        if has_room {
            self.tiers.insert(tier, Tier { ready, target, lease: None });
        }
        has_room
    }

    fn begin(&mut self, order: &Order) {
        let Some(tier) = self.tiers.get_mut(&order.tier) else { return };
        if let Some(lease) = &mut tier.lease {
            lease.unwanted = None;
            renew(lease, order);
            return self.keep_ready();
        }
        let length_ns = order.lease_ns.min(MAX_LEASE_NS);
        match Holder::start(&tier.ready) {
            Ok(holder) => {
                tell_of(order.tier, &holder);
                let state = State::Making;
                tier.lease = Some(Lease { holder, state, length_ns, attempts: 1, unwanted: None });
            }
            Err(error) => refuse(order.tier, &error),
        }
    }

    /// Takes a holder's answer, or finds that it has ended.
    fn hear(&mut self, tier: u32) {
        let Some(known) = self.tiers.get_mut(&tier) else { return };
        let Some(mut lease) = known.lease.take() else { return };
        match lease.state {
            State::On { from_ns, kept_ns, .. } => {
                // Not by us.
                lease.holder.bury();
                let at_ns = kept_ns.saturating_sub(GOING_NS).max(from_ns);
                tell(OFF, tier, at_ns, Why::KeeperGone.to_wire());
                return self.keep_ready();
            }
            State::Making => match lease.holder.answer() {
                Answer::Made(from_ns) => {
                    let kept_ns = monotonic_ns();
                    let until_ns = kept_ns.saturating_add(lease.length_ns);
                    lease.state = State::On { from_ns, kept_ns, until_ns };
                    // The process that has the number now is the one that was meant, if that one has not ended (IDENT-1).
                    let gone = has_ended(known.target.as_fd());
                    let unwanted = gone.then_some(Why::TargetGone).or(lease.unwanted);
                    known.lease = Some(lease);
                    if !gone {
                        tell(ON, tier, from_ns, 0);
                    }
                    return match unwanted {
                        Some(why) => self.drop_lease(tier, why),
                        None => self.keep_ready(),
                    };
                }
                Answer::Refused(errno) => lease.state = State::Failed(Some(errno)),
                Answer::Died => lease.state = State::Failed(None),
            },
            State::Failed(errno) => {
                lease.holder.bury();
                // With the links of the next go the breakpoints that one which was killed may have left.
                let again = errno.is_none() && lease.attempts < ATTEMPTS;
                match again.then(|| Holder::start(&known.ready)) {
                    Some(Ok(holder)) => {
                        tell_of(tier, &holder);
                        let attempts = lease.attempts + 1;
                        known.lease = Some(Lease { holder, state: State::Making, attempts, ..lease });
                    }
                    Some(Err(error)) => refuse(tier, &error),
                    None => {
                        let errno = errno.map_or(libc::ECANCELED, u32::cast_signed);
                        refuse(tier, &io::Error::from_raw_os_error(errno));
                    }
                }
                return;
            }
        }
        known.lease = Some(lease);
    }

    /// For the end of the last window.
    fn keep_ready(&self) {
        let windows = self.leases().filter(|(_, lease)| lease.is_window());
        self.warmth.keep_until(windows.filter_map(|(_, lease)| lease.until_ns()).max().unwrap_or(0));
    }

    fn drop_lease(&mut self, tier: u32, why: Why) {
        let Some(lease) = self.tiers.get_mut(&tier).and_then(|known| known.lease.as_mut()) else { return };
        if lease.until_ns().is_none() {
            // Killed now, it would leave breakpoints behind.
            lease.unwanted = Some(why);
            return;
        }
        let at_ns = monotonic_ns();
        lease.holder.end();
        if let Some(Lease { holder, .. }) = self.tiers.get_mut(&tier).and_then(|known| known.lease.take()) {
            self.going.push(Going { holder, tier, at_ns, why });
        }
        self.keep_ready();
    }

    fn bury(&mut self, index: usize) {
        let Going { holder, tier, at_ns, why } = self.going.swap_remove(index);
        holder.bury();
        tell(OFF, tier, at_ns, why.to_wire());
    }
}

fn renew(lease: &mut Lease, order: &Order) {
    lease.length_ns = order.lease_ns.min(MAX_LEASE_NS);
    if let State::On { kept_ns, until_ns, .. } = &mut lease.state {
        *kept_ns = monotonic_ns();
        *until_ns = kept_ns.saturating_add(lease.length_ns);
    }
}

fn refuse(tier: u32, error: &io::Error) {
    tell(REFUSED, tier, monotonic_ns(), error.raw_os_error().unwrap_or(0).cast_unsigned());
}

/// Hands gotrail the handle of a tier's holder, which it waits for if it has to do without this keeper.
fn tell_of(tier: u32, holder: &Holder) {
    let message = Message { kind: HOLDER, tier, at_ns: monotonic_ns(), detail: 0, padding: 0 };
    let _ = send_message(rustix::stdio::stdin(), &message, &[holder.handle()]);
}

/// Tells it if gotrail listens. It may be stopped, with its socket full: then it learns from what it finds.
fn tell(kind: u32, tier: u32, at_ns: u64, detail: u32) {
    let message = Message { kind, tier, at_ns, detail, padding: 0 };
    let _ = send_message(rustix::stdio::stdin(), &message, &[]);
}

fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready != 0)
}
