//! 64-bit Arm: instructions are words of four bytes; encodings as in the Arm Architecture Reference Manual
//! for A-profile, C4.1.

use super::{Call, Code, Cost, MAX_REFERENCES, MAX_SPOTS, Shape, Spot};

/// Words of a prologue that are looked at.
const PROLOGUE: usize = 8;
/// How far behind a call a place is looked for.
const BEHIND_CALL: usize = 32;
/// The register that is zero or the stack pointer.
const ZERO: u8 = 31;
/// The g of the current stack (cmd/compile/abi-internal.md).
const G: u8 = 28;

/// One instruction word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word {
    address: u64,
    bits: u32,
}

fn words(code: Code<'_>) -> impl Iterator<Item = Word> + '_ {
    // Wraps: code may end with the address space.
    code.bytes.as_chunks::<4>().0.iter().zip(0_u64..).map(move |(bytes, index)| Word {
        address: code.address.wrapping_add(index * 4),
        bits: u32::from_le_bytes(*bytes),
    })
}

/// The low `width` bits of a value as a signed number.
const fn signed(value: u32, width: u32) -> i64 {
    ((value << (32 - width)) as i32 >> (32 - width)) as i64
}

impl Word {
    const fn field(self, low: u32, width: u32) -> u32 {
        (self.bits >> low) & ((1 << width) - 1)
    }

    /// Destination, or the register that is loaded or stored.
    const fn rd(self) -> u8 {
        self.field(0, 5) as u8
    }

    /// First source, or the base of an address.
    const fn rn(self) -> u8 {
        self.field(5, 5) as u8
    }

    const fn is(self, mask: u32, value: u32) -> bool {
        self.bits & mask == value
    }

    fn relative(self, low: u32, width: u32) -> u64 {
        self.address.wrapping_add_signed(signed(self.field(low, width), width) * 4)
    }

    /// The target of `bl`.
    fn call(self) -> Option<u64> {
        self.is(0xfc00_0000, 0x9400_0000).then(|| self.relative(0, 26))
    }

    /// The target of `b`.
    fn jump(self) -> Option<u64> {
        self.is(0xfc00_0000, 0x1400_0000).then(|| self.relative(0, 26))
    }

    /// The target of `b.cond`, `cbz`, `cbnz`, `tbz` or `tbnz`.
    fn branch(self) -> Option<u64> {
        if self.is(0xff00_0010, 0x5400_0000) || self.is(0x7e00_0000, 0x3400_0000) {
            Some(self.relative(5, 19))
        } else if self.is(0x7e00_0000, 0x3600_0000) {
            Some(self.relative(5, 14))
        } else {
            None
        }
    }

    const fn is_return(self) -> bool {
        self.is(0xffff_fc1f, 0xd65f_0000)
    }

    /// The page that `adrp` computes.
    fn page(self) -> Option<u64> {
        self.is(0x9f00_0000, 0x9000_0000).then(|| {
            let immediate = (self.field(5, 19) << 2) | self.field(29, 2);
            (self.address & !0xfff).wrapping_add_signed(signed(immediate, 21) << 12)
        })
    }

    /// What `adr` computes.
    fn address_near(self) -> Option<u64> {
        self.is(0x9f00_0000, 0x1000_0000).then(|| {
            self.address.wrapping_add_signed(signed((self.field(5, 19) << 2) | self.field(29, 2), 21))
        })
    }

    /// The immediate of a 64-bit `add`.
    const fn added(self) -> Option<u64> {
        if self.is(0xff80_0000, 0x9100_0000) {
            Some((self.field(10, 12) as u64) << (self.field(22, 1) * 12))
        } else {
            None
        }
    }

    /// The offset of a load or store of one register at an unsigned offset, integer or SIMD.
    const fn offset(self) -> Option<u64> {
        if !self.is(0x3b00_0000, 0x3900_0000) {
            return None;
        }
        // A 128-bit register's size field is 0 with the high bit of opc set.
        let quad = self.field(26, 1) == 1 && self.field(30, 2) == 0 && self.field(23, 1) == 1;
        let scale = if quad { 4 } else { self.field(30, 2) };
        Some((self.field(10, 12) as u64) << scale)
    }

    /// The offset of a load or store of a pair, without write-back.
    const fn pair_offset(self) -> Option<i64> {
        if !self.is(0x3b80_0000, 0x2900_0000) {
            return None;
        }
        let scale = if self.field(26, 1) == 1 { 2 + self.field(30, 2) } else { 2 + self.field(31, 1) };
        Some(signed(self.field(15, 7), 7) << scale)
    }

    /// `mov Xd, Xm`: the two registers.
    fn copy(self) -> Option<(u8, u8)> {
        self.is(0xffe0_ffe0, 0xaa00_03e0).then(|| (self.rd(), self.field(16, 5) as u8))
    }

    /// Whether the instruction may write this general register. Wrong only in saying yes too often.
    fn may_write(self, register: u8) -> bool {
        // Calls clobber; branches do not write.
        if self.call().is_some() || self.is(0xffff_fc1f, 0xd63f_0000) {
            return true;
        }
        if self.jump().is_some() || self.branch().is_some() {
            return false;
        }
        // Loads and stores: bit 27 set, bit 25 clear.
        if self.is(0x0a00_0000, 0x0800_0000) {
            let writes_back = !self.is(0x3b00_0000, 0x3900_0000) && self.rn() == register;
            let is_store = (self.is(0x3b00_0000, 0x3900_0000) && self.field(22, 2) == 0)
                || (self.is(0x3a00_0000, 0x2800_0000) && self.field(22, 1) == 0);
            let second = self.is(0x3a00_0000, 0x2800_0000) && self.field(10, 5) as u8 == register;
            return writes_back || (!is_store && (self.rd() == register || second));
        }
        self.rd() == register
    }

    /// A constant that the instruction puts into a register: `movz`, `movn`, `orr` from zero, `mov` of zero.
    fn constant(self) -> Option<(u8, i64)> {
        let wide = self.field(31, 1) == 1;
        let narrow = |value: u64| if wide { value as i64 } else { i64::from(value as u32) };
        let shifted = u64::from(self.field(5, 16)) << (self.field(21, 2) * 16);
        if self.is(0x7f80_0000, 0x5280_0000) {
            Some((self.rd(), narrow(shifted)))
        } else if self.is(0x7f80_0000, 0x1280_0000) {
            Some((self.rd(), narrow(!shifted)))
        } else if self.is(0x7f80_03e0, 0x3200_03e0) {
            let mask = bit_mask(self.field(22, 1), self.field(16, 6), self.field(10, 6))?;
            Some((self.rd(), narrow(mask)))
        } else if self.copy().is_some_and(|(_, from)| from == ZERO) || self.is(0xffff_ffe0, 0x2a1f_03e0) {
            Some((self.rd(), 0))
        } else {
            None
        }
    }

    /// Whether the kernel simulates it for uprobes (arch/arm64/kernel/probes/decode-insn.c,
    /// `arm_probe_decode_insn`): what reads or changes the program counter.
    fn is_simulated(self) -> bool {
        self.call().is_some()
            || self.jump().is_some()
            || self.branch().is_some()
            || self.page().is_some()
            || self.address_near().is_some()
    }
}

/// `DecodeBitMasks` of the manual: the immediate of a logical instruction.
fn bit_mask(n: u32, rotate: u32, size: u32) -> Option<u64> {
    let length = 31 - ((n << 6) | (!size & 0x3f)).leading_zeros().min(31);
    if length == 0 || (n == 0 && (!size & 0x3f) == 0) {
        return None;
    }
    let bits = 1_u32 << length;
    let (ones, rotate) = ((size & (bits - 1)) + 1, rotate & (bits - 1));
    if ones == bits {
        return None;
    }
    let whole = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
    let element = (1_u64 << ones) - 1;
    let element =
        if rotate == 0 { element } else { (element >> rotate | element << (bits - rotate)) & whole };
    Some((0..64 / bits).fold(0, |mask, copy| mask | element << (copy * bits)))
}

fn spot(word: Word, cost: Cost, register: u8) -> Spot {
    Spot { address: word.address, len: 4, cost, register, stack_check: false }
}

pub(super) fn entry(code: Code<'_>) -> Result<Spot, String> {
    // The stack check (cmd/internal/obj/arm64/obj7.go, `stacksplit`): `ldr x16,[x28,#16]`, optional `mov x17,sp`
    // or `sub x17,sp,#N` (for huge frames `subs` and `b.lo`), `cmp`, `b.ls`. The kernel simulates the `b.ls` only.
    const SCRATCH: [u8; 3] = [16, 17, 27];
    let mut first = None;
    for word in words(code).take(PROLOGUE) {
        first.get_or_insert(word);
        // b.ls
        if word.is(0xff00_001f, 0x5400_0009) {
            return Ok(Spot { stack_check: true, ..spot(word, Cost::Emulated, 0) });
        }
        // b.lo
        let is_huge_frame = word.is(0xff00_001f, 0x5400_0003);
        let is_compare = word.rd() == ZERO && word.is(0x7f20_0000, 0x6b20_0000)
            || word.rd() == ZERO && word.is(0x7f20_0000, 0x6b00_0000);
        let is_scratch = SCRATCH.contains(&word.rd())
            && (word.rn() == G || word.rn() == ZERO || SCRATCH.contains(&word.rn()));
        if !(is_huge_frame || is_compare || is_scratch) {
            break;
        }
    }
    first.map(|word| spot(word, Cost::Stepped, 0)).ok_or_else(|| "it has no code".to_owned())
}

pub(super) fn behind_calls(code: Code<'_>, callee: u64) -> Vec<Result<Spot, String>> {
    let words: Vec<Word> = words(code).collect();
    let jump_targets = jump_targets(code);
    let calls = words.iter().enumerate().filter(|(_, word)| word.call() == Some(callee));
    calls
        .take(MAX_SPOTS)
        .map(|(at, _)| {
            let mut holders = vec![0_u8];
            for word in words.iter().skip(at + 1).take(BEHIND_CALL) {
                let Some(holder) = holders.first() else { break };
                if word.is_simulated() {
                    return Ok(spot(*word, Cost::Emulated, *holder));
                }
                if word.is_return() {
                    break;
                }
                let copied = word.copy().filter(|(_, from)| holders.contains(from));
                holders.retain(|holder| !word.may_write(*holder));
                holders.extend(copied.map(|(to, _)| to));
            }
            // Only the call leads to what follows it, and a plain move can be stepped wherever it is.
            let jumped_to =
                |word: Word| code.index(word.address).and_then(|at| jump_targets.get(at)) == Some(&true);
            words
                .get(at + 1)
                .filter(|word| (word.offset().is_some() || word.copy().is_some()) && !jumped_to(**word))
                .map(|word| spot(*word, Cost::Stepped, 0))
                .ok_or_else(|| {
                    "no simulated instruction follows while the result is in a register".to_owned()
                })
        })
        .collect()
}

pub(super) fn at_calls(code: Code<'_>, callee: u64, argument: usize) -> Vec<Spot> {
    // X0 to X15 hold integer arguments in order.
    let Some(register) = u8::try_from(argument).ok().filter(|register| *register < 16) else {
        return Vec::new();
    };
    words(code)
        .filter(|word| word.call() == Some(callee))
        .map(|word| spot(word, Cost::Emulated, register))
        .take(MAX_SPOTS)
        .collect()
}

pub(super) fn gogo(code: Code<'_>, g_offset: u32) -> Result<Spot, String> {
    // `MOVD buf+0(FP), R5; MOVD gobuf_g(R5), R6; MOVD 0(R6), R4; B gogo<>(SB)` (runtime/asm_arm64.s, Go 1.17 on).
    let mut holder = None;
    for word in words(code).take(PROLOGUE) {
        let is_load = word.is(0xffc0_0000, 0xf940_0000);
        if is_load && word.offset() == Some(u64::from(g_offset)) && word.rn() != ZERO && holder.is_none() {
            holder = Some(word.rd());
        } else if let (Some(_), Some(holder)) = (word.jump(), holder) {
            return Ok(spot(word, Cost::Emulated, holder));
        }
    }
    Err("its code is not the one that is known".to_owned())
}

pub(super) fn references(code: Code<'_>) -> Vec<u64> {
    let mut pages: [Option<u64>; 32] = [None; 32];
    let mut found = Vec::new();
    for word in words(code) {
        if let Some(page) = word.page() {
            if let Some(slot) = pages.get_mut(usize::from(word.rd())) {
                *slot = Some(page);
            }
            continue;
        }
        let page = pages.get(usize::from(word.rn())).copied().flatten();
        let offset = word.added().or_else(|| word.offset()).or_else(|| word.pair_offset().map(|o| o as u64));
        if let (Some(page), Some(offset)) = (page, offset) {
            let address = page.wrapping_add(offset);
            if found.len() < MAX_REFERENCES && !found.contains(&address) {
                found.push(address);
            }
        }
        for (register, slot) in (0_u8..).zip(&mut pages) {
            if slot.is_some() && word.may_write(register) {
                *slot = None;
            }
        }
    }
    found
}

pub(super) fn may_call(code: Code<'_>, targets: &[u64]) -> bool {
    words(code).any(|word| word.call().or_else(|| word.jump()).is_some_and(|to| targets.contains(&to)))
}

/// For each byte of the code whether something in it jumps there.
fn jump_targets(code: Code<'_>) -> Vec<bool> {
    let mut targets = vec![false; code.bytes.len()];
    for target in words(code).filter_map(|w| w.jump().or_else(|| w.branch())) {
        if let Some(slot) = code.index(target).and_then(|at| targets.get_mut(at)) {
            *slot = true;
        }
    }
    targets
}

pub(super) fn calls(code: Code<'_>, targets: &[u64]) -> Vec<Call> {
    let jump_targets = jump_targets(code);
    let mut argument = None;
    let mut found = Vec::new();
    for word in words(code) {
        if code.index(word.address).and_then(|at| jump_targets.get(at)) == Some(&true) {
            argument = None;
        }
        if let Some(target) = word.call().or_else(|| word.jump()) {
            if targets.contains(&target) && found.len() < MAX_SPOTS {
                found.push(Call { address: word.address, target, argument });
            }
            argument = None;
        } else if let Some((0, constant)) = word.constant() {
            argument = Some(constant);
        } else if word.may_write(0) {
            argument = None;
        }
    }
    found
}

pub(super) fn returns(code: Code<'_>) -> Vec<u64> {
    words(code).filter(|word| word.is_return()).map(|word| word.address).collect()
}

pub(super) fn shape(code: Code<'_>, shape: &mut Shape<'_>) {
    /// The bits that hold an address in part.
    const PAGE_BITS: u32 = 0x60ff_ffe0;
    const LOW_BITS: u32 = 0x003f_fc00;
    const PAIR_BITS: u32 = 0x003f_8000;
    const BRANCH_BITS: u32 = 0x03ff_ffff;
    let mut pages: [Option<u64>; 32] = [None; 32];
    for word in words(code) {
        if let Some(page) = word.page() {
            shape.feed(u64::from(word.bits & !PAGE_BITS));
            if let Some(slot) = pages.get_mut(usize::from(word.rd())) {
                *slot = Some(page);
            }
            continue;
        }
        if let Some(target) = word.call().or_else(|| word.jump()) {
            shape.feed(u64::from(word.bits & !BRANCH_BITS));
            shape.feed_branch(code, target);
        } else {
            let page = pages.get(usize::from(word.rn())).copied().flatten();
            let single = word.added().or_else(|| word.offset());
            match (page, single, word.pair_offset()) {
                (Some(page), Some(offset), _) => {
                    shape.feed(u64::from(word.bits & !LOW_BITS));
                    shape.feed_data(page.wrapping_add(offset));
                }
                (Some(page), None, Some(offset)) => {
                    shape.feed(u64::from(word.bits & !PAIR_BITS));
                    shape.feed_data(page.wrapping_add_signed(offset));
                }
                // Branches within the function are relative already.
                _ => shape.feed(u64::from(word.bits)),
            }
        }
        for (register, slot) in (0_u8..).zip(&mut pages) {
            if slot.is_some() && word.may_write(register) {
                *slot = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bits: u32) -> Word {
        Word { address: 0x1_0000, bits }
    }

    fn code(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn at(bytes: &[u8]) -> Code<'_> {
        Code { bytes, address: 0x1_0000, architecture: super::super::Architecture::Arm64 }
    }

    #[test]
    fn constants_as_the_go_assembler_writes_them() {
        // objdump of what Go 1.26 makes of these constants.
        for (bits, expected) in [
            (0xb240_03e0, 1_i64),       // orr x0, xzr, #1
            (0xb27f_03e0, 2),           // orr x0, xzr, #2
            (0x9280_0000, -1),          // movn x0, #0
            (0xd280_0c80, 100),         // movz x0, #100
            (0xaa1f_03e0, 0),           // mov x0, xzr
            (0x1280_0000, 0xffff_ffff), // movn w0, #0
            (0xb240_7be0, 0x7fff_ffff), // orr x0, xzr, #0x7fffffff
            (0xd2a0_0200, 0x10_0000),   // movz x0, #16, lsl #16
        ] {
            assert_eq!(word(bits).constant(), Some((0, expected)), "{bits:#x}");
        }
        // ldr x0, [sp, #8]; add x0, x0, #1; orr x0, x1, #1
        for bits in [0xf940_07e0, 0x9100_0400, 0xb240_0020] {
            assert_eq!(word(bits).constant(), None, "{bits:#x}");
            assert!(word(bits).may_write(0), "{bits:#x}");
        }
    }

    #[test]
    fn stores_do_not_write_what_they_store() {
        // str x0, [sp, #8]; stp x0, x1, [sp, #16]; cmp x0, x1
        for bits in [0xf900_07e0, 0xa901_07e0, 0xeb01_001f] {
            assert!(!word(bits).may_write(0), "{bits:#x}");
        }
        // ldp x1, x0, [sp]; bl; str x1, [x0, #8]!
        for bits in [0xa940_03e1, 0x9400_0001, 0xf800_8c01] {
            assert!(word(bits).may_write(0), "{bits:#x}");
        }
    }

    #[test]
    fn the_stack_check_is_the_cheap_place() {
        // gcStart of Go 1.26: ldr x16,[x28,#16]; sub x17,sp,#0xb0; cmp x17,x16; b.ls.
        let large = code(&[0xf940_0b90, 0xd102_c3f1, 0xeb10_023f, 0x5400_3969]);
        assert_eq!(
            entry(at(&large)),
            Ok(Spot { address: 0x1_000c, len: 4, cost: Cost::Emulated, register: 0, stack_check: true })
        );
        // gopark: ldr x16; cmp sp,x16; b.ls.
        let small = code(&[0xf940_0b90, 0xeb30_63ff, 0x5400_06a9]);
        assert_eq!(entry(at(&small)).map(|s| s.address), Ok(0x1_0008));
        // casgstatus has none: str x30,[sp,#-0x50]!.
        let none = code(&[0xf81b_0ffe, 0xf81f_83fd, 0xd100_23fd]);
        assert_eq!(entry(at(&none)).map(|s| (s.address, s.cost)), Ok((0x1_0000, Cost::Stepped)));
    }

    #[test]
    fn a_result_is_followed_to_the_next_branch() {
        // bl +0x1000; mov x1,x0; ldr x0,[sp,#8]; bl
        let bytes = code(&[0x9400_0400, 0xaa00_03e1, 0xf940_07e0, 0x9400_0001]);
        let spots = behind_calls(at(&bytes), 0x1_1000);
        assert_eq!(
            spots,
            [Ok(Spot { address: 0x1_000c, len: 4, cost: Cost::Emulated, register: 1, stack_check: false })]
        );
    }
}
