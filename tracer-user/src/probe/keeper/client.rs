//! gotrail's side of its keeper: starts it, asks for leases, hears what became of them.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytemuck::Zeroable as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::VERB;
use super::held::{end, is_there};
use super::often::Often;
use super::packet::{receive_message, send};
use super::wire::{
    BEGIN, END, HOLDER, KEPT, MAX_SITES, Message, OFF, ON, Order, PREPARE, REFUSED, RENEW, Site, TRACE, Why,
};
use crate::binary;
use crate::memory::monotonic_ns;
use crate::probe::alarm::Alarm;
use crate::probe::check::check_sites;
use crate::probe::error::ProbeError;
use crate::probe::kernel::release;
use crate::probe::links::site_cookie;
use crate::target::Target;

/// How much later than it should a keeper may speak, in ns; then it is taken to be stopped or stuck, and killed: the
/// links go with it. Detaching alone takes some 40 ms.
const PATIENCE_NS: u64 = 500_000_000;
/// How long a keeper has for its first word: on a starved machine it takes a while to start, and nothing is on before.
const STARTS_WITHIN_NS: u64 = 5_000_000_000;
/// How long the end of a holder is waited for when there is no keeper any more.
const HOLDER_ENDS_WITHIN: Duration = Duration::from_millis(500);

/// What became of a tier's probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// They are on.
    On {
        /// `TIER_` bit.
        tier: u32,
        /// Since when all of them are, `CLOCK_MONOTONIC` ns.
        at_ns: u64,
    },
    /// They are off, or about to be.
    Off {
        /// `TIER_` bit.
        tier: u32,
        /// Until when all of them were certainly on, `CLOCK_MONOTONIC` ns.
        at_ns: u64,
        /// Why.
        why: Why,
    },
    /// They could not be put on.
    Refused {
        /// `TIER_` bit.
        tier: u32,
        /// What was said.
        why: String,
    },
}

/// A tier that is had by lease.
pub(in crate::probe) struct Leased {
    /// `TIER_` bit.
    pub(in crate::probe) tier: u32,
    /// The loaded program, or those for [`super::TRACEPOINTS`] in their order.
    pub(in crate::probe) programs: Vec<OwnedFd>,
    /// Where it goes; nowhere in the process, if it is for tracepoints.
    pub(in crate::probe) sites: Vec<binary::Site>,
}

/// The tiers of a session that are had by lease. Clones are the same.
#[derive(Clone)]
pub struct Leases {
    shared: Arc<Shared>,
}

struct Shared {
    target: Target,
    bias: u64,
    /// The process that links are scoped to, 0 for none.
    scope: u32,
    /// The tiers and their sites.
    tiers: Vec<(u32, Vec<binary::Site>)>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The programs of each tier, until all is over: whoever holds one keeps it in the kernel.
    programs: Vec<Vec<OwnedFd>>,
    keeper: Option<Running>,
    starts: Often,
    closed: bool,
    tiers: BTreeMap<u32, Tier>,
    /// What was heard while one tier was waited for.
    heard: Vec<Report>,
}

/// A keeper's process.
struct Running {
    socket: OwnedFd,
    child: Child,
    /// When it was last known to run.
    seen_ns: u64,
    /// Whether it has said anything yet.
    spoken: bool,
}

/// What is known of a tier.
struct Tier {
    on: bool,
    /// Who holds its links, or makes them.
    holder: Option<OwnedFd>,
    /// Length of the lease as it was last asked for.
    length_ns: u64,
    /// When the keeper must have spoken of it.
    due_ns: u64,
}

impl std::fmt::Debug for Leases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tiers: Vec<u32> = self.shared.tiers.iter().map(|(tier, _)| *tier).collect();
        f.debug_struct("Leases").field("target", &self.shared.target.pid()).field("tiers", &tiers).finish()
    }
}

