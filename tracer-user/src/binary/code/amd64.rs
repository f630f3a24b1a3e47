//! x86-64.

use iced_x86::{
    Code as Opcode, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic,
    OpAccess, OpKind, Register,
};

use super::{Call, Code, Cost, MAX_REFERENCES, MAX_SPOTS, Shape, Spot};

/// Integer argument and result registers of Go's `ABIInternal`, in order (cmd/compile/abi-internal.md).
const ARGUMENTS: [Register; 5] = [Register::RAX, Register::RBX, Register::RCX, Register::RDI, Register::RSI];

/// Instructions of a prologue that are looked at.
const PROLOGUE: usize = 7;
/// How far behind a call a place is looked for.
const BEHIND_CALL: usize = 24;

fn decoder(code: Code<'_>) -> Decoder<'_> {
    Decoder::with_ip(64, code.bytes, code.address, DecoderOptions::NONE)
}

/// A register's number is below 16.
const fn number(register: u8) -> u8 {
    register & 15
}

fn spot(instruction: &Instruction, cost: Cost, register: Register) -> Spot {
    let register = if register == Register::None { 0 } else { number(register.number() as u8) };
    Spot { address: instruction.ip(), len: instruction.len(), cost, register, stack_check: false }
}

pub(super) fn entry(code: Code<'_>) -> Result<Spot, String> {
    // The prologue (cmd/internal/obj/x86/obj6.go, `preprocess` and `stacksplit`): optional `lea -X(%rsp),%r12`
    // or `mov %rsp,%r12; sub; jb` for large frames, `cmp 0x10(%r14)`, `jbe`, then, from Go 1.21 on, `push %rbp`.
    let mut decoder = decoder(code);
    let mut check = None;
    let mut first = None;
    for _ in 0..PROLOGUE {
        if !decoder.can_decode() {
            break;
        }
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            return Err(format!("its code can't be decoded at {:#x}", instruction.ip()));
        }
        first.get_or_insert(instruction);
        match instruction.code() {
            Opcode::Push_r64 if instruction.op0_register() == Register::RBP => {
                return Ok(spot(&instruction, Cost::Emulated, Register::None));
            }
            Opcode::Jbe_rel8_64 | Opcode::Jbe_rel32_64 => check = Some(instruction),
            Opcode::Jb_rel8_64 | Opcode::Jb_rel32_64 => {}
            _ => match instruction.mnemonic() {
                Mnemonic::Cmp => {}
                Mnemonic::Lea | Mnemonic::Mov | Mnemonic::Sub
                    if instruction.op0_register() == Register::R12 && check.is_none() => {}
                _ => break,
            },
        }
    }
    match (check, first) {
        (Some(jump), _) => Ok(Spot { stack_check: true, ..spot(&jump, Cost::Emulated, Register::None) }),
        (None, Some(first)) => Ok(spot(&first, Cost::Stepped, Register::None)),
        (None, None) => Err("it has no code".to_owned()),
    }
}

pub(super) fn behind_calls(code: Code<'_>, callee: u64) -> Vec<Result<Spot, String>> {
    let jump_targets = jump_targets(code);
    let mut decoder = decoder(code);
    let mut spots = Vec::new();
    let mut factory = InstructionInfoFactory::new();
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            break;
        }
        if !(instruction.is_call_near() && instruction.near_branch_target() == callee) {
            continue;
        }
        let mut holders = vec![ARGUMENTS[0]];
        let mut found = Err("no emulated instruction follows while the result is in a register".to_owned());
        for steps in 0..BEHIND_CALL {
            if !decoder.can_decode() {
                break;
            }
            decoder.decode_out(&mut instruction);
            // Only the call leads to it, and a plain move can be stepped wherever it is.
            let jumped_to =
                || code.index(instruction.ip()).and_then(|at| jump_targets.get(at)) == Some(&true);
            if steps == 0 && is_move(&instruction) && !jumped_to() {
                found = Ok(spot(&instruction, Cost::Stepped, ARGUMENTS[0]));
            }
            // Behind what can't be decoded nothing is certain to be the begin of an instruction (SAFE-2).
            if instruction.is_invalid() {
                break;
            }
            let Some(holder) = holders.first() else { break };
            if is_emulated(&instruction) {
                found = Ok(spot(&instruction, Cost::Emulated, *holder));
                break;
            }
            if instruction.flow_control() != FlowControl::Next {
                break;
            }
            follow(&mut factory, &instruction, &mut holders);
        }
        spots.push(found);
        if instruction.is_invalid() || spots.len() == MAX_SPOTS {
            break;
        }
    }
    spots
}

