//! Registers and memory as the kernel hands them out.

use aya_ebpf::bindings::bpf_pidns_info;
#[cfg(bpf_target_arch = "x86_64")]
use aya_ebpf::bindings::pt_regs;
#[cfg(bpf_target_arch = "aarch64")]
use aya_ebpf::bindings::user_pt_regs;
use aya_ebpf::helpers::generated;
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_probe_read_user, bpf_probe_read_user_buf};
use aya_ebpf::programs::{PerfEventContext, ProbeContext};
use tracer_ebpf::MAX_TEXT;
use tracer_ebpf::decide::{Fault, Memory, Registers, Step};

use core::ffi::c_void;

/// The memory of the current process. Not sleepable: what is not resident faults.
pub struct UserMemory;

/// One step as `bpf_loop` calls it: 0 goes on, 1 ends the loop.
unsafe extern "C" fn callback<S: Step>(_index: u64, state: *mut c_void) -> i64 {
    // SAFETY: `repeat` hands its own exclusive reference.
    let state = unsafe { &mut *state.cast::<S>() };
    i64::from(!state.step())
}

impl Memory for UserMemory {
    #[inline(always)]
    fn repeat<S: Step>(times: u32, state: &mut S) {
        // SAFETY: the callback has the signature that the helper asks for (Linux 5.17), and the state outlives
        // the call.
        unsafe {
            generated::bpf_loop(
                times,
                callback::<S> as *mut c_void,
                core::ptr::from_mut(state).cast::<c_void>(),
                0,
            );
        }
    }

    #[inline(always)]
    fn read_u64(&self, address: u64) -> Result<u64, Fault> {
        // SAFETY: the helper checks the address and fails instead of faulting.
        unsafe { bpf_probe_read_user(address as *const u64) }.map_err(|_| Fault)
    }

    #[inline(always)]
    fn read_u32(&self, address: u64) -> Result<u32, Fault> {
        // SAFETY: as above.
        unsafe { bpf_probe_read_user(address as *const u32) }.map_err(|_| Fault)
    }

    #[inline(always)]
    fn read_pair(&self, address: u64) -> Result<[u64; 2], Fault> {
        // SAFETY: as above.
        unsafe { bpf_probe_read_user(address as *const [u64; 2]) }.map_err(|_| Fault)
    }

    #[inline(always)]
    fn read_four(&self, address: u64) -> Result<[u64; 4], Fault> {
        // SAFETY: as above.
        unsafe { bpf_probe_read_user(address as *const [u64; 4]) }.map_err(|_| Fault)
    }

    #[inline(always)]
    fn read_u8(&self, address: u64) -> Result<u8, Fault> {
        // SAFETY: as above.
        unsafe { bpf_probe_read_user(address as *const u8) }.map_err(|_| Fault)
    }

    #[inline(always)]
    fn read_text(&self, address: u64, len: u64, into: &mut [u8; MAX_TEXT]) -> Result<u32, Fault> {
        let len = if len >= MAX_TEXT as u64 { MAX_TEXT } else { len as usize };
        // SAFETY: len is at most MAX_TEXT.
        let into = unsafe { core::slice::from_raw_parts_mut(into.as_mut_ptr(), len) };
        // SAFETY: as above.
        unsafe { bpf_probe_read_user_buf(address as *const u8, into) }.map_err(|_| Fault)?;
        Ok(len as u32)
    }
}

/// The attach cookie: probe number and register, see `tracer_ebpf::cookie`.
#[inline(always)]
pub fn cookie(ctx: &ProbeContext) -> u64 {
    // SAFETY: the helper takes the context of a uprobe program.
    unsafe { generated::bpf_get_attach_cookie(ctx.regs.cast()) }
}

/// Device and inode of the agent's PID namespace, set when the programs are loaded; 0 in the initial one.
#[unsafe(no_mangle)]
static PID_NAMESPACE_DEVICE: u64 = 0;
#[unsafe(no_mangle)]
static PID_NAMESPACE_INODE: u64 = 0;

/// Process and thread as the agent numbers them: in its own PID namespace. 0 for a process outside of it.
#[inline(always)]
pub fn current_ids() -> u64 {
    // SAFETY: both are constants that the loader may have changed before the programs were loaded.
    let (device, inode) = unsafe {
        (
            core::ptr::read_volatile(&raw const PID_NAMESPACE_DEVICE),
            core::ptr::read_volatile(&raw const PID_NAMESPACE_INODE),
        )
    };
    if inode == 0 {
        return bpf_get_current_pid_tgid();
    }
    let mut ids = bpf_pidns_info { pid: 0, tgid: 0 };
    // SAFETY: the helper (Linux 5.7) writes the struct, whose size it is given.
    let result = unsafe {
        generated::bpf_get_ns_current_pid_tgid(
            device,
            inode,
            &raw mut ids,
            size_of::<bpf_pidns_info>() as u32,
        )
    };
    if result != 0 { 0 } else { (u64::from(ids.tgid) << 32) | u64::from(ids.pid) }
}

/// `CLOCK_MONOTONIC` in nanoseconds.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: no arguments.
    unsafe { generated::bpf_ktime_get_ns() }
}

