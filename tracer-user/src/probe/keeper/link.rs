//! Links of uprobes and of tracepoints, made by bpf(2) itself: a BPF library allocates on the way, and the holders have no use
//! for the rest of it.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd};
use std::time::Duration;

use super::held::is_there;
use super::wire::{Site, TRACEPOINTS};

// include/uapi/linux/bpf.h, Linux 6.6.
const BPF_PERF_EVENT: u32 = 41;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_int = 17;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_TRACE_UPROBE_MULTI: u32 = 48;
const BPF_PROG_TYPE_KPROBE: u32 = 2;

// include/uapi/linux/perf_event.h.
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 1 << 3;

/// The member of `union bpf_attr` that `BPF_LINK_CREATE` uses for `uprobe_multi`.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    path: u64,
    offsets: u64,
    ref_ctr_offsets: u64,
    cookies: u64,
    count: u32,
    multi_flags: u32,
    pid: u32,
    /// The struct's own padding, which the kernel wants to be zero.
    padding: u32,
}
const _: () = assert!(size_of::<LinkCreate>() == 64);

/// The same for a perf event.
#[repr(C)]
struct LinkCreateOfEvent {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    cookie: u64,
}
const _: () = assert!(size_of::<LinkCreateOfEvent>() == 24);

/// The begin of `struct perf_event_attr` (`include/uapi/linux/perf_event.h`): `PERF_ATTR_SIZE_VER1`.
#[repr(C)]
struct PerfEvent {
    kind: u32,
    size: u32,
    config: u64,
    /// Period, what samples and reads have, flags, wakeups and the type of a hardware breakpoint: none.
    between: [u64; 5],
    /// `uprobe_path`.
    path: u64,
    /// `probe_offset`.
    offset: u64,
}
const _: () = assert!(size_of::<PerfEvent>() == 72);

/// The begin of the member of `union bpf_attr` that `BPF_PROG_LOAD` uses.
#[repr(C)]
struct ProgramLoad {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
}
const _: () = assert!(size_of::<ProgramLoad>() == 72);

/// The member of `union bpf_attr` that `BPF_RAW_TRACEPOINT_OPEN` uses, up to Linux 6.9.
#[repr(C)]
struct RawTracepointOpen {
    name: u64,
    prog_fd: u32,
    padding: u32,
}
const _: () = assert!(size_of::<RawTracepointOpen>() == 16);

/// Links that are ready to be made: whatever that takes is there, so that a child of fork(2), which may not allocate, can make
/// them.
pub(super) enum Ready {
    /// One of `uprobe_multi`.
    Multi(Multi),
    /// One for each site.
    Singles(Singles),
    /// Of [`TRACEPOINTS`], in their order.
    Tracepoints([OwnedFd; 2]),
}

impl Ready {
    /// Makes them, to stay until the process ends: of those that there are when one is refused it has to end as well.
    ///
    /// # Errors
    /// The kernel's; or the other end of the socket was closed before all of them were there.
    pub(super) fn make(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        match self {
            Self::Multi(multi) => leave_open(multi.make()?),
            Self::Singles(singles) => singles.make(socket)?,
            Self::Tracepoints(programs) => {
                for (program, name) in programs.iter().zip(TRACEPOINTS) {
                    leave_open(trace(program.as_fd(), name)?);
                }
            }
        }
        Ok(())
    }

    /// The descriptors that it takes.
    pub(super) fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        match self {
            Self::Multi(Multi { program, executable, .. })
            | Self::Singles(Singles { program, executable, .. }) => [program.as_fd(), executable.as_fd()],
            Self::Tracepoints([enter, exit]) => [enter.as_fd(), exit.as_fd()],
        }
    }
}

/// The end of the process closes it.
fn leave_open(link: OwnedFd) {
    let _ = link.into_raw_fd();
}

/// A program for sites of a file.
pub(super) struct Multi<Fd = OwnedFd> {
    program: Fd,
    executable: Fd,
    path: String,
    offsets: Vec<u64>,
    cookies: Vec<u64>,
    pid: u32,
}

impl<Fd: AsFd> Multi<Fd> {
    /// `pid` scopes the link to one process, 0 to none.
    pub(super) fn new(program: Fd, executable: Fd, pid: u32, sites: &[Site]) -> Self {
        let path = path_of(executable.as_fd());
        let offsets = sites.iter().map(|site| site.offset).collect();
        let cookies = sites.iter().map(|site| site.cookie).collect();
        Self { program, executable, path, offsets, cookies, pid }
    }

    /// Puts the program there. The probes are on until the link is closed.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn make(&self) -> io::Result<OwnedFd> {
        let mut attribute = LinkCreate {
            prog_fd: self.program.as_fd().as_raw_fd().cast_unsigned(),
            target_fd: 0,
            attach_type: BPF_TRACE_UPROBE_MULTI,
            flags: 0,
            path: self.path.as_ptr() as u64,
            offsets: self.offsets.as_ptr() as u64,
            ref_ctr_offsets: 0,
            cookies: self.cookies.as_ptr() as u64,
            count: u32::try_from(self.offsets.len()).map_err(io::Error::other)?,
            multi_flags: 0,
            pid: self.pid,
            padding: 0,
        };
        // SAFETY: the attribute is the begin of the command's member of bpf_attr, of the given size; the path ends with a
        // zero byte, and path and arrays of `count` numbers outlive the call, which only reads them.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_LINK_CREATE,
                std::ptr::from_mut(&mut attribute),
                size_of::<LinkCreate>(),
            )
        };
        made(result)
    }
}

