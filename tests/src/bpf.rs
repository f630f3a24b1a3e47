//! The eBPF programs that the kernel holds, asked through bpf(2) itself.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

// include/uapi/linux/bpf.h, enum bpf_cmd.
const PROG_GET_NEXT_ID: libc::c_int = 11;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const ENABLE_STATS: libc::c_int = 32;

/// The member of `union bpf_attr` that the commands `*_GET_*_ID` use.
#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// The member that `OBJ_GET_INFO_BY_FD` uses.
#[repr(C)]
struct InfoByFd {
    fd: u32,
    length: u32,
    info: u64,
}

/// The begin of `struct bpf_prog_info`; the kernel fills in as much as there is room for.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_length: u32,
    translated_length: u32,
    jited: u64,
    translated: u64,
    load_time: u64,
    created_by_uid: u32,
    map_count: u32,
    map_ids: u64,
    name: [u8; 16],
    /// What is of other kinds of programs, and lists that are not asked for.
    between: [u64; 14],
    run_time_ns: u64,
    run_count: u64,
    recursion_misses: u64,
    verified_instructions: u32,
    attach_btf_object: u32,
}
const _: () = assert!(size_of::<ProgramInfo>() == 224);

/// A loaded program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Program {
    /// Its id, which the kernel does not use again soon.
    pub id: u32,
    /// Its name, cut to 15 bytes.
    pub name: String,
    /// Its instructions, as the kernel has them after verification.
    pub instructions: u32,
    /// Bytes of machine code that they were compiled to.
    pub machine_code: u32,
    /// Instructions that the verifier looked at, each as often as it did; 0 before Linux 5.16.
    pub verified: u32,
    /// How often it ran while statistics were on.
    pub runs: u64,
    /// How long that took, ns.
    pub run_time_ns: u64,
}

/// Statistics of all programs' runs are on while this lives.
#[derive(Debug)]
pub struct Statistics(#[expect(dead_code, reason = "held open, not looked at")] OwnedFd);

impl Statistics {
    /// Switches them on.
    ///
    /// # Errors
    /// The kernel does not.
    pub fn on() -> Result<Self> {
        // The member of `union bpf_attr` has one field: BPF_STATS_RUN_TIME, 0.
        let fd = call(ENABLE_STATS, &mut 0_u32).context("switched the statistics of eBPF programs on")?;
        // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }
}

fn call<T>(command: libc::c_int, attribute: &mut T) -> io::Result<i32> {
    // SAFETY: each caller passes a live struct that is the begin of the bpf_attr member of its command; the kernel
    // takes the rest of the union as zero and writes no more than the given size.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attribute), size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}

/// The first program id after this one, if there is another.
///
/// # Errors
/// The kernel does not say.
pub fn next_id(after: u32) -> Result<Option<u32>> {
    let mut attribute = ById { id: after, ..ById::default() };
    match call(PROG_GET_NEXT_ID, &mut attribute) {
        Ok(_) => Ok(Some(attribute.next_id)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error).context("asked the kernel for its eBPF programs"),
    }
}

/// The ids of all programs.
///
/// # Errors
/// The kernel does not say.
pub fn ids() -> Result<BTreeSet<u32>> {
    let mut ids = BTreeSet::new();
    let mut last = 0;
    while let Some(id) = next_id(last)? {
        ids.insert(id);
        last = id;
    }
    Ok(ids)
}

/// All programs.
///
/// # Errors
/// The kernel does not say.
pub fn programs() -> Result<Vec<Program>> {
    ids()?.into_iter().filter_map(|id| program(id).transpose()).collect()
}

/// A program by id; `None` if it has gone.
///
/// # Errors
/// The kernel does not say.
pub fn program(id: u32) -> Result<Option<Program>> {
    let told = || format!("asked the kernel for eBPF program {id}");
    let fd = match call(PROG_GET_FD_BY_ID, &mut ById { id, ..ById::default() }) {
        // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
        Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd) },
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        Err(error) => return Err(error).with_context(told),
    };
    let mut info = ProgramInfo::default();
    let mut attribute = InfoByFd {
        fd: fd.as_raw_fd().cast_unsigned(),
        length: size_of::<ProgramInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    call(OBJ_GET_INFO_BY_FD, &mut attribute).with_context(told)?;
    let name = CStr::from_bytes_until_nul(&info.name).with_context(told)?;
    Ok(Some(Program {
        id,
        name: name.to_string_lossy().into_owned(),
        instructions: info.translated_length / 8,
        machine_code: info.jited_length,
        verified: info.verified_instructions,
        runs: info.run_count,
        run_time_ns: info.run_time_ns,
    }))
}

/// The ids of the programs that a process holds, by a descriptor of the program or of a link to it.
///
/// # Errors
/// The process is gone.
pub fn held_by(pid: u32) -> Result<BTreeSet<u32>> {
    let folder = format!("/proc/{pid}/task");
    let told = || format!("can't read {folder}");
    let mut ids = BTreeSet::new();
    for thread in fs::read_dir(&folder).with_context(told)? {
        // Threads may have tables of their own. One may end while we read, or a descriptor be closed.
        let Ok(entries) = fs::read_dir(thread.with_context(told)?.path().join("fdinfo")) else { continue };
        for entry in entries.flatten() {
            let Ok(info) = fs::read_to_string(entry.path()) else { continue };
            ids.extend(
                info.lines().filter_map(|line| line.strip_prefix("prog_id:")?.trim().parse::<u32>().ok()),
            );
        }
    }
    Ok(ids)
}

/// The kernel frees a program some time after the last who held it: behind a grace period or two.
pub const FREED_WITHIN: Duration = Duration::from_secs(2);

/// Fails if there are programs named like gotrail's that no process holds, and that stay: leftovers.
///
/// # Errors
/// There are, or the kernel does not say.
pub fn check_no_orphans() -> Result<()> {
    let deadline = Instant::now() + FREED_WITHIN;
    let mut orphans = orphans()?;
    while !orphans.is_empty() {
        ensure!(Instant::now() < deadline, "eBPF programs that no process holds: {orphans:?}");
        sleep(Duration::from_millis(10));
        let now = ids()?;
        orphans.retain(|program| now.contains(&program.id));
    }
    Ok(())
}

fn orphans() -> Result<Vec<Program>> {
    let mut ours: Vec<Program> = programs()?.into_iter().filter(|p| is_ours(&p.name)).collect();
    for entry in fs::read_dir("/proc").context("can't list /proc")?.flatten() {
        if let Some(Ok(pid)) = entry.file_name().to_str().map(str::parse) {
            // Processes come and go.
            let held = held_by(pid).unwrap_or_default();
            ours.retain(|program| !held.contains(&program.id));
        }
    }
    Ok(ours)
}

fn is_ours(name: &str) -> bool {
    ["t1_", "t2_", "t3_", "keeper_"].iter().any(|start| name.starts_with(start))
}
