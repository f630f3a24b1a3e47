//! The profile for people: time by state, then the stacks that take the most.

use std::fmt::Write as _;

use gotrail::binary::Frame;
use gotrail::memory::Symbolizer;
use gotrail::model::{Class, Share};
use gotrail::probe::SAMPLE_NS;
use gotrail::text::{duration, printable};

use super::super::human;
use super::{Profile, stacks};

/// Less than this share of a table's whole is summed up in one row.
const SMALL: f64 = 0.0005;

pub(super) fn of(profile: &Profile<'_>, symbolizer: &mut Symbolizer) -> String {
    let wall = &profile.profiler.wall;
    let mut out = String::new();
    let _ = writeln!(
        out,
        "process {} ({}), {}: {} looks in {}, {:.1} goroutines on the average",
        profile.target.pid(),
        printable(&profile.target.comm),
        profile.runtime.binary().version(),
        wall.looks(),
        duration(wall.elapsed_ns()),
        profile.population()
    );
    if wall.total_ns() == 0.0 {
        let _ =
            writeln!(out, "nothing was measured: it takes two looks at least, and goroutines of the program");
        return out;
    }
    let _ = writeln!(out, "time of all of them together: {}\n", duration(wall.total_ns() as u64));
    out.push_str(&states(profile));
    out.push_str(&on_cpu(profile));
    out.push('\n');
    out.push_str(&top(profile, symbolizer));
    let _ = writeln!(
        out,
        "± is half of the 95 % interval that sampling leaves. It takes for granted that nothing in the process keeps step\nwith the looks, whose distance varies at random; it says nothing of times other than these {}.",
        duration(wall.elapsed_ns())
    );
    out
}

/// How goroutines that do this are called by those who wrote the runtime.
fn name(profile: &Profile<'_>, class: Class, reason: u8) -> String {
    match profile.reason(class, reason) {
        Some(reason) => format!("waiting: {}", printable(reason)),
        None if class == Class::Runnable => "runnable (in a run queue)".to_owned(),
        None if class == Class::Syscall => "syscall (or C code)".to_owned(),
        None => class.name().to_owned(),
    }
}

/// `12.3 %  ±0.4`.
fn percent(profile: &Profile<'_>, share: Share) -> [String; 2] {
    [
        format!("{:.1} %", profile.share(share.time_ns) * 100.0),
        format!("±{:.1}", profile.share(share.error_ns) * 100.0),
    ]
}

fn states(profile: &Profile<'_>) -> String {
    let wall = &profile.profiler.wall;
    let (mut rows, mut small, mut count) = (Vec::new(), Share::default(), 0);
    let row = |name: String, share: Share| {
        let [part, error] = percent(profile, share);
        let goroutines = share.time_ns / (wall.elapsed_ns() as f64).max(1.0);
        vec![name, duration(share.time_ns as u64), part, error, format!("{goroutines:.2}")]
    };
    for ((class, reason), share) in wall.states() {
        if !profile.shows(class, reason) {
            continue;
        }
        if profile.share(share.time_ns) < SMALL && class == Class::Waiting {
            small = small.plus(share);
            count += 1;
        } else {
            rows.push(row(name(profile, class, reason), share));
        }
    }
    if count != 0 {
        rows.push(row(format!("waiting: {count} other reasons"), small));
    }
    human::table(&["STATE", "TIME", "SHARE", "±", "GOROUTINES"], &rows)
}

/// What the CPUs say of running goroutines.
fn on_cpu(profile: &Profile<'_>) -> String {
    let (summary, mut out) = (profile.summary, String::new());
    if !profile.shows(Class::Running, 0) {
        return out;
    }
    if let Some(why) = &summary.no_cpu {
        let _ = writeln!(out, "running goroutines have no stack here: {}", printable(why));
        return out;
    }
    let running: f64 = profile
        .profiler
        .wall
        .states()
        .iter()
        .filter(|((class, _), _)| *class == Class::Running)
        .map(|(_, share)| share.time_ns)
        .sum();
    let time = |samples: u64| duration(samples * SAMPLE_NS);
    let counts = &summary.on_cpu;
    let seen = (counts.running * SAMPLE_NS) as f64;
    let _ = write!(
        out,
        "\non a CPU, by {} samples: {} of running goroutines",
        counts.all(),
        time(counts.running)
    );
    // Less than that may be chance.
    if running > seen * 1.2 && running - seen > 1e8 {
        let _ = write!(
            out,
            "; the other {} they had a P but no CPU: the kernel ran something else, or a CPU quota was used up",
            duration((running - seen) as u64)
        );
    }
    for (samples, what) in [
        (counts.syscall, "in system calls or C code"),
        (counts.other, "of goroutines that count as waiting (helping the collector)"),
        (counts.system, "of the runtime's own goroutines (the collector's workers)"),
        (counts.scheduler, "in the scheduler"),
        (counts.foreign, "on threads that are not Go's"),
    ] {
        if samples != 0 {
            let _ = write!(out, "; {} {what}", time(samples));
        }
    }
    out.push('\n');
    out
}

fn top(profile: &Profile<'_>, symbolizer: &mut Symbolizer) -> String {
    let mut out = String::new();
    let wall = &profile.profiler.wall;
    for (number, stacked) in profile.stacks.iter().take(profile.args.top).enumerate() {
        let [part, error] = percent(profile, stacked.share);
        let _ = writeln!(
            out,
            "{:>3}. {part} {error}  {}  {}, {:.2} goroutines on the average",
            number + 1,
            name(profile, stacked.class, stacked.wait_reason),
            duration(stacked.share.time_ns as u64),
            stacked.share.time_ns / (wall.elapsed_ns() as f64).max(1.0)
        );
        let key = (stacked.class, stacked.stack, stacked.startpc);
        let all: Vec<Frame> = stacks::frames(profile, key, symbolizer)
            .iter()
            .flat_map(|(_, frames)| frames.iter().filter(|frame| !frame.wrapper).cloned().collect::<Vec<_>>())
            .collect();
        let own: Vec<Frame> = all.iter().filter(|f| is_shown(stacked.class, f)).cloned().collect();
        let frames = if own.is_empty() { all } else { own };
        out.push_str(&human::stack(&frames, "       "));
    }
    let rest = profile.stacks.len().saturating_sub(profile.args.top);
    if rest != 0 {
        let time: f64 = profile.stacks.iter().skip(profile.args.top).map(|s| s.share.time_ns).sum();
        let _ = writeln!(
            out,
            "and {rest} more stacks with {:.1} % (--top, or --format json, pprof, folded and svg have them)",
            profile.share(time) * 100.0
        );
    }
    out.push('\n');
    out
}

/// Leaves out what parks and starts every goroutine: the runtime's own functions around those of a program, as Go's
/// tracebacks do. Where it runs, they are what it runs.
fn is_shown(class: Class, frame: &Frame) -> bool {
    let internal = frame.function.strip_prefix("runtime.").is_some_and(|name| {
        name == "goexit" || class != Class::Running && name.starts_with(|c: char| c.is_ascii_lowercase())
    });
    !internal
}
