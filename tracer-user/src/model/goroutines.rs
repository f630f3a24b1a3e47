//! Which goroutines exist: the stream's creations and exits merged with snapshots.
//!
//! A goroutine that existed before attach comes from the first snapshot and is as well known as a later one.
//! Snapshots also heal what the stream lost: who is not in a snapshot any more has ended, who is new there
//! was created.

use std::collections::{HashMap, HashSet, VecDeque};

use super::event::{Event, EventKind};
use crate::memory::{Goroutine, Park, Snapshot, Status};

/// Exits remembered, so that a snapshot that began before one does not bring the goroutine back.
const RECENT_EXITS: usize = 8192;
/// Goroutines tracked at most (COST-2); more are counted.
const MAX_TRACKED: usize = 2_000_000;

/// When a goroutine was there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetime {
    /// Its creation, if it was seen.
    pub created_ns: Option<u64>,
    /// When it was first known to exist.
    pub first_seen_ns: u64,
}

/// One goroutine.
#[derive(Clone, Debug, Default)]
pub struct Tracked {
    /// When it was there.
    pub lifetime: Lifetime,
    /// Return address of its `go` statement.
    pub gopc: u64,
    /// Entry of its start function.
    pub startpc: u64,
    /// Its creator, 0 if unknown.
    pub parent: u64,
    /// Part of the runtime.
    pub system: bool,
    /// As of the last snapshot; `None` if it is in none yet.
    pub last: Option<Seen>,
    /// When a snapshot last showed that something watches the network connection that it serves, 0 for never.
    pub watched_ns: u64,
}

/// What the last snapshot showed of a goroutine.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When.
    pub at_ns: u64,
    /// Its state.
    pub status: Status,
    /// Number of its wait reason.
    pub wait_reason: u8,
    /// Where it is parked.
    pub park: Option<Park>,
    /// Since when at the latest it has been parked there without waking: the first snapshot that showed this
    /// park, or the GC's note if that is earlier.
    pub parked_since_ns: u64,
    /// Number of its stack in [`super::Groups`].
    pub stack: u32,
}

/// All goroutines of a process.
#[derive(Clone, Debug, Default)]
pub struct Goroutines {
    tracked: HashMap<u64, Tracked>,
    recent_exits: VecDeque<(u64, u64)>,
    exits: HashMap<u64, u64>,
    /// Creations that the stream showed.
    pub created: u64,
    /// Exits that the stream showed.
    pub exited: u64,
    /// Goroutines that a snapshot found ended without an exit event.
    pub healed: u64,
    /// Those of the last snapshot: their events may still be on the way.
    healed_last: HashSet<u64>,
    /// Creations and discoveries beyond the bound on memory.
    pub untracked: u64,
}

impl Goroutines {
    /// Takes an event in.
    pub(super) fn apply(&mut self, event: &Event) {
        match event.kind {
            EventKind::GoCreate { goid, gopc, startpc } => {
                self.created += 1;
                if goid == 0 || self.exits.contains_key(&goid) {
                    return;
                }
                if !self.has_room(goid) {
                    return;
                }
                let tracked = self.tracked.entry(goid).or_default();
                tracked.lifetime.created_ns = Some(event.time_ns);
                if tracked.lifetime.first_seen_ns == 0 {
                    tracked.lifetime.first_seen_ns = event.time_ns;
                }
                (tracked.gopc, tracked.startpc) = (gopc, startpc);
                tracked.parent = event.goid.unwrap_or(0);
            }
            EventKind::GoExit { goid, .. } => {
                self.exited += 1;
                self.tracked.remove(&goid);
                self.healed -= u64::from(self.healed_last.remove(&goid));
                if self.recent_exits.len() == RECENT_EXITS
                    && let Some((old, _)) = self.recent_exits.pop_front()
                {
                    self.exits.remove(&old);
                }
                self.recent_exits.push_back((goid, event.time_ns));
                self.exits.insert(goid, event.time_ns);
            }
            _ => {}
        }
    }