pub(super) fn at_calls(code: Code<'_>, callee: u64, argument: usize) -> Vec<Spot> {
    let Some(register) = ARGUMENTS.get(argument) else { return Vec::new() };
    let mut spots = Vec::new();
    each(code, |instruction| {
        if instruction.is_call_near() && instruction.near_branch_target() == callee && spots.len() < MAX_SPOTS
        {
            spots.push(spot(instruction, Cost::Emulated, *register));
        }
    });
    spots
}

pub(super) fn gogo(code: Code<'_>, g_offset: u32) -> Result<Spot, String> {
    // `MOVQ buf+0(FP), BX; MOVQ gobuf_g(BX), DX; ...; JMP gogo<>(SB)` (runtime/asm_amd64.s, Go 1.17 on).
    let mut decoder = decoder(code);
    let mut holder = None;
    for _ in 0..PROLOGUE {
        if !decoder.can_decode() {
            break;
        }
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            break;
        }
        if instruction.code() == Opcode::Mov_r64_rm64
            && instruction.op1_kind() == OpKind::Memory
            && instruction.memory_displacement64() == u64::from(g_offset)
            && instruction.memory_base() == Register::RBX
        {
            holder = Some(instruction.op0_register());
        } else if let (true, Some(holder)) = (instruction.is_jmp_short_or_near(), holder) {
            return Ok(spot(&instruction, Cost::Emulated, holder));
        }
    }
    Err("its code is not the one that is known".to_owned())
}

pub(super) fn references(code: Code<'_>) -> Vec<u64> {
    let mut found = Vec::new();
    each(code, |instruction| {
        if found.len() == MAX_REFERENCES {
            return;
        }
        let relative = (0..instruction.op_count()).any(|i| instruction.op_kind(i) == OpKind::Memory)
            && instruction.memory_base() == Register::RIP;
        let address = instruction.memory_displacement64();
        if relative && !found.contains(&address) {
            found.push(address);
        }
    });
    found
}

/// Whether `e8 rel32` (or `e9`, a call in the last place) to a target occurs at any byte, boundary or not.
pub(super) fn may_call(code: Code<'_>, targets: &[u64]) -> bool {
    code.bytes.windows(5).enumerate().any(|(at, window)| {
        let &[0xe8 | 0xe9, a, b, c, d] = window else { return false };
        let next = code.address.wrapping_add(at as u64 + 5);
        let target = next.wrapping_add_signed(i64::from(i32::from_le_bytes([a, b, c, d])));
        targets.contains(&target)
    })
}

pub(super) fn calls(code: Code<'_>, targets: &[u64]) -> Vec<Call> {
    let jump_targets = jump_targets(code);
    let mut decoder = decoder(code);
    let mut factory = InstructionInfoFactory::new();
    let mut instruction = Instruction::default();
    let mut argument = None;
    let mut found = Vec::new();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            // Padding and data behind the last instruction.
            argument = None;
            continue;
        }
        if code.index(instruction.ip()).and_then(|at| jump_targets.get(at)) == Some(&true) {
            argument = None;
        }
        if instruction.is_call_near() || instruction.is_jmp_short_or_near() {
            let target = instruction.near_branch_target();
            if targets.contains(&target) && found.len() < MAX_SPOTS {
                found.push(Call { address: instruction.ip(), target, argument });
            }
            argument = None;
        } else if !matches!(instruction.flow_control(), FlowControl::Next | FlowControl::ConditionalBranch) {
            // An indirect call may write it; what follows a return or an indirect jump is reached from elsewhere.
            argument = None;
        } else if let Some(constant) = constant_in_first_argument(&instruction) {
            argument = Some(constant);
        } else if writes_first_argument(&mut factory, &instruction) {
            argument = None;
        }
    }
    found
}

pub(super) fn returns(code: Code<'_>) -> Vec<u64> {
    let mut found = Vec::new();
    each(code, |instruction| {
        if instruction.flow_control() == FlowControl::Return {
            found.push(instruction.ip());
        }
    });
    found
}

