use super::*;

const MIB: u64 = 1 << 20;

fn pace() -> Pace {
    Pace {
        marked: 10 * MIB,
        percent_goal: 20 * MIB,
        limit: i64::MAX.unsigned_abs(),
        heap_free: MIB,
        allocated: 12 * MIB,
        mapped_ready: 20 * MIB,
        triggered: u64::MAX,
        sweep_trigger: 0,
        runway: 2 * MIB,
        headroom_percent: Some(3),
    }
}

#[test]
fn without_a_limit_the_goal_is_that_of_gogc() {
    assert_eq!(pace().goal(), (20 * MIB, 0, false));
    assert_eq!(pace().trigger(), 18 * MIB);
    assert_eq!(Pace { runway: 30 * MIB, ..pace() }.trigger(), 10 * MIB + 10 * MIB / 64 * 45);
    assert_eq!(Pace { runway: 0, ..pace() }.trigger(), 10 * MIB + 10 * MIB / 64 * 61);
    let begun = Pace { triggered: 30 * MIB, ..pace() };
    assert_eq!(begun.goal().0, 30 * MIB + LEAST_RUNWAY);
    assert_eq!(Pace { sweep_trigger: 25 * MIB, ..pace() }.goal(), (25 * MIB, 25 * MIB, false));
}

#[test]
fn a_limit_leaves_room_for_what_is_not_heap() {
    // Seven MiB are not heap: twelve are left, less one for headroom.
    let limited = Pace { limit: 20 * MIB, ..pace() };
    assert_eq!(limited.goal(), (12 * MIB, 0, true));
    let beyond = Pace { limit: 6 * MIB, ..pace() };
    assert_eq!(beyond.goal(), (10 * MIB, 0, true));
    assert_eq!(beyond.trigger(), 10 * MIB);
    let large = Pace { limit: 1007 * MIB, percent_goal: 4000 * MIB, ..pace() };
    assert_eq!(large.goal().0, 1000 * MIB - 1000 * MIB / 100 * 3);
    assert_eq!(Pace { headroom_percent: None, ..large }.goal().0, 999 * MIB);
}

#[test]
fn no_word_of_a_process_makes_the_pace_overflow() {
    for value in [0, 1, u64::MAX, 1 << 63, MIB] {
        let all = Pace {
            marked: value,
            percent_goal: !value,
            limit: value,
            heap_free: !value,
            allocated: value,
            mapped_ready: !value,
            triggered: value ^ 1,
            sweep_trigger: value,
            runway: !value,
            headroom_percent: Some(3),
        };
        std::hint::black_box((all.goal(), all.trigger()));
    }
}

#[test]
fn idle_workers_take_nothing_from_the_program() {
    let times = CpuTimes {
        gc_assist: 0,
        gc_dedicated: 10,
        gc_idle: 40,
        gc_pause: 0,
        gc_total: 50,
        scavenge_assist: 0,
        scavenge_background: 0,
        scavenge_total: 0,
        idle: 500,
        user: 30,
        total: 580,
    };
    assert_eq!(times.gc_share(), Some(0.25));
    assert_eq!(times.since(&times).gc_share(), None);
}
