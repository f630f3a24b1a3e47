//! Where the time of all goroutines goes, by what each was found to do again and again: the sums of a wall-clock
//! profile, and how far each may be off.
//!
//! Time is weighted by the clock, never by the number of samples. What a goroutine did in the time between two looks
//! is certain if it has not moved; else half of that time goes to what it was found at before, half to what it was
//! found at after, and for one that is new or gone only that half.

use std::collections::HashMap;

use super::on_cpu::OnCpu;
use crate::memory::{Sight, Status};

/// Different lines, and different sets of labels in them, that are told apart.
const MOST_LINES: usize = 1 << 16;
const MOST_CELLS: usize = 1 << 18;
/// Different stacks of samples on a CPU, by where their goroutines began.
const MOST_HITS: usize = 1 << 17;
/// Half the width of an interval that holds with a probability of 95 %, in standard errors.
const SIGMAS: f64 = 1.96;

/// What a goroutine can be at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// The scheduler gave it a P. Whether its thread is on a CPU is the kernel's to say.
    Running,
    /// It could run and waits in a run queue.
    Runnable,
    /// In a system call or in C code.
    Syscall,
    /// Parked until somebody wakes it.
    Waiting,
}

impl Class {
    /// All, in their order.
    pub const ALL: [Self; 4] = [Self::Running, Self::Runnable, Self::Syscall, Self::Waiting];

    /// The class of a state.
    #[must_use]
    pub const fn of(status: Status) -> Self {
        match status {
            Status::Runnable => Self::Runnable,
            Status::Syscall => Self::Syscall,
            Status::Waiting | Status::Leaked | Status::Preempted | Status::DeadExtra => Self::Waiting,
            _ => Self::Running,
        }
    }

    /// Its name in outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Runnable => "runnable",
            Self::Syscall => "syscall",
            Self::Waiting => "waiting",
        }
    }
}

/// What goroutines were at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Activity {
    /// The class.
    pub class: Class,
    /// The wait reason, while waiting.
    pub wait_reason: u8,
    /// The number of the stack.
    pub stack: u32,
    /// While running: where they began, as no stack is known.
    pub startpc: u64,
}

/// Time spent at something, and how far it may be off.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Share {
    /// Nanoseconds, of all goroutines together.
    pub time_ns: f64,
    /// Half the width of the 95 % interval around it, ns.
    pub error_ns: f64,
}

impl Share {
    /// The sum of two, whose errors have nothing to do with each other.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { time_ns: self.time_ns + other.time_ns, error_ns: self.error_ns.hypot(other.error_ns) }
    }
}

/// One row of a profile: what, with which labels, and how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// What.
    pub activity: Activity,
    /// The number of the labels.
    pub labels: u32,
    /// How long; the error is that of the whole line, in proportion.
    pub share: Share,
    /// How often goroutines were found at it, or were on a CPU there.
    pub found: u64,
}

/// What was left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Times between looks that went to no line, as there were too many, ns.
    pub lines_ns: u64,
    /// Samples on a CPU that were not kept apart by stack.
    pub hits: u64,
}

/// What one look found of a goroutine, kept until the next.
#[derive(Clone, Copy, Debug, Default)]
struct Observed {
    /// 0 for none.
    goid: u64,
    /// Place of its cell, plus 1; 0 if there was no room for it.
    cell: u32,
    /// The look, so that what was not seen again is known.
    look: u64,
}

/// Time of one activity, and what tells how far it may be off.
#[derive(Clone, Debug)]
struct Line {
    activity: Activity,
    certain_ns: f64,
    uncertain_ns: f64,
    /// Halves of intervals that are uncertain.
    halves: u64,
    /// Sum of the squares of what changed from one look to the next.
    squares: f64,
    now_ns: f64,
    last_ns: f64,
    /// The look that `now_ns`, and then `last_ns`, is of.
    look: u64,
}