    fn has_room(&mut self, goid: u64) -> bool {
        let room = self.tracked.len() < MAX_TRACKED || self.tracked.contains_key(&goid);
        self.untracked += u64::from(!room);
        room
    }

    /// Merges a snapshot; `stack_of` numbers the stacks. With `lifetimes` the stream shows exits, so that one
    /// that only the snapshot knows of was lost on the way.
    pub(super) fn merge(
        &mut self,
        snapshot: &Snapshot,
        lifetimes: bool,
        mut stack_of: impl FnMut(&Goroutine) -> u32,
    ) {
        for g in &snapshot.goroutines {
            // It ended while the snapshot was taken, after it had been read.
            if self.exits.get(&g.goid).is_some_and(|ended| *ended >= snapshot.taken_ns) {
                continue;
            }
            if !self.has_room(g.goid) {
                continue;
            }
            let stack = stack_of(g);
            let tracked = self.tracked.entry(g.goid).or_default();
            if tracked.lifetime.first_seen_ns == 0 {
                tracked.lifetime.first_seen_ns = snapshot.taken_ns;
            }
            (tracked.gopc, tracked.startpc, tracked.system) = (g.gopc, g.startpc, g.system);
            if g.parent_goid != 0 {
                tracked.parent = g.parent_goid;
            }
            let before = tracked.last.as_ref();
            let same_park = g.park.is_some() && before.is_some_and(|seen| seen.park == g.park);
            let mut parked_since_ns = match before {
                Some(seen) if same_park => seen.parked_since_ns,
                _ => snapshot.taken_ns,
            };
            if g.park.is_some() && g.parked_by_ns != 0 {
                parked_since_ns = parked_since_ns.min(g.parked_by_ns);
            }
            tracked.last = Some(Seen {
                at_ns: snapshot.taken_ns,
                status: g.status,
                wait_reason: g.wait_reason,
                park: g.park,
                parked_since_ns,
                stack,
            });
        }
        self.healed_last.clear();
        // Known before the snapshot began, and not in it: ended.
        self.tracked.retain(|goid, tracked| {
            let exists = tracked.last.as_ref().is_some_and(|seen| seen.at_ns == snapshot.taken_ns)
                || tracked.lifetime.first_seen_ns >= snapshot.taken_ns
                || tracked.lifetime.created_ns.is_some_and(|created| created >= snapshot.taken_ns);
            if !exists && lifetimes {
                self.healed_last.insert(*goid);
            }
            exists
        });
        self.healed += self.healed_last.len() as u64;
    }

    /// Notes whose connections are being watched, as of the snapshot at `at_ns`.
    pub(super) fn mark_watched(&mut self, goids: impl IntoIterator<Item = u64>, at_ns: u64) {
        for goid in goids {
            if let Some(tracked) = self.tracked.get_mut(&goid) {
                tracked.watched_ns = at_ns;
            }
        }
    }

