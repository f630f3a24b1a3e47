//! The fixture `shop` and the load on it.

use std::net::SocketAddr;

use anyhow::{Context, Result};

use crate::fixture::Build;
use crate::process::Process;

/// A running shop.
#[derive(Debug)]
pub struct Shop {
    /// The process.
    pub process: Process,
    /// Where it serves.
    pub address: SocketAddr,
}

impl Shop {
    /// Starts one and waits until it serves.
    ///
    /// # Errors
    /// It does not get there.
    pub fn start(build: &Build, arguments: &[&str]) -> Result<Self> {
        let mut process = build.start(arguments)?;
        let address = process.await_output("`listening ADDRESS`", |line| {
            line.strip_prefix("listening ").map(|address| address.trim().to_owned())
        })?;
        process.await_output("`ready`", |line| (line == "ready").then_some(()))?;
        let address = address.parse().with_context(|| format!("{address:?} is no address"))?;
        Ok(Self { process, address })
    }
}

/// A running load on a shop.
#[derive(Debug)]
pub struct Load {
    process: Process,
}

/// What became of the requests.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The line that the load printed.
    pub line: String,
}

impl Load {
    /// Starts it, for so many seconds.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(target: SocketAddr, seconds: u32) -> Result<Self> {
        let build = Build::find("shopload", crate::fixture::OLDEST_AND_NEWEST[1], "default")?;
        let process = build.start(&["-target", &target.to_string(), "-for", &format!("{seconds}s")])?;
        Ok(Self { process })
    }

    /// Waits for its end and returns what became of the requests.
    ///
    /// # Errors
    /// It does not end.
    pub fn finish(mut self) -> Result<Outcome> {
        let line = self
            .process
            .await_output("its summary", |line| line.starts_with("summary ").then(|| line.to_owned()))?;
        Ok(Outcome { line })
    }
}

impl Outcome {
    /// How many requests ended so: `ok`, `failed`, `timeout`, `refused`, `broken` or `skipped`.
    ///
    /// # Errors
    /// The line does not say.
    pub fn count(&self, what: &str) -> Result<u64> {
        self.line
            .split_whitespace()
            .find_map(|word| word.strip_prefix(what)?.strip_prefix('=')?.parse().ok())
            .with_context(|| format!("no {what} in {:?}", self.line))
    }
}
