//! What probes cost stays within the budget, and dear ones go when their lease is over, whatever becomes of gotrail.

use std::thread::sleep;
use std::time::{Duration, Instant};

use gotrail_tests::attach::{Attach, Report, run};
use gotrail_tests::code::{self, Change};
use gotrail_tests::env::Need;
use gotrail_tests::fixture::Build;
use gotrail_tests::json::{number, truth};
use gotrail_tests::process::{PATIENCE, Process};
use gotrail_tests::{bpf, needs};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The default budget.
const SHARE: f64 = 0.018;
/// What is never worth taking a probe off for, whatever the target uses: this share of one CPU.
const NEGLIGIBLE: f64 = 0.001;
/// The budget is over this much time.
const TEN_SECONDS: f64 = 10e9;
/// What of the budget is earned.
const EARNED: f64 = 0.9;
/// Of so much time it may be saved up what is earned.
const SAVED: f64 = 0.5e9;
/// What a target with 2 Ps can lose on top before gotrail looks the next time, which it does after some thousand hits, and
/// the probes have gone: 15 ms each, as the machine may be busy.
pub(crate) const REACTION: f64 = 2.0 * 15e6;
/// The lease of a window, with what the kernel needs to take a link down and what a busy machine needs to run the keeper.
const GONE_WITHIN: Duration = Duration::from_millis(250 + 150);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(1);

fn build() -> Build {
    Build::find("storm", "1.27.3", "stripped").unwrap()
}

/// A target that does nothing yet.
pub(crate) fn start() -> Process {
    build().start_ready(&[]).unwrap()
}

/// Has the target do something else; returns what it had created up to then.
pub(crate) fn tell(target: &mut Process, what: &str) -> u64 {
    target.tell(what).unwrap();
    let figures =
        target.await_output("its figures", |line| serde_json::from_str::<Value>(line).ok()).unwrap();
    number(&figures, "/created").unwrap()
}

/// Waits for a line, to be told from those before it by its content alone.
pub(crate) fn await_kind(attach: &mut Attach, kind: &str) -> Value {
    attach.await_line(&format!("a `{kind}` line"), |line| line["type"] == kind).unwrap()
}

pub(crate) fn float(value: &Value, field: &str) -> f64 {
    value[field].as_f64().unwrap_or_else(|| panic!("no number {field} in {value}"))
}

/// The largest excess of the predicted loss over what may be lost in a stretch of up to ten seconds, and the share of the CPU
/// time that was lost in that stretch. What may be lost is what is earned in it, and what may have been saved up before, half
/// a second's income (agent/governor/purse.rs): 0.945 of the budget in ten seconds, more than it only in less than 4.5.
pub(crate) fn worst(report: &Report, share: f64) -> (f64, f64) {
    let rows: Vec<(f64, f64, f64)> = report
        .lines_of("cost")
        .map(|line| (float(line, "at_ns"), float(line, "target_cpu_ns"), float(line, "predicted_ns")))
        .collect();
    assert!(rows.len() > 8, "{} cost lines", rows.len());
    let mut worst = (f64::MIN, 0.0);
    for (i, first) in rows.iter().enumerate() {
        for last in rows[i + 1..].iter().take_while(|row| row.0 - first.0 <= TEN_SECONDS) {
            let (cpu, lost) = (last.1 - first.1, last.2 - first.2);
            let earned = EARNED * share * cpu;
            let saved = earned * SAVED / f64::max(last.0 - first.0, SAVED);
            // By the default budget what is saved up is small enough for the share to hold in short stretches too.
            let most = if share <= SHARE { share * cpu } else { f64::INFINITY };
            let allowed = f64::max(most.min(earned + saved), NEGLIGIBLE * TEN_SECONDS);
            if lost - allowed > worst.0 {
                worst = (lost - allowed, lost / cpu);
            }
        }
    }
    worst
}

