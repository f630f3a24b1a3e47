//! Records, counters, per-process configuration and map names.

use bytemuck::{Pod, Zeroable};

mod endings;
mod switches;

pub use endings::*;
pub use switches::*;

/// Version of everything in this module. A program that finds another version in [`ProcConfig`] ignores
/// the process and counts the hit as [`ProbeCounters::refused`].
pub const ABI_VERSION: u32 = 7;

/// Name of the hash map `tgid (u32) -> ProcConfig`.
pub const MAP_PROCESSES: &str = "PROCESSES";
/// Name of the ring buffer that carries every record.
pub const MAP_EVENTS: &str = "EVENTS";
/// Name of the per-CPU array of [`ProbeCounters`], indexed by [`counter_index`].
pub const MAP_COUNTERS: &str = "COUNTERS";
/// Name of the per-CPU array (one entry) that numbers the records of each CPU.
pub const MAP_SEQUENCE: &str = "SEQUENCE";
/// Name of the ring buffer of [`ExecEvent`]s.
pub const MAP_EXECS: &str = "EXECS";
/// Name of the array (one entry) that counts executions for which that ring had no room.
pub const MAP_EXECS_LOST: &str = "EXECS_LOST";
/// Name of the ring buffer that the governor waits on.
pub const MAP_ALARMS: &str = "ALARMS";
/// Name of the hash map `thread (u32) -> address of its M (u64)`, of the one process that is profiled.
pub const MAP_THREADS: &str = "THREADS";

/// Name of the constant with the device of the agent's PID namespace, 0 for the initial one.
pub const GLOBAL_PID_NAMESPACE_DEVICE: &str = "PID_NAMESPACE_DEVICE";
/// Name of the constant with its inode.
pub const GLOBAL_PID_NAMESPACE_INODE: &str = "PID_NAMESPACE_INODE";
/// Name of the constant with the number of hits, less one, after which a probe of the second tier wakes the governor; a
/// power of two less one.
pub const GLOBAL_ALARM_MASK: &str = "ALARM_MASK";

/// Processes that can be served at once, unless the agent asks for another number when it loads the programs; each
/// owns one slot of the counter array.
pub const MAX_PROCESSES: u32 = 1;
/// Counter rows kept for each process: probe numbers are below this.
pub const MAX_PROBES: u32 = 32;
/// Threads whose M the agent can tell the programs.
pub const MAX_THREADS: u32 = 1 << 14;
/// Return addresses captured with a record that carries a stack.
///
/// A power of two, so that masking an index keeps it in bounds for the verifier.
pub const MAX_FRAMES: usize = 64;
/// Bytes of panic or fatal text captured with a crash.
pub const MAX_TEXT: usize = 512;

/// Tier switch: rare probes (GC, stop-the-world, crashes, tuning).
pub const TIER_T1: u32 = 1;
/// Tier switch: goroutine creation and exit.
pub const TIER_T2: u32 = 2;
/// Tier switch: what happens at each switch between goroutines.
pub const TIER_T3: u32 = 4;
/// Tier switch: samples of what is on a CPU, by timer.
pub const TIER_CPU: u32 = 8;

/// Tier switch: system calls, by tracepoints.
pub const TIER_SYSCALLS: u32 = 16;

/// [`ProcConfig::flags`]: copy panic and fatal texts out of the process.
pub const CONFIG_CAPTURE_TEXT: u32 = 1;
/// [`ProcConfig::flags`]: T3 sums up in the kernel and sends no records of single switches.
pub const CONFIG_SUM_SWITCHES: u32 = 2;
/// [`ProcConfig::flags`]: hits of T3 are paid from the budget, so many of them wake the governor.
pub const CONFIG_ALARM_SWITCHES: u32 = 4;

/// An offset that this Go version does not have.
pub const NO_OFFSET: u32 = u32::MAX;