impl Line {
    fn new(activity: Activity) -> Self {
        Self {
            activity,
            certain_ns: 0.0,
            uncertain_ns: 0.0,
            halves: 0,
            squares: 0.0,
            now_ns: 0.0,
            last_ns: 0.0,
            look: 0,
        }
    }

    fn add_uncertain(&mut self, ns: f64, look: u64) {
        if self.look != look {
            self.settle(look);
        }
        self.now_ns += ns;
        self.uncertain_ns += ns;
        self.halves += 1;
    }

    /// Closes the look before; in looks between that and this one there was nothing.
    fn settle(&mut self, look: u64) {
        if self.look != 0 {
            self.squares += (self.now_ns - self.last_ns).powi(2);
            self.last_ns = self.now_ns;
            if self.look + 1 < look {
                self.squares += self.last_ns.powi(2);
                self.last_ns = 0.0;
            }
        }
        self.now_ns = 0.0;
        self.look = look;
    }

    /// The sum of squares up to a look.
    fn squares(&self, look: u64) -> f64 {
        let mut closed = self.clone();
        closed.settle(look + 1);
        closed.squares
    }
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    line: u32,
    labels: u32,
    ns: f64,
    found: u64,
}

/// Where samples on a CPU were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct HitKey {
    startpc: u64,
    labels: u32,
    stack: u32,
}

/// The sums.
#[derive(Debug, Default)]
pub struct Wall {
    lines: Vec<Line>,
    line_of: HashMap<Activity, u32>,
    cells: Vec<Cell>,
    cell_of: HashMap<(u32, u32), u32>,
    observed: Vec<Observed>,
    /// Looks so far; the one at work has this number.
    look: u64,
    at_ns: u64,
    began_ns: u64,
    interval_ns: f64,
    population: f64,
    hits: HashMap<HitKey, u64>,
    bounds: Bounds,
}

impl Wall {
    /// Begins a look at a time, `CLOCK_MONOTONIC` ns.
    pub fn begin(&mut self, at_ns: u64) {
        if self.look == 0 {
            self.began_ns = at_ns;
            self.interval_ns = 0.0;
        } else {
            self.interval_ns = at_ns.saturating_sub(self.at_ns) as f64;
        }
        self.at_ns = at_ns;
        self.look += 1;
    }

    /// Takes in what the look found of one goroutine.
    pub fn see(&mut self, sight: &Sight) {
        let class = Class::of(sight.status);
        let activity = Activity {
            class,
            wait_reason: if class == Class::Waiting { sight.wait_reason } else { 0 },
            stack: sight.stack,
            startpc: if class == Class::Running { sight.startpc } else { 0 },
        };
        if self.observed.len() <= sight.index {
            self.observed.resize(sight.index + 1, Observed::default());
        }
        let before = self.observed[sight.index];
        let stayed = before.goid == sight.goid && before.look + 1 == self.look;
        let cell = if stayed && sight.unmoved { before.cell } else { self.cell(activity, sight.labels) };
        self.observed[sight.index] = Observed { goid: sight.goid, cell, look: self.look };
        if self.look == 1 {
            self.find(cell);
            return;
        }
        let half = self.interval_ns / 2.0;
        if stayed && sight.unmoved {
            self.add(cell, self.interval_ns, true);
        } else {
            if before.goid != 0 && before.look + 1 == self.look {
                self.add(before.cell, half, false);
            }
            self.add(cell, half, false);
        }
        self.find(cell);
    }

    /// Ends a look: what was there at the one before and is not any more had half of the time between.
    pub fn end(&mut self) {
        if self.look < 2 {
            return;
        }
        let gone: Vec<u32> = self
            .observed
            .iter_mut()
            .filter(|observed| observed.goid != 0 && observed.look + 1 == self.look)
            .map(|observed| std::mem::take(observed).cell)
            .collect();
        for cell in gone {
            self.add(cell, self.interval_ns / 2.0, false);
        }
    }

