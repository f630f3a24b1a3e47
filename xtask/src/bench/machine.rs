//! The machine that measures, as far as it matters for the figures.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::command::capture;
use crate::workspace::Workspace;

/// Its processors, kernel, and how busy it was; with what was measured.
pub(super) struct Machine {
    processor: String,
    processors: usize,
    kernel: String,
    commit: String,
    load: [String; 2],
}

impl Machine {
    /// As it is before the measurement.
    pub(super) fn look(workspace: &Workspace) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
            .map_or(std::env::consts::ARCH, |(_, name)| name.trim());
        let mut git = Command::new("git");
        git.current_dir(&workspace.root).args(["describe", "--always", "--dirty"]);
        Self {
            processor: processor.to_owned(),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease"),
            // Sources without their history are measured all the same.
            commit: capture(&mut git, "ask git").unwrap_or_default(),
            load: [load(), String::new()],
        }
    }

    /// The same behind it.
    pub(super) fn look_again(&mut self) {
        self.load[1] = load();
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "processor": self.processor,
            "processors": self.processors,
            "kernel": self.kernel,
            "commit": self.commit,
            "load_before": self.load[0],
            "load_after": self.load[1],
        })
    }

    pub(super) fn text(&self) -> String {
        let busy = self.load.iter().any(|load| load.parse::<f64>().is_ok_and(|l| l > self.processors as f64));
        let warning = if busy {
            ". **Others kept its processors busy: compare processor times and the rows of one table, not times by the clock**"
        } else {
            ""
        };
        format!(
            "{} with {} processors, Linux {}, commit {}; load before {}, after {}{warning}",
            self.processor, self.processors, self.kernel, self.commit, self.load[0], self.load[1]
        )
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// Of the last minute.
fn load() -> String {
    read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned()
}