/// What a probe site observes. The number is the low byte of the attach cookie and [`EventHeader::probe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Probe {
    /// `(*gcControllerState).startCycle`: a GC cycle starts, the world is stopped.
    GcStart = 1,
    /// `(*gcControllerState).endCycle`: marking has ended, the world is stopped.
    GcMarkEnd = 2,
    /// `gcMarkTermination`: mark termination runs, the world is stopped.
    GcMarkTermination = 3,
    /// `(*gcControllerState).resetLive`: the live heap of the cycle is known.
    GcLive = 4,
    /// `gcSweep`: the cycle is over, sweeping begins.
    GcSweep = 5,
    /// `stopTheWorldWithSema`: somebody asks for the world to be stopped.
    StwStop = 6,
    /// `startTheWorldWithSema`: the world is about to be started again.
    StwStart = 7,
    /// `gopanic`: a panic begins; it may be recovered.
    Gopanic = 8,
    /// `fatalpanic`: nobody recovered; the process is about to end.
    Fatalpanic = 9,
    /// `throw`: the runtime found itself broken; the process is about to end.
    Throw = 10,
    /// `fatal`: the program broke a rule the runtime checks; the process is about to end.
    Fatal = 11,
    /// `sigpanic`: a signal of the hardware becomes a panic.
    Sigpanic = 12,
    /// `procresize`: GOMAXPROCS is set.
    Procresize = 13,
    /// `runtime.GC`: the program forces a collection.
    ForcedGc = 14,
    /// `runtime/debug.setGCPercent`: the program sets GOGC.
    SetGcPercent = 15,
    /// `recovery`: a panic was recovered.
    Recovery = 16,
    /// A goroutine was created: a site behind a call of `newproc1`, before anybody can run it.
    GoCreate = 17,
    /// A goroutine ended: `gdestroy` (Go 1.22 and later) or `goexit0`.
    GoExit = 18,
    /// `park_m`: a goroutine parks.
    GoPark = 19,
    /// `ready`: somebody makes a parked goroutine runnable.
    GoReady = 20,
    /// `gogo`: a goroutine is about to run.
    GoRun = 21,
    /// No site: a CPU's timer went off while a thread of the process was on it.
    OnCpu = 22,
    /// No site of its own: a stack that parks name by its id, handed over when it is met first.
    GoStack = 23,
    /// No site: a goroutine comes back from a system call.
    GoSyscall = 24,
}

impl Probe {
    /// Every probe, in the order of its number.
    pub const ALL: [Self; 24] = [
        Self::GcStart,
        Self::GcMarkEnd,
        Self::GcMarkTermination,
        Self::GcLive,
        Self::GcSweep,
        Self::StwStop,
        Self::StwStart,
        Self::Gopanic,
        Self::Fatalpanic,
        Self::Throw,
        Self::Fatal,
        Self::Sigpanic,
        Self::Procresize,
        Self::ForcedGc,
        Self::SetGcPercent,
        Self::Recovery,
        Self::GoCreate,
        Self::GoExit,
        Self::GoPark,
        Self::GoReady,
        Self::GoRun,
        Self::OnCpu,
        Self::GoStack,
        Self::GoSyscall,
    ];

    /// The probe with this wire number.
    #[must_use]
    pub fn from_wire(number: u8) -> Option<Self> {
        Self::ALL.iter().copied().find(|probe| *probe as u8 == number)
    }

    /// The tier that this probe belongs to.
    #[must_use]
    pub const fn tier(self) -> u32 {
        match self {
            Self::GoCreate | Self::GoExit => TIER_T2,
            Self::GoPark | Self::GoReady | Self::GoRun | Self::GoStack => TIER_T3,
            Self::OnCpu => TIER_CPU,
            Self::GoSyscall => TIER_SYSCALLS,
            _ => TIER_T1,
        }
    }

    /// The stable name used in outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::GcStart => "gc_start",
            Self::GcMarkEnd => "gc_mark_end",
            Self::GcMarkTermination => "gc_mark_termination",
            Self::GcLive => "gc_live",
            Self::GcSweep => "gc_sweep",
            Self::StwStop => "stw_stop",
            Self::StwStart => "stw_start",
            Self::Gopanic => "gopanic",
            Self::Fatalpanic => "fatalpanic",
            Self::Throw => "throw",
            Self::Fatal => "fatal",
            Self::Sigpanic => "sigpanic",
            Self::Procresize => "procresize",
            Self::ForcedGc => "forced_gc",
            Self::SetGcPercent => "set_gc_percent",
            Self::Recovery => "recovery",
            Self::GoCreate => "go_create",
            Self::GoExit => "go_exit",
            Self::GoPark => "go_park",
            Self::GoReady => "go_ready",
            Self::GoRun => "go_run",
            Self::OnCpu => "on_cpu",
            Self::GoStack => "go_stack",
            Self::GoSyscall => "go_syscall",
        }
    }
}

