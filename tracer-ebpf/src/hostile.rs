//! What a probe makes of memory that says anything at all.

use bytemuck::{Pod, Zeroable as _, bytes_of, pod_read_unaligned};
use proptest::prelude::*;

use crate::abi::{
    CrashEvent, EventHeader, Frames, MAX_FRAMES, MAX_SWITCH_FRAMES, MAX_TEXT, PlainEvent, Probe,
    ProbeCounters, ProcConfig, StackEvent, SwitchEvent, SwitchStack,
};
use crate::decide::{
    Current, Fault, Memory, Registers, Step, crash, current, is_crash, is_stacked, lifetime, plain, stacked,
};
use crate::on_cpu::sample;
use crate::switch::{copy, identify, park, ready, run};
use crate::walk::walk;

/// Memory in which every word is some number that depends on its address alone; some can't be read.
struct Noise {
    seed: u64,
    /// Bits of the numbers: the fewer, the more often they are addresses of each other.
    bits: u32,
}

impl Noise {
    fn word(&self, address: u64) -> Result<u64, Fault> {
        let mut word = (address ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word ^= word >> 29;
        word = word.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word ^= word >> 32;
        // One in sixteen can't be read, one in sixteen is zero.
        match word & 15 {
            0 => Err(Fault),
            1 => Ok(0),
            _ => Ok(word >> 4 << 3 & u64::MAX >> (64 - self.bits)),
        }
    }
}

impl Memory for Noise {
    fn repeat<S: Step>(times: u32, state: &mut S) {
        for _ in 0..times {
            if !state.step() {
                break;
            }
        }
    }
    fn read_u64(&self, address: u64) -> Result<u64, Fault> {
        self.word(address)
    }
    fn read_u32(&self, address: u64) -> Result<u32, Fault> {
        self.word(address).map(|word| word as u32)
    }
    fn read_pair(&self, address: u64) -> Result<[u64; 2], Fault> {
        Ok([self.word(address)?, self.word(address.wrapping_add(8))?])
    }
    fn read_four(&self, address: u64) -> Result<[u64; 4], Fault> {
        let word = |i: u64| self.word(address.wrapping_add(8 * i));
        Ok([word(0)?, word(1)?, word(2)?, word(3)?])
    }
    fn read_u8(&self, address: u64) -> Result<u8, Fault> {
        self.word(address).map(|word| word as u8)
    }
    fn read_text(&self, address: u64, len: u64, into: &mut [u8; MAX_TEXT]) -> Result<u32, Fault> {
        let word = self.word(address)?;
        let len = usize::try_from(len).unwrap_or(MAX_TEXT).min(MAX_TEXT);
        into[..len].fill(word as u8);
        Ok(len as u32)
    }
}

/// A record or a configuration of any bytes.
fn any_record<T: Pod + std::fmt::Debug>() -> impl Strategy<Value = T> {
    prop::collection::vec(any::<u8>(), size_of::<T>()).prop_map(|bytes| pod_read_unaligned(&bytes))
}

fn registers() -> impl Strategy<Value = Registers> {
    let near_the_ends =
        prop_oneof![0..4096_u64, any::<u64>(), (0..4096_u64).prop_map(|back| u64::MAX - back)];
    prop::collection::vec(near_the_ends, 10).prop_map(|words| Registers {
        args: [words[0], words[1], words[2], words[3], words[4]],
        g: words[5],
        pc: words[6],
        sp: words[7],
        bp: words[8] & !7,
        lr: words[9] & 1,
    })
}

fn check(frames: &Frames) {
    assert!(frames.len as usize <= MAX_FRAMES && frames.user_from <= frames.len, "{frames:?}");
}

proptest! {
    #[test]
    fn whatever_memory_says_a_record_is_in_its_bounds(
        seed in any::<u64>(),
        bits in 8..=64_u32,
        registers in registers(),
        config in any_record::<ProcConfig>(),
        probe in 0..40_u8,
        // Records are reused: they hold what the last one left.
        mut a_plain in any_record::<PlainEvent>(),
        mut a_stack in any_record::<StackEvent>(),
        mut a_crash in any_record::<CrashEvent>(),
        mut a_switch_stack in any_record::<SwitchStack>(),
    ) {
        let memory = Noise { seed, bits };
        let found = current(&registers, 42, &config, &memory);
        for current in [found, Current { g: registers.args[0], goid: 7, flags: probe }] {
            let mut frames = Frames::zeroed();
            walk(&registers, &current, &config, &memory, &mut frames);
            check(&frames);
            plain(probe, &registers, &config, &memory, &mut a_plain);
            lifetime(current.g, &config, &memory, probe & 1 == 0, &mut a_plain);
            stacked(probe, &registers, &current, &config, &memory, &mut a_stack);
            check(&a_stack.frames);
            crash(probe, &registers, &current, &config, &memory, &mut a_crash);
            check(&a_crash.frames);
            prop_assert!(a_crash.text_captured as usize <= MAX_TEXT);
        }
        for m in [0, registers.args[1]] {
            sample(m, &registers, probe & 1 == 0, &config, &memory, &mut a_stack);
            check(&a_stack.frames);
        }
        if let Ok(park) = park(seed, &config, &memory) {
            let stack = identify(&park, 0, &memory);
            prop_assert_eq!(stack.id, identify(&park, 0, &memory).id, "the same stack has the same id");
            copy(&park, &memory, &mut a_switch_stack);
            prop_assert!(a_switch_stack.len as usize <= MAX_SWITCH_FRAMES);
        }
        let _ = ready(registers.args[0], registers.g, &config, &memory);
        let _ = run(registers.args[0], &registers, &config, &memory);
        // A record is of one kind.
        prop_assert!(!(is_crash(probe) && is_stacked(probe)));
    }

    #[test]
    fn records_cross_the_border_as_they_are(
        header in any_record::<EventHeader>(),
        a_plain in any_record::<PlainEvent>(),
        a_stack in any_record::<StackEvent>(),
        a_crash in any_record::<CrashEvent>(),
        config in any_record::<ProcConfig>(),
        counters in any_record::<ProbeCounters>(),
        a_switch in any_record::<SwitchEvent>(),
    ) {
        prop_assert_eq!(pod_read_unaligned::<SwitchEvent>(bytes_of(&a_switch)), a_switch);
        prop_assert_eq!(pod_read_unaligned::<PlainEvent>(bytes_of(&a_plain)), a_plain);
        prop_assert_eq!(pod_read_unaligned::<StackEvent>(bytes_of(&a_stack)), a_stack);
        prop_assert_eq!(pod_read_unaligned::<CrashEvent>(bytes_of(&a_crash)), a_crash);
        prop_assert_eq!(pod_read_unaligned::<ProcConfig>(bytes_of(&config)), config);
        prop_assert_eq!(pod_read_unaligned::<ProbeCounters>(bytes_of(&counters)), counters);
        // Every record begins with the header, little-endian, field by field.
        for bytes in [
            bytes_of(&PlainEvent { header, ..a_plain }),
            bytes_of(&StackEvent { header, ..a_stack }),
            bytes_of(&CrashEvent { header, ..a_crash }),
        ] {
            prop_assert_eq!(&bytes[..8], &header.time_ns.to_le_bytes());
            prop_assert_eq!(&bytes[8..16], &header.goid.to_le_bytes());
            prop_assert_eq!(&bytes[16..20], &header.tgid.to_le_bytes());
            prop_assert_eq!(&bytes[24..28], &header.sequence.to_le_bytes());
            prop_assert_eq!(&bytes[28..32], &[header.cpu.to_le_bytes()[0], header.cpu.to_le_bytes()[1], header.probe, header.flags]);
        }
        if let Some(probe) = Probe::from_wire(header.probe) {
            prop_assert_eq!(probe as u8, header.probe);
        }
    }
}
