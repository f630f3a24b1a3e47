//! Putting a tier's program onto its sites: for good, or by lease.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::programs::{Program, ProgramError, UProbe};
use rustix::fs::{Mode, OFlags, open};
use tracer_ebpf::{TIER_SYSCALLS, TIER_T1, TIER_T3, cookie};

use super::error::ProbeError;
use super::keeper::{self, Held, Leased, Leases};
use super::kernel::{Kernel, Links};
use super::maps::kernel_error;
use crate::binary::Site;
use crate::target::Target;

/// The programs of system calls, for the tracepoints that the keeper knows.
const SYSCALL_PROGRAMS: [&str; 2] = ["syscall_enters", "syscall_exits"];

/// The name of a tier's program, by how it is linked.
const fn name_of(tier: u32, kind: Links) -> &'static str {
    match (tier, kind) {
        (TIER_T1, Links::Single) => "t1_single",
        (TIER_T1, _) => "t1_multi",
        (TIER_T3, Links::Single) => "t3_single",
        (TIER_T3, _) => "t3_multi",
        (_, Links::Single) => "t2_single",
        _ => "t2_multi",
    }
}

fn program<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
    kernel: &Kernel,
) -> Result<&'a mut UProbe, ProbeError> {
    ebpf.program_mut(name)
        .ok_or_else(|| kernel_error("find a program", kernel, format!("no {name} in the eBPF object")))?
        .try_into()
        .map_err(|e: ProgramError| ProbeError::from_aya("find a program", &kernel.release, &e))
}

/// How long a program took to load, by its name.
pub(super) type LoadedIn = (&'static str, Duration);

/// A link, and how long its program took to load, if it was not loaded yet.
pub(super) struct Made {
    pub(super) link: Held,
    pub(super) loaded_in: Option<LoadedIn>,
}

/// Puts the program of a tier onto its sites in one process, or where the kernel can't do that, in all of its
/// executable.
pub(super) fn link(
    ebpf: &mut Ebpf,
    tier: u32,
    sites: &[&Site],
    target: &Target,
    kind: Links,
    kernel: &Kernel,
) -> Result<Made, ProbeError> {
    let pid = if kind == Links::Multi { 0 } else { target.pid() };
    let made = open(target.exe_path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| ProbeError::from_aya("open the executable", &kernel.release, &std::io::Error::from(e)))
        .and_then(|executable| link_in(ebpf, tier, sites, (executable.as_fd(), pid), kind, kernel));
    // The kernel says whatever it stumbled over first. And what it has linked may be of who has the number now.
    if target.is_same() {
        return made;
    }
    Err(ProbeError::Changed { pid: target.pid(), why: "it ended, or runs another executable now".to_owned() })
}

/// Loads the program of a tier, if that was not done yet; says how long it took.
pub(super) fn prepare(
    ebpf: &mut Ebpf,
    tier: u32,
    kind: Links,
    kernel: &Kernel,
) -> Result<Option<LoadedIn>, ProbeError> {
    let name = name_of(tier, kind);
    let program = program(ebpf, name, kernel)?;
    if program.fd().is_ok() {
        return Ok(None);
    }
    let begun = Instant::now();
    program.load().map_err(|e| ProbeError::from_aya("load a program", &kernel.release, &e))?;
    Ok(Some((name, begun.elapsed())))
}

/// Puts the program of a tier onto its sites in an executable, for one of its processes or, with 0, all. Only the holder has
/// the program then, so that it goes with the link and not with whatever gotrail does afterwards.
pub(super) fn link_in(
    ebpf: &mut Ebpf,
    tier: u32,
    sites: &[&Site],
    (executable, pid): (BorrowedFd<'_>, u32),
    kind: Links,
    kernel: &Kernel,
) -> Result<Made, ProbeError> {
    let error = |what, e: &(dyn std::error::Error + 'static)| ProbeError::from_aya(what, &kernel.release, e);
    let loaded_in = prepare(ebpf, tier, kind, kernel)?;
    let program = program(ebpf, name_of(tier, kind), kernel)?;
    let sites: Vec<keeper::Site> = sites
        .iter()
        .map(|site| keeper::Site { offset: site.file_offset, cookie: site_cookie(site) })
        .collect();
    let fd = program.fd().map_err(|e| error("hold a program", &e))?;
    let link =
        Held::start(fd.as_fd(), executable, pid, &sites, kind).map_err(|e| error("attach the probes", &e))?;
    program.unload().map_err(|e| error("let a program go", &e))?;
    Ok(Made { link, loaded_in })
}

/// Has a keeper for the tiers that are had by lease; none of them is on yet.
pub(super) fn lease(
    ebpf: &mut Ebpf,
    tiers: Vec<(u32, Vec<Site>)>,
    target: &Target,
    bias: u64,
    kind: Links,
    kernel: &Kernel,
) -> Result<(Option<Leases>, Vec<LoadedIn>), ProbeError> {
    let (mut programs, mut loaded_in) = (Vec::new(), Vec::new());
    for (tier, sites) in tiers {
        let names = if tier == TIER_SYSCALLS { &SYSCALL_PROGRAMS[..] } else { &[name_of(tier, kind)] };
        let mut fds = Vec::new();
        for name in names {
            let begun = Instant::now();
            fds.push(loaded(ebpf, name, kernel)?);
            loaded_in.push((*name, begun.elapsed()));
        }
        programs.push(Leased { tier, programs: fds, sites });
    }
    if programs.is_empty() {
        return Ok((None, loaded_in));
    }
    let leases = Leases::new(target, bias, kind == Links::MultiScoped, programs)?;
    Ok((Some(leases), loaded_in))
}

/// Loads a program that is had by lease, and gives the one descriptor of it.
fn loaded(ebpf: &mut Ebpf, name: &'static str, kernel: &Kernel) -> Result<OwnedFd, ProbeError> {
    let error = |what, e: &ProgramError| ProbeError::from_aya(what, &kernel.release, e);
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| kernel_error("find a program", kernel, format!("no {name} in the eBPF object")))?;
    match program {
        Program::UProbe(program) => program.load(),
        Program::RawTracePoint(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
    .map_err(|e| error("load a program", &e))?;
    let fd = program.fd().map_err(|e| error("hold a program", &e))?;
    let fd =
        fd.as_fd().try_clone_to_owned().map_err(|e| kernel_error("hold a program", kernel, e.to_string()))?;
    match program {
        Program::UProbe(program) => program.unload(),
        Program::RawTracePoint(program) => program.unload(),
        _ => Ok(()),
    }
    .map_err(|e| error("let a program go", &e))?;
    Ok(fd)
}

/// What tells a site's hits from those of the others of its tier.
pub(super) const fn site_cookie(site: &Site) -> u64 {
    cookie(site.probe, site.register, site.stack_check)
}