/// The attach cookie of a site: the probe, and for [`Probe::GoCreate`] the number of the general register
/// that holds the new `*g` there (amd64 encoding: 0 rax, 1 rcx, 2 rdx, 3 rbx, 5 rbp, 6 rsi, 7 rdi, 8..15
/// r8..r15; arm64: n of Xn). `stack_check` says that the site is the conditional branch of the stack check.
#[must_use]
pub const fn cookie(probe: Probe, register: u8, stack_check: bool) -> u64 {
    let stack_check = if stack_check { COOKIE_STACK_CHECK } else { 0 };
    probe as u64 | ((register as u64) << 8) | stack_check
}

/// Bit of the attach cookie: the site is the conditional branch of the stack check, amd64 `jbe` or arm64 `b.ls`.
/// Where it is taken (the stack grows, or the goroutine is asked to yield) the function begins anew afterwards:
/// such a hit is no call yet, and is passed over.
pub const COOKIE_STACK_CHECK: u64 = 1 << 16;

/// Row of a probe's counters in [`MAP_COUNTERS`].
#[must_use]
pub const fn counter_index(slot: u32, probe: u8) -> u32 {
    slot * MAX_PROBES + probe as u32
}

/// What a process looks like to the programs, written by the agent before a tier is switched on.
///
/// Offsets are in bytes from the start of the Go runtime structure that the name begins with; a field
/// that the version lacks is [`NO_OFFSET`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ProcConfig {
    /// [`ABI_VERSION`] of the writer.
    pub abi_version: u32,
    /// Slot of this process in the counter array, below [`MAX_PROCESSES`].
    pub slot: u32,
    /// Tier switches that are on.
    pub tiers: u32,
    /// `CONFIG_` flags.
    pub flags: u32,
    /// `g.m`.
    pub g_m: u32,
    /// `g.goid`.
    pub g_goid: u32,
    /// `g.parentGoid`, Go 1.21 and later.
    pub g_parent_goid: u32,
    /// `g.gopc`.
    pub g_gopc: u32,
    /// `g.startpc`.
    pub g_startpc: u32,
    /// `g.sched.pc`.
    pub g_sched_pc: u32,
    /// `g.sched.bp`.
    pub g_sched_bp: u32,
    /// `g.stack.lo`.
    pub g_stack_lo: u32,
    /// `g.stack.hi`.
    pub g_stack_hi: u32,
    /// `g.sig`.
    pub g_sig: u32,
    /// `g.sigcode1`: the address whose access faulted.
    pub g_sigcode1: u32,
    /// `g.sigpc`.
    pub g_sigpc: u32,
    /// `m.g0`.
    pub m_g0: u32,
    /// `m.curg`.
    pub m_curg: u32,
    /// `m.procid`.
    pub m_procid: u32,
    /// `_panic.arg`.
    pub panic_arg: u32,
    /// `gcControllerState.heapLive`.
    pub gc_heap_live: u32,
    /// What `startTheWorldWithSema` carries in registers: 0 nothing, 1 reason and start (Go 1.22), 2 all
    /// of `worldStop` (Go 1.23 and later).
    pub stw_registers: u32,
    /// 1 where `stopTheWorldWithSema` carries its reason in the first register (Go 1.21 and later).
    pub stop_has_reason: u32,
    /// 1 where `startCycle` carries the trigger kind (Go 1.19 and later).
    pub gc_start_has_trigger: u32,
    /// Address of `runtime.systemstack_switch` in the process, 0 if unknown: what `g.sched.pc` is while a
    /// goroutine is on a system stack by way of `systemstack`.
    pub systemstack_switch: u64,
    /// `g.atomicstatus`.
    pub g_atomicstatus: u32,
    /// `g.labels`.
    pub g_labels: u32,
    /// `g.waitreason`.
    pub g_waitreason: u32,
    /// Number of the stretch of T3 that is being observed: waits begun in another one are not gone on with.
    pub epoch: u32,
    /// Until when that stretch lasts at the longest, `CLOCK_MONOTONIC` ns.
    pub switches_until_ns: u64,
    /// Where in the process calls of `gogo` return to that resume a goroutine which never ceased to run; 0 none.
    pub resumes: [u64; MAX_RESUMES],
    /// Where calls of `gogo` return to that hand over between coroutines; 0 none.
    pub coroutine_calls: [u64; MAX_COROUTINE_CALLS],
    /// Assembly without a frame that makes system calls: first address in the process and that behind the last; 0 none.
    pub frameless: [[u64; 2]; MAX_FRAMELESS],
    /// Number of the stretch in which system calls are observed: those begun in another one are not gone on with.
    pub calls_epoch: u32,
    /// Zero.
    pub padding: u32,
}
const _: () = assert!(size_of::<ProcConfig>() == 264);

