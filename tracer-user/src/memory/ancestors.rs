//! The ancestors of a goroutine: who started who started it, with the stacks of that moment. The runtime keeps them with
//! `GODEBUG=tracebackancestors=N` only (`saveAncestors`, runtime/proc.go).

use super::details::Budget;
use super::reader::{Reader, u64_at};
use super::runtime::Runtime;
use super::stack::{MAX_DEPTH, Pc};

/// Most ancestors of one goroutine that are read.
const MOST: u64 = 256;
/// Frames that the runtime keeps of each: `tracebackInnerFrames` (runtime/traceback.go), before Go 1.21
/// `_TracebackMaxFrames` (runtime/runtime2.go).
const KEPT: usize = 50;
const KEPT_BEFORE_21: usize = 100;

/// One ancestor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ancestor {
    /// Its id; it may have ended.
    pub goid: u64,
    /// Linked addresses of its stack when it started the next one, innermost first.
    pub pcs: Vec<Pc>,
    /// Its stack was deeper than what the runtime kept.
    pub truncated: bool,
    /// Return address of its own `go` statement, linked; 0 if unknown.
    pub gopc: u64,
}

impl<R: Reader> Runtime<'_, R> {
    /// The ancestors of a goroutine, the nearest first; none if there are none, or they can't be read.
    pub(super) fn ancestors(&self, g: &[u8], budget: &mut Budget) -> Vec<Ancestor> {
        let layout = self.binary.layout();
        let at = u64_at(g, layout.g.ancestors);
        let ancestor = &layout.ancestor;
        let (Some(size), Some(pcs), Some(goid), Some(gopc)) =
            (ancestor.size, ancestor.pcs, ancestor.goid, ancestor.gopc)
        else {
            return Vec::new();
        };
        let mut header = [0; 24];
        if at == 0 || self.memory.read(at, &mut header).is_err() {
            return Vec::new();
        }
        let (list, count) = (u64_at(&header, 0), u64_at(&header, 8).min(MOST));
        let kept = if self.binary.version().minor < 21 { KEPT_BEFORE_21 } else { KEPT };
        let mut found = Vec::new();
        for index in 0..count {
            let mut bytes = vec![0; size as usize];
            if self.memory.read(list.wrapping_add(index * u64::from(size)), &mut bytes).is_err() {
                break;
            }
            let (stack, depth) = (u64_at(&bytes, pcs), u64_at(&bytes, pcs + 8));
            let depth = usize::try_from(depth).unwrap_or(usize::MAX).min(MAX_DEPTH);
            let Some(left) = budget.ancestors.checked_sub(depth) else { break };
            budget.ancestors = left;
            let mut words = vec![0; depth * 8];
            if self.memory.read(stack, &mut words).is_err() {
                break;
            }
            let linked = |address: u64| if address == 0 { 0 } else { address.wrapping_sub(self.bias) };
            let pcs = words
                .chunks_exact(8)
                // The runtime looks these up as they are, not one before (`printAncestorTracebackFuncInfo`).
                .map(|word| Pc { address: linked(u64_at(word, 0)), exact: true })
                .collect();
            found.push(Ancestor {
                goid: u64_at(&bytes, goid),
                pcs,
                truncated: depth == kept,
                gopc: linked(u64_at(&bytes, gopc)),
            });
        }
        found
    }
}
