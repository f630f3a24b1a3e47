//! Arguments. Types of the argument parser end in this module's functions.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use gotrail::agent::{Options, Subject, SwitchesFor};
use gotrail::detect::Thresholds;
use gotrail::probe::SwitchMode;

use super::failure::{Failure, USAGE};

/// Watches Go programs from outside: finds goroutine leaks, hangs, stop-the-world stalls, GC trouble and
/// crashes in a running process, without a code change or a restart.
#[derive(Debug, Parser)]
#[command(name = "gotrail", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Watch a process and name its faults as they show, with a summary at the end
    #[command(
        after_help = "Examples:\n  gotrail attach 4711\n  gotrail attach 4711 --for 60s --format json\n  gotrail attach --exe /usr/local/bin/server
  gotrail attach 4711 --otlp http://127.0.0.1:4318\n\nExit codes: 0 done (also when the process ends meanwhile), 2 usage, 3 not a Go process or not\nsupported, 4 not permitted, 5 the process was gone before attach, 6 a backend took nothing of\nwhat was to be exported."
    )]
    Attach(AttachArgs),
    /// Print every goroutine of a process, with its stack, without stopping it; or of a core file
    #[command(
        after_help = "Examples:\n  gotrail dump 4711\n  gotrail dump 4711 --group --filter 'reason=chan receive,age>=30s'\n  gotrail dump 4711 --waits\n  gotrail dump 4711 --group --no-stacks\n  gotrail dump 4711 --filter 'func=net/http.(*conn)' --format json\n  gotrail dump 4711 --format pprof > goroutines.pb && go tool pprof -http : goroutines.pb\n  gotrail dump 4711 --format folded | flamegraph.pl > goroutines.svg\n  gotrail dump core.4711 --binary ./server"
    )]
    Dump(DumpArgs),
    /// Print the runtime's own figures: scheduler, GC, memory, queues; once, or again and again
    #[command(
        after_help = "Examples:\n  gotrail stats 4711\n  gotrail stats 4711 --watch\n  gotrail stats 4711 --watch 500ms --for 1m --format json\n\nNothing is attached and nothing stops. The JSON is described in docs/stats.md, with the name that each\nfigure has in runtime/metrics."
    )]
    Stats(StatsArgs),
    /// Tell where the time of a process's goroutines goes: running, waiting and why, by stack
    #[command(
        after_help = "Examples:\n  gotrail profile 4711\n  gotrail profile 4711 --for 60s --format svg --output wall.svg\n  gotrail profile 4711 --format pprof --output wall.pb && go tool pprof -http : wall.pb\n  gotrail profile 4711 --state running --state sync.Mutex.Lock\n\nIt reads memory and samples the CPUs; there is no probe in the process, and it is not stopped.\nCtrl-C ends it early, with what there is."
    )]
    Profile(ProfileArgs),
    /// List the Go processes of this host
    Ps(PsArgs),
    /// Tell what is known of an executable: build, layout, probe sites, and who tunes the runtime by hand
    #[command(after_help = "Examples:\n  gotrail inspect 4711\n  gotrail inspect ./server --format json")]
    Inspect(InspectArgs),
    /// Tell what this host, and a process, let gotrail do, and why not
    Doctor(DoctorArgs),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Text for people
    Human,
    /// JSON
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SwitchForm {
    /// A record of each
    Records,
    /// Distributions counted in the kernel: cheaper, but they do not tell who woke whom
    Sums,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("watched").args(["pid", "exe"]).required(true))]