/// Whether the thread that a timer interrupted was in the kernel.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
pub fn in_kernel(ctx: &PerfEventContext) -> bool {
    // SAFETY: the kernel hands a valid context for the length of the run.
    unsafe { (*ctx.ctx).regs.cs & 3 == 0 }
}

/// The same: the mode is in the low bits of pstate, 0 in user space (EL0).
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
pub fn in_kernel(ctx: &PerfEventContext) -> bool {
    // SAFETY: as above.
    unsafe { (*ctx.ctx).regs.pstate & 0xf != 0 }
}

/// The user-space registers of the current thread, wherever it is. Argument registers are left out.
///
/// `bpf_task_pt_regs` (Linux 5.15) has them also in the kernel.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
pub fn user_registers() -> Registers {
    // SAFETY: the task is the current one, so its registers are there; the verifier knows the type and its size.
    let regs =
        unsafe { &*(generated::bpf_task_pt_regs(generated::bpf_get_current_task_btf()) as *const pt_regs) };
    Registers { args: [0; 5], g: regs.r14, pc: regs.rip, sp: regs.rsp, bp: regs.rbp, lr: 0 }
}

/// The same.
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
pub fn user_registers() -> Registers {
    // SAFETY: as above; user_pt_regs is the begin of pt_regs (arch/arm64/include/asm/ptrace.h).
    let regs = unsafe {
        &*(generated::bpf_task_pt_regs(generated::bpf_get_current_task_btf()) as *const user_pt_regs)
    };
    Registers {
        args: [0; 5],
        g: regs.regs[28],
        pc: regs.pc,
        sp: regs.sp,
        bp: regs.regs[29],
        lr: regs.regs[30],
    }
}

/// Registers by their role in Go's `ABIInternal` (cmd/compile/abi-internal.md).
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
pub fn registers(ctx: &ProbeContext) -> Registers {
    // SAFETY: the kernel hands a valid pt_regs for the length of the run.
    let regs = unsafe { &*ctx.regs };
    Registers {
        args: [regs.rax, regs.rbx, regs.rcx, regs.rdi, regs.rsi],
        g: regs.r14,
        pc: regs.rip,
        sp: regs.rsp,
        bp: regs.rbp,
        lr: 0,
    }
}

/// One general register by its number in the instruction set.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
pub fn register(ctx: &ProbeContext, number: u8) -> u64 {
    // SAFETY: as above.
    let regs = unsafe { &*ctx.regs };
    match number {
        0 => regs.rax,
        1 => regs.rcx,
        2 => regs.rdx,
        3 => regs.rbx,
        5 => regs.rbp,
        6 => regs.rsi,
        7 => regs.rdi,
        8 => regs.r8,
        9 => regs.r9,
        10 => regs.r10,
        11 => regs.r11,
        12 => regs.r12,
        13 => regs.r13,
        14 => regs.r14,
        15 => regs.r15,
        _ => 0,
    }
}

/// Whether the `jbe` that is about to run will jump: the carry or the zero flag is set.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
pub fn stack_check_fails(ctx: &ProbeContext) -> bool {
    // SAFETY: as above.
    let regs = unsafe { &*ctx.regs };
    regs.eflags & 0x41 != 0
}

/// Registers by their role in Go's `ABIInternal` (cmd/compile/abi-internal.md).
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
pub fn registers(ctx: &ProbeContext) -> Registers {
    // SAFETY: the kernel hands a valid user_pt_regs for the length of the run.
    let regs = unsafe { &*ctx.regs };
    Registers {
        args: [regs.regs[0], regs.regs[1], regs.regs[2], regs.regs[3], regs.regs[4]],
        g: regs.regs[28],
        pc: regs.pc,
        sp: regs.sp,
        bp: regs.regs[29],
        lr: regs.regs[30],
    }
}

/// One general register by its number in the instruction set.
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
pub fn register(ctx: &ProbeContext, number: u8) -> u64 {
    // SAFETY: as above.
    let regs = unsafe { &*ctx.regs };
    match number {
        0 => regs.regs[0],
        1 => regs.regs[1],
        2 => regs.regs[2],
        3 => regs.regs[3],
        4 => regs.regs[4],
        5 => regs.regs[5],
        6 => regs.regs[6],
        7 => regs.regs[7],
        8 => regs.regs[8],
        9 => regs.regs[9],
        10 => regs.regs[10],
        11 => regs.regs[11],
        12 => regs.regs[12],
        13 => regs.regs[13],
        14 => regs.regs[14],
        15 => regs.regs[15],
        16 => regs.regs[16],
        17 => regs.regs[17],
        19 => regs.regs[19],
        20 => regs.regs[20],
        21 => regs.regs[21],
        22 => regs.regs[22],
        23 => regs.regs[23],
        24 => regs.regs[24],
        25 => regs.regs[25],
        26 => regs.regs[26],
        27 => regs.regs[27],
        28 => regs.regs[28],
        _ => 0,
    }
}

/// Whether the `b.ls` that is about to run will branch: the carry flag is clear or the zero flag is set.
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
pub fn stack_check_fails(ctx: &ProbeContext) -> bool {
    // SAFETY: as above.
    let regs = unsafe { &*ctx.regs };
    regs.pstate & (1 << 29) == 0 || regs.pstate & (1 << 30) != 0
}