#[test]
fn root_cost_1_a_hostile_target_costs_no_more_than_the_budget() {
    needs!(Need::Fixtures, Need::Root);
    let mut target = start();
    let mut attach = Attach::start(target.pid(), &["--events"]).unwrap();
    sleep(Duration::from_secs(2));
    tell(&mut target, "spawn");
    let demoted = await_kind(&mut attach, "demoted");
    println!("{}", demoted["message"]);
    assert!(float(&demoted, "predicted_share") > SHARE, "{demoted}");
    assert!(float(&demoted, "hits_per_second") > 10_000.0, "{demoted}");
    sleep(Duration::from_secs(12));
    tell(&mut target, "bursts");
    sleep(Duration::from_secs(12));
    tell(&mut target, "switch");
    sleep(Duration::from_secs(4));
    tell(&mut target, "silence");
    let restored = attach
        .await_line("that all is observed again", |line| line["type"] == "restored" && line["to"] == "steady")
        .unwrap();
    println!("{}", restored["message"]);
    sleep(Duration::from_secs(2));
    let created = tell(&mut target, "spawn");
    sleep(Duration::from_secs(3));
    let created = tell(&mut target, "silence").max(created);
    sleep(Duration::from_millis(1500));
    let report = attach.stop().unwrap();
    tell(&mut target, "end");
    assert!(target.wait().unwrap().success(), "{}", target.words());

    let (excess, share) = worst(&report, SHARE);
    let summary = report.summary().unwrap();
    println!(
        "worst ten seconds: {:.1} ms beyond what may be lost at {:.2} % of the CPU time; in all {:.2} %",
        excess / 1e6,
        share * 100.0,
        float(&summary["cost"], "predicted_share") * 100.0
    );
    assert!(excess < REACTION, "{:.1} ms beyond what may be lost", excess / 1e6);
    assert!(truth(summary, "/cost/measured").unwrap(), "{}", summary["cost"]);

    // The account is exact: hits are delivered or lost, and each fell into a stretch that was told.
    report.check_balance().unwrap();
    let mut told = 0;
    for stretch in report.lines_of("window").chain(report.lines_of("observed")) {
        let hits = stretch["hits"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum::<u64>();
        assert!(number(stretch, "/end_ns").unwrap() >= number(stretch, "/begin_ns").unwrap(), "{stretch}");
        told += hits;
    }
    let dear = |probe: &&Value| probe["probe"].as_str().unwrap().starts_with("go_");
    let counted = summary["losses"]["probes"].as_array().unwrap();
    let counted: u64 = counted.iter().filter(dear).map(|probe| number(probe, "/hits").unwrap()).sum();
    assert_eq!(told, counted, "{summary}");

    // What was not observed is told as such, and known from memory: the runtime hands out 16 ids to a P at once.
    assert!(!truth(summary, "/goroutines/lifetimes_observed").unwrap());
    let sampled = &summary["goroutines"]["sampled"];
    let ids = number(sampled, "/ids_handed_out").unwrap();
    assert!(ids.abs_diff(created) < 1000, "{ids} ids, {created} created");
    assert!(number(summary, "/goroutines/created").unwrap() < created / 2);
    let (low, high) = (float(&sampled["created"], "low"), float(&sampled["created"], "high"));
    assert!(low < high, "{sampled}");
    let windows = report.lines_of("window").count();
    assert!(windows > 5, "{windows} windows");
}

#[test]
fn root_cost_1_a_stopped_gotrail_ends_the_switches_that_were_asked_for() {
    // The lease, and what a busy machine adds.
    const LEASE: Duration = Duration::from_millis(1000 + 1000);
    const STOPPED: Duration = Duration::from_secs(5);
    needs!(Need::Fixtures, Need::Root);
    let mut target = start();
    tell(&mut target, "switch");
    let options = ["--switches", "60s", "--budget", "100", "--ring-kib", "65536"];
    let mut attach = Attach::start(target.pid(), &options).unwrap();
    let asked = await_kind(&mut attach, "asked");
    assert!(float(&asked, "predicted_share") > SHARE, "{asked}");
    let all = code::changes(target.pid()).unwrap();
    attach.process().signal(Signal::STOP).unwrap();
    let begun = Instant::now();
    while code::changes(target.pid()).unwrap().len() == all.len() {
        assert!(begun.elapsed() < LEASE, "the probes stay");
        sleep(LOOK);
    }
    println!("the dear probes went {:?} after SIGSTOP", begun.elapsed());
    sleep(STOPPED.saturating_sub(begun.elapsed()));
    attach.process().signal(Signal::CONT).unwrap();
    let gap = attach.await_line("the gap", |line| line["type"] == "gap" && line["tier"] == "T3").unwrap();
    println!("{}", gap["message"]);
    let length = u128::from(number(&gap, "/length_ns").unwrap());
    assert!(length > (STOPPED - LEASE).as_nanos(), "{gap}");
    assert_eq!(code::changes(target.pid()).unwrap(), all, "the probes are back");
    sleep(Duration::from_millis(300));
    let report = attach.stop().unwrap();
    tell(&mut target, "end");
    report.check_balance().unwrap();
    // Nothing was observed from the end of the lease on, and the gap lies between two stretches.
    let stretches = report.summary().unwrap()["switches"]["stretches"].as_array().unwrap();
    assert_eq!(stretches.len(), 2, "{stretches:?}");
    let (end, begin) =
        (number(&stretches[0], "/end_ns").unwrap(), number(&stretches[1], "/begin_ns").unwrap());
    assert!(u128::from(begin - end) > (STOPPED - LEASE).as_nanos(), "{stretches:?}");
    bpf::check_no_orphans().unwrap();
}

/// Also where gotrail was stopped meanwhile, which observes them again soon and says what it did not see.
#[test]
fn root_loss_1_a_flood_of_creations_leaves_room_for_what_is_rare() {
    needs!(Need::Fixtures, Need::Root);
    let mut target = start();
    let mut attach = Attach::start(target.pid(), &[]).unwrap();
    let all = code::changes(target.pid()).unwrap();
    attach.process().signal(Signal::STOP).unwrap();
    tell(&mut target, "spawn");
    sleep(Duration::from_millis(3500));
    tell(&mut target, "silence");
    attach.process().signal(Signal::CONT).unwrap();
    let gap = attach.await_line("the gap", |line| line["type"] == "gap" && line["tier"] == "T2").unwrap();
    println!("{}", gap["message"]);
    let begun = Instant::now();
    while code::changes(target.pid()).unwrap() != all {
        assert!(begun.elapsed() < PATIENCE, "the probes do not come back");
        sleep(LOOK);
    }
    let report = attach.stop().unwrap();
    tell(&mut target, "end");
    report.check_balance().unwrap();
    let summary = report.summary().unwrap();
    let of = |name: &str, field: &str| {
        let probes = summary["losses"]["probes"].as_array().unwrap();
        let probe = probes.iter().find(|probe| probe["probe"] == name);
        probe.map_or(0, |probe| number(probe, field).unwrap())
    };
    let (flood, cycles) = (of("go_create", "/lost_ring"), of("gc_start", "/hits"));
    println!("{flood} creations were lost, and none of {cycles} GC cycles");
    assert!(flood > 10_000 && cycles > 5, "{summary}");
    assert_eq!(number(summary, "/rare_events_lost").unwrap(), 0, "{summary}");
    assert_eq!(number(summary, "/gc/started").unwrap(), cycles, "{summary}");
    assert!(number(&summary["goroutines"], "/events_lost").unwrap() >= flood, "{summary}");
    assert!(!truth(summary, "/goroutines/lifetimes_observed").unwrap(), "{summary}");
    bpf::check_no_orphans().unwrap();
}

/// A target that spawns, watched in windows; and what the second tier changes in its code.
fn watched_in_windows() -> (Process, Attach, Vec<Change>, Vec<Change>) {
    let mut target = start();
    let mut attach = Attach::start(target.pid(), &["--events"]).unwrap();
    let all = code::changes(target.pid()).unwrap();
    tell(&mut target, "spawn");
    await_kind(&mut attach, "demoted");
    let begun = Instant::now();
    let rare = loop {
        let rare = code::changes(target.pid()).unwrap();
        if rare.len() < all.len() {
            break rare;
        }
        assert!(begun.elapsed() < PATIENCE, "the probes stay");
    };
    let dear: Vec<Change> = all.iter().filter(|change| !rare.contains(change)).copied().collect();
    assert!(!dear.is_empty());
    // Windows come from now on.
    await_kind(&mut attach, "window");
    await_kind(&mut attach, "window");
    (target, attach, rare, dear)
}

/// Waits for a window, or for its end.
pub(crate) fn await_window(target: &Process, dear: &[Change], open: bool) -> Duration {
    let begun = Instant::now();
    while code::is_undone(target.pid(), dear).unwrap() == open {
        assert!(begun.elapsed() < PATIENCE, "waited for {open}");
        sleep(LOOK);
    }
    begun.elapsed()
}

/// How many goroutines a target creates in a second of CPU time, in shares of what its twin does that nobody watches; in
/// order.
///
/// In pairs, one right after the other: such machines do the same work at twice the speed for some seconds, and then not.
fn speed_beside(target: &mut Process, twin: &mut Process) -> Vec<f64> {
    const GO: Duration = Duration::from_millis(250);
    let go = |process: &mut Process| {
        let (before, begun) = (tell(process, "spawn"), process.cpu_time().unwrap());
        sleep(GO);
        let created = tell(process, "silence") - before;
        created as f64 / (process.cpu_time().unwrap() - begun).as_secs_f64()
    };
    let mut ratios: Vec<f64> = (0..9).map(|_| go(target) / go(twin)).collect();
    ratios.sort_unstable_by(f64::total_cmp);
    ratios
}

#[test]
fn root_cost_1_a_stopped_gotrail_leaves_no_dear_probe_on() {
    const STOPPED: Duration = Duration::from_secs(10);
    needs!(Need::Fixtures, Need::Root);
    let (mut target, mut attach, rare, dear) = watched_in_windows();
    // Another file, so that it has no probes on any kernel.
    let mut twin = Build::find("storm", "1.27.3", "default").unwrap().start_ready(&[]).unwrap();
    await_window(&target, &dear, true);
    attach.process().signal(Signal::STOP).unwrap();
    let took = await_window(&target, &dear, false);
    println!("the dear probes went {took:?} after SIGSTOP");
    assert!(took < GONE_WITHIN, "{took:?}");
    // They stay away, those of the rare tier stay, and the target is at its own speed.
    let stopped = Instant::now();
    let shares = speed_beside(&mut target, &mut twin);
    println!("creations, in shares of the twin's: {shares:.2?}");
    tell(&mut target, "spawn");
    assert!(code::is_undone(target.pid(), &dear).unwrap());
    assert_eq!(code::changes(target.pid()).unwrap(), rare);
    sleep(STOPPED.saturating_sub(stopped.elapsed()));
    attach.process().signal(Signal::CONT).unwrap();
    await_kind(&mut attach, "window");
    await_kind(&mut attach, "window");
    let report = attach.stop().unwrap();
    report.check_balance().unwrap();
    // The gap is marked: no window reaches into it.
    let mut longest = 0;
    let windows: Vec<&Value> = report.lines_of("window").collect();
    for pair in windows.windows(2) {
        let (end, begin) = (number(pair[0], "/end_ns").unwrap(), number(pair[1], "/begin_ns").unwrap());
        longest = longest.max(begin.saturating_sub(end));
    }
    assert!(u128::from(longest) >= (STOPPED - Duration::from_millis(500)).as_nanos(), "{longest} ns");
    tell(&mut target, "end");
    // A creation with its traps takes several times as long as one without.
    assert!(shares[shares.len() / 2] > 0.7, "{shares:?}");
    bpf::check_no_orphans().unwrap();
}

#[test]
fn root_safe_3_kill_9_in_a_window_leaves_nothing() {
    needs!(Need::Fixtures, Need::Root);
    let (mut target, mut attach, _, dear) = watched_in_windows();
    let keeper = attach.keeper().unwrap().expect("it has a keeper");
    await_window(&target, &dear, true);
    attach.process().signal(Signal::KILL).unwrap();
    let took = await_window(&target, &dear, false);
    println!("the dear probes went {took:?} after kill -9");
    assert!(took < Duration::from_millis(200), "{took:?}");
    drop(attach);
    let begun = Instant::now();
    while std::fs::exists(format!("/proc/{keeper}")).unwrap()
        || !code::changes(target.pid()).unwrap().is_empty()
    {
        assert!(begun.elapsed() < bpf::FREED_WITHIN, "something is left");
        sleep(LOOK);
    }
    bpf::check_no_orphans().unwrap();
    tell(&mut target, "end");
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

#[test]
fn root_safe_3_a_keeper_that_dies_or_hangs_is_replaced_and_the_gap_told() {
    needs!(Need::Fixtures, Need::Root);
    let mut target = start();
    let mut attach = Attach::start(target.pid(), &[]).unwrap();
    let all = code::changes(target.pid()).unwrap();
    for (how, name) in [(Signal::KILL, "killed"), (Signal::STOP, "stopped")] {
        let keeper = attach.keeper().unwrap().expect("it has a keeper");
        let begun = Instant::now();
        signal(keeper, how);
        let gap = await_kind(&mut attach, "gap");
        println!("{name}: {} (told after {:?})", gap["message"], begun.elapsed());
        assert_eq!(gap["why"], "keeper gone", "{gap}");
        assert!(number(&gap, "/length_ns").unwrap() > 0, "{gap}");
        let next = attach.keeper().unwrap().expect("it has another keeper");
        assert_ne!(next, keeper);
        assert_eq!(code::changes(target.pid()).unwrap(), all, "the probes are back");
    }
    let report = attach.stop().unwrap();
    report.check_nothing_lost().unwrap();
    assert!(!truth(report.summary().unwrap(), "/goroutines/lifetimes_observed").unwrap());
    assert_eq!(code::changes(target.pid()).unwrap(), []);
    bpf::check_no_orphans().unwrap();
    tell(&mut target, "end");
}

#[test]
fn root_ident_1_a_program_that_is_executed_anew_is_watched_next_if_asked_for() {
    needs!(Need::Fixtures, Need::Root);
    let mut target = start();
    let mut attach = Attach::start(target.pid(), &["--follow-exec"]).unwrap();
    for _ in 0..2 {
        target.tell("again").unwrap();
        target.await_output("`ready`", |line| line.starts_with("ready").then_some(())).unwrap();
        attach.await_line("the summary of one program", |line| line["type"] == "summary").unwrap();
        attach.await_line("`attached` to the next", |line| line["type"] == "attached").unwrap();
        assert!(!code::changes(target.pid()).unwrap().is_empty());
    }
    let report = attach.stop().unwrap();
    let exits: Vec<bool> = report.lines_of("summary").map(|line| line["exit"]["exec"] == true).collect();
    assert_eq!(exits, [true, true, false]);
    assert!(report.lines_of("summary").all(|line| line["losses"]["balances"] == true));
    assert_eq!(code::changes(target.pid()).unwrap(), []);
    bpf::check_no_orphans().unwrap();
    tell(&mut target, "end");
}

#[test]
fn root_cost_1_doctor_measures_what_a_trap_costs() {
    needs!(Need::Root);
    let doctor = run(&["doctor", "--format", "json"]).unwrap().well().unwrap().json().unwrap();
    let measured = &doctor["calibration"];
    let [trap, record, stack, stepped] =
        ["trap_ns", "record_ns", "stack_ns", "stepped_ns"].map(|field| float(measured, field));
    println!("{measured}");
    // Any machine's: a trap takes between a tenth of a microsecond and some tens.
    assert!((100.0..50_000.0).contains(&trap), "{measured}");
    assert!(record > trap && stack > record && stepped > trap, "{measured}");
}
