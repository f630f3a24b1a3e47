//! What must hold of what the decoders say, whatever the bytes: shared by the fuzz targets and the tests.

use std::collections::BTreeMap;

use iced_x86::{Decoder, DecoderOptions};

use super::super::image::Architecture;
use super::{Call, Callee, Code, Followed, Spot};

/// Instructions by address with their length, decoded one after the other from the begin up to the first that is
/// none.
fn boundaries(code: Code<'_>) -> BTreeMap<u64, usize> {
    let mut found = BTreeMap::new();
    match code.architecture {
        Architecture::Amd64 => {
            let mut decoder = Decoder::with_ip(64, code.bytes, code.address, DecoderOptions::NONE);
            while decoder.can_decode() {
                let instruction = decoder.decode();
                if instruction.is_invalid() {
                    break;
                }
                found.insert(instruction.ip(), instruction.len());
            }
        }
        Architecture::Arm64 => {
            for at in (0..code.bytes.len() / 4 * 4).step_by(4) {
                found.insert(code.address.wrapping_add(at as u64), 4);
            }
        }
    }
    found
}

/// Addresses that the code calls or jumps to, as its bytes look, and one that it does not.
fn targets(code: Code<'_>) -> Vec<u64> {
    let mut targets = vec![code.address.wrapping_sub(0x1000)];
    for (at, window) in code.bytes.windows(5).enumerate() {
        if targets.len() > 4 {
            break;
        }
        let &[first, a, b, c, d] = window else { continue };
        let address = code.address.wrapping_add(at as u64);
        match code.architecture {
            Architecture::Amd64 if matches!(first, 0xe8 | 0xe9) => {
                let distance = i64::from(i32::from_le_bytes([a, b, c, d]));
                targets.push(address.wrapping_add(5).wrapping_add_signed(distance));
            }
            Architecture::Arm64 if at % 4 == 0 && matches!(c & 0xfc, 0x14 | 0x94) => {
                let distance = i64::from(i32::from_le_bytes([first, a, b, c]) << 6 >> 4);
                targets.push(address.wrapping_add_signed(distance));
            }
            _ => {}
        }
    }
    targets
}

/// Runs every decoder over some bytes (SAFE-2): a place for a probe is an instruction of the function.
///
/// # Panics
/// If it is not.
pub(crate) fn code_holds(bytes: &[u8], address: u64, architecture: Architecture) {
    let code = Code { bytes, address, architecture };
    let boundaries = boundaries(code);
    let targets = targets(code);
    let at_instruction = |spot: &Spot| {
        assert_eq!(boundaries.get(&spot.address), Some(&spot.len), "{spot:x?} is no instruction");
        let registers = if architecture == Architecture::Amd64 { 16 } else { 32 };
        assert!(spot.register < registers, "{spot:x?}");
    };
    let inside = |at: u64| assert!(at.wrapping_sub(address) < bytes.len() as u64, "{at:#x} is outside");
    if let Ok(spot) = code.entry() {
        at_instruction(&spot);
    }
    for offset in [0, 8, 16, 40] {
        if let Ok(spot) = code.gogo(offset) {
            at_instruction(&spot);
        }
    }
    for target in &targets {
        code.behind_calls(*target).iter().flatten().for_each(at_instruction);
        for argument in [0, 1, 7, 99] {
            code.at_calls(*target, argument).iter().for_each(at_instruction);
        }
    }
    for Call { address, target, .. } in code.calls(&targets) {
        inside(address);
        assert!(targets.contains(&target));
        assert!(code.may_call(&targets), "a call that may not be: {address:#x} to {target:#x}");
    }
    for at in code.returns() {
        assert!(boundaries.contains_key(&at), "{at:#x} is no instruction");
    }
    let callees = [
        Callee::Takes,
        Callee::TakesSlowly { argument: 12, atomic: 16 },
        Callee::Gives,
        Callee::GivesSlowly { argument: 0, atomic: 0 },
        Callee::MayGive,
    ];
    let callee = |target: u64| callees.get(target as usize % 7).copied();
    if let Ok(followed) = Followed::new(code, callee, |at| at % 2 == 0) {
        followed.gives();
        boundaries.keys().for_each(|at| drop(followed.at(*at)));
    }
    let references = code.references();
    code.shape(&[(references.first().copied().unwrap_or(0), 64), (u64::MAX - 8, 64)]);
}