pub(crate) struct AttachArgs {
    /// Process to watch
    pub(crate) pid: Option<u32>,
    /// Watch every process that runs this executable instead, those that start later too; a PID stands for what it runs.
    /// One set of probes serves them all, so each process of the executable pays for it
    #[arg(long, value_name = "FILE|PID", conflicts_with_all = ["switches", "syscalls", "follow_exec"])]
    pub(crate) exe: Option<String>,
    /// With --exe: watch so many processes at most
    #[arg(long, value_name = "NUMBER", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) most: u32,
    /// Stop after this long, for example 60s or 5m; without it, at Ctrl-C or when the process ends
    #[arg(long = "for", value_name = "TIME", value_parser = stretch)]
    pub(crate) duration: Option<Duration>,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub(crate) format: Format,
    /// Also print each GC cycle and each stop of the world
    #[arg(long)]
    pub(crate) events: bool,
    /// Share of the process's CPU time that probes may cost, in percent; 100: all is observed, whatever it costs
    #[arg(long, value_name = "PERCENT", default_value_t = 1.8)]
    pub(crate) budget: f64,
    /// Observe every switch between goroutines for this long, from attach on: how long who waits for what and where,
    /// how long until it runs, who wakes it. Dear while it lasts, and not kept within the budget; what it costs is said.
    /// `bursts`: all the time, but only in short bursts that the budget allows
    #[arg(long, value_name = "TIME|bursts", value_parser = switches)]
    pub(crate) switches: Option<SwitchesFor>,
    /// What to make of switches
    #[arg(long, value_enum, default_value_t = SwitchForm::Records, requires = "switches")]
    pub(crate) switches_as: SwitchForm,
    /// Observe every system call of goroutines for this long, from attach on: which, where, how long. It makes each system
    /// call of this machine a little slower meanwhile, of whatever process
    #[arg(long, value_name = "TIME", value_parser = stretch)]
    pub(crate) syscalls: Option<Duration>,
    /// Time between two looks at all goroutines
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = stretch)]
    pub(crate) snapshot_every: Duration,
    /// A stop of the world this long is a finding
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = time)]
    pub(crate) long_stw: Duration,
    /// A request handler or pool waiter that has not moved for this long is stuck
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time)]
    pub(crate) stuck_after: Duration,
    /// When the process executes another program, watch that one next
    #[arg(long)]
    pub(crate) follow_exec: bool,
    /// Do not copy the texts of panics and fatal errors out of the process
    #[arg(long)]
    pub(crate) no_text: bool,
    /// Size of the event buffer in KiB, a power of two
    #[arg(long, value_name = "KIB", default_value_t = 4096)]
    pub(crate) ring_kib: u32,
    #[command(flatten)]
    pub(crate) otlp: OtlpArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Export")]
pub(crate) struct OtlpArgs {
    /// Send spans, metrics and logs to this OTLP endpoint (HTTP/protobuf), for example <http://127.0.0.1:4318>
    #[arg(long, value_name = "URL")]
    pub(crate) otlp: Option<String>,
    /// Full URL for spans alone
    #[arg(long, value_name = "URL")]
    pub(crate) otlp_traces: Option<String>,
    /// Full URL for metrics alone
    #[arg(long, value_name = "URL")]
    pub(crate) otlp_metrics: Option<String>,
    /// Full URL for logs alone
    #[arg(long, value_name = "URL")]
    pub(crate) otlp_logs: Option<String>,
    /// Name of the service in what is sent; without it, the name of the executable
    #[arg(long, value_name = "NAME")]
    pub(crate) service_name: Option<String>,
}

impl AttachArgs {
    /// The engine's options.
    pub(crate) fn options(&self) -> Result<Options, Failure> {
        if !(self.budget >= 0.0 && self.budget <= 100.0) {
            return Err(Failure::new(
                USAGE,
                format!("--budget {}: give a share in percent, from 0 to 100", self.budget),
            ));
        }
        if !self.ring_kib.is_power_of_two() || !(4..=1 << 20).contains(&self.ring_kib) {
            return Err(Failure::new(
                USAGE,
                format!("--ring-kib {}: the kernel wants a power of two, from 4 to 1048576", self.ring_kib),
            ));
        }
        Ok(Options {
            switches: self.switches,
            syscalls: self.syscalls,
            snapshot_every: self.snapshot_every,
            budget: self.budget / 100.0,
            thresholds: Thresholds {
                long_stw_ns: nanos(self.long_stw),
                stuck_ns: nanos(self.stuck_after),
                ..Thresholds::default()
            },
            probes: gotrail::probe::Options {
                ring_bytes: self.ring_kib.saturating_mul(1024),
                capture_text: !self.no_text,
                switches: match self.switches_as {
                    SwitchForm::Records => SwitchMode::Records,
                    SwitchForm::Sums => SwitchMode::Sums,
                },
                ..gotrail::probe::Options::default()
            },
        })
    }
}

/// A time, or `bursts`.
fn switches(text: &str) -> Result<SwitchesFor, String> {
    if text == "bursts" { Ok(SwitchesFor::Bursts) } else { stretch(text).map(SwitchesFor::Time) }
}

/// A time in which something is to happen.
fn stretch(text: &str) -> Result<Duration, String> {
    match time(text)? {
        Duration::ZERO => Err("give a time above 0, for example 30s".to_owned()),
        time => Ok(time),
    }
}

/// `90s`, `5m`, `1m30s`; a number alone is seconds.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(u64::from(seconds)));
    }
    humantime::parse_duration(text).map_err(|e| format!("{e}; write it as 90s, 5m or 1m30s"))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What a reading command reads.
#[derive(Debug, Args)]
pub(crate) struct SubjectArgs {
    /// Process to read, or the core file of one
    #[arg(value_name = "PID|CORE")]
    subject: String,
    /// The executable of a core file's process; without it, the one that it ran, if that is still there
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

impl SubjectArgs {
    /// The process, or the core file with its executable.
    pub(crate) fn find(&self) -> Result<Subject, Failure> {
        Ok(Subject::find(&self.subject, self.binary.as_deref())?)
    }
}

/// Forms of `gotrail dump`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DumpFormat {
    /// The text of a Go traceback (debug=2)
    Human,
    /// JSON, with what each goroutine waits on and its labels
    Json,
    /// A profile for `go tool pprof`
    Pprof,
    /// Folded stacks for flame graphs: `frame;frame;frame count`
    Folded,
}