pub(super) fn shape(code: Code<'_>, shape: &mut Shape<'_>) {
    each(code, |instruction| {
        // Padding behind the last instruction.
        if instruction.mnemonic() == Mnemonic::Int3 {
            return;
        }
        shape.feed(instruction.code() as u64);
        for operand in 0..instruction.op_count() {
            match instruction.op_kind(operand) {
                OpKind::Register => shape.feed(instruction.op_register(operand) as u64),
                OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                    shape.feed_branch(code, instruction.near_branch_target());
                }
                OpKind::Memory => {
                    let (base, index) = (instruction.memory_base(), instruction.memory_index());
                    shape.feed(base as u64);
                    shape.feed(index as u64);
                    shape.feed(u64::from(instruction.memory_index_scale()));
                    if base == Register::RIP {
                        shape.feed_data(instruction.memory_displacement64());
                    } else {
                        shape.feed(instruction.memory_displacement64());
                    }
                }
                _ => shape.feed(instruction.try_immediate(operand).unwrap_or(0)),
            }
        }
    });
}

/// Visits each instruction until one that can't be decoded.
fn each(code: Code<'_>, mut visit: impl FnMut(&Instruction)) {
    let mut decoder = decoder(code);
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            break;
        }
        visit(&instruction);
    }
}

/// Instructions that the kernel emulates for uprobes (arch/x86/kernel/uprobes.c, `branch_setup_xol_ops` and
/// `push_setup_xol_ops`): relative calls and jumps, conditional jumps, `nop`, one-register pushes.
fn is_emulated(instruction: &Instruction) -> bool {
    instruction.is_call_near()
        || instruction.is_jcc_short_or_near()
        || instruction.is_jmp_short_or_near()
        || matches!(instruction.code(), Opcode::Nopd | Opcode::Push_r64)
}

/// A move between general registers, or one and memory.
fn is_move(instruction: &Instruction) -> bool {
    matches!(instruction.code(), Opcode::Mov_r64_rm64 | Opcode::Mov_rm64_r64)
}

/// Keeps the list of registers that hold the value up to date over one instruction.
fn follow(factory: &mut InstructionInfoFactory, instruction: &Instruction, holders: &mut Vec<Register>) {
    let copies_to = is_move(instruction)
        && instruction.op0_kind() == OpKind::Register
        && instruction.op1_kind() == OpKind::Register
        && holders.contains(&instruction.op1_register());
    let info = factory.info(instruction);
    for used in info.used_registers() {
        let writes = !matches!(
            used.access(),
            OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess
        );
        if writes {
            holders.retain(|holder| *holder != used.register().full_register());
        }
    }
    if copies_to {
        holders.push(instruction.op0_register());
    }
}

/// For each byte of the code whether something in it jumps there: as large as the code, whatever is in it.
fn jump_targets(code: Code<'_>) -> Vec<bool> {
    let mut decoder = decoder(code);
    let mut instruction = Instruction::default();
    let mut targets = vec![false; code.bytes.len()];
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        if (instruction.is_jcc_short_or_near() || instruction.is_jmp_short_or_near())
            && let Some(target) = code.index(instruction.near_branch_target())
            && let Some(slot) = targets.get_mut(target)
        {
            *slot = true;
        }
    }
    targets
}

fn constant_in_first_argument(instruction: &Instruction) -> Option<i64> {
    let into_rax = matches!(instruction.op0_register(), Register::EAX | Register::RAX);
    match instruction.code() {
        Opcode::Mov_r32_imm32 if into_rax => Some(i64::from(instruction.immediate32())),
        Opcode::Mov_rm64_imm32 | Opcode::Mov_r64_imm64
            if into_rax && instruction.op0_kind() == OpKind::Register =>
        {
            Some(instruction.immediate(1) as i64)
        }
        _ if instruction.mnemonic() == Mnemonic::Xor
            && into_rax
            && instruction.op1_kind() == OpKind::Register
            && instruction.op0_register() == instruction.op1_register() =>
        {
            Some(0)
        }
        _ => None,
    }
}

fn writes_first_argument(factory: &mut InstructionInfoFactory, instruction: &Instruction) -> bool {
    factory.info(instruction).used_registers().iter().any(|used| {
        used.register().full_register() == Register::RAX
            && matches!(
                used.access(),
                OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
            )
    })
}