impl Leases {
    /// Starts a keeper for these programs; none of them is on yet.
    ///
    /// # Errors
    /// [`ProbeError`] if it does not start.
    pub(in crate::probe) fn new(
        target: &Target,
        bias: u64,
        scoped: bool,
        programs: Vec<Leased>,
    ) -> Result<Self, ProbeError> {
        let scope = if scoped { target.pid() } else { 0 };
        let (tiers, programs) = programs.into_iter().map(|p| ((p.tier, p.sites), p.programs)).unzip();
        let state = Mutex::new(State { programs, ..State::default() });
        let shared = Shared { target: target.clone(), bias, scope, tiers, state };
        let leases = Self { shared: Arc::new(shared) };
        leases.start(&mut leases.lock())?;
        Ok(leases)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tiers that are had by lease, and how many sites each has.
    pub fn tiers(&self) -> impl Iterator<Item = (u32, usize)> {
        self.shared.tiers.iter().map(|(tier, sites)| (*tier, sites.len()))
    }

    /// Whether a tier is had by lease.
    #[must_use]
    pub fn has(&self, tier: u32) -> bool {
        self.shared.tiers.iter().any(|(known, _)| *known == tier)
    }

    /// The tiers that are on, as far as was heard.
    #[must_use]
    pub fn on(&self) -> u32 {
        self.lock().tiers.iter().filter(|(_, state)| state.on).fold(0, |sum, (tier, _)| sum | tier)
    }

    /// The keeper's process id, if one runs.
    #[must_use]
    pub fn keeper(&self) -> Option<u32> {
        self.lock().keeper.as_ref().map(|running| running.child.id())
    }

    /// Asks for a tier's probes until `length` from now. [`Self::reports`] tells what became of it.
    ///
    /// Identity and code bytes are checked right before (SAFE-2).
    ///
    /// # Errors
    /// [`ProbeError`]; then nothing was asked for.
    pub fn begin(&self, tier: u32, length: Duration) -> Result<(), ProbeError> {
        let Some((_, sites)) = self.shared.tiers.iter().find(|(known, _)| *known == tier) else {
            return Err(failed("put probes on", "this tier is not had by lease".to_owned()));
        };
        check_sites(&self.shared.target, self.shared.bias, sites)?;
        let mut state = self.lock();
        if state.closed {
            return Ok(());
        }
        // One that nobody has heard of yet may have been killed.
        while state.keeper.is_none() || state.order(BEGIN, tier, length).is_err() {
            let gone = state.bury();
            state.heard.extend(gone);
            self.start(&mut state)?;
            if state.order(BEGIN, tier, length).is_ok() {
                break;
            }
        }
        let spoken = state.keeper.as_ref().is_some_and(|running| running.spoken);
        let patience_ns = if spoken { PATIENCE_NS } else { STARTS_WITHIN_NS };
        let due_ns = monotonic_ns().saturating_add(patience_ns);
        state.tiers.insert(tier, Tier { on: false, holder: None, length_ns: nanos(length), due_ns });
        Ok(())
    }

    /// Lets a tier's probes stay until `length` from now, if they are still on.
    pub fn renew(&self, tier: u32, length: Duration) {
        let mut state = self.lock();
        // That the keeper has gone is heard by `reports`.
        drop(state.order(RENEW, tier, length));
        let due_ns = monotonic_ns().saturating_add(PATIENCE_NS);
        if let Some(tier) = state.tiers.get_mut(&tier) {
            (tier.length_ns, tier.due_ns) = (nanos(length), tier.due_ns.min(due_ns));
        }
    }

    /// Takes a tier's probes off.
    pub fn end(&self, tier: u32) {
        let mut state = self.lock();
        drop(state.order(END, tier, Duration::ZERO));
        let due_ns = monotonic_ns().saturating_add(PATIENCE_NS);
        if let Some(tier) = state.tiers.get_mut(&tier) {
            tier.due_ns = due_ns;
        }
    }

    /// What the keeper has said since. A keeper that should have spoken and has not is killed here.
    #[must_use]
    pub fn reports(&self) -> Vec<Report> {
        let mut state = self.lock();
        let mut reports = std::mem::take(&mut state.heard);
        if state.closed {
            return reports;
        }
        loop {
            match state.hear() {
                Heard::Message(message, handle) => reports.extend(state.take(message, handle)),
                Heard::Nothing => break,
                Heard::End => {
                    reports.extend(state.bury());
                    return reports;
                }
            }
        }
        let now = monotonic_ns();
        if let Some(running) = &mut state.keeper {
            running.seen_ns = now;
        }
        if state.tiers.values().any(|tier| tier.due_ns < now) {
            reports.extend(state.bury());
        }
        reports
    }

    /// Waits until a tier is on, at most for `patience`.
    ///
    /// # Errors
    /// [`ProbeError`]: it was refused, or did not come.
    pub(in crate::probe) fn await_on(
        &self,
        tier: u32,
        length: Duration,
        patience: Duration,
    ) -> Result<u64, ProbeError> {
        let deadline = Instant::now() + patience;
        loop {
            let (mut found, mut again) = (None, false);
            let mut others = self.reports();
            others.retain(|report| match report {
                // What becomes of probes that were on is for those to hear who look after them.
                _ if found.is_some() => true,
                Report::On { tier: on, at_ns } if *on == tier => {
                    found = Some(Ok(*at_ns));
                    false
                }
                Report::Refused { tier: on, why } if *on == tier => {
                    found = Some(Err(failed("attach the probes", why.clone())));
                    false
                }
                Report::Off { tier: on, why: Why::KeeperGone, .. } if *on == tier => {
                    again = true;
                    false
                }
                Report::Off { tier: on, why, .. } if *on == tier => {
                    found = Some(Err(failed("attach the probes", why.name().to_owned())));
                    false
                }
                _ => true,
            });
            if !others.is_empty() {
                self.lock().heard.append(&mut others);
            }
            if let Some(found) = found {
                return found;
            }
            if again {
                self.begin(tier, length)?;
            }
            if Instant::now() >= deadline {
                return Err(failed("attach the probes", "the keeper of the probes is silent".to_owned()));
            }
            self.wait(Duration::from_millis(20), None);
        }
    }

    /// Waits for a word of the keeper, or for an alarm if one is given, at most for `patience`. Returns whether that rang.
    pub fn wait(&self, patience: Duration, alarm: Option<&Alarm>) -> bool {
        let socket =
            self.lock().keeper.as_ref().and_then(|running| running.socket.as_fd().try_clone_to_owned().ok());
        match (socket, Timespec::try_from(patience)) {
            (Some(socket), Ok(timeout)) => {
                // An interruption is a short wait.
                let mut fds = Vec::with_capacity(2);
                fds.push(PollFd::new(&socket, PollFlags::IN));
                fds.extend(alarm.map(Alarm::poll_fd));
                let _ = poll(&mut fds, Some(&timeout));
                fds.get(1).is_some_and(|alarm| alarm.revents().contains(PollFlags::IN))
            }
            _ => {
                std::thread::sleep(patience);
                false
            }
        }
    }

    /// Takes all probes off for good, and returns once they are gone: with the keeper.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.programs.clear();
        // What somebody took until now is not to be told as if it had been on up to the end.
        while let Heard::Message(message, handle) = state.hear() {
            let report = state.take(message, handle);
            state.heard.extend(report);
        }
        if let Some(running) = state.keeper.take() {
            running.end();
        }
        std::mem::take(&mut state.tiers).into_values().for_each(Tier::end);
    }

