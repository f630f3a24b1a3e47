//! What must hold of each parser whatever it is given: one function for each fuzz target. The targets below
//! `fuzz/` and the tests below `tests/` run the same ones.
//!
//! Each ends with a result or an error in words. It panics where a parser does, and where what a parser says
//! can't be.

mod core_file;
mod dwarf;
mod memory;
mod overlay;
mod random;
mod text;

use std::hint::black_box;
use std::sync::Arc;

use tracer_ebpf::{MAX_FRAMES, MAX_SWITCH_FRAMES, MAX_TEXT, TIER_T1, TIER_T2, TIER_T3};

use crate::binary::layout::{Layout, from_dwarf};
use crate::binary::{Architecture, GoBinary, GoVersion, Image, Program, code_holds};
use crate::model::{CrashText, EventKind, SwitchKind};
use crate::record;

pub use core_file::{core_base, core_file};
pub use dwarf::dwarf_only;
pub use memory::{Honest, memory, memory_input};
pub use overlay::{Base, overlay, overlay_input};
pub use random::Random;
pub use text::proc_text;

/// Functions of a program that are looked at one by one.
const SAMPLE: usize = 48;

/// Every refusal says why.
fn said(error: &impl ToString) {
    assert!(!error.to_string().trim().is_empty(), "a refusal without words");
}

/// Reads a program as far as it goes: functions, names, frames, calls, layout, globals, probe sites. Returns
/// whether all of it was understood.
pub fn program(bytes: Arc<[u8]>) -> bool {
    let program = match Program::parse(bytes) {
        Ok(program) => program,
        Err(error) => {
            said(&error);
            return false;
        }
    };
    let (image, symbols) = (program.image(), program.symbols());
    let functions = symbols.functions();
    for function in functions.iter().step_by((functions.len() / SAMPLE).max(1)) {
        for address in [function.entry, function.entry + 1, function.end.wrapping_sub(1)] {
            for exact in [true, false] {
                let frames = symbols.frames(image, address, exact);
                assert!(frames.len() <= 65 && frames.last().is_none_or(|outermost| !outermost.inlined));
            }
            black_box(symbols.frame_size(image, address));
        }
        black_box(symbols.name(image, *function));
        black_box(symbols.is_top(image, *function));
        black_box(symbols.inlined_into(image, *function));
    }
    for pair in functions.windows(2) {
        assert!(pair[0].entry <= pair[1].entry && pair[0].end <= pair[1].entry, "functions out of order");
    }
    assert!(symbols.at(u64::MAX).is_none_or(|function| function.end == u64::MAX));
    for itab in program.itabs() {
        assert!(image.read(itab.address, 16).is_some(), "a method table outside of the file");
    }
    for call in program.hazards().sites {
        assert!(image.read(call.address, 1).is_some(), "a call outside of the file");
    }
    for segment in image.segments() {
        black_box(image.load_bias(0x5555_0000_0000, segment.offset));
        black_box(image.file_offset(segment.address));
        black_box(image.is_executable(segment.address.wrapping_add(segment.memory_size)));
        black_box(image.read_go_string(segment.address, 64));
    }
    match program.understand(|_| None) {
        Ok(binary) => {
            understood(&binary);
            true
        }
        Err(refused) => {
            said(&refused.1);
            false
        }
    }
}

/// What follows once the layout and the globals are known.
fn understood(binary: &GoBinary) {
    let image = binary.image();
    let plan = binary.plan(TIER_T1 | TIER_T2 | TIER_T3);
    for site in &plan.sites {
        let offset = usize::try_from(site.file_offset).unwrap_or(usize::MAX);
        let end = offset.saturating_add(site.bytes.len());
        assert_eq!(image.bytes().get(offset..end), Some(&*site.bytes), "{site:?}");
        let function = binary.symbols().at(site.address);
        assert!(function.is_some_and(|f| f.entry == site.entry), "a site outside of its function: {site:?}");
        assert!(
            site.address - site.entry + site.bytes.len() as u64 <= function.map_or(0, |f| f.end - f.entry)
        );
        assert!(site.register < 32, "{site:?}");
    }
    assert!(plan.unavailable.iter().all(|lost| !lost.why.is_empty()));
    let functions = binary.symbols().functions();
    for function in functions.iter().step_by((functions.len() / SAMPLE).max(1)) {
        for address in binary.returns(*function) {
            assert!((function.entry..function.end).contains(&address));
        }
        black_box(binary.function_name(function.end));
        black_box(binary.type_name(function.entry));
    }
    let (text, etext) = binary.text();
    for (_, address) in binary.globals().named() {
        black_box(binary.type_name(address));
    }
    black_box(binary.type_name(text));
    black_box(binary.type_name(etext));
    black_box(binary.witnesses());
    layout(binary.layout());
}