/// Counters of one probe of one process on one CPU.
///
/// `hits == delivered + summed + lost_ring + lost_map + skipped + faulted + refused`, exactly, once the links are
/// closed and the rings are drained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ProbeCounters {
    /// Executions past the process and tier filters.
    pub hits: u64,
    /// Records handed to the ring.
    pub delivered: u64,
    /// Records for which the ring had no room.
    pub lost_ring: u64,
    /// Hits not turned into a record because the configuration was not understood.
    pub refused: u64,
    /// Delivered records in which some read of the process's memory failed; the record says which by flags.
    pub partial: u64,
    /// Hits that went into a sum in the kernel and have no record.
    pub summed: u64,
    /// Hits for which a map of the kernel had no room.
    pub lost_map: u64,
    /// Hits that are not what the probe is for: a call of `gogo` that resumes nothing.
    pub skipped: u64,
    /// Hits without a record, because the process's memory could not be read.
    pub faulted: u64,
}
const _: () = assert!(size_of::<ProbeCounters>() == 72);

/// [`EventHeader::flags`]: the goroutine could not be told; `goid` is 0.
pub const FLAG_NO_GOID: u8 = 1;
/// [`EventHeader::flags`]: the probe hit on a system stack; `goid` is the goroutine on whose behalf it ran.
pub const FLAG_SYSTEM_STACK: u8 = 2;
/// [`EventHeader::flags`]: `m.procid` is the thread that hit the probe, so the offsets of g and m hold.
pub const FLAG_PROCID_MATCHES: u8 = 4;
/// [`EventHeader::flags`]: some memory read failed; fields that depend on it are 0.
pub const FLAG_PARTIAL: u8 = 8;
/// [`EventHeader::flags`]: the text is not in the record; read it from the ELF file at the given address.
pub const FLAG_TEXT_FAULTED: u8 = 16;
/// [`EventHeader::flags`]: the header of the string is not in the record either.
pub const FLAG_VALUE_FAULTED: u8 = 32;
/// [`EventHeader::flags`]: the stack has more frames than fit.
pub const FLAG_STACK_TRUNCATED: u8 = 64;

/// `OnCpu`'s first argument: the thread was in the kernel.
pub const ON_CPU_KERNEL: u64 = 1 << 32;
/// Likewise: it was on no stack of Go's: in a signal handler, or in C code on a stack of its own. Only the innermost
/// address is there.
pub const ON_CPU_FOREIGN_STACK: u64 = 2 << 32;
/// Likewise: the second address is what the function would return to if it has taken nothing of the stack. Where it
/// has (the function table says so) the address is none, and has to be left out.
pub const ON_CPU_MAYBE_RETURN: u64 = 4 << 32;
/// Likewise: the thread belongs to no M: it is not one of Go's.
pub const ON_CPU_NO_M: u64 = 8 << 32;

