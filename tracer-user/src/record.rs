//! From the bytes of a ring record to an event of the model: pure, and without aya, so that it can be tried on any
//! bytes.

use bytemuck::{Pod, checked, pod_read_unaligned};
use tracer_ebpf::decide::{is_crash, is_stacked};
use tracer_ebpf::{
    CrashEvent, EventHeader, FLAG_COROUTINE, FLAG_NO_GOID, FLAG_PROCID_MATCHES, FLAG_STACK_TRUNCATED,
    FLAG_TEXT_FAULTED, FLAG_VALUE_FAULTED, Frames, ON_CPU_FOREIGN_STACK, ON_CPU_KERNEL, ON_CPU_MAYBE_RETURN,
    ON_CPU_NO_M, PlainEvent, Probe, StackEvent, SwitchEvent, SwitchStack, TIER_T3,
};

use crate::memory::Status;
use crate::model::{
    CallStack, CrashRecord, CrashText, Event, EventKind, GcTrigger, OnCpu, PanicStage, StwReason, Switch,
    SwitchKind,
};

/// A decoded record, and what the drain needs to know of it.
#[derive(Debug)]
pub(crate) struct Decoded<T> {
    pub(crate) probe: Probe,
    pub(crate) cpu: u16,
    pub(crate) sequence: u32,
    /// `m.procid` was the thread that hit the probe.
    pub(crate) procid_matches: bool,
    pub(crate) event: T,
}

/// Decodes a record; `None` if it is none of ours. Addresses become linked ones.
pub(crate) fn decode(bytes: &[u8], bias: u64) -> Option<Decoded<Event>> {
    let header: EventHeader = read(bytes)?;
    let probe = Probe::from_wire(header.probe)?;
    let linked = |address: u64| if address == 0 { 0 } else { address.wrapping_sub(bias) };
    let kind = if is_crash(header.probe) {
        crash(probe, &read(bytes)?, &linked)?
    } else if is_stacked(header.probe) {
        stacked(probe, &read(bytes)?, &linked)?
    } else {
        plain(probe, &read(bytes)?, &linked)?
    };
    let goid = (header.flags & FLAG_NO_GOID == 0 && header.goid != 0).then_some(header.goid);
    Some(Decoded {
        probe,
        cpu: header.cpu,
        sequence: header.sequence,
        procid_matches: header.flags & FLAG_PROCID_MATCHES != 0,
        event: Event { time_ns: header.time_ns, goid, thread: header.tid, kind },
    })
}

/// A decoded sample of a CPU, and what the drain needs to know of it.
#[derive(Debug)]
pub(crate) struct DecodedSample {
    pub(crate) cpu: u16,
    pub(crate) sequence: u32,
    pub(crate) sample: OnCpu,
}

/// Decodes a record of a CPU's timer; `None` if it is none of ours. Addresses become linked ones.
pub(crate) fn decode_sample(bytes: &[u8], bias: u64) -> Option<DecodedSample> {
    let StackEvent { header, args: [what, labels], startpc, frames, .. } = read(bytes)?;
    if Probe::from_wire(header.probe)? != Probe::OnCpu {
        return None;
    }
    let linked = |address: u64| if address == 0 { 0 } else { address.wrapping_sub(bias) };
    let len = usize::try_from(frames.len).unwrap_or(0).min(frames.pcs.len());
    let has = |bit: u64| what & bit != 0;
    let status = what as u32;
    let sample = OnCpu {
        time_ns: header.time_ns,
        thread: header.tid,
        goid: (header.flags & FLAG_NO_GOID == 0 && header.goid != 0).then_some(header.goid),
        status: (status != u32::MAX).then(|| Status::from_word(status)),
        labels,
        startpc: linked(startpc),
        has_m: !has(ON_CPU_NO_M),
        procid_matches: header.flags & FLAG_PROCID_MATCHES != 0,
        in_kernel: has(ON_CPU_KERNEL),
        foreign_stack: has(ON_CPU_FOREIGN_STACK),
        maybe_return: has(ON_CPU_MAYBE_RETURN),
        pcs: frames.pcs.iter().take(len).map(|pc| linked(*pc)).collect(),
        user_from: usize::try_from(frames.user_from).unwrap_or(0).min(len),
        truncated: header.flags & FLAG_STACK_TRUNCATED != 0,
    };
    Some(DecodedSample { cpu: header.cpu, sequence: header.sequence, sample })
}

