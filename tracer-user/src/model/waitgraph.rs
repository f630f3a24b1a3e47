//! Who waits for whom: goroutines, the things that they wait on, and who could end each wait; and the rings in it.
//!
//! A goroutine is stuck where nothing that it waits on can be ended by one that is not stuck itself. A ring is a set of
//! stuck goroutines that wait for each other.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

/// Why somebody is taken for one who could end a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Evidence {
    /// A pointer to the thing is on its stack.
    Pointer,
    /// A frame with a pointer to the lock gives one back that it did not take.
    Gives,
    /// A frame with a pointer to the lock has taken one and not given it back.
    Holds,
    /// By the state of the lock it must go first: a writer that others wait behind.
    Before,
}

impl Evidence {
    /// The name used in outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pointer => "has_pointer",
            Self::Gives => "gives_back",
            Self::Holds => "holds",
            Self::Before => "goes_first",
        }
    }
}

/// Something that is waited on, by who could end the wait.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Thing {
    /// Goroutines that could, with the best reason to think so.
    pub enders: BTreeMap<u64, Evidence>,
    /// Something else could: a timer, or somebody who was not seen.
    pub open: bool,
}

/// The graph.
#[derive(Clone, Debug, Default)]
pub struct WaitGraph {
    /// The things, by number.
    pub things: Vec<Thing>,
    /// By goroutine that is parked: the things each of which would wake it; none for one that nothing can wake.
    pub waits: BTreeMap<u64, Vec<usize>>,
}

/// One edge of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Who waits.
    pub waiter: u64,
    /// What for.
    pub thing: usize,
    /// Who could end it.
    pub ender: u64,
    /// Why it is thought so.
    pub evidence: Evidence,
}

/// Goroutines that wait for each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    /// All of them, in the order of their ids.
    pub members: Vec<u64>,
    /// Once around: the shortest way from the first member back to it.
    pub path: Vec<Edge>,
    /// The things that members wait on.
    pub things: Vec<usize>,
    /// Goroutines that wait for a member without being one, directly or through others.
    pub behind: Vec<u64>,
}

impl WaitGraph {
    /// The rings, the one with the smallest id first.
    #[must_use]
    pub fn rings(&self) -> Vec<Ring> {
        let stuck = self.stuck();
        let mut rings = Vec::new();
        let mut taken: HashSet<u64> = HashSet::new();
        for component in self.components(&stuck) {
            let is_ring = component.len() > 1
                || component.iter().any(|goid| self.next(*goid).any(|e| e.ender == *goid));
            if !is_ring {
                continue;
            }
            let set: BTreeSet<u64> = component.into_iter().collect();
            taken.extend(&set);
            let things: BTreeSet<usize> =
                set.iter().filter_map(|goid| self.waits.get(goid)).flatten().copied().collect();
            rings.push(Ring {
                path: self.path(&set),
                things: things.into_iter().collect(),
                behind: Vec::new(),
                members: set.into_iter().collect(),
            });
        }
        rings.sort_by_key(|ring| ring.members.first().copied());
        for ring in &mut rings {
            ring.behind = self.behind(&stuck, &ring.members, &taken);
        }
        rings
    }

    /// All goroutines that nobody who is not one of them can wake.
    #[must_use]
    pub fn stuck(&self) -> HashSet<u64> {
        // Backwards: from what can go on to whom that may wake.
        let mut waiters: Vec<Vec<u64>> = vec![Vec::new(); self.things.len()];
        for (goid, things) in &self.waits {
            for thing in things {
                if let Some(list) = waiters.get_mut(*thing) {
                    list.push(*goid);
                }
            }
        }
        let mut ended_by: HashMap<u64, Vec<usize>> = HashMap::new();
        let mut endable: VecDeque<usize> = VecDeque::new();
        let mut seen = vec![false; self.things.len()];
        for (number, thing) in self.things.iter().enumerate() {
            for ender in thing.enders.keys() {
                ended_by.entry(*ender).or_default().push(number);
            }
            if thing.open || thing.enders.keys().any(|ender| !self.waits.contains_key(ender)) {
                endable.push_back(number);
                seen[number] = true;
            }
        }
        let mut stuck: HashSet<u64> = self.waits.keys().copied().collect();
        while let Some(thing) = endable.pop_front() {
            for goid in &waiters[thing] {
                if stuck.remove(goid) {
                    for number in ended_by.get(goid).into_iter().flatten() {
                        if !std::mem::replace(&mut seen[*number], true) {
                            endable.push_back(*number);
                        }
                    }
                }
            }
        }
        stuck
    }