    /// Starts a keeper and tells it of the programs.
    fn start(&self, state: &mut State) -> Result<(), ProbeError> {
        const WHAT: &str = "start the keeper of the probes";
        let error = |e: Errno| failed(WHAT, e.to_string());
        if !state.starts.is_allowed(monotonic_ns()) {
            return Err(ProbeError::Killed { what: WHAT });
        }
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(error)?;
        let pid = self.shared.target.pid();
        let child = Command::new("/proc/self/exe")
            .arg0("gotrail-keeper")
            .args([VERB, &std::process::id().to_string(), &format!("probes-on-{pid}")])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| failed(WHAT, e.to_string()))?;
        state.keeper = Some(Running { socket: ours, child, seen_ns: monotonic_ns(), spoken: false });
        // What the links will be made on: this file, and no other that may come to have its path.
        let executable = open(self.shared.target.exe_path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| if self.shared.target.is_same() { error(e) } else { gone(pid) })?;
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| gone(pid))?;
        let target = pidfd_open(raw, PidfdFlags::empty()).map_err(|_| gone(pid))?;
        if !self.shared.target.is_same() {
            return Err(gone(pid));
        }
        let Some(running) = &state.keeper else { return Ok(()) };
        for ((tier, sites), programs) in self.shared.tiers.iter().zip(&state.programs) {
            let sites: Vec<Site> = sites
                .iter()
                .take(MAX_SITES)
                .map(|site| Site { offset: site.file_offset, cookie: site_cookie(site) })
                .collect();
            let order = Order {
                kind: if sites.is_empty() { TRACE } else { PREPARE },
                tier: *tier,
                lease_ns: 0,
                pid: self.shared.scope,
                sites: sites.len() as u32,
                single: 0,
                event_kind: 0,
            };
            let mut fds: Vec<BorrowedFd<'_>> = programs.iter().map(|program| program.as_fd()).collect();
            if !sites.is_empty() {
                fds.push(executable.as_fd());
            }
            fds.push(target.as_fd());
            match running.send(&order, &sites, &fds) {
                // That it was killed is found by who wants something of it.
                Ok(()) | Err(Errno::PIPE) => {}
                Err(e) => return Err(error(e)),
            }
        }
        Ok(())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = state.keeper.take() {
            running.end();
        }
    }
}