/// Decodes a record of T3; `None` if it is none of ours. Addresses become linked ones.
pub(crate) fn decode_switch(bytes: &[u8], bias: u64) -> Option<Decoded<Switch>> {
    let header: EventHeader = read(bytes)?;
    let probe = Probe::from_wire(header.probe).filter(|probe| probe.tier() == TIER_T3)?;
    let kind = if probe == Probe::GoStack {
        let stack: SwitchStack = read(bytes)?;
        let len = usize::try_from(stack.len).unwrap_or(0).min(stack.pcs.len());
        SwitchKind::Stack {
            id: stack.stack,
            pcs: stack.pcs.iter().take(len).map(|pc| pc.wrapping_sub(bias)).collect(),
            truncated: header.flags & FLAG_STACK_TRUNCATED != 0,
        }
    } else {
        let event: SwitchEvent = read(bytes)?;
        match probe {
            Probe::GoPark => SwitchKind::Park { reason: event.reason, stack: event.stack },
            Probe::GoReady => SwitchKind::Ready { woken: event.other },
            _ => SwitchKind::Run { coroutine: header.flags & FLAG_COROUTINE != 0 },
        }
    };
    Some(Decoded {
        probe,
        cpu: header.cpu,
        sequence: header.sequence,
        procid_matches: false,
        event: Switch { time_ns: header.time_ns, goid: header.goid, kind },
    })
}

fn read<T: Pod + checked::CheckedBitPattern>(bytes: &[u8]) -> Option<T> {
    Some(pod_read_unaligned(bytes.get(..size_of::<T>())?))
}

fn known(value: u64) -> Option<u64> {
    (value != u64::MAX).then_some(value)
}

fn plain(probe: Probe, event: &PlainEvent, linked: &impl Fn(u64) -> u64) -> Option<EventKind> {
    let [a, b, c, d, e] = event.args;
    Some(match probe {
        Probe::GcStart => EventKind::GcStart {
            heap_live: a,
            trigger: known(b).map(GcTrigger::from_kind),
            procs: u32::try_from(d).unwrap_or(0),
        },
        Probe::GcMarkEnd => EventKind::GcMarkEnd { forced: known(c).map(|forced| forced != 0) },
        Probe::GcMarkTermination => EventKind::GcMarkTermination,
        Probe::GcLive => EventKind::GcLive { marked: a },
        Probe::GcSweep => EventKind::GcSweep,
        Probe::StwStart => EventKind::StwStart {
            reason: known(b).map(StwReason::from_number),
            started_stopping_ns: (c != 0).then_some(c),
            finished_stopping_ns: (d != 0).then_some(d),
            stopping_cpu_ns: (d != 0).then_some(e),
        },
        Probe::Recovery => EventKind::Recovered,
        Probe::GoCreate => EventKind::GoCreate { goid: a, gopc: linked(b), startpc: linked(c) },
        Probe::GoExit => EventKind::GoExit { goid: a, gopc: linked(b), startpc: linked(c) },
        _ => return None,
    })
}

fn stack(frames: &Frames, flags: u8, gopc: u64, startpc: u64, linked: &impl Fn(u64) -> u64) -> CallStack {
    let len = usize::try_from(frames.len).unwrap_or(0).min(frames.pcs.len());
    CallStack {
        pcs: frames.pcs.iter().take(len).map(|pc| linked(*pc)).collect(),
        user_from: usize::try_from(frames.user_from).unwrap_or(0).min(len),
        truncated: flags & FLAG_STACK_TRUNCATED != 0,
        gopc: linked(gopc),
        startpc: linked(startpc),
    }
}

fn stacked(probe: Probe, event: &StackEvent, linked: &impl Fn(u64) -> u64) -> Option<EventKind> {
    let caller = stack(&event.frames, event.header.flags, event.gopc, event.startpc, linked);
    let number = event.args[0];
    Some(match probe {
        Probe::StwStop => EventKind::StwStop { reason: known(number).map(StwReason::from_number), caller },
        Probe::Procresize => EventKind::Procresize { procs: u32::try_from(number).unwrap_or(0), caller },
        Probe::ForcedGc => EventKind::ForcedGc { caller },
        Probe::SetGcPercent => EventKind::SetGcPercent { percent: number as i32, caller },
        _ => return None,
    })
}

fn crash(probe: Probe, event: &CrashEvent, linked: &impl Fn(u64) -> u64) -> Option<EventKind> {
    let stage = match probe {
        Probe::Gopanic => PanicStage::Begun,
        Probe::Fatalpanic => PanicStage::Fatal,
        Probe::Throw => PanicStage::Throw,
        Probe::Fatal => PanicStage::FatalError,
        Probe::Sigpanic => PanicStage::Signal,
        _ => return None,
    };
    let captured = usize::try_from(event.text_captured).unwrap_or(0).min(event.text.len());
    let text = if event.header.flags & FLAG_TEXT_FAULTED != 0 {
        CrashText::InFile { address: linked(event.text_ptr), len: event.text_len }
    } else if event.header.flags & FLAG_VALUE_FAULTED != 0 {
        CrashText::HeaderInFile { address: linked(event.data_word) }
    } else if captured == 0 {
        CrashText::None
    } else {
        CrashText::Captured {
            bytes: event.text.iter().take(captured).copied().collect(),
            full_len: event.text_len,
        }
    };
    Some(EventKind::Crash(Box::new(CrashRecord {
        stage,
        type_address: linked(event.type_ptr),
        data_word: event.data_word,
        value: event.value[0],
        text,
        signal: event.signal,
        fault_address: event.fault_address,
        fault_pc: linked(event.fault_pc),
        stack: stack(&event.frames, event.header.flags, event.gopc, event.startpc, linked),
    })))
}

