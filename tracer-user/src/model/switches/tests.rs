use proptest::prelude::*;

use super::*;

fn told(switches: &[(u64, u64, SwitchKind)]) -> Switches {
    let mut model = Switches::default();
    for (time_ns, goid, kind) in switches {
        model.apply(&Switch { time_ns: *time_ns, goid: *goid, kind: kind.clone() });
    }
    model
}

const PARK: SwitchKind = SwitchKind::Park { reason: 14, stack: 5 };
const RUN: SwitchKind = SwitchKind::Run { coroutine: false };
const SITE: WaitSite = WaitSite { reason: 14, stack: 5 };

#[test]
fn a_wait_is_split_at_the_wake_up() {
    let model = told(&[
        (0, 0, SwitchKind::Begin),
        (100, 7, PARK),
        (400, 9, SwitchKind::Ready { woken: 7 }),
        (450, 7, RUN),
        (500, 0, SwitchKind::End),
    ]);
    assert_eq!((model.sites[&SITE].blocked.count, model.sites[&SITE].blocked.total_ns), (1, 300));
    assert_eq!(model.latency[&Some(14)].total_ns, 50);
    assert_eq!(model.edges[&(9, 7)], 1);
    assert_eq!(model.goroutines[&7].blocked_ns, 300);
    assert_eq!(model.unmeasured, Unmeasured::default());
    assert_eq!(model.observed_ns(), 500);
}

#[test]
fn who_runs_without_a_wake_up_was_woken_in_another_way() {
    let model = told(&[(0, 0, SwitchKind::Begin), (100, 7, PARK), (450, 7, RUN), (460, 7, RUN)]);
    assert_eq!(model.unseen_wakes[&14], 1);
    assert_eq!(model.sites[&SITE].until_run.total_ns, 350);
    assert_eq!((model.runs, model.other_runs), (2, 1), "it yielded");
}

#[test]
fn an_end_that_comes_late_is_that_of_its_own_stretch() {
    let late = told(&[
        (0, 0, SwitchKind::Begin),
        (100, 7, PARK),
        (900, 0, SwitchKind::Begin),
        (910, 8, PARK),
        (200, 0, SwitchKind::End),
        (940, 8, RUN),
        (950, 0, SwitchKind::End),
    ]);
    let ends: Vec<_> = late.stretches.iter().map(|stretch| stretch.end_ns).collect();
    assert_eq!(ends, [Some(200), Some(950)]);
    assert_eq!((late.observed_ns(), late.unmeasured.cut_off), (250, 1));
    assert_eq!(late.sites[&SITE].until_run.total_ns, 30);
}

#[test]
fn cost_2_of_very_many_stretches_the_length_is_kept() {
    let mut model = Switches::default();
    for i in 0..STRETCHES as u64 + 10 {
        for (time_ns, kind) in [(i * 10, SwitchKind::Begin), (i * 10 + 3, SwitchKind::End)] {
            model.apply(&Switch { time_ns, goid: 0, kind });
        }
    }
    assert_eq!((model.stretches.len(), model.observed_ns()), (STRETCHES, (STRETCHES as u64 + 10) * 3));
}

#[test]
fn loss_1_nothing_is_invented_across_stretches_and_gaps() {
    let two = told(&[
        (0, 0, SwitchKind::Begin),
        (100, 7, PARK),
        (200, 0, SwitchKind::End),
        (900, 0, SwitchKind::Begin),
        (950, 9, SwitchKind::Ready { woken: 7 }),
        (960, 7, RUN),
    ]);
    assert!(two.sites.is_empty(), "it may have been woken and have parked again between");
    assert_eq!(two.unmeasured.cut_off, 1);
    assert_eq!(two.latency[&None].total_ns, 10, "what was seen whole counts");

    let gap = told(&[
        (0, 0, SwitchKind::Begin),
        (100, 7, PARK),
        (150, 0, SwitchKind::Gap { until_ns: 300, lost: 3 }),
        (400, 9, SwitchKind::Ready { woken: 7 }),
        (450, 7, RUN),
    ]);
    assert!(gap.sites.is_empty());
    assert_eq!((gap.unmeasured.lost, gap.unmeasured.across_gaps), (3, 1));
    assert_eq!(gap.latency[&Some(14)].total_ns, 50);
}

fn any_kind() -> impl Strategy<Value = SwitchKind> {
    prop_oneof![
        1 => Just(SwitchKind::Begin),
        1 => Just(SwitchKind::End),
        1 => (0..2000_u64, 0..9_u64).prop_map(|(until_ns, lost)| SwitchKind::Gap { until_ns, lost }),
        9 => (0..4_u8, 0..4_u32).prop_map(|(reason, stack)| SwitchKind::Park { reason, stack }),
        9 => (0..5_u64).prop_map(|woken| SwitchKind::Ready { woken }),
        9 => any::<bool>().prop_map(|coroutine| SwitchKind::Run { coroutine }),
    ]
}

proptest! {
    #[test]
    fn loss_1_every_park_run_and_wake_up_is_accounted_for(
        kinds in prop::collection::vec((0..5_u64, any_kind()), 0..200),
    ) {
        let all: Vec<_> = kinds.into_iter().zip(0..).map(|((goid, kind), at)| (at * 10, goid, kind)).collect();
        let model = told(&all);
        let count = |wanted: fn(&SwitchKind) -> bool| all.iter().filter(|(_, _, kind)| wanted(kind)).count() as u64;
        prop_assert_eq!(model.parks.values().sum::<u64>(), count(|k| matches!(k, SwitchKind::Park { .. })));
        prop_assert_eq!(model.readies, count(|k| matches!(k, SwitchKind::Ready { .. })));
        prop_assert_eq!(model.edges.values().sum::<u64>(), model.readies);
        prop_assert_eq!(model.runs + model.coroutine_switches, count(|k| matches!(k, SwitchKind::Run { .. })));
        // A run ends a wait, or there was none.
        let ended = model.latency.values().map(|d| d.count).sum::<u64>()
            + model.unseen_wakes.values().sum::<u64>() + model.other_runs;
        prop_assert!(ended <= model.runs && model.runs <= ended + model.unmeasured.across_gaps);
    }
}