/// What there is to hear.
enum Heard {
    Message(Message, Option<OwnedFd>),
    Nothing,
    End,
}

impl State {
    fn order(&self, kind: u32, tier: u32, length: Duration) -> Result<(), ProbeError> {
        let order = Order { kind, tier, lease_ns: nanos(length), ..Order::zeroed() };
        let Some(running) = &self.keeper else { return Ok(()) };
        running.send(&order, &[], &[]).map_err(|e| failed("speak with the keeper", e.to_string()))
    }

    fn hear(&self) -> Heard {
        let Some(running) = &self.keeper else { return Heard::Nothing };
        match receive_message(running.socket.as_fd()) {
            Ok(Some((message, handle))) => Heard::Message(message, handle),
            Ok(None) => Heard::End,
            Err(_) => Heard::Nothing,
        }
    }

    fn take(&mut self, message: Message, handle: Option<OwnedFd>) -> Option<Report> {
        let Message { kind, tier, at_ns, detail, .. } = message;
        if let Some(running) = &mut self.keeper {
            running.spoken = true;
        }
        match kind {
            ON => {
                if let Some(state) = self.tiers.get_mut(&tier) {
                    let due_ns = at_ns.saturating_add(state.length_ns).saturating_add(PATIENCE_NS);
                    (state.on, state.due_ns) = (true, due_ns);
                }
                Some(Report::On { tier, at_ns })
            }
            HOLDER => {
                if let Some(state) = self.tiers.get_mut(&tier) {
                    state.holder = handle;
                }
                None
            }
            KEPT => {
                if let Some(state) = self.tiers.get_mut(&tier) {
                    state.due_ns = at_ns.saturating_add(state.length_ns).saturating_add(PATIENCE_NS);
                }
                None
            }
            OFF => {
                self.tiers.remove(&tier);
                Some(Report::Off { tier, at_ns, why: Why::from_wire(detail) })
            }
            REFUSED => {
                self.tiers.remove(&tier);
                let why = match detail.cast_signed() {
                    libc::ECANCELED => "somebody kills the processes that are to hold them".to_owned(),
                    errno => std::io::Error::from_raw_os_error(errno).to_string(),
                };
                Some(Report::Refused { tier, why })
            }
            _ => None,
        }
    }

    /// Makes sure that the keeper is gone, and its links with it.
    fn bury(&mut self) -> Vec<Report> {
        let Some(running) = self.keeper.take() else { return Vec::new() };
        let at_ns = running.seen_ns;
        running.kill();
        let gone = |(tier, state): (u32, Tier)| {
            state.end();
            Report::Off { tier, at_ns, why: Why::KeeperGone }
        };
        std::mem::take(&mut self.tiers).into_iter().map(gone).collect()
    }
}

impl Tier {
    /// Waits for its holder to have gone after the keeper, so that no other is there before.
    fn end(self) {
        let Some(holder) = &self.holder else { return };
        if self.on {
            // It is about to. One that makes links must not be killed, and ends when it has them.
            let _ = pidfd_send_signal(holder, Signal::KILL);
        }
        let _ = is_there(holder.as_fd(), HOLDER_ENDS_WITHIN);
    }
}

impl Running {
    fn send(&self, order: &Order, sites: &[Site], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        send(self.socket.as_fd(), order, sites, fds)
    }

    /// Closes the socket, upon which it has all links go and ends; kills it if it does not.
    fn end(self) {
        // Somebody may wait for it by a descriptor of his own.
        let _ = shutdown(&self.socket, Shutdown::Both);
        drop(self.socket);
        let _ = end(self.child);
    }

    fn kill(mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn failed(what: &'static str, why: String) -> ProbeError {
    ProbeError::Kernel { what, kernel: release(), why }
}

fn gone(pid: u32) -> ProbeError {
    ProbeError::Changed { pid, why: "it ended, or runs another executable now".to_owned() }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
