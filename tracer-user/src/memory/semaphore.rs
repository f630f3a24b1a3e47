//! What a goroutine waits on where the runtime does not keep it in `g.waiting`: a file descriptor, and up to Go 1.25 a
//! semaphore or a `sync.Cond`, are known to the waiter's own stack alone.
//!
//! No slot of a frame is assumed. Each word of the frame that waits is a candidate, and only one that leads to the
//! runtime's own record of this very wait is believed: a `sudog` that names this goroutine and is queued, a `pollDesc`
//! that names it as its reader or writer.

use std::collections::{HashMap, HashSet};

use super::details::{Budget, Parked};
use super::reader::{Reader, field, u8_at, u64_at};
use super::runtime::{Runtime, RuntimeError};
use super::stack::{StackCopy, Unwinder};
use super::wait::Poll;

/// Bytes of a stack that are looked at; the frames of a wait are the innermost and together take a few hundred.
const WINDOW: u64 = 4096;
/// `gopark` and what stands between it and the frame that is looked for.
const DEPTH: usize = 6;
/// Words of a frame that are looked at; those of the functions that wait have some thirty.
const MAX_WORDS: usize = 256;
/// Longest list of waiters that is followed.
const MAX_WAITERS: usize = 1 << 16;
/// Addresses below and above are no Go memory.
const MEMORY: std::ops::Range<u64> = 1 << 16..1 << 47;

/// A word of a goroutine's frame that may lead to its wait.
struct Candidate {
    /// Index of the goroutine.
    waiter: usize,
    address: u64,
}

