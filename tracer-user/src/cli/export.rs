//! Export as the attach command uses it: nothing at all unless an endpoint was given.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gotrail::agent::{Ledger, Mode, Step, Summary, Watcher};
use gotrail::detect::{Change, Reported, Role, SiteRef, State, crash_text, panic_type};
use gotrail::export::otlp::{
    Account, Cost, CrashLog, EndLog, Endpoints, ExportError, ExportState, Exporter, Identity, Item,
    LeakGroup, Lifetimes, Metrics, Population, TierShare, Told,
};
use gotrail::memory::monotonic_ns;
use gotrail::model::{GcCycle, PanicStage, Pause};
use gotrail::probe::Accounting;
use gotrail::target::container_of;
use gotrail::text::{duration, printable};
use serde_json::{Value, json};

use super::args::OtlpArgs;
use super::cost::tier_name;
use super::failure::{Failure, USAGE};

/// Time between two sets of metrics.
const METRICS_EVERY: Duration = Duration::from_secs(5);

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        Self::new(USAGE, error.to_string())
    }
}

/// What is exported, and where to.
#[derive(Debug)]
pub(crate) struct Export {
    endpoints: Option<Endpoints>,
    exporter: Option<Exporter>,
    next_metrics: Instant,
    told_degraded: bool,
    crash_sent: bool,
    last: Option<ExportState>,
    /// Decisions of the governor.
    steps: BTreeMap<&'static str, u64>,
}

impl Export {
    /// Understands the endpoints, before anything is attached.
    pub(crate) fn prepare(args: &OtlpArgs) -> Result<Self, Failure> {
        let endpoints = Endpoints::new(
            args.otlp.as_deref(),
            args.otlp_traces.as_deref(),
            args.otlp_metrics.as_deref(),
            args.otlp_logs.as_deref(),
        )?;
        Ok(Self {
            endpoints,
            exporter: None,
            next_metrics: Instant::now(),
            told_degraded: false,
            crash_sent: false,
            last: None,
            steps: BTreeMap::new(),
        })
    }

    /// Starts to export what `watcher` sees.
    pub(crate) fn start(mut self, watcher: &Watcher, service: Option<&str>) -> Result<Self, Failure> {
        if let Some(endpoints) = self.endpoints.take() {
            self.exporter = Some(Exporter::start(endpoints, identity(watcher, service))?);
        }
        Ok(self)
    }

    pub(crate) fn finding(&mut self, reported: &Reported, change: Change) {
        let Some(exporter) = &self.exporter else { return };
        let group = reported.finding.trend.as_ref().map(|trend| LeakGroup {
            oldest_ns: trend.oldest_ns,
            wait_reason: trend.wait_reason.clone(),
            samples: trend.samples.clone(),
        });
        let told = Told { reported: reported.clone(), change, at_ns: monotonic_ns(), group };
        exporter.offer(Item::Finding(Box::new(told)));
    }

    pub(crate) fn governed(&mut self, step: &Step) {
        let name = match step {
            Step::Mode { to: Mode::Steady, .. } => "restored",
            Step::Mode { to: Mode::Windows, .. } => "to windows",
            Step::Mode { to: Mode::Off, .. } => "to memory alone",
            Step::Ended(stretch) if stretch.sampled => "window",
            Step::Refused { .. } => "refused",
            Step::TakeOff { .. } => "taken off",
            Step::PutBack { .. } => "put back",
            Step::Begun { .. }
            | Step::Ended(_)
            | Step::Asked { .. }
            | Step::Relink { .. }
            | Step::Priced { .. } => return,
        };
        *self.steps.entry(name).or_default() += 1;
    }

    pub(crate) fn pause(&mut self, pause: &Pause, caller: Option<SiteRef>) {
        if let Some(exporter) = &self.exporter {
            exporter.offer(Item::Pause { pause: pause.clone(), caller });
        }
    }

    pub(crate) fn cycle(&mut self, cycle: &GcCycle) {
        if let Some(exporter) = &self.exporter {
            exporter.offer(Item::Cycle(*cycle));
        }
    }

    /// Sends metrics when it is time, and the crash as soon as there is one. Says once when export is in
    /// trouble.
    pub(crate) fn tick(&mut self, watcher: &Watcher) -> Option<String> {
        let exporter = self.exporter.as_ref()?;
        if !self.crash_sent
            && let Some(log) = crash(watcher)
        {
            exporter.offer(Item::Crash(Box::new(log)));
            self.crash_sent = true;
        }
        if Instant::now() < self.next_metrics {
            return None;
        }
        self.next_metrics = Instant::now() + METRICS_EVERY;
        let cost = self.cost(watcher, &watcher.cost());
        exporter.offer(Item::Metrics(Box::new(metrics(watcher, &watcher.session().accounting(), cost))));
        let state = exporter.state();
        if self.told_degraded || !state.is_degraded() {
            return None;
        }
        self.told_degraded = true;
        Some(describe(&state))
    }

    /// Has the last figures sent.
    pub(crate) fn last(&mut self, watcher: &Watcher, summary: &Summary) {
        let Some(exporter) = &self.exporter else { return };
        if !self.crash_sent
            && let Some(log) = crash(watcher)
        {
            exporter.offer(Item::Crash(Box::new(log)));
        }
        if let Some(ended) = &summary.ended {
            exporter.offer(Item::End(Box::new(EndLog {
                at_ns: ended.at_ns,
                exit: ended.exit,
                upon: ended.upon.clone(),
                text: format!("the process ended: {ended}"),
            })));
        }
        let cost = self.cost(watcher, &summary.cost);
        exporter.offer(Item::Metrics(Box::new(metrics(watcher, &summary.accounting, cost))));
    }

