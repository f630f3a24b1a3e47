//! Instructions of x86-64 as [`super::flow`] follows them. What is not listed makes values that are not known.

use iced_x86::{
    Code as Opcode, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic,
    OpAccess, OpKind, Register,
};

use super::Code;
use super::flow::{Next, Op, Registers, Step};

/// Go's `ABIInternal` (cmd/compile/abi-internal.md): the first argument and result is RAX; a call keeps RBP, the frame
/// pointer, and R14, the g.
const REGISTERS: Registers = Registers { stack: 4, first: 0, kept: &[5, 14] };

pub(super) fn amd64(code: Code<'_>) -> (Vec<Step>, Registers) {
    let mut decoder = Decoder::with_ip(64, code.bytes, code.address, DecoderOptions::NONE);
    let mut factory = InstructionInfoFactory::new();
    let mut instruction = Instruction::default();
    let mut steps = Vec::new();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        let next = match instruction.flow_control() {
            _ if instruction.is_invalid() => Next::Ends { returns: false },
            FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall => Next::Behind,
            FlowControl::ConditionalBranch => Next::Jump(instruction.near_branch_target(), true),
            FlowControl::UnconditionalBranch => Next::Jump(instruction.near_branch_target(), false),
            FlowControl::Return => Next::Ends { returns: true },
            _ => Next::Ends { returns: false },
        };
        let ops = if instruction.is_invalid() { Vec::new() } else { ops(&mut factory, &instruction) };
        steps.push(Step { address: instruction.ip(), len: instruction.len() as u64, ops, next });
    }
    (steps, REGISTERS)
}

/// The number of a general register, by any of its parts.
fn number(register: Register) -> Option<u8> {
    let full = register.full_register();
    full.is_gpr64().then(|| full.number() as u8)
}

/// A place in memory that one register and a constant lead to.
fn place(instruction: &Instruction) -> Option<(u8, u64)> {
    let is_simple = instruction.memory_index() == Register::None
        && instruction.segment_prefix() == Register::None
        && instruction.memory_base() != Register::RIP;
    let base = number(instruction.memory_base()).filter(|_| is_simple)?;
    Some((base, instruction.memory_displacement64()))
}

fn ops(factory: &mut InstructionInfoFactory, instruction: &Instruction) -> Vec<Op> {
    const STACK: u8 = REGISTERS.stack;
    let (to, from) = (number(instruction.op0_register()), number(instruction.op1_register()));
    match (instruction.code(), to) {
        (Opcode::Mov_r64_rm64 | Opcode::Mov_rm64_r64, Some(to))
            if instruction.op0_kind() == OpKind::Register =>
        {
            if let (OpKind::Register, Some(from)) = (instruction.op1_kind(), from) {
                return vec![Op::Copy { to, from, plus: 0 }];
            }
            if let (OpKind::Memory, Some((base, plus))) = (instruction.op1_kind(), place(instruction)) {
                return vec![Op::Load { to, base, plus }];
            }
        }
        (Opcode::Lea_r64_m, Some(to)) if instruction.memory_base() == Register::RIP => {
            return vec![Op::Address { to, at: instruction.memory_displacement64() }];
        }
        (Opcode::Lea_r64_m, Some(to)) => {
            if let Some((from, plus)) = place(instruction) {
                return vec![Op::Copy { to, from, plus }];
            }
        }
        (Opcode::Add_rm64_imm8 | Opcode::Add_rm64_imm32, Some(to))
            if instruction.op0_kind() == OpKind::Register =>
        {
            return vec![Op::Copy { to, from: to, plus: instruction.immediate(1) }];
        }
        (Opcode::Sub_rm64_imm8 | Opcode::Sub_rm64_imm32, Some(to))
            if instruction.op0_kind() == OpKind::Register =>
        {
            return vec![Op::Copy { to, from: to, plus: instruction.immediate(1).wrapping_neg() }];
        }
        (Opcode::Push_r64, Some(from)) => {
            return vec![
                Op::Copy { to: STACK, from: STACK, plus: 8_u64.wrapping_neg() },
                Op::Store { base: STACK, plus: 0, size: 8, from: Some(from) },
            ];
        }
        (Opcode::Pop_r64, Some(to)) => {
            return vec![Op::Load { to, base: STACK, plus: 0 }, Op::Copy { to: STACK, from: STACK, plus: 8 }];
        }
        _ => {}
    }
    if instruction.is_call_near() {
        return vec![Op::Call(Some(instruction.near_branch_target()))];
    }
    if matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall) {
        return vec![Op::Call(None)];
    }
    others(factory, instruction)
}

/// Whatever else it is: what it writes is not known any more.
fn others(factory: &mut InstructionInfoFactory, instruction: &Instruction) -> Vec<Op> {
    let writes = |access: OpAccess| {
        matches!(
            access,
            OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
        )
    };
    let mut ops = Vec::new();
    let info = factory.info(instruction);
    for used in info.used_memory().iter().filter(|used| writes(used.access())) {
        let size = used.memory_size().size() as u64;
        let is_plain = instruction.mnemonic() == Mnemonic::Mov
            && size == 8
            && instruction.op1_kind() == OpKind::Register;
        let from = number(instruction.op1_register()).filter(|_| is_plain);
        match place(instruction) {
            // A lock is a word of 32 bits in it.
            Some((base, plus)) if instruction.has_lock_prefix() && size == 4 => {
                ops.push(Op::Atomic { base, plus });
                ops.push(Op::Store { base, plus, size, from: None });
            }
            Some((base, plus)) if size != 0 => ops.push(Op::Store { base, plus, size, from }),
            // In the image.
            None if instruction.memory_base() == Register::RIP => {}
            _ => ops.push(Op::StoreAnywhere),
        }
    }
    for used in info.used_registers().iter().filter(|used| writes(used.access())) {
        if let Some(to) = number(used.register()) {
            ops.push(Op::Make { to });
        }
    }
    ops
}
