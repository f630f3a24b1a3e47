//! What a CPU's timer finds.

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::programs::PerfEventContext;
use tracer_ebpf::decide::header;
use tracer_ebpf::on_cpu::sample;
use tracer_ebpf::{ABI_VERSION, FLAG_PARTIAL, Probe, StackEvent, TIER_CPU};

use crate::kernel::{UserMemory, current_ids, in_kernel, now_ns, user_registers};
use crate::maps::{counters, emit, m_of, next_sequence, process};

/// Tier CPU.
#[inline(always)]
pub fn on_cpu(ctx: &PerfEventContext) {
    let pid_tgid = current_ids();
    let Some(config) = process((pid_tgid >> 32) as u32) else { return };
    if config.tiers & TIER_CPU == 0 {
        return;
    }
    let probe = Probe::OnCpu as u8;
    let Some(counters) = counters(config, probe) else { return };
    counters.hit();
    if config.abi_version != ABI_VERSION {
        counters.refused();
        return;
    }
    // SAFETY: no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let header = header(probe, now_ns(), pid_tgid, cpu, next_sequence());
    let m = m_of(pid_tgid as u32);
    emit::<StackEvent>(counters, |event| {
        event.header = header;
        sample(m, &user_registers(), in_kernel(ctx), config, &UserMemory, event);
        event.header.flags & FLAG_PARTIAL != 0
    });
}