#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    #[command(flatten)]
    pub(crate) subject: SubjectArgs,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t = DumpFormat::Human)]
    pub(crate) format: DumpFormat,
    /// Show the runtime's own goroutines too
    #[arg(long)]
    pub(crate) system: bool,
    /// Show goroutines with the same stack and state as one, the most frequent first
    #[arg(long)]
    pub(crate) group: bool,
    /// Show the channels, locks and other things that goroutines wait on, those with the most waiters first
    #[arg(long)]
    pub(crate) waits: bool,
    /// With --waits: where goroutines seem to wait for each other, read the heap again and again for at most this long,
    /// to prove that nothing else can wake them; 0 does not
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time)]
    pub(crate) prove: Duration,
    /// Show only goroutines with state=, reason=, func=, func~, label=KEY or label=KEY:VALUE, goid=, age>= or age<
    /// (Go's own estimate, rather too old); the same name twice is either, different names are both. func= takes a part
    /// of a function's name as it is, `net/http.(*conn).serve`, with * for anything and ^ and $ for its ends; func~ a
    /// regular expression, which ends its argument
    #[arg(long, value_name = "CONDITION[,CONDITION]")]
    pub(crate) filter: Vec<String>,
    /// Do not copy pprof labels out of the process
    #[arg(long)]
    pub(crate) no_labels: bool,
    /// Leave stacks out: states, wait reasons and creators alone, several times faster; with --group they are counted
    #[arg(long)]
    pub(crate) no_stacks: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    #[command(flatten)]
    pub(crate) subject: SubjectArgs,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub(crate) format: Format,
    /// Look again and again, each second or at this interval, with what happened in between
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "1s", value_parser = stretch)]
    pub(crate) watch: Option<Duration>,
    /// With --watch: stop after this long, for example 60s or 5m
    #[arg(long = "for", value_name = "TIME", value_parser = stretch)]
    pub(crate) duration: Option<Duration>,
}

/// Forms of `gotrail profile`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProfileFormat {
    /// Tables by state and by stack
    Human,
    /// JSON, with every stack
    Json,
    /// A profile for `go tool pprof`, with time by state
    Pprof,
    /// Folded stacks for flame graphs: `state;frame;frame microseconds`
    Folded,
    /// A flame graph
    #[cfg(feature = "svg")]
    Svg,
}

#[derive(Debug, Args)]
pub(crate) struct ProfileArgs {
    /// Process to profile
    #[arg(value_parser = live)]
    pub(crate) pid: u32,
    /// How long, for example 60s or 5m
    #[arg(long = "for", value_name = "TIME", default_value = "30s", value_parser = stretch)]
    pub(crate) duration: Duration,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t = ProfileFormat::Human)]
    pub(crate) format: ProfileFormat,
    /// Write the answer to this file, which only you can read, instead of to standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Share of one CPU that gotrail may use, in percent: it looks as often as that allows. The first look takes every
    /// stack, whatever it costs
    #[arg(long, value_name = "PERCENT", default_value = "5", value_parser = percent)]
    pub(crate) cpu: f64,
    /// Look so many times a second, whatever it costs
    #[arg(long, value_name = "HERTZ", conflicts_with = "cpu", value_parser = hertz)]
    pub(crate) rate: Option<f64>,
    /// Show only time in this state (running, runnable, syscall, waiting) or wait reason (a part of it will do);
    /// several are either
    #[arg(long, value_name = "STATE")]
    pub(crate) state: Vec<String>,
    /// Stacks that the tables show
    #[arg(long, value_name = "NUMBER", default_value_t = 10)]
    pub(crate) top: usize,
    /// Show the runtime's own goroutines too
    #[arg(long)]
    pub(crate) system: bool,
    /// Do not copy pprof labels out of the process
    #[arg(long)]
    pub(crate) no_labels: bool,
}

/// The number of a process, as a core file has nothing that goes on.
fn live(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| {
        "give the number of a process that runs; core files are read by dump and stats".to_owned()
    })
}

/// `5`, `5%` or `0.5`: percent, as a share.
fn percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').parse::<f64>() {
        Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent / 100.0),
        _ => Err("give a share in percent, above 0 and up to 100".to_owned()),
    }
}

fn hertz(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(hertz) if (0.01..=1000.0).contains(&hertz) => Ok(hertz),
        _ => Err("give looks a second, from 0.01 to 1000".to_owned()),
    }
}

#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Form of the answer
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Process, or path of an executable
    pub(crate) target: String,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Process to look at as well
    pub(crate) pid: Option<u32>,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub(crate) format: Format,
}
