//! The text of a Go traceback (`debug=2`), taken apart so that two can be compared.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

/// What a traceback says of one goroutine, without what changes by itself (how long it has waited) and what
/// only the process knows (the arguments of calls).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goroutine {
    /// `chan receive`, `IO wait, locked to thread`.
    pub state: String,
    /// Its calls, innermost first.
    pub calls: Vec<Call>,
    /// The go statement that made it: `main.start in goroutine 1`, and where.
    pub created: Option<Call>,
    /// The lines about its ancestors, with `GODEBUG=tracebackancestors=N`.
    pub ancestors: Vec<String>,
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The function.
    pub function: String,
    /// `/path/file.go:12 +0x34`; without the offset where the call was inlined.
    pub place: String,
}

/// Takes the text apart, by goroutine id.
///
/// # Errors
/// It is not the text of a traceback.
pub fn parse(text: &str) -> Result<BTreeMap<u64, Goroutine>> {
    let mut goroutines = BTreeMap::new();
    for block in text.trim().split("\n\n") {
        let (id, goroutine) = goroutine(block).with_context(|| format!("no goroutine: {block:?}"))?;
        ensure!(goroutines.insert(id, goroutine).is_none(), "goroutine {id} stands there twice");
    }
    Ok(goroutines)
}

fn goroutine(block: &str) -> Result<(u64, Goroutine)> {
    let mut lines = block.lines();
    let head = lines.next().and_then(|line| line.strip_prefix("goroutine ")).context("no head")?;
    let (id, state) = head.split_once(" [").context("no state")?;
    let state = state.strip_suffix("]:").context("the state does not end")?;
    // With `SetTraceback("system")`: `3 gp=0xc000002000 m=nil`.
    let id = id.split(' ').next().unwrap_or_default();
    let state: Vec<&str> = state.split(", ").filter(|part| !part.ends_with(" minutes")).collect();
    let (mut calls, mut created) = (Vec::new(), None);
    let mut ancestors = Vec::new();
    while let Some(line) = lines.next() {
        if line.starts_with("[originating from goroutine ") {
            ancestors.extend([line].into_iter().chain(&mut lines).map(str::to_owned));
            break;
        }
        let place = lines
            .next()
            .and_then(|line| line.strip_prefix('\t'))
            .with_context(|| format!("{line:?} has no place"))?;
        let place = place.to_owned();
        match line.strip_prefix("created by ") {
            Some(function) => created = Some(Call { function: function.to_owned(), place }),
            None => calls.push(Call { function: without_arguments(line)?.to_owned(), place }),
        }
    }
    let id = id.parse().context("the id is no number")?;
    Ok((id, Goroutine { state: state.join(", "), calls, created, ancestors }))
}

/// `net.(*netFD).accept` of `net.(*netFD).accept(0xc000122000)`: arguments may hold braces but no parentheses.
fn without_arguments(line: &str) -> Result<&str> {
    let open = line.rfind('(').filter(|_| line.ends_with(')'));
    Ok(&line[..open.with_context(|| format!("{line:?} is no call"))?])
}