/// A layout's offsets can be used to read structures into memory.
fn layout(layout: &Layout) {
    assert!(layout.g.size > 0 && layout.g.size <= 1 << 16, "a g of {} bytes", layout.g.size);
    for (key, offset) in layout.to_offsets() {
        assert!(offset <= 1 << 20, "{key} at {offset}");
    }
    assert!(layout.wait_reasons.len() <= 255 && layout.wait_reasons.iter().all(|text| text.len() <= 256));
}

/// Reads the layout from DWARF; returns whether it was found.
pub fn layout_dwarf(bytes: &[u8]) -> bool {
    match from_dwarf(bytes) {
        Ok(found) => {
            layout(&found);
            true
        }
        Err(error) => {
            said(&error);
            false
        }
    }
}

/// Reads what the linker recorded of a build; returns whether it did.
pub fn build_info(bytes: &[u8]) -> bool {
    match GoBinary::read_build(bytes) {
        Ok(build) => {
            assert_eq!(build.version.to_string(), build.version.raw);
            black_box(build.mode());
            true
        }
        Err(error) => {
            said(&error);
            false
        }
    }
}

/// Reads a version.
pub fn version(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match GoVersion::parse(&text) {
        Ok(version) => {
            assert_eq!(version.to_string(), text.trim());
            assert_eq!(GoVersion::parse(&version.to_string()), Ok(version.clone()));
            assert_eq!(version.cmp(&version), std::cmp::Ordering::Equal);
            assert!(!version.raw.chars().any(char::is_control));
            black_box(version.is_release());
            black_box(crate::binary::toolchain_hazards(&version));
            if let Err(error) = crate::binary::layout::from_table(&version, "amd64") {
                said(&error);
            }
        }
        Err(error) => said(&error),
    }
}

/// Decodes machine code: the first byte chooses the architecture and, with the next seven, the address.
pub fn machine_code(bytes: &[u8]) {
    let Some((head, code)) = bytes.split_first_chunk::<8>() else { return };
    let word = u64::from_le_bytes(*head);
    let architecture = if word & 1 == 0 { Architecture::Amd64 } else { Architecture::Arm64 };
    // Near the begin of the address space, in its middle, or against its end.
    let address = match word >> 1 & 3 {
        0 => word >> 40 & !3,
        1 => 0x40_0000 + (word >> 24 & !3),
        2 => word & !3,
        _ => (!3_u64).wrapping_sub(code.len() as u64 & !3),
    };
    code_holds(code, address, architecture);
}

/// Decodes a record of the ring: the first eight bytes are the load bias.
pub fn events(bytes: &[u8]) {
    let Some((bias, bytes)) = bytes.split_first_chunk::<8>() else { return };
    if let Some(decoded) = record::decode_sample(bytes, u64::from_le_bytes(*bias)) {
        assert!(decoded.sample.user_from <= decoded.sample.pcs.len());
        assert_ne!(decoded.sample.goid, Some(0));
        let _ = (decoded.cpu, decoded.sequence);
    }
    if let Some(switch) = record::decode_switch(bytes, u64::from_le_bytes(*bias)) {
        assert_eq!(switch.probe.tier(), TIER_T3);
        if let SwitchKind::Stack { pcs, .. } = &switch.event.kind {
            assert!(pcs.len() <= MAX_SWITCH_FRAMES);
        }
    }
    let Some(decoded) = record::decode(bytes, u64::from_le_bytes(*bias)) else { return };
    assert_ne!(decoded.event.goid, Some(0));
    let stack = match &decoded.event.kind {
        EventKind::StwStop { caller, .. }
        | EventKind::Procresize { caller, .. }
        | EventKind::ForcedGc { caller }
        | EventKind::SetGcPercent { caller, .. } => Some(caller),
        EventKind::Crash(crash) => {
            if let CrashText::Captured { bytes, .. } = &crash.text {
                assert!(!bytes.is_empty() && bytes.len() <= MAX_TEXT);
            }
            Some(&crash.stack)
        }
        _ => None,
    };
    if let Some(stack) = stack {
        assert!(stack.pcs.len() <= MAX_FRAMES && stack.user_from <= stack.pcs.len());
    }
    assert!(u32::from(decoded.probe as u8) < tracer_ebpf::MAX_PROBES);
    let _ = (decoded.cpu, decoded.sequence, decoded.procid_matches);
}

/// Reads the headers of an ELF file alone.
pub fn image(bytes: Arc<[u8]>) {
    match Image::parse(bytes) {
        Ok(image) => assert!(image.gnu_build_id().is_none_or(|id| id.len() <= 128)),
        Err(error) => said(&error),
    }
}
