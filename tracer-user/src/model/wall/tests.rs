use super::*;
use crate::memory::NONE;

const MS: u64 = 1_000_000;

fn sight(index: usize, goid: u64, status: Status, stack: u32, unmoved: bool) -> Sight {
    Sight { index, goid, status, wait_reason: 7, unmoved, stack, labels: NONE, startpc: 0x100, system: false }
}

fn look(wall: &mut Wall, at_ns: u64, sights: &[Sight]) {
    wall.begin(at_ns);
    sights.iter().for_each(|sight| wall.see(sight));
    wall.end();
}

fn hit(startpc: u64) -> OnCpu {
    OnCpu {
        time_ns: 0,
        thread: 1,
        goid: Some(1),
        status: Some(Status::Running),
        labels: 0,
        startpc,
        has_m: true,
        procid_matches: true,
        in_kernel: false,
        foreign_stack: false,
        maybe_return: false,
        pcs: Vec::new(),
        user_from: 0,
        truncated: false,
    }
}

fn time(wall: &Wall, class: Class) -> Share {
    let found = wall.states().into_iter().find(|((c, _), _)| *c == class);
    found.map(|(_, share)| share).unwrap_or_default()
}

#[test]
fn time_is_that_of_the_clock_whatever_the_number_of_looks() {
    let mut wall = Wall::default();
    let parked = |unmoved| sight(0, 1, Status::Waiting, 5, unmoved);
    look(&mut wall, 0, &[parked(false)]);
    look(&mut wall, 10 * MS, &[parked(true)]);
    look(&mut wall, 100 * MS, &[parked(true)]);
    let share = time(&wall, Class::Waiting);
    assert_eq!((share.time_ns, share.error_ns), (1e8, 0.0), "it has not moved: nothing is uncertain");
    assert_eq!((wall.elapsed_ns(), wall.total_ns()), (100 * MS, 1e8));
}

#[test]
fn what_moved_shares_the_time_between_and_who_is_new_or_gone_has_half() {
    let mut wall = Wall::default();
    look(&mut wall, 0, &[sight(0, 1, Status::Waiting, 5, false), sight(1, 2, Status::Runnable, 6, false)]);
    // The second has ended, and another has its place.
    look(
        &mut wall,
        10 * MS,
        &[sight(0, 1, Status::Running, NONE, false), sight(1, 3, Status::Syscall, 8, false)],
    );
    assert_eq!(time(&wall, Class::Waiting).time_ns, 5e6);
    assert_eq!(time(&wall, Class::Running).time_ns, 5e6);
    assert_eq!(time(&wall, Class::Runnable).time_ns, 5e6);
    assert_eq!(time(&wall, Class::Syscall).time_ns, 5e6);
    // All are gone.
    look(&mut wall, 20 * MS, &[]);
    assert_eq!(time(&wall, Class::Running).time_ns, 1e7);
    assert_eq!(wall.total_ns(), 3e7);
    look(&mut wall, 30 * MS, &[]);
    assert_eq!(wall.total_ns(), 3e7);
}

#[test]
fn running_time_is_spread_over_the_stacks_on_the_cpus() {
    let mut wall = Wall::default();
    for i in 0..=10 {
        let other = Sight { startpc: 0x200, ..sight(1, 2, Status::Running, NONE, false) };
        look(&mut wall, i * MS, &[sight(0, 1, Status::Running, NONE, false), other]);
    }
    for stack in [11, 13, 11, 12] {
        wall.hit(&hit(0x100), stack, NONE);
    }
    let rows = wall.rows(&HashMap::from([(13, 11)]));
    let of = |startpc: u64, stack: u32| {
        rows.iter()
            .find(|r| r.activity.startpc == startpc && r.activity.stack == stack)
            .unwrap()
            .share
            .time_ns
    };
    assert!((of(0x100, 11) - 7.5e6).abs() < 1.0 && (of(0x100, 12) - 2.5e6).abs() < 1.0);
    // The other was never seen on one.
    assert!((of(0x200, NONE) - 1e7).abs() < 1.0);
    assert!((rows.iter().map(|row| row.share.time_ns).sum::<f64>() - wall.total_ns()).abs() < 1.0);
}

#[test]
fn the_interval_holds_the_truth_as_often_as_it_says() {
    // A goroutine that is at one of two things, by chance; its time is known.
    let (mut random, mut held, tries) = (1_u64, 0, 400);
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    for _ in 0..tries {
        let (mut wall, mut truth, mut at, mut state) = (Wall::default(), 0.0, 0, false);
        let mut until = next(8 * MS);
        for _ in 0..200 {
            let step = 5 * MS + next(10 * MS);
            let mut from = at;
            at += step;
            while until < at {
                truth += if state { (until - from) as f64 } else { 0.0 };
                from = until;
                state = !state;
                until += 1 + next(if state { 6 * MS } else { 18 * MS });
            }
            truth += if state { (at - from) as f64 } else { 0.0 };
            let status = if state { Status::Syscall } else { Status::Waiting };
            look(&mut wall, at, &[sight(0, 1, status, 5, false)]);
        }
        let share = time(&wall, Class::Syscall);
        held += u32::from((share.time_ns - truth).abs() <= share.error_ns);
    }
    assert!(held * 100 >= tries * 93, "{held} of {tries}");
}