/// A program for sites of a file, where each takes a link of its own.
pub(super) struct Singles {
    program: OwnedFd,
    executable: OwnedFd,
    path: String,
    sites: Vec<Site>,
    pid: libc::pid_t,
    kind: u32,
}

/// What `perf_event_open` calls uprobes on this kernel.
///
/// # Errors
/// It does not say.
pub(super) fn kind_of_uprobes() -> io::Result<u32> {
    const FILE: &str = "/sys/bus/event_source/devices/uprobe/type";
    let failed = |why: String| io::Error::other(format!("{FILE}: {why}"));
    let text = std::fs::read_to_string(FILE).map_err(|e| failed(e.to_string()))?;
    text.trim().parse().map_err(|e: std::num::ParseIntError| failed(e.to_string()))
}

impl Singles {
    /// `pid` scopes the links to one process, 0 to none; `kind` is what `perf_event_open` calls uprobes.
    pub(super) fn new(program: OwnedFd, executable: OwnedFd, pid: u32, kind: u32, sites: Vec<Site>) -> Self {
        Self { path: path_of(executable.as_fd()), program, executable, sites, pid: pid.cast_signed(), kind }
    }

    fn make(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        for site in &self.sites {
            // Each takes a while, to come and to go.
            if is_there(socket, Duration::ZERO) {
                return Err(io::Error::from_raw_os_error(libc::EPIPE));
            }
            let event = self.open(site.offset)?;
            let mut attribute = LinkCreateOfEvent {
                prog_fd: self.program.as_raw_fd().cast_unsigned(),
                target_fd: event.as_raw_fd().cast_unsigned(),
                attach_type: BPF_PERF_EVENT,
                flags: 0,
                cookie: site.cookie,
            };
            // SAFETY: the attribute is the begin of the command's member of bpf_attr, of the given size, and has no pointer.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_bpf,
                    BPF_LINK_CREATE,
                    std::ptr::from_mut(&mut attribute),
                    size_of::<LinkCreateOfEvent>(),
                )
            };
            let link = made(result);
            match link {
                // It has the event as well.
                Ok(link) => leave_open(link),
                Err(error) => {
                    leave_open(event);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// The event of hits at an offset of the file. That of a process is of all its threads: the kernel runs the program for
    /// whoever has the memory that the breakpoint is in (`kernel/trace/trace_uprobe.c`, Linux 6.1, `uprobe_perf_func`).
    fn open(&self, offset: u64) -> io::Result<OwnedFd> {
        let (pid, cpu): (libc::pid_t, libc::c_int) = if self.pid == 0 { (-1, 0) } else { (self.pid, -1) };
        let attribute = PerfEvent {
            kind: self.kind,
            size: size_of::<PerfEvent>() as u32,
            // A return probe is told by the first bit.
            config: 0,
            between: [0; 5],
            path: self.path.as_ptr() as u64,
            offset,
        };
        // SAFETY: the attribute is the begin of perf_event_attr, whose size it tells; the path ends with a zero byte and
        // outlives the call, which only reads it.
        let result = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                std::ptr::from_ref(&attribute),
                pid,
                cpu,
                -1 as libc::c_int,
                PERF_FLAG_FD_CLOEXEC,
            )
        };
        made(result)
    }
}

/// By descriptor: whatever the path of the executable names by now, these are the bytes that were looked at.
fn path_of(executable: BorrowedFd<'_>) -> String {
    format!("/proc/thread-self/fd/{}\0", executable.as_raw_fd())
}

/// Has a program run at a tracepoint of the kernel until the link is closed.
///
/// # Errors
/// The kernel's.
fn trace(program: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let mut attribute = RawTracepointOpen {
        name: name.as_ptr() as u64,
        prog_fd: program.as_raw_fd().cast_unsigned(),
        padding: 0,
    };
    // SAFETY: the attribute is the begin of the command's member of bpf_attr, of the given size; the name ends with a zero
    // byte and outlives the call, which only reads it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_RAW_TRACEPOINT_OPEN,
            std::ptr::from_mut(&mut attribute),
            size_of::<RawTracepointOpen>(),
        )
    };
    made(result)
}

/// Loads a program for `uprobe_multi` that does nothing; of its name up to 15 bytes are taken.
///
/// # Errors
/// The kernel's.
pub(super) fn load_nothing(name: &CStr) -> io::Result<OwnedFd> {
    // r0 = 0; exit. An instruction is its code, registers, offset and a number.
    const INSTRUCTIONS: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 0, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
    let license = c"GPL";
    let mut attribute = ProgramLoad {
        program_type: BPF_PROG_TYPE_KPROBE,
        instruction_count: 2,
        instructions: INSTRUCTIONS.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: [0; 16],
        interface: 0,
        expected_attach_type: BPF_TRACE_UPROBE_MULTI,
    };
    attribute.name.iter_mut().take(15).zip(name.to_bytes()).for_each(|(into, byte)| *into = *byte);
    // SAFETY: the attribute is the begin of the command's member of bpf_attr, of the given size; instructions and license,
    // which ends with a zero byte, outlive the call, which only reads them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            std::ptr::from_mut(&mut attribute),
            size_of::<ProgramLoad>(),
        )
    };
    made(result)
}

/// The descriptor that bpf(2) returned, or why there is none.
fn made(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor, close-on-exec, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