    /// All of them, by goid.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Tracked)> {
        self.tracked.iter().map(|(goid, tracked)| (*goid, tracked))
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, goid: u64) -> Option<&Tracked> {
        self.tracked.get(&goid)
    }

    /// How many exist.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tracked.len()
    }

    /// Whether none exists.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tracked.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Figures;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn goroutine(goid: u64) -> Goroutine {
        Goroutine {
            goid,
            status: Status::Waiting,
            wait_reason: 14,
            wait_since_ns: 0,
            parked_by_ns: 0,
            gopc: 0x100,
            startpc: 0x200,
            parent_goid: 1,
            thread: None,
            scan: false,
            locked: false,
            system: false,
            park: Some(Park { depth: 64, pc: 0x300, tracking: 1 }),
            stack: std::sync::Arc::default(),
            torn: false,
        }
    }

    fn snapshot(at_ns: u64, goids: impl IntoIterator<Item = u64>) -> Snapshot {
        Snapshot {
            taken_ns: at_ns,
            took_ns: 1,
            goroutines: goids.into_iter().map(goroutine).collect(),
            torn: 0,
            unread: 0,
            unread_stacks: 0,
            unread_bytes: 0,
            figures: Figures::default(),
        }
    }

    fn create(time_ns: u64, goid: u64) -> Event {
        let kind = EventKind::GoCreate { goid, gopc: 0x100, startpc: 0x200 };
        Event { time_ns, goid: Some(1), thread: 1, kind }
    }

    fn exit(time_ns: u64, goid: u64) -> Event {
        let kind = EventKind::GoExit { goid, gopc: 0x100, startpc: 0x200 };
        Event { time_ns, goid: Some(goid), thread: 1, kind }
    }

    fn ids(goroutines: &Goroutines) -> BTreeSet<u64> {
        goroutines.iter().map(|(goid, _)| goid).collect()
    }

    #[test]
    fn a_goroutine_from_before_attach_is_known() {
        let mut goroutines = Goroutines::default();
        goroutines.merge(&snapshot(10, [1, 5]), true, |_| 0);
        let old = goroutines.get(5).unwrap();
        assert_eq!((old.lifetime.created_ns, old.lifetime.first_seen_ns, old.gopc), (None, 10, 0x100));
    }

    #[test]
    fn an_exit_during_the_snapshot_is_not_undone_by_it() {
        let mut goroutines = Goroutines::default();
        goroutines.apply(&create(5, 7));
        goroutines.apply(&exit(12, 7));
        goroutines.merge(&snapshot(10, [1, 7]), true, |_| 0);
        assert_eq!(ids(&goroutines), BTreeSet::from([1]));
    }

    #[test]
    fn an_exit_that_comes_after_the_snapshot_was_no_loss() {
        let mut goroutines = Goroutines::default();
        goroutines.apply(&create(5, 7));
        goroutines.merge(&snapshot(10, [1]), true, |_| 0);
        assert_eq!(goroutines.healed, 1);
        goroutines.apply(&exit(8, 7));
        assert_eq!((goroutines.healed, goroutines.exited), (0, 1));
    }

    #[test]
    fn parked_since_holds_as_long_as_the_park_does() {
        let mut goroutines = Goroutines::default();
        goroutines.merge(&snapshot(10, [5]), true, |_| 0);
        goroutines.merge(&snapshot(20, [5]), true, |_| 0);
        assert_eq!(goroutines.get(5).unwrap().last.as_ref().unwrap().parked_since_ns, 10);
        let mut moved = snapshot(30, [5]);
        moved.goroutines[0].park = Some(Park { depth: 64, pc: 0x300, tracking: 2 });
        goroutines.merge(&moved, true, |_| 0);
        assert_eq!(goroutines.get(5).unwrap().last.as_ref().unwrap().parked_since_ns, 30);
    }

    proptest! {
        /// Whatever the stream lost, a snapshot sets it right; and without losses there is nothing to heal.
        #[test]
        fn loss_1_snapshots_heal_what_the_stream_lost(
            steps in proptest::collection::vec((any::<bool>(), any::<prop::sample::Index>(), any::<bool>()), 0..200),
            lossy in any::<bool>(),
        ) {
            let mut goroutines = Goroutines::default();
            let mut alive: Vec<u64> = vec![1];
            goroutines.merge(&snapshot(1, alive.clone()), true, |_| 0);
            let mut next = 2;
            let mut time = 2;
            for (is_create, which, lost) in steps {
                time += 1;
                let event = if is_create || alive.is_empty() {
                    alive.push(next);
                    next += 1;
                    create(time, next - 1)
                } else {
                    exit(time, alive.swap_remove(which.index(alive.len())))
                };
                if !(lossy && lost) {
                    goroutines.apply(&event);
                }
            }
            goroutines.merge(&snapshot(time + 1, alive.clone()), true, |_| 0);
            prop_assert_eq!(ids(&goroutines), alive.into_iter().collect::<BTreeSet<_>>());
            if !lossy {
                prop_assert_eq!(goroutines.healed, 0);
            }
        }
    }
}