/// The first bytes of every record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct EventHeader {
    /// `CLOCK_MONOTONIC` at the hit, in nanoseconds: the clock of Go's `nanotime`.
    pub time_ns: u64,
    /// Goroutine at work, 0 if none or unknown.
    pub goid: u64,
    /// Process, as the agent's PID namespace numbers it.
    pub tgid: u32,
    /// Thread, likewise.
    pub tid: u32,
    /// Number of this record on its CPU, counted also when the ring has no room: a jump is a gap.
    pub sequence: u32,
    /// CPU that the record is from.
    pub cpu: u16,
    /// [`Probe`] number.
    pub probe: u8,
    /// `FLAG_` bits.
    pub flags: u8,
}
const _: () = assert!(size_of::<EventHeader>() == 32);

/// A process began to run a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ExecEvent {
    /// `CLOCK_MONOTONIC` then, in nanoseconds.
    pub time_ns: u64,
    /// Process, as the agent's PID namespace numbers it.
    pub tgid: u32,
    /// Always 0.
    pub padding: u32,
}
const _: () = assert!(size_of::<ExecEvent>() == 16);

/// A record of registers alone.
///
/// | probe | `args` |
/// |---|---|
/// | `GcStart` | heap live bytes, trigger kind (`u64::MAX` unknown), mark start ns, procs |
/// | `GcMarkEnd` | now ns, procs |
/// | `GcLive` | bytes marked |
/// | `GcSweep` | mode: 0 concurrent, 1 and 2 with the world stopped |
/// | `StwStart` | now ns, reason (`u64::MAX` unknown), started stopping ns, finished stopping ns, stopping CPU ns |
/// | `GoCreate` | new goid, creation pc, start pc |
/// | `GoExit` | goid, creation pc, start pc |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct PlainEvent {
    /// Who, when, where.
    pub header: EventHeader,
    /// By probe, see the table.
    pub args: [u64; 5],
}
const _: () = assert!(size_of::<PlainEvent>() == 72);

/// Return addresses, innermost first. Entry 0 is the pc of the probed function itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Frames {
    /// How many of `pcs` are set.
    pub len: u32,
    /// Index of the first frame of the goroutine's own stack; what is before it ran on a system stack.
    pub user_from: u32,
    /// Program counters.
    pub pcs: [u64; MAX_FRAMES],
}
const _: () = assert!(size_of::<Frames>() == 520);

/// A record with the stack that led to the probe.
///
/// | probe | `args` |
/// |---|---|
/// | `StwStop` | reason (`u64::MAX` unknown); no frames for the two reasons of the GC itself |
/// | `Procresize` | new number of Ps |
/// | `SetGcPercent` | percent as i32 sign-extended |
/// | `OnCpu` | `g.atomicstatus` (`u32::MAX` unknown) and from bit 32 on `ON_CPU_` bits, `g.labels` |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct StackEvent {
    /// Who, when, where.
    pub header: EventHeader,
    /// By probe, see the table.
    pub args: [u64; 2],
    /// Return address of the `go` statement that created the goroutine.
    pub gopc: u64,
    /// Entry of the goroutine's start function.
    pub startpc: u64,
    /// The stack.
    pub frames: Frames,
}
const _: () = assert!(size_of::<StackEvent>() == 584);

/// A panic, fatal error or fault, complete enough to be told after the process is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct CrashEvent {
    /// Who, when, where.
    pub header: EventHeader,
    /// `*abi.Type` of the panic value; 0 for throw and fatal.
    pub type_ptr: u64,
    /// Data word of the panic value's interface.
    pub data_word: u64,
    /// The first 16 bytes that `data_word` points to: a string header, or a number.
    pub value: [u64; 2],
    /// Address of the text.
    pub text_ptr: u64,
    /// Full length of the text in bytes; `text` may hold less.
    pub text_len: u64,
    /// Bytes of `text` that are set.
    pub text_captured: u32,
    /// Signal number of the last hardware signal on this goroutine, 0 if none.
    pub signal: u32,
    /// Address whose access raised the signal.
    pub fault_address: u64,
    /// Program counter that raised the signal.
    pub fault_pc: u64,
    /// Return address of the `go` statement that created the goroutine.
    pub gopc: u64,
    /// Entry of the goroutine's start function.
    pub startpc: u64,
    /// The stack.
    pub frames: Frames,
    /// Text, UTF-8 by custom only.
    pub text: [u8; MAX_TEXT],
}
const _: () = assert!(size_of::<CrashEvent>() == 1152);

#[cfg(test)]
mod tests;