    /// The edges from a goroutine to those who could wake it.
    fn next(&self, goid: u64) -> impl Iterator<Item = Edge> {
        self.waits.get(&goid).into_iter().flatten().flat_map(move |thing| {
            let enders = self.things.get(*thing).into_iter().flat_map(|known| &known.enders);
            enders.map(move |(ender, evidence)| Edge {
                waiter: goid,
                thing: *thing,
                ender: *ender,
                evidence: *evidence,
            })
        })
    }

    /// Tarjan's strongly connected components, without recursion.
    fn components(&self, within: &HashSet<u64>) -> Vec<Vec<u64>> {
        let mut order: HashMap<u64, (usize, usize)> = HashMap::new();
        let mut stack: Vec<u64> = Vec::new();
        let mut on_stack: HashSet<u64> = HashSet::new();
        let mut components = Vec::new();
        let successors = |goid: u64| -> Vec<u64> {
            self.next(goid).map(|edge| edge.ender).filter(|ender| within.contains(ender)).collect()
        };
        let mut roots: Vec<u64> = within.iter().copied().collect();
        roots.sort_unstable();
        for root in roots {
            if order.contains_key(&root) {
                continue;
            }
            let mut work: Vec<(u64, Vec<u64>)> = Vec::new();
            let number = order.len();
            order.insert(root, (number, number));
            stack.push(root);
            on_stack.insert(root);
            work.push((root, successors(root)));
            while let Some((goid, left)) = work.last_mut() {
                let goid = *goid;
                if let Some(next) = left.pop() {
                    if let Some((number, _)) = order.get(&next).copied() {
                        if on_stack.contains(&next)
                            && let Some((_, low)) = order.get_mut(&goid)
                        {
                            *low = (*low).min(number);
                        }
                        continue;
                    }
                    let number = order.len();
                    order.insert(next, (number, number));
                    stack.push(next);
                    on_stack.insert(next);
                    work.push((next, successors(next)));
                    continue;
                }
                work.pop();
                let (number, low) = order.get(&goid).copied().unwrap_or_default();
                if let Some((above, _)) = work.last()
                    && let Some((_, lowest)) = order.get_mut(above)
                {
                    *lowest = (*lowest).min(low);
                }
                if number == low {
                    let mut component = Vec::new();
                    while let Some(member) = stack.pop() {
                        on_stack.remove(&member);
                        component.push(member);
                        if member == goid {
                            break;
                        }
                    }
                    components.push(component);
                }
            }
        }
        components
    }

    /// The shortest way around, from the member with the smallest id.
    fn path(&self, members: &BTreeSet<u64>) -> Vec<Edge> {
        let Some(&first) = members.first() else { return Vec::new() };
        let mut from: HashMap<u64, Edge> = HashMap::new();
        let mut queue = VecDeque::from([first]);
        while let Some(goid) = queue.pop_front() {
            // The best evidence first, so that it is what is told.
            // Where there are several members, the way around is that through others.
            let leads_on = |edge: &Edge| members.len() == 1 || edge.ender != edge.waiter;
            let mut edges: Vec<Edge> =
                self.next(goid).filter(|edge| members.contains(&edge.ender) && leads_on(edge)).collect();
            edges.sort_by_key(|edge| std::cmp::Reverse(edge.evidence));
            for edge in edges {
                if edge.ender == first {
                    let mut path = vec![edge];
                    let mut at = goid;
                    while at != first {
                        let Some(edge) = from.get(&at) else { break };
                        path.push(*edge);
                        at = edge.waiter;
                    }
                    path.reverse();
                    return path;
                }
                if let Entry::Vacant(unseen) = from.entry(edge.ender) {
                    unseen.insert(edge);
                    queue.push_back(edge.ender);
                }
            }
        }
        Vec::new()
    }

