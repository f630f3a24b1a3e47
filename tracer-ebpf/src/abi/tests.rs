use super::*;

#[test]
fn probe_numbers_round_trip_and_fit_the_counter_rows() {
    for probe in Probe::ALL {
        assert_eq!(Probe::from_wire(probe as u8), Some(probe));
        assert!(u32::from(probe as u8) < MAX_PROBES);
    }
    assert_eq!(Probe::from_wire(0), None);
    assert_eq!(Probe::from_wire(200), None);
}

#[test]
fn counter_rows_of_two_processes_never_meet() {
    let last_of_first = counter_index(0, MAX_PROBES as u8 - 1);
    assert!(last_of_first < counter_index(1, 0));
    assert!(counter_index(MAX_PROCESSES - 1, MAX_PROBES as u8 - 1) < MAX_PROCESSES * MAX_PROBES);
}

#[test]
fn cookies_keep_probe_and_register_apart() {
    let plain = cookie(Probe::GoCreate, 13, false);
    assert_eq!(cookie(Probe::GoCreate, 13, true), plain | COOKIE_STACK_CHECK);
    let cookie = plain;
    assert_eq!(cookie & 0xff, Probe::GoCreate as u64);
    assert_eq!(cookie >> 8, 13);
    assert_ne!(cookie, 0, "a zero cookie means none to the kernel");
}
