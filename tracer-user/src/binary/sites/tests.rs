use super::*;

fn site(probe: Probe) -> Site {
    Site {
        probe,
        function: "runtime.f".to_owned(),
        entry: 0x1000,
        address: 0x1000,
        file_offset: 0,
        bytes: vec![0x55],
        cost: Cost::Emulated,
        register: 0,
        stack_check: false,
    }
}

#[test]
fn creations_and_exits_are_observed_together_or_not_at_all() {
    let mut plan = Plan {
        sites: vec![site(Probe::GcStart), site(Probe::GoCreate), site(Probe::GoExit)],
        ..Plan::default()
    };
    plan.both_or_neither(Probe::GoCreate, Probe::GoExit);
    assert_eq!((plan.sites.len(), plan.is_whole(TIER_T2)), (3, true));
    for lacking in [Probe::GoCreate, Probe::GoExit] {
        let mut plan = plan.clone();
        plan.sites.retain(|site| site.probe != lacking);
        plan.both_or_neither(Probe::GoCreate, Probe::GoExit);
        assert_eq!((plan.tier(TIER_T1).count(), plan.tier(TIER_T2).count()), (1, 0), "{lacking:?}");
        assert!(!plan.is_whole(TIER_T2));
        assert!(matches!(&plan.unavailable[..], [Unavailable { lost: true, .. }]), "{plan:?}");
    }
    // One of several places: what is seen is right, but not all.
    let why = "no place".to_owned();
    plan.unavailable.push(Unavailable { probe: Probe::GoCreate, why, lost: true });
    assert!(!plan.is_whole(TIER_T2));
}

#[test]
fn a_stop_is_told_by_the_start_from_go_1_22_on() {
    let told = |version: &str, into| stop_is_told(&GoVersion::parse(version).unwrap(), into);
    assert_eq!(told("go1.21.13", "runtime.gcStart.func1"), None);
    for (into, asks) in [
        ("runtime.gcStart.func2", false),
        ("runtime.gcMarkDone.func2", false),
        ("runtime.stopTheWorld.func1", true),
        ("runtime.gcStartOther", true),
    ] {
        for version in ["go1.22.12", "go1.27.3"] {
            let instead = told(version, into).unwrap();
            assert!(instead.contains("startTheWorldWithSema"), "{instead}");
            assert_eq!(instead.contains("who asked"), asks, "{into}: {instead}");
        }
    }
}
