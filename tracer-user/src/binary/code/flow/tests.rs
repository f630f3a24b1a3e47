//! Locks in small programs of instructions.

use super::*;

const LOCK_SLOW: u64 = 0x9000;
const UNLOCK_SLOW: u64 = 0x9010;
const OTHER: u64 = 0x9100;

/// Code that begins with room for its frame and ends with its return.
struct Assembly(Vec<u8>);

impl Assembly {
    /// sub $0x18,%rsp; mov %rax,0x20(%rsp)
    fn new() -> Self {
        Self(vec![0x48, 0x83, 0xec, 0x18, 0x48, 0x89, 0x44, 0x24, 0x20])
    }

    fn here(&self) -> u64 {
        0x1000 + self.0.len() as u64
    }

    fn bytes(&mut self, bytes: &[u8]) -> u64 {
        let at = self.here();
        self.0.extend(bytes);
        at
    }

    fn call(&mut self, target: u64) -> u64 {
        let distance = target.wrapping_sub(self.here() + 5) as u32;
        self.bytes(&[&[0xe8][..], &distance.to_le_bytes()].concat())
    }

    /// Locks what is 16 bytes behind where RCX leads; returns where the slow way is.
    fn lock(&mut self) -> u64 {
        // xor %eax,%eax; mov $1,%edx; lock cmpxchg %edx,0x10(%rcx); je; lea 0x10(%rcx),%rax
        self.bytes(&[0x31, 0xc0, 0xba, 1, 0, 0, 0, 0xf0, 0x0f, 0xb1, 0x51, 0x10, 0x74, 9]);
        self.bytes(&[0x48, 0x8d, 0x41, 0x10]);
        self.call(LOCK_SLOW)
    }

    fn unlock(&mut self) {
        // mov $-1,%ebx; lock xadd %ebx,0x10(%rcx); je; lea 0x10(%rcx),%rax
        self.bytes(&[0xbb, 255, 255, 255, 255, 0xf0, 0x0f, 0xc1, 0x59, 0x10, 0x74, 9]);
        self.bytes(&[0x48, 0x8d, 0x41, 0x10]);
        self.call(UNLOCK_SLOW);
    }

    /// mov 0x20(%rsp),%rcx
    fn load(&mut self) {
        self.bytes(&[0x48, 0x8b, 0x4c, 0x24, 0x20]);
    }

    /// add $0x18,%rsp; ret
    fn followed(mut self, other: Option<Callee>) -> Followed {
        self.bytes(&[0x48, 0x83, 0xc4, 0x18, 0xc3]);
        let code = Code { bytes: &self.0, address: 0x1000, architecture: Architecture::Amd64 };
        let callee = |target| match target {
            LOCK_SLOW => Some(Callee::TakesSlowly { argument: 0, atomic: 0 }),
            UNLOCK_SLOW => Some(Callee::GivesSlowly { argument: 0, atomic: 0 }),
            _ => other,
        };
        Followed::new(code, callee, |_| false).unwrap()
    }
}

fn held(operands: &[Operand]) -> Holding {
    Holding { held: operands.iter().copied().collect(), ..Holding::default() }
}

const MINE: Operand = Operand::Slot { at: 0x20, plus: 0x10 };

#[test]
fn a_lock_is_held_from_where_it_is_taken_to_where_it_is_given_back() {
    let mut code = Assembly::new();
    let before = code.call(OTHER);
    code.load();
    let waits = code.lock();
    let within = code.call(OTHER);
    code.load();
    code.unlock();
    let behind = code.call(OTHER);
    let followed = code.followed(None);
    assert_eq!(followed.at(before), Some(held(&[])));
    assert_eq!(followed.at(waits), Some(held(&[])));
    assert_eq!(followed.at(within), Some(held(&[MINE])));
    assert_eq!(followed.at(within + 4), Some(held(&[MINE])));
    assert_eq!(followed.at(behind), Some(held(&[])));
    assert!(!followed.gives());
}

#[test]
fn who_waits_for_a_second_time_holds_it() {
    let mut code = Assembly::new();
    code.load();
    code.lock();
    code.load();
    let again = code.lock();
    assert_eq!(code.followed(None).at(again), Some(held(&[MINE])));
}

#[test]
fn truth_1_what_is_not_certain_is_not_held() {
    let maybe = Holding { maybe: true, ..Holding::default() };
    let within = |between: &[u8], other| {
        let mut code = Assembly::new();
        code.load();
        // je behind the lock, if anything is between.
        code.lock();
        code.bytes(between);
        code.call(OTHER);
        let at = code.call(OTHER);
        code.followed(other).at(at)
    };
    assert_eq!(within(&[], None), Some(held(&[MINE])));
    // A callee may have given it back.
    assert_eq!(within(&[], Some(Callee::MayGive)), Some(maybe.clone()));
    // mov %rbx,0x20(%rsp); movups %xmm15,0x18(%rsp); lea 0x20(%rsp),%rdi: the word is another, or may be.
    for between in [
        &[0x48, 0x89, 0x5c, 0x24, 0x20][..],
        &[0x44, 0x0f, 0x11, 0x7c, 0x24, 0x18],
        &[0x48, 0x8d, 0x7c, 0x24, 0x20],
    ] {
        assert_eq!(within(between, None), Some(maybe.clone()), "{between:x?}");
    }
    // test %ebx,%ebx; je behind the lock.
    let mut code = Assembly::new();
    code.load();
    code.bytes(&[0x85, 0xdb, 0x74, 23]);
    code.lock();
    let at = code.call(OTHER);
    assert_eq!(code.followed(None).at(at), Some(maybe));
}

#[test]
fn truth_1_a_lock_of_the_round_before_is_not_that_of_this_one() {
    let mut code = Assembly::new();
    let begin = code.call(OTHER);
    // mov %rax,0x20(%rsp): what the call returns, another one each time.
    code.bytes(&[0x48, 0x89, 0x44, 0x24, 0x20]);
    code.load();
    code.lock();
    let distance = (begin as i64 - code.here() as i64 - 6) as i32;
    // jne begin
    code.bytes(&[&[0x0f, 0x85][..], &distance.to_le_bytes()].concat());
    let at = code.call(OTHER);
    let holding = code.followed(None).at(at).unwrap();
    assert!(holding.held.is_empty() && holding.maybe, "{holding:?}");
}

#[test]
fn who_gives_back_what_it_did_not_take_is_known() {
    let mut code = Assembly::new();
    code.load();
    code.unlock();
    let at = code.call(OTHER);
    let followed = code.followed(None);
    assert!(followed.at(at).unwrap().gave);
    assert!(followed.gives());
}