    /// Takes in a sample on a CPU of a goroutine that the scheduler runs.
    pub fn hit(&mut self, sample: &OnCpu, stack: u32, labels: u32) {
        let key = HitKey { startpc: sample.startpc, labels, stack };
        if self.hits.len() >= MOST_HITS && !self.hits.contains_key(&key) {
            self.bounds.hits += 1;
            return;
        }
        *self.hits.entry(key).or_default() += 1;
    }

    fn find(&mut self, cell: u32) {
        if let Some(cell) = self.cells.get_mut((cell as usize).wrapping_sub(1)) {
            cell.found += 1;
        }
    }

    fn add(&mut self, cell: u32, ns: f64, certain: bool) {
        self.population += ns;
        let Some(cell) = self.cells.get_mut((cell as usize).wrapping_sub(1)) else {
            self.bounds.lines_ns += ns as u64;
            return;
        };
        cell.ns += ns;
        let line = &mut self.lines[cell.line as usize];
        if certain {
            line.certain_ns += ns;
        } else {
            line.add_uncertain(ns, self.look);
        }
    }

    /// The place of a cell, plus 1; 0 if there is no room.
    fn cell(&mut self, activity: Activity, labels: u32) -> u32 {
        let line = match self.line_of.get(&activity) {
            Some(line) => *line,
            None if self.lines.len() >= MOST_LINES => return 0,
            None => {
                let line = self.lines.len() as u32;
                self.lines.push(Line::new(activity));
                self.line_of.insert(activity, line);
                line
            }
        };
        match self.cell_of.get(&(line, labels)) {
            Some(cell) => cell + 1,
            None if self.cells.len() >= MOST_CELLS => 0,
            None => {
                let cell = self.cells.len() as u32;
                self.cells.push(Cell { line, labels, ns: 0.0, found: 0 });
                self.cell_of.insert((line, labels), cell);
                cell + 1
            }
        }
    }

    /// Looks so far.
    #[must_use]
    pub const fn looks(&self) -> u64 {
        self.look
    }

    /// Time from the first look to the last, ns.
    #[must_use]
    pub const fn elapsed_ns(&self) -> u64 {
        self.at_ns.saturating_sub(self.began_ns)
    }

    /// Time of all goroutines together, ns.
    #[must_use]
    pub const fn total_ns(&self) -> f64 {
        self.population
    }

    /// What was left out.
    #[must_use]
    pub const fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// The profile: time by activity and labels. Running time is spread over the stacks that goroutines which began
    /// in the same function (and with the same labels, where those were found on a CPU) had on the CPUs; where none was
    /// found, its stack is not known. `same` has the stacks of samples on a CPU that are to be taken for another one.
    #[must_use]
    pub fn rows(&self, same: &HashMap<u32, u32>) -> Vec<Row> {
        let spread = Spread::of(&self.hits, same);
        let errors: Vec<f64> = self.lines.iter().map(|line| self.error_ns(std::iter::once(line))).collect();
        let mut rows = Vec::with_capacity(self.cells.len());
        for cell in self.cells.iter().filter(|cell| cell.ns > 0.0) {
            let line = &self.lines[cell.line as usize];
            let part = cell.ns / (line.certain_ns + line.uncertain_ns);
            let error_ns = errors[cell.line as usize] * part;
            let whole = Share { time_ns: cell.ns, error_ns };
            let row = |stack: u32, share: Share, found: u64| Row {
                activity: Activity { stack, ..line.activity },
                labels: cell.labels,
                share,
                found,
            };
            match spread.over(line.activity.startpc, cell.labels) {
                Some((hits, total)) if line.activity.class == Class::Running => {
                    for (stack, count) in hits {
                        let q = *count as f64 / total;
                        let error = (error_ns * q).hypot(cell.ns * binomial(*count as f64, total));
                        rows.push(row(*stack, Share { time_ns: cell.ns * q, error_ns: error }, *count));
                    }
                }
                _ => rows.push(row(line.activity.stack, whole, cell.found)),
            }
        }
        rows
    }