    /// Waits for at most `within` until what waits is sent.
    pub(crate) fn close(&mut self, within: Duration) {
        if let Some(exporter) = self.exporter.take() {
            self.last = Some(exporter.finish(within));
        }
    }

    fn cost(&self, watcher: &Watcher, ledger: &Ledger) -> Cost {
        let rate = watcher.process().sampled_creations.rate();
        Cost {
            predicted_ns: ledger.spent_ns,
            target_cpu_ns: ledger.cpu_ns,
            budget: watcher.budget(),
            steps: self.steps.iter().map(|(step, n)| (*step, *n)).collect(),
            tiers: ledger
                .tiers
                .iter()
                .map(|of| TierShare {
                    tier: tier_name(of.tier),
                    mode: of.mode.name(),
                    observed_ns: of.observed_ns,
                })
                .collect(),
            created_per_second: rate.map(|e| [e.per_second, e.low, e.high]),
        }
    }

    /// Whether an endpoint was given that took nothing at all.
    pub(crate) fn failed(&self) -> bool {
        self.last
            .as_ref()
            .is_some_and(|state| state.active().any(|s| s.sent == 0 && s.dropped != 0 && !s.unsupported))
    }

    pub(crate) fn state_json(&self) -> Value {
        json!(self.last)
    }

    pub(crate) fn state_text(&self) -> Option<String> {
        self.last.as_ref().map(describe)
    }
}

fn describe(state: &ExportState) -> String {
    let signals: Vec<String> = state
        .active()
        .map(|s| {
            let mut text = format!("{} {} sent", s.signal.name(), s.sent);
            if s.dropped != 0 {
                text.push_str(&format!(", {} DROPPED", s.dropped));
            }
            if s.rejected != 0 {
                text.push_str(&format!(", {} refused by the backend", s.rejected));
            }
            if s.unsupported {
                text.push_str(", the backend has no such endpoint");
            }
            if let Some(since) = s.failing_since_ns {
                text.push_str(&format!(", failing for {}", duration(monotonic_ns().saturating_sub(since))));
            }
            if let Some(error) =
                s.last_error.as_ref().filter(|_| s.dropped != 0 || s.failing_since_ns.is_some())
            {
                text.push_str(&format!(" ({error})"));
            }
            text
        })
        .collect();
    format!("export: {}", signals.join("; "))
}

fn identity(watcher: &Watcher, service: Option<&str>) -> Identity {
    let target = watcher.target();
    let executable = target.exe.display().to_string();
    let file_name = executable.rsplit('/').next().unwrap_or_default().trim_end_matches(" (deleted)");
    let container = container_of(target.pid());
    Identity {
        service_name: service.map_or_else(|| file_name.to_owned(), str::to_owned),
        pid: target.pid(),
        command: target.command.first().cloned().unwrap_or_default(),
        go_version: watcher.binary().version().to_string(),
        host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        container_id: container.id,
        pod_uid: container.pod_uid,
        start_unix_secs: target.started_unix,
        executable,
    }
}

fn metrics(watcher: &Watcher, accounting: &Accounting, cost: Cost) -> Metrics {
    let process = watcher.process();
    let reasons = &watcher.binary().layout().wait_reasons;
    let total = accounting.total();
    let mut findings: BTreeMap<&'static str, u64> = BTreeMap::new();
    for reported in watcher.ledger().iter().filter(|r| r.state == State::Active) {
        *findings.entry(reported.finding.id).or_default() += 1;
    }
    Metrics {
        at_ns: monotonic_ns(),
        since_ns: watcher.begun_ns(),
        figures: process.figures.clone(),
        population: process
            .population()
            .iter()
            .map(|((status, reason, system), count)| Population {
                state: status.name(),
                wait_reason: if status.is_parked() {
                    reasons.get(usize::from(*reason)).cloned().unwrap_or_default()
                } else {
                    String::new()
                },
                system: *system,
                count: *count,
            })
            .collect(),
        lifetimes: process
            .has_lifetimes()
            .then_some(Lifetimes { created: process.goroutines.created, exited: process.goroutines.exited }),
        account: Some(Account {
            hits: total.hits,
            delivered: total.delivered,
            lost: accounting.lost(),
            gaps: accounting.gaps,
        }),
        cost: Some(cost),
        snapshot_took_ns: u64::try_from(watcher.last_snapshot_took().as_nanos()).ok(),
        findings: findings.into_iter().collect(),
        pauses: process.stw.by_reason().iter().map(|(reason, sum)| (*reason, *sum)).collect(),
    }
}

/// The process's end by panic or fatal error, if it came to that.
fn crash(watcher: &Watcher) -> Option<CrashLog> {
    let fatal = watcher.process().fatal.as_ref()?;
    let reported =
        watcher.ledger().iter().find(|r| matches!(r.finding.id, "panic" | "fatal-error" | "memory-fault"))?;
    let kind = panic_type(watcher.process(), watcher.binary(), fatal);
    let is_panic = fatal.record.stage == PanicStage::Fatal;
    Some(CrashLog {
        at_ns: fatal.at_ns,
        goid: fatal.goid,
        fatal: true,
        text: crash_text(watcher.binary(), &fatal.record)
            .unwrap_or_else(|| printable(&reported.finding.title)),
        exception_type: if is_panic { kind } else { Some("fatal error".to_owned()) },
        stack: reported.finding.stack.clone(),
        created_by: reported.finding.sites.iter().find(|site| site.role == Role::Created).cloned(),
    })
}
