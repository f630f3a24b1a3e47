//! Where a function takes locks of package sync and gives them back, by its code: what tells a goroutine that holds a
//! lock from one that only knows it. Go does not record who holds a lock.
//!
//! A lock is taken by a call, or by an inlined fast path whose instructions the inline tree names. What is compared is
//! lines of the source: the compiler puts slow paths behind everything else.

use std::collections::HashMap;

use super::code::Code;
use super::read::GoBinary;
use super::symbols::Function;

/// What takes a lock, and what is left of it where the rest was inlined.
const TAKES: [&str; 12] = [
    "sync.(*Mutex).Lock",
    "sync.(*Mutex).lockSlow",
    "sync.(*Mutex).TryLock",
    "internal/sync.(*Mutex).Lock",
    "internal/sync.(*Mutex).lockSlow",
    "internal/sync.(*Mutex).TryLock",
    "sync.(*RWMutex).Lock",
    "sync.(*RWMutex).RLock",
    "sync.(*RWMutex).TryLock",
    "sync.(*RWMutex).TryRLock",
    "sync.(*rlocker).Lock",
    "sync.runtime_SemacquireRWMutexR",
];
/// What gives it back.
const GIVES: [&str; 8] = [
    "sync.(*Mutex).Unlock",
    "sync.(*Mutex).unlockSlow",
    "internal/sync.(*Mutex).Unlock",
    "internal/sync.(*Mutex).unlockSlow",
    "sync.(*RWMutex).Unlock",
    "sync.(*RWMutex).RUnlock",
    "sync.(*RWMutex).rUnlockSlow",
    "sync.(*rlocker).Unlock",
];

/// What a frame does with locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Locking {
    /// Nothing, or what it took it has given back.
    Nothing,
    /// It gives back what it did not take.
    Gives,
    /// It has taken one and not given it back, by the order of its lines.
    Holds,
}

/// A place in a function's code, by its line.
#[derive(Clone, Copy, Debug)]
struct Site {
    /// The first address, and the one behind the last: of a call the return address.
    start: u64,
    end: u64,
    line: u32,
    takes: bool,
}

/// What was found out of the functions that were asked about.
#[derive(Debug, Default)]
pub struct LockingCode {
    /// Entries of [`TAKES`] and [`GIVES`], and whether it takes.
    targets: Option<Vec<(u64, bool)>>,
    /// By entry: its sites, and whether it defers calls.
    functions: HashMap<u64, (Vec<Site>, bool)>,
}

impl LockingCode {
    /// What the frame at a linked address does; `exact` as for [`GoBinary::frames`].
    pub fn at(&mut self, binary: &GoBinary, address: u64, exact: bool) -> Locking {
        let look_up = if exact { address } else { address.saturating_sub(1) };
        let Some(function) = binary.symbols().at(look_up) else { return Locking::Nothing };
        let targets = self.targets.get_or_insert_with(|| targets(binary));
        let (sites, defers) =
            self.functions.entry(function.entry).or_insert_with(|| sites(binary, function, targets));
        let line = own_line(binary, look_up);
        judge(sites, *defers, look_up, line)
    }
}

/// By the lines of its sites: what a function does that is at this place.
fn judge(sites: &[Site], defers: bool, at: u64, line: u32) -> Locking {
    let elsewhere = |site: &&Site| !(site.start <= at && at < site.end);
    let taken = sites.iter().filter(|site| site.takes).filter(elsewhere).filter(|site| site.line <= line);
    let Some(last) = taken.map(|site| site.line).max() else {
        let (takes, gives) = (sites.iter().any(|site| site.takes), sites.iter().any(|site| !site.takes));
        return if gives && !takes { Locking::Gives } else { Locking::Nothing };
    };
    let gives = |test: &dyn Fn(u32) -> bool| sites.iter().any(|site| !site.takes && test(site.line));
    let given_back = gives(&|l| last <= l && l < line) && !defers && !gives(&|l| l >= line);
    if given_back { Locking::Nothing } else { Locking::Holds }
}

fn targets(binary: &GoBinary) -> Vec<(u64, bool)> {
    let find = |found: &[Option<Function>], takes: bool| -> Vec<(u64, bool)> {
        found.iter().flatten().map(|function| (function.entry, takes)).collect()
    };
    let takes = binary.symbols().find(binary.image(), TAKES);
    let gives = binary.symbols().find(binary.image(), GIVES);
    [find(&takes, true), find(&gives, false)].concat()
}

fn sites(binary: &GoBinary, function: Function, targets: &[(u64, bool)]) -> (Vec<Site>, bool) {
    let (symbols, image) = (binary.symbols(), binary.image());
    let addresses: Vec<u64> = targets.iter().map(|(address, _)| *address).collect();
    let mut sites = Vec::new();
    let calls = Code::of(image, function).map(|code| code.calls(&addresses)).unwrap_or_default();
    for call in calls {
        let takes = targets.iter().any(|(address, takes)| *address == call.target && *takes);
        // The longest call has as many bytes.
        sites.push(Site {
            start: call.address,
            end: call.address + 5,
            line: own_line(binary, call.address),
            takes,
        });
    }
    for (range, name) in symbols.inlined_ranges(image, function) {
        let takes = TAKES.contains(&name);
        if takes || GIVES.contains(&name) {
            sites.push(Site {
                start: range.start,
                end: range.end,
                line: own_line(binary, range.start),
                takes,
            });
        }
    }
    (sites, symbols.defers(image, function))
}

/// The line in the function itself, not in what was inlined into it.
fn own_line(binary: &GoBinary, address: u64) -> u32 {
    binary.frames(address, true).last().map_or(0, |frame| frame.line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(start: u64, line: u32, takes: bool) -> Site {
        Site { start, end: start + 5, line, takes }
    }

    #[test]
    fn a_lock_is_held_between_its_lines() {
        let pair = [site(10, 3, true), site(90, 9, false)];
        assert_eq!(judge(&pair, false, 40, 5), Locking::Holds);
        assert_eq!(judge(&pair, false, 40, 11), Locking::Nothing);
        assert_eq!(judge(&pair, false, 40, 2), Locking::Nothing);
        // The wait for the lock itself.
        assert_eq!(judge(&pair, false, 12, 3), Locking::Nothing);
        // Deferred: given back where the function returns, on whatever line.
        assert_eq!(judge(&[site(10, 3, true), site(90, 4, false)], true, 40, 5), Locking::Holds);
        assert_eq!(judge(&[site(10, 3, true)], false, 40, 5), Locking::Holds);
        assert_eq!(judge(&[site(10, 9, false)], false, 40, 5), Locking::Gives);
        assert_eq!(judge(&[], false, 40, 5), Locking::Nothing);
    }

    #[test]
    fn a_second_lock_does_not_hide_the_first() {
        let sites = [site(10, 3, true), site(20, 4, true), site(80, 5, false), site(90, 6, false)];
        assert_eq!(judge(&sites, false, 22, 4), Locking::Holds);
    }
}