    /// Stuck goroutines of no ring that wait for one of `members`.
    fn behind(&self, stuck: &HashSet<u64>, members: &[u64], taken: &HashSet<u64>) -> Vec<u64> {
        let mut before: HashMap<u64, Vec<u64>> = HashMap::new();
        for goid in stuck.iter().filter(|goid| !taken.contains(goid)) {
            for edge in self.next(*goid) {
                before.entry(edge.ender).or_default().push(*goid);
            }
        }
        let mut found = BTreeSet::new();
        let mut queue: VecDeque<u64> = members.iter().copied().collect();
        while let Some(goid) = queue.pop_front() {
            for waiter in before.get(&goid).into_iter().flatten() {
                if found.insert(*waiter) {
                    queue.push_back(*waiter);
                }
            }
        }
        found.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(things: &[(&[u64], bool)], waits: &[(u64, &[usize])]) -> WaitGraph {
        WaitGraph {
            things: things
                .iter()
                .map(|(enders, open)| Thing {
                    enders: enders.iter().map(|goid| (*goid, Evidence::Holds)).collect(),
                    open: *open,
                })
                .collect(),
            waits: waits.iter().map(|(goid, things)| (*goid, things.to_vec())).collect(),
        }
    }

    fn members(graph: &WaitGraph) -> Vec<Vec<u64>> {
        graph.rings().into_iter().map(|ring| ring.members).collect()
    }

    #[test]
    fn a_pair_and_a_ring_of_three_are_named_with_who_waits_behind() {
        let graph = graph(
            &[(&[9], false), (&[7], false), (&[2], false), (&[3], false), (&[1], false)],
            &[(7, &[0]), (9, &[1]), (1, &[2]), (2, &[3]), (3, &[4]), (20, &[0]), (21, &[0])],
        );
        let rings = graph.rings();
        assert_eq!(
            rings.iter().map(|ring| ring.members.clone()).collect::<Vec<_>>(),
            [vec![1, 2, 3], vec![7, 9]]
        );
        assert_eq!(rings[1].behind, [20, 21]);
        let around: Vec<(u64, u64)> = rings[0].path.iter().map(|edge| (edge.waiter, edge.ender)).collect();
        assert_eq!(around, [(1, 2), (2, 3), (3, 1)]);
    }

    #[test]
    fn the_way_around_does_not_end_with_its_first_step() {
        let graph = graph(&[(&[6, 7], false), (&[6], false)], &[(6, &[0]), (7, &[1])]);
        let around: Vec<(u64, u64)> =
            graph.rings()[0].path.iter().map(|edge| (edge.waiter, edge.ender)).collect();
        assert_eq!(around, [(6, 7), (7, 6)]);
    }

    #[test]
    fn whoever_may_come_from_outside_opens_the_ring() {
        // A third one that runs, somebody unseen, and one that waits for something that will end.
        assert_eq!(members(&graph(&[(&[9, 5], false), (&[7], false)], &[(7, &[0]), (9, &[1])])), [[0; 0]; 0]);
        assert_eq!(members(&graph(&[(&[9], true), (&[7], false)], &[(7, &[0]), (9, &[1])])), [[0; 0]; 0]);
        let third =
            graph(&[(&[9, 5], false), (&[7], false), (&[], true)], &[(7, &[0]), (9, &[1]), (5, &[2])]);
        assert_eq!(members(&third), [[0; 0]; 0]);
        // One that waits for ever opens nothing.
        let forever = graph(&[(&[9, 5], false), (&[7], false)], &[(7, &[0]), (9, &[1]), (5, &[])]);
        assert_eq!(members(&forever), [[7, 9]]);
    }

    #[test]
    fn a_select_is_stuck_only_where_all_its_cases_are() {
        let open = graph(&[(&[9], false), (&[5], false), (&[7], false)], &[(7, &[0, 1]), (9, &[2])]);
        assert_eq!(members(&open), [[0; 0]; 0]);
        let closed = graph(&[(&[9], false), (&[9], false), (&[7], false)], &[(7, &[0, 1]), (9, &[2])]);
        assert_eq!(members(&closed), [[7, 9]]);
    }

    #[test]
    fn a_goroutine_may_wait_for_itself_and_a_chain_is_no_ring() {
        assert_eq!(members(&graph(&[(&[7], false)], &[(7, &[0])])), [[7]]);
        // 7 waits for 9, and 9 for ever.
        assert_eq!(members(&graph(&[(&[9], false)], &[(7, &[0]), (9, &[])])), [[0; 0]; 0]);
    }
}