impl<R: Reader> Runtime<'_, R> {
    /// The semaphores of goroutines that wait in `runtime.semacquire1` (runtime/sema.go), each with its `sudog`: that
    /// and the semaphore's address are both needed after the wait, so both are in the frame or with its arguments.
    pub(super) fn semaphores(
        &self,
        waiters: &[Parked],
        unwinder: &mut Unwinder<'_>,
    ) -> Result<Vec<Option<(u64, u64)>>, RuntimeError> {
        let layout = &self.binary.layout().sudog;
        let words = self.frames(waiters, unwinder, |name| name == "runtime.semacquire1")?;
        let candidates = candidates(&words, waiters, |word| [word]);
        let size = self.sudog_size();
        let parts: Vec<(u64, usize)> = candidates.iter().map(|c| (c.address, size)).collect();
        let (bytes, read) = self.memory.read_batch(&parts).map_err(|e| self.read_error(e))?;
        let mut found: Vec<HashSet<(u64, u64)>> = vec![HashSet::new(); waiters.len()];
        for ((candidate, sudog), read) in candidates.iter().zip(bytes.chunks_exact(size)).zip(read) {
            let semaphore = u64_at(sudog, layout.elem);
            let is_queued = read
                && u64_at(sudog, layout.g) == waiters[candidate.waiter].g
                && u64_at(sudog, layout.c) == 0
                && u8_at(sudog, layout.is_select) == 0
                && semaphore & 3 == 0
                && words[candidate.waiter].contains(&semaphore);
            if is_queued && MEMORY.contains(&semaphore) {
                found[candidate.waiter].insert((semaphore, candidate.address));
            }
        }
        Ok(found.into_iter().map(only).collect())
    }

    /// What goroutines wait on in `internal/poll.runtime_pollWait` (`poll_runtime_pollWait`, runtime/netpoll.go): the
    /// `pollDesc` is needed after the wait, so it is in the frame or with its arguments.
    pub(super) fn polls(
        &self,
        waiters: &[Parked],
        unwinder: &mut Unwinder<'_>,
    ) -> Result<Vec<Option<Poll>>, RuntimeError> {
        let layout = &self.binary.layout().polldesc;
        let (Some(fd), Some(rg), Some(wg), Some(rd), Some(wd)) =
            (layout.fd, layout.rg, layout.wg, layout.rd, layout.wd)
        else {
            return Ok(vec![None; waiters.len()]);
        };
        let words = self.frames(waiters, unwinder, |name| name == "internal/poll.runtime_pollWait")?;
        let candidates = candidates(&words, waiters, |word| [word]);
        let size = [fd, rg, wg, rd, wd].into_iter().max().unwrap_or(0) as usize + 8;
        let parts: Vec<(u64, usize)> = candidates.iter().map(|c| (c.address, size)).collect();
        let (bytes, read) = self.memory.read_batch(&parts).map_err(|e| self.read_error(e))?;
        let mut found: Vec<Vec<Poll>> = vec![Vec::new(); waiters.len()];
        for ((candidate, desc), read) in candidates.iter().zip(bytes.chunks_exact(size)).zip(read) {
            let g = waiters[candidate.waiter].g;
            let (reads, writes) = (u64_at(desc, rg) == g, u64_at(desc, wg) == g);
            let fd = u64_at(desc, fd);
            if !read || reads == writes || i32::try_from(fd).is_err() {
                continue;
            }
            let deadline = u64_at(desc, if writes { wd } else { rd }).cast_signed();
            found[candidate.waiter].push(Poll {
                desc: candidate.address,
                fd,
                write: writes,
                deadline_ns: u64::try_from(deadline).ok().filter(|at| *at != 0),
            });
        }
        let lone = |found: Vec<Poll>| if let [poll] = found[..] { Some(poll) } else { None };
        Ok(found.into_iter().map(lone).collect())
    }

    /// The lists of waiters of goroutines in `sync.(*Cond).Wait`: the waiter's own `sudog` is in that list.
    pub(super) fn conds(
        &self,
        waiters: &[Parked],
        unwinder: &mut Unwinder<'_>,
        budget: &mut Budget,
    ) -> Result<Vec<Option<u64>>, RuntimeError> {
        let words = self.frames(waiters, unwinder, |name| name == "sync.(*Cond).Wait")?;
        // The frames have the list, its lock, or the `sync.Cond` with the list behind its `L` (sync/cond.go).
        let candidates = candidates(&words, waiters, |word| {
            [word, word.wrapping_sub(LIST_LOCK), word.wrapping_add(COND_LIST)]
        });
        let lists: HashSet<u64> = candidates.iter().map(|c| c.address).collect();
        let members = self.notify_lists(lists.into_iter().collect(), budget)?;
        let mut found: Vec<HashSet<u64>> = vec![HashSet::new(); waiters.len()];
        for candidate in candidates {
            let is_in = members
                .get(&candidate.address)
                .is_some_and(|waiting| waiting.contains(&waiters[candidate.waiter].g));
            if is_in {
                found[candidate.waiter].insert(candidate.address);
            }
        }
        Ok(found.into_iter().map(only).collect())
    }

    /// Of addresses that may be a `notifyList` (runtime/sema.go, Go 1.18 to 1.25), those that are, each with the
    /// `g` of its waiters.
    fn notify_lists(
        &self,
        addresses: Vec<u64>,
        budget: &mut Budget,
    ) -> Result<HashMap<u64, HashSet<u64>>, RuntimeError> {
        let layout = &self.binary.layout().sudog;
        let parts: Vec<(u64, usize)> = addresses.iter().map(|address| (*address, LIST_SIZE)).collect();
        let (bytes, read) = self.memory.read_batch(&parts).map_err(|e| self.read_error(e))?;
        let mut lists = HashMap::new();
        for ((address, list), read) in addresses.into_iter().zip(bytes.chunks_exact(LIST_SIZE)).zip(read) {
            let (head, tail) = (u64_at(list, LIST_HEAD), u64_at(list, LIST_TAIL));
            let is_sudog = |at: u64| MEMORY.contains(&at) && at & 7 == 0;
            // The tail has no next one.
            if !read
                || !is_sudog(head)
                || !is_sudog(tail)
                || self.memory.u64(field(tail, layout.next)) != Ok(0)
            {
                continue;
            }
            let mut waiting = HashSet::new();
            let mut sudog = head;
            for _ in 0..MAX_WAITERS.min(budget.waiters) {
                budget.waiters -= 1;
                let Ok(g) = self.memory.u64(field(sudog, layout.g)) else { break };
                waiting.insert(g);
                if sudog == tail {
                    lists.insert(address, waiting);
                    break;
                }
                match self.memory.u64(field(sudog, layout.next)) {
                    Ok(next) if is_sudog(next) => sudog = next,
                    _ => break,
                }
            }
        }
        Ok(lists)
    }

    /// The words of the frame of a function and of what called it, for each goroutine.
    fn frames(
        &self,
        waiters: &[Parked],
        unwinder: &mut Unwinder<'_>,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<Vec<u64>>, RuntimeError> {
        let parts: Vec<(u64, usize)> = waiters
            .iter()
            .map(|waiter| (waiter.sp, waiter.stack.end.saturating_sub(waiter.sp).min(WINDOW) as usize))
            .collect();
        let (bytes, read) = self.memory.read_batch(&parts).map_err(|e| self.read_error(e))?;
        let mut rest = bytes.as_slice();
        let mut words = Vec::with_capacity(waiters.len());
        for ((waiter, (start, len)), read) in waiters.iter().zip(parts).zip(read) {
            let (bytes, after) = rest.split_at(len);
            rest = after;
            let copy = StackCopy { start, bytes: if read { bytes } else { &[] } };
            let frame = unwinder.find(waiter.pc, waiter.sp, &copy, DEPTH, &wanted);
            words.push(frame.map(|range| copy.words(range).take(MAX_WORDS).collect()).unwrap_or_default());
        }
        Ok(words)
    }

    /// Bytes of a `sudog` up to the last field that is read.
    pub(super) fn sudog_size(&self) -> usize {
        let s = &self.binary.layout().sudog;
        [s.g, s.next, s.elem, s.c, s.is_select, s.waitlink].into_iter().max().unwrap_or(0) as usize + 8
    }
}

/// `notifyList`: two tickets of 32 bits, a lock of a word, the first and the last waiter (runtime/sema.go; with the
/// lock as it is without `GOEXPERIMENT=staticlockranking`).
const LIST_LOCK: u64 = 8;
const LIST_HEAD: u32 = 16;
const LIST_TAIL: u32 = 24;
const LIST_SIZE: usize = 32;
/// `sync.Cond`: its `L` is an interface (sync/cond.go).
const COND_LIST: u64 = 16;

/// What the words of each waiter's frames may lead to, without what points into its own stack.
fn candidates<const N: usize>(
    words: &[Vec<u64>],
    waiters: &[Parked],
    addresses: impl Fn(u64) -> [u64; N],
) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for (waiter, (words, parked)) in words.iter().zip(waiters).enumerate() {
        let distinct: HashSet<u64> = words.iter().flat_map(|word| addresses(*word)).collect();
        let may_be =
            |address: &u64| address & 7 == 0 && MEMORY.contains(address) && !parked.stack.contains(address);
        candidates.extend(distinct.into_iter().filter(may_be).map(|address| Candidate { waiter, address }));
    }
    candidates
}

fn only<T>(found: HashSet<T>) -> Option<T> {
    let mut found = found.into_iter();
    found.next().filter(|_| found.next().is_none())
}
