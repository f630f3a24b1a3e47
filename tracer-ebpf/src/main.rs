//! gotrail's eBPF programs: one per tier, twice, around one body; one for the CPUs' timers, and some at tracepoints of the
//! kernel: programs that begin to run, signals that are sent, threads that exit, system calls.
//!
//! `uprobe.multi` programs put all sites of a tier behind one link, which the kernel takes down in about
//! 30 ms; `uprobe` programs are for kernels before 6.6, which know only one link per site. The agent asks
//! the kernel which of the twins it can attach and loads that one. Sites are told apart by attach cookie.

#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![no_main]
#![expect(unreachable_pub, reason = "the programs are found by section, not by path")]
#![expect(missing_docs, reason = "the attribute macro puts undocumented functions around the programs")]
#![expect(clippy::needless_pass_by_value, reason = "the attribute macro wants the context by value")]

mod alarms;
mod endings;
mod execs;
mod kernel;
mod maps;
mod samples;
mod stacks;
mod sums;
mod switches;
mod syscalls;
mod tiers;

use aya_ebpf::macros::{perf_event, raw_tracepoint, uprobe};
use aya_ebpf::programs::{PerfEventContext, ProbeContext, RawTracePointContext};

/// T1 through one link for all sites.
#[uprobe(multi)]
pub fn t1_multi(ctx: ProbeContext) -> u32 {
    tiers::rare(&ctx);
    0
}

/// T1 through one link per site.
#[uprobe]
pub fn t1_single(ctx: ProbeContext) -> u32 {
    tiers::rare(&ctx);
    0
}

/// T2 through one link for all sites.
#[uprobe(multi)]
pub fn t2_multi(ctx: ProbeContext) -> u32 {
    tiers::lifetimes(&ctx);
    0
}

/// T2 through one link per site.
#[uprobe]
pub fn t2_single(ctx: ProbeContext) -> u32 {
    tiers::lifetimes(&ctx);
    0
}

/// The timer of a CPU.
#[perf_event]
pub fn on_cpu(ctx: PerfEventContext) -> u32 {
    samples::on_cpu(&ctx);
    0
}

/// A process begins to run a program.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn process_executes(_ctx: RawTracePointContext) -> i32 {
    execs::process_executes();
    0
}

/// A signal is sent.
#[raw_tracepoint(tracepoint = "signal_generate")]
pub fn signal_sent(ctx: RawTracePointContext) -> i32 {
    endings::signal(&ctx);
    0
}

/// Somebody is chosen to be killed for want of memory.
#[raw_tracepoint(tracepoint = "mark_victim")]
pub fn victim_chosen(ctx: RawTracePointContext) -> i32 {
    endings::victim(&ctx);
    0
}

/// A thread exits.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn thread_exits(ctx: RawTracePointContext) -> i32 {
    endings::exit(&ctx);
    0
}

/// A system call begins.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn syscall_enters(ctx: RawTracePointContext) -> i32 {
    syscalls::enters(&ctx);
    0
}

/// It ends.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn syscall_exits(ctx: RawTracePointContext) -> i32 {
    syscalls::exits(&ctx);
    0
}

/// T3 through one link for all sites.
#[uprobe(multi)]
pub fn t3_multi(ctx: ProbeContext) -> u32 {
    switches::switches(&ctx);
    0
}

/// T3 through one link per site.
#[uprobe]
pub fn t3_single(ctx: ProbeContext) -> u32 {
    switches::switches(&ctx);
    0
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses any program in which this is reachable.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
