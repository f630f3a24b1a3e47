use super::fake::{Fake, G, G0, config, process};
use super::*;
use bytemuck::Zeroable as _;

#[test]
fn on_a_user_stack_the_g_is_the_goroutine() {
    let registers = Registers { g: G, ..Registers::default() };
    let found = current(&registers, 42, &config(), &process());
    assert_eq!(found, Current { g: G, goid: 7, flags: FLAG_PROCID_MATCHES });
}

#[test]
fn on_a_system_stack_it_is_what_the_m_runs() {
    let registers = Registers { g: G0, ..Registers::default() };
    let found = current(&registers, 42, &config(), &process());
    assert_eq!(found, Current { g: G, goid: 7, flags: FLAG_PROCID_MATCHES | FLAG_SYSTEM_STACK });
}

#[test]
fn ident_1_a_goid_that_cant_be_read_is_none() {
    let mut memory = process();
    memory.0.remove(&(G + 152));
    let registers = Registers { g: G, ..Registers::default() };
    let found = current(&registers, 41, &config(), &memory);
    assert_eq!(found.goid, 0);
    assert_eq!(found.flags, FLAG_NO_GOID | FLAG_PARTIAL);
}

fn crashed(probe: u8, args: [u64; 5], memory: &Fake) -> CrashEvent {
    let mut event = CrashEvent::zeroed();
    let registers = Registers { g: G, args, ..Registers::default() };
    crash(probe, &registers, &Current { g: G, goid: 7, flags: 0 }, &config(), memory, &mut event);
    event
}

#[test]
fn a_panic_with_a_string_carries_its_text() {
    let mut memory = process();
    memory.0.insert(0x5000, 0x6000);
    memory.0.insert(0x5008, 4);
    memory.1.insert(0x6000, b"boom");
    let event = crashed(GOPANIC, [0x99, 0x5000, 0, 0, 0], &memory);
    assert_eq!((event.type_ptr, event.text_captured, &event.text[..4]), (0x99, 4, b"boom".as_slice()));
    assert_eq!((event.gopc, event.startpc), (0x111, 0x222));
}

#[test]
fn a_constant_that_faults_leaves_its_address() {
    let event = crashed(THROW, [0x6000, 9, 0, 0, 0], &process());
    assert_eq!((event.text_ptr, event.text_len, event.text_captured), (0x6000, 9, 0));
    assert_ne!(event.header.flags & FLAG_TEXT_FAULTED, 0);
}

#[test]
fn sec_1_no_text_is_copied_unless_asked_for() {
    let mut memory = process();
    memory.1.insert(0x6000, b"secret");
    let mut event = CrashEvent::zeroed();
    let registers = Registers { g: G, args: [0x6000, 6, 0, 0, 0], ..Registers::default() };
    let quiet = ProcConfig { flags: 0, ..config() };
    crash(FATAL, &registers, &Current { g: G, goid: 7, flags: 0 }, &quiet, &memory, &mut event);
    assert_eq!(event.text_captured, 0);
    assert_eq!(event.text, [0; MAX_TEXT]);
}

#[test]
fn a_goroutine_without_parent_field_has_no_parent() {
    let old = ProcConfig { g_parent_goid: NO_OFFSET, ..config() };
    let mut event = PlainEvent::zeroed();
    lifetime(G, &old, &process(), false, &mut event);
    assert_eq!((event.header.goid, event.args[0], event.args[1]), (0, 7, 0x111));
}

#[test]
fn who_was_created_by_whom_is_read_in_one_piece_or_in_several() {
    let mut memory = process();
    memory.0.insert(G + 400, 0x222);
    let apart = ProcConfig { g_startpc: 400, ..config() };
    for (settings, is_exit, goid) in
        [(config(), false, 3), (apart, false, 3), (config(), true, 7), (apart, true, 7)]
    {
        let mut event = PlainEvent::zeroed();
        lifetime(G, &settings, &memory, is_exit, &mut event);
        assert_eq!((event.header.goid, event.header.flags), (goid, 0));
        assert_eq!(event.args, [7, 0x111, 0x222, 0, 0]);
    }
    memory.0.remove(&(G + 296));
    let mut event = PlainEvent::zeroed();
    lifetime(G, &config(), &memory, false, &mut event);
    assert_ne!(event.header.flags & FLAG_PARTIAL, 0, "what was not read is said to be missing");
}

#[test]
fn stop_records_by_version() {
    let registers = Registers { args: [100, 0x1_07, 50, 80, 9], ..Registers::default() };
    let read = |stw_registers| {
        let mut event = PlainEvent::zeroed();
        plain(STW_START, &registers, &ProcConfig { stw_registers, ..config() }, &process(), &mut event);
        event.args
    };
    assert_eq!(read(0), [0, u64::MAX, 0, 0, 0]);
    assert_eq!(read(1), [100, 7, 50, 0, 0]);
    assert_eq!(read(2), [100, 7, 50, 80, 9], "only the low byte of the reason is defined");
}
