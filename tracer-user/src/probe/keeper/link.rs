//! Links of `uprobe_multi` and of tracepoints, made by bpf(2) itself: the keeper has no use for the rest of a BPF library.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use super::wire::Site;

// include/uapi/linux/bpf.h, Linux 6.6.
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_int = 17;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_TRACE_UPROBE_MULTI: u32 = 48;
const BPF_PROG_TYPE_KPROBE: u32 = 2;

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

/// Puts a program onto sites of a file. The probes are on until the link is closed.
///
/// `pid` scopes the link to one process, 0 to none.
///
/// # Errors
/// The kernel's.
pub(in crate::probe) fn create(
    program: BorrowedFd<'_>,
    executable: BorrowedFd<'_>,
    pid: u32,
    sites: &[Site],
) -> io::Result<OwnedFd> {
    // By descriptor: whatever the path of the executable names by now, these are the bytes that were looked at.
    let path = format!("/proc/thread-self/fd/{}\0", executable.as_raw_fd());
    let offsets: Vec<u64> = sites.iter().map(|site| site.offset).collect();
    let cookies: Vec<u64> = sites.iter().map(|site| site.cookie).collect();
    let mut attribute = LinkCreate {
        prog_fd: program.as_fd().as_raw_fd().cast_unsigned(),
        target_fd: 0,
        attach_type: BPF_TRACE_UPROBE_MULTI,
        flags: 0,
        path: path.as_ptr() as u64,
        offsets: offsets.as_ptr() as u64,
        ref_ctr_offsets: 0,
        cookies: cookies.as_ptr() as u64,
        count: u32::try_from(sites.len()).map_err(io::Error::other)?,
        multi_flags: 0,
        pid,
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

/// Has a program run at a tracepoint of the kernel until the link is closed.
///
/// # Errors
/// The kernel's.
pub(in crate::probe) fn trace(program: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
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