#[cfg(test)]
mod tests {
    use bytemuck::{Zeroable, bytes_of};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn foreign_and_short_records_are_refused() {
        assert!(decode(&[], 0).is_none());
        assert!(decode(&[0; 80], 0).is_none());
        let mut event = PlainEvent::zeroed();
        event.header.probe = Probe::GcSweep as u8;
        assert!(decode(&bytes_of(&event)[..40], 0).is_none());
        assert!(decode(bytes_of(&event), 0).is_some());
    }

    #[test]
    fn addresses_become_linked_ones() {
        let mut event = PlainEvent::zeroed();
        event.header.probe = Probe::GoCreate as u8;
        event.header.goid = 7;
        event.args = [9, 0x5555_0000_1234, 0, 0, 0];
        let decoded = decode(bytes_of(&event), 0x5555_0000_0000).unwrap();
        assert_eq!(decoded.event.goid, Some(7));
        assert!(matches!(decoded.event.kind, EventKind::GoCreate { goid: 9, gopc: 0x1234, startpc: 0 }));
    }

    #[test]
    fn switches_name_who_and_where() {
        let mut event = SwitchEvent::zeroed();
        event.header = EventHeader { probe: Probe::GoPark as u8, goid: 7, ..event.header };
        (event.stack, event.reason) = (5, 14);
        let park = decode_switch(bytes_of(&event), 0).unwrap();
        assert_eq!(
            park.event,
            Switch { time_ns: 0, goid: 7, kind: SwitchKind::Park { reason: 14, stack: 5 } }
        );
        event.header.probe = Probe::GoRun as u8;
        event.header.flags = FLAG_COROUTINE;
        let run = decode_switch(bytes_of(&event), 0).unwrap();
        assert_eq!(run.event.kind, SwitchKind::Run { coroutine: true });
        event.header.probe = Probe::GoExit as u8;
        assert!(decode_switch(bytes_of(&event), 0).is_none(), "a record of another tier");

        let mut stack = SwitchStack::zeroed();
        stack.header.probe = Probe::GoStack as u8;
        (stack.stack, stack.len, stack.pcs[0], stack.pcs[1]) = (9, 2, 0x5010, 0x5020);
        let told = decode_switch(bytes_of(&stack), 0x5000).unwrap();
        let pcs = Box::from([0x10, 0x20]);
        assert_eq!(told.event.kind, SwitchKind::Stack { id: 9, pcs, truncated: false });
        stack.len = 4000;
        let kind = decode_switch(bytes_of(&stack), 0).unwrap().event.kind;
        assert!(matches!(kind, SwitchKind::Stack { pcs, .. } if pcs.len() == stack.pcs.len()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_sample_of_their_own_or_none(
            mut bytes in prop::collection::vec(any::<u8>(), 0..700),
            probe in 20..24_u8,
            bias in any::<u64>(),
        ) {
            if let Some(slot) = bytes.get_mut(30) {
                *slot = probe;
            }
            let Some(DecodedSample { sample, .. }) = decode_sample(&bytes, bias) else { return Ok(()) };
            prop_assert_eq!(probe, Probe::OnCpu as u8);
            prop_assert!(sample.user_from <= sample.pcs.len() && sample.pcs.len() <= tracer_ebpf::MAX_FRAMES);
        }

        #[test]
        fn any_bytes_are_an_event_of_their_probe_or_none(
            mut bytes in prop::collection::vec(any::<u8>(), 0..1300),
            probe in 0..30_u8,
            bias in any::<u64>(),
        ) {
            // `EventHeader::probe`.
            if let Some(slot) = bytes.get_mut(30) {
                *slot = probe;
            }
            if let Some(decoded) = decode_switch(&bytes, bias) {
                prop_assert_eq!((decoded.probe as u8, decoded.probe.tier()), (probe, TIER_T3));
            }
            let Some(decoded) = decode(&bytes, bias) else { return Ok(()) };
            let header: EventHeader = pod_read_unaligned(&bytes[..32]);
            prop_assert_eq!(decoded.probe as u8, probe);
            prop_assert_eq!((decoded.cpu, decoded.sequence), (header.cpu, header.sequence));
            prop_assert_eq!((decoded.event.time_ns, decoded.event.thread), (header.time_ns, header.tid));
            let known = header.flags & FLAG_NO_GOID == 0 && header.goid != 0;
            prop_assert_eq!(decoded.event.goid, known.then_some(header.goid));
        }
    }
}
