//! What the programs are told of a process.

use bytemuck::Pod;
use tracer_ebpf::{
    ABI_VERSION, CONFIG_ALARM_SWITCHES, CONFIG_CAPTURE_TEXT, CONFIG_SUM_SWITCHES, MAX_FRAMELESS, NO_OFFSET,
    ProcConfig, TIER_SYSCALLS,
};

use super::options::{Options, SwitchMode};
use crate::binary::{GoBinary, Plan};

/// Lets a record of the ABI into aya's maps: the trait is theirs and the type is not ours to give it to.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Wire<T: Pod>(pub(super) T);

// SAFETY: the wrapper is transparent over a type without padding for which any bytes are valid, which is
// what aya's Pod asks for.
unsafe impl<T: Pod> aya::Pod for Wire<T> {}

/// Offsets and switches of a process that runs `binary`, loaded `bias` away from where it is linked.
pub(super) fn config(binary: &GoBinary, plan: &Plan, bias: u64, slot: u32, options: &Options) -> ProcConfig {
    let text = if options.capture_text { CONFIG_CAPTURE_TEXT } else { 0 };
    let sums = if options.switches == SwitchMode::Sums { CONFIG_SUM_SWITCHES } else { 0 };
    // Of those that were asked for whatever they cost nobody needs to hear.
    let alarm = if options.switches_for.is_none() { CONFIG_ALARM_SWITCHES } else { 0 };
    let layout = binary.layout();
    let minor = binary.version().minor;
    let g = &layout.g;
    let [systemstack_switch] = binary.symbols().find(binary.image(), ["runtime.systemstack_switch"]);
    ProcConfig {
        abi_version: ABI_VERSION,
        slot,
        tiers: options.tiers,
        flags: text | sums | alarm,
        g_m: g.m,
        g_goid: g.goid,
        g_parent_goid: g.parent_goid.unwrap_or(NO_OFFSET),
        g_gopc: g.gopc,
        g_startpc: g.startpc,
        g_sched_pc: g.sched_pc,
        g_sched_bp: g.sched_bp,
        g_stack_lo: g.stack_lo,
        g_stack_hi: g.stack_hi,
        g_sig: g.sig,
        g_sigcode1: g.sigcode1,
        g_sigpc: g.sigpc,
        m_g0: layout.m.g0,
        m_curg: layout.m.curg,
        m_procid: layout.m.procid,
        panic_arg: layout.panic.arg,
        gc_heap_live: layout.gc.heap_live,
        // runtime/proc.go, startTheWorldWithSema: no record of the stop up to 1.21, {reason, start} in 1.22,
        // all of worldStop from 1.23.
        stw_registers: match minor {
            ..=21 => 0,
            22 => 1,
            _ => 2,
        },
        // runtime/proc.go, stopTheWorldWithSema(reason stwReason) since 1.21.
        stop_has_reason: u32::from(minor >= 21),
        // runtime/mgcpacer.go, startCycle(markStartTime, procs, trigger) since 1.19.
        gc_start_has_trigger: u32::from(minor >= 19),
        systemstack_switch: systemstack_switch.map_or(0, |function| function.entry.wrapping_add(bias)),
        g_atomicstatus: g.atomicstatus,
        g_labels: g.labels,
        g_waitreason: g.waitreason,
        epoch: 0,
        switches_until_ns: 0,
        resumes: in_process(&plan.resumes, bias),
        coroutine_calls: in_process(&plan.coroutine_calls, bias),
        frameless: if options.tiers & TIER_SYSCALLS == 0 {
            [[0; 2]; MAX_FRAMELESS]
        } else {
            frameless(binary, bias)
        },
        calls_epoch: 0,
        padding: 0,
    }
}

/// The same for another process of the executable: `linked` was made without a bias.
pub(super) fn for_process(linked: ProcConfig, bias: u64, slot: u32) -> ProcConfig {
    let moved = |address: u64| if address == 0 { 0 } else { address.wrapping_add(bias) };
    ProcConfig {
        slot,
        systemstack_switch: moved(linked.systemstack_switch),
        resumes: linked.resumes.map(moved),
        coroutine_calls: linked.coroutine_calls.map(moved),
        frameless: linked.frameless.map(|range| range.map(moved)),
        ..linked
    }
}

/// What is behind the last that there is room for is as it would be without.
fn frameless<const N: usize>(binary: &GoBinary, bias: u64) -> [[u64; 2]; N] {
    let mut found = [[0; 2]; N];
    for (into, (begin, end)) in found.iter_mut().zip(binary.frameless_system_calls()) {
        *into = [begin, end].map(|address| address.wrapping_add(bias));
    }
    found
}

/// Where linked addresses are in the process; zeros behind them.
fn in_process<const N: usize>(linked: &[u64], bias: u64) -> [u64; N] {
    let mut found = [0; N];
    found.iter_mut().zip(linked).for_each(|(into, address)| *into = address.wrapping_add(bias));
    found
}