    /// The stacks of samples on a CPU, and how often each was found.
    #[must_use]
    pub fn hits(&self) -> HashMap<u32, u64> {
        let mut hits: HashMap<u32, u64> = HashMap::new();
        for (key, count) in &self.hits {
            *hits.entry(key.stack).or_default() += count;
        }
        hits
    }

    /// Time by class and wait reason, with the error of each as a whole; the longest first.
    #[must_use]
    pub fn states(&self) -> Vec<((Class, u8), Share)> {
        let mut by_state: HashMap<(Class, u8), Vec<&Line>> = HashMap::new();
        for line in &self.lines {
            by_state.entry((line.activity.class, line.activity.wait_reason)).or_default().push(line);
        }
        let mut states: Vec<((Class, u8), Share)> = by_state
            .into_iter()
            .map(|(state, lines)| {
                let time_ns = lines.iter().map(|line| line.certain_ns + line.uncertain_ns).sum();
                (state, Share { time_ns, error_ns: self.error_ns(lines.into_iter()) })
            })
            .filter(|(_, share)| share.time_ns > 0.0)
            .collect();
        states.sort_by(|(a, x), (b, y)| y.time_ns.total_cmp(&x.time_ns).then(a.cmp(b)));
        states
    }

    /// How far the time of some lines together may be off: the larger of what their sums jump by from look to look
    /// (which knows that goroutines move together, and takes nothing to be the same from one look to the next), and
    /// what chance alone makes of so many independent observations (which knows that a thing seen always the same may
    /// have been otherwise in between).
    fn error_ns<'l>(&self, lines: impl Iterator<Item = &'l Line>) -> f64 {
        let (mut squares, mut halves, mut uncertain) = (0.0, 0, 0.0);
        for line in lines {
            squares += line.squares(self.look);
            halves += line.halves;
            uncertain += line.uncertain_ns;
        }
        if halves == 0 {
            return 0.0;
        }
        let (all_halves, all_ns) = self
            .lines
            .iter()
            .fold((0, 0.0), |(halves, ns), line| (halves + line.halves, ns + line.uncertain_ns));
        let chance = all_ns * binomial(halves as f64 / 2.0, all_halves as f64 / 2.0);
        // Nothing can be off by more than all that is uncertain.
        (SIGMAS * (squares / 2.0).sqrt()).max(chance).min(uncertain.max(all_ns - uncertain))
    }
}

/// Half the width of the 95 % interval (Agresti and Coull) of a share, of so many found among so many.
fn binomial(found: f64, all: f64) -> f64 {
    let all = all + 4.0;
    let share = (found + 2.0) / all;
    SIGMAS * (share * (1.0 - share) / all).sqrt()
}

/// Samples on a CPU by where their goroutines began.
#[derive(Default)]
struct Spread {
    labelled: HashMap<(u64, u32), Vec<(u32, u64)>>,
    all: HashMap<u64, Vec<(u32, u64)>>,
}

impl Spread {
    fn of(hits: &HashMap<HitKey, u64>, same: &HashMap<u32, u32>) -> Self {
        let mut all: HashMap<(u64, u32), u64> = HashMap::new();
        let mut labelled: HashMap<HitKey, u64> = HashMap::new();
        for (key, count) in hits {
            let stack = same.get(&key.stack).copied().unwrap_or(key.stack);
            *labelled.entry(HitKey { stack, ..*key }).or_default() += count;
            *all.entry((key.startpc, stack)).or_default() += count;
        }
        let mut spread = Self::default();
        for (HitKey { startpc, labels, stack }, count) in labelled {
            spread.labelled.entry((startpc, labels)).or_default().push((stack, count));
        }
        for ((startpc, stack), count) in all {
            spread.all.entry(startpc).or_default().push((stack, count));
        }
        spread
    }

    fn over(&self, startpc: u64, labels: u32) -> Option<(&[(u32, u64)], f64)> {
        let hits = self.labelled.get(&(startpc, labels)).or_else(|| self.all.get(&startpc))?;
        Some((hits, hits.iter().map(|(_, count)| count).sum::<u64>() as f64))
    }
}

#[cfg(test)]
mod tests;
