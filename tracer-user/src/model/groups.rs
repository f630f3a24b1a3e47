//! Goroutines grouped by where they were created and where they wait, and how the groups change.

use std::collections::{HashMap, VecDeque};

use super::goroutines::Goroutines;
use crate::memory::{Pc, Stack};

/// Samples kept of each group.
const SAMPLES: usize = 128;
/// Groups kept at most; more are counted.
const MAX_GROUPS: usize = 4096;
/// Distinct stacks kept at most.
const MAX_STACKS: usize = 1 << 16;
/// Members named in a group.
const MEMBERS: usize = 32;

/// What the goroutines of a group have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupKey {
    /// Return address of their `go` statement.
    pub gopc: u64,
    /// Number of the wait reason.
    pub wait_reason: u8,
    /// Number of their stack, see [`Groups::stack`].
    pub stack: u32,
}

/// A group in one snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When.
    pub at_ns: u64,
    /// Members.
    pub count: u64,
    /// Of the members of the snapshot before, how many were no longer parked where they had been.
    pub left: u64,
}

/// Parked goroutines with the same creation site, wait reason and stack.
#[derive(Clone, Debug)]
pub struct Group {
    /// What they have in common.
    pub key: GroupKey,
    /// Entry of their start function.
    pub startpc: u64,
    /// Some of them, the longest parked first.
    pub members: Vec<u64>,
    /// Since when the longest parked one has been parked.
    pub oldest_ns: u64,
    /// Since when the latest one has been parked.
    pub newest_ns: u64,
    /// One sample for each snapshot since the group appeared, oldest first.
    pub samples: VecDeque<Sample>,
    /// Members that left, since the group appeared.
    pub left_total: u64,
}

impl Group {
    /// Members in the last snapshot.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.samples.back().map_or(0, |s| s.count)
    }
}

/// All groups of parked goroutines of a process.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    stacks: Vec<Stack>,
    numbers: HashMap<Stack, u32>,
    groups: HashMap<GroupKey, Group>,
    /// Who was parked where in the last snapshot.
    parked: HashMap<u64, GroupKey>,
    /// Groups and stacks beyond the bounds on memory.
    pub dropped: u64,
}

impl Groups {
    /// The number of a stack, the same for equal ones. Stacks beyond the bound share number 0, which stands
    /// for no stack.
    pub(super) fn number(&mut self, stack: &Stack) -> u32 {
        if self.stacks.is_empty() {
            self.stacks.push(Stack::default());
        }
        if stack.pcs.is_empty() {
            return 0;
        }
        if let Some(number) = self.numbers.get(stack) {
            return *number;
        }
        if self.stacks.len() >= MAX_STACKS {
            self.dropped += 1;
            return 0;
        }
        // At most MAX_STACKS.
        let number = self.stacks.len() as u32;
        self.stacks.push(stack.clone());
        self.numbers.insert(stack.clone(), number);
        number
    }

    /// The stack with a number.
    #[must_use]
    pub fn stack(&self, number: u32) -> &[Pc] {
        self.stacks.get(number as usize).map_or(&[], |stack| stack.pcs.as_slice())
    }

    /// Counts the groups anew after a snapshot at `at_ns` was merged.
    pub(super) fn recount(&mut self, goroutines: &Goroutines, at_ns: u64) {
        let mut now: HashMap<GroupKey, (u64, Vec<(u64, u64)>)> = HashMap::new();
        let mut parked = HashMap::with_capacity(self.parked.len());
        for (goid, tracked) in goroutines.iter().filter(|(_, t)| !t.system) {
            let Some(seen) = tracked.last.as_ref().filter(|seen| seen.at_ns == at_ns && seen.park.is_some())
            else {
                continue;
            };
            let key = GroupKey { gopc: tracked.gopc, wait_reason: seen.wait_reason, stack: seen.stack };
            // Parked there since before this snapshot: it stayed. Parked anew in the same place: it left in between.
            let stayed = seen.parked_since_ns < at_ns;
            if stayed || !self.parked.contains_key(&goid) {
                parked.insert(goid, key);
            }
            let (_, members) = now.entry(key).or_insert_with(|| (tracked.startpc, Vec::new()));
            members.push((seen.parked_since_ns, goid));
        }
        let mut left: HashMap<GroupKey, u64> = HashMap::new();
        for (goid, key) in &self.parked {
            if parked.get(goid) != Some(key) {
                *left.entry(*key).or_default() += 1;
            }
        }
        // Those that left and parked anew are members from now on.
        for (key, (_, members)) in &now {
            for (_, goid) in members {
                parked.insert(*goid, *key);
            }
        }
        self.parked = parked;
        for (key, (startpc, mut members)) in now {
            members.sort_unstable();
            if !self.groups.contains_key(&key) && self.groups.len() >= MAX_GROUPS {
                self.dropped += 1;
                continue;
            }
            let group = self.groups.entry(key).or_insert_with(|| Group {
                key,
                startpc,
                members: Vec::new(),
                oldest_ns: 0,
                newest_ns: 0,
                samples: VecDeque::new(),
                left_total: 0,
            });
            group.oldest_ns = members.first().map_or(at_ns, |(since, _)| *since);
            group.newest_ns = members.last().map_or(at_ns, |(since, _)| *since);
            group.members = members.iter().take(MEMBERS).map(|(_, goid)| *goid).collect();
            push(
                group,
                Sample { at_ns, count: members.len() as u64, left: left.get(&key).copied().unwrap_or(0) },
            );
        }
        for group in self.groups.values_mut() {
            if group.samples.back().is_some_and(|s| s.at_ns != at_ns) {
                let left = left.get(&group.key).copied().unwrap_or(0);
                group.members.clear();
                push(group, Sample { at_ns, count: 0, left });
            }
        }
        // A group that has been empty for all that is remembered is forgotten.
        self.groups.retain(|_, g| g.samples.iter().any(|s| s.count != 0));
    }

    /// All groups, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Group> {
        self.groups.values()
    }
}

fn push(group: &mut Group, sample: Sample) {
    group.left_total += sample.left;
    if group.samples.len() == SAMPLES {
        group.samples.pop_front();
    }
    group.samples.push_back(sample);
}

#[cfg(test)]
mod tests {
    use super::super::goroutines::Goroutines;
    use super::*;
    use crate::memory::{Figures, Goroutine, Park, Snapshot, Status};

    /// Goroutines of one site, each with the number of its park.
    fn look(goroutines: &mut Goroutines, groups: &mut Groups, at_ns: u64, parks: &[(u64, u8)]) {
        let pcs = vec![Pc { address: 0x300, exact: true }];
        let stack = std::sync::Arc::new(Stack { pcs, truncated: false });
        let snapshot = Snapshot {
            taken_ns: at_ns,
            took_ns: 1,
            goroutines: parks
                .iter()
                .map(|(goid, tracking)| Goroutine {
                    goid: *goid,
                    status: Status::Waiting,
                    wait_reason: 14,
                    wait_since_ns: 0,
                    parked_by_ns: 0,
                    gopc: 0x100,
                    startpc: 0x200,
                    parent_goid: 0,
                    thread: None,
                    scan: false,
                    locked: false,
                    system: false,
                    park: Some(Park { depth: 64, pc: 0x300, tracking: *tracking }),
                    stack: stack.clone(),
                    torn: false,
                })
                .collect(),
            torn: 0,
            unread: 0,
            unread_stacks: 0,
            unread_bytes: 0,
            figures: Figures::default(),
        };
        goroutines.merge(&snapshot, false, |g| groups.number(&g.stack));
        groups.recount(goroutines, at_ns);
    }

    fn samples(groups: &Groups) -> Vec<(u64, u64)> {
        groups.iter().next().unwrap().samples.iter().map(|s| (s.count, s.left)).collect()
    }

    #[test]
    fn a_growing_population_that_never_moves() {
        let (mut goroutines, mut groups) = (Goroutines::default(), Groups::default());
        look(&mut goroutines, &mut groups, 10, &[(1, 0), (2, 0)]);
        look(&mut goroutines, &mut groups, 20, &[(1, 0), (2, 0), (3, 0)]);
        look(&mut goroutines, &mut groups, 30, &[(1, 0), (2, 0), (3, 0), (4, 0)]);
        assert_eq!(samples(&groups), [(2, 0), (3, 0), (4, 0)]);
        let group = groups.iter().next().unwrap();
        assert_eq!((group.oldest_ns, group.left_total, group.members.len()), (10, 0, 4));
    }

    #[test]
    fn who_wakes_and_parks_again_has_left() {
        let (mut goroutines, mut groups) = (Goroutines::default(), Groups::default());
        look(&mut goroutines, &mut groups, 10, &[(1, 0), (2, 0)]);
        look(&mut goroutines, &mut groups, 20, &[(1, 0), (2, 5)]);
        assert_eq!(samples(&groups), [(2, 0), (2, 1)]);
    }

    #[test]
    fn who_ends_has_left_and_an_empty_group_is_forgotten_in_time() {
        let (mut goroutines, mut groups) = (Goroutines::default(), Groups::default());
        look(&mut goroutines, &mut groups, 10, &[(1, 0)]);
        look(&mut goroutines, &mut groups, 20, &[]);
        assert_eq!(samples(&groups), [(1, 0), (0, 1)]);
        for i in 0..SAMPLES as u64 {
            look(&mut goroutines, &mut groups, 30 + i, &[]);
        }
        assert_eq!(groups.iter().count(), 0);
    }
}
