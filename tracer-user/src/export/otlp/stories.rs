//! What became of each finding so far: the events of its spans.

use std::collections::{BTreeMap, VecDeque};

use super::item::Told;
use crate::detect::Change;

/// Findings whose story is kept.
const STORIES: usize = 1024;
/// Turns of a story that are kept besides its first.
const TURNS: usize = 32;

/// One turn of a story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) at_ns: u64,
    /// What happened: `new`, `degree`, `sites`, `back`, `resolved`.
    pub(super) change: &'static str,
    pub(super) degree: &'static str,
    pub(super) state: &'static str,
    pub(super) count: u64,
}

/// The stories of all findings.
#[derive(Debug, Default)]
pub(super) struct Stories {
    by_key: BTreeMap<String, VecDeque<Turn>>,
}

/// The name of a change in outputs.
pub(super) const fn change_name(change: Change) -> &'static str {
    match change {
        Change::New => "new",
        Change::Degree => "degree",
        Change::Back => "back",
        Change::Sites => "sites",
        Change::Resolved => "resolved",
    }
}

impl Stories {
    /// Adds a turn and returns the whole story, oldest first.
    pub(super) fn tell(&mut self, told: &Told) -> Vec<Turn> {
        let finding = &told.reported.finding;
        let turn = Turn {
            // The first turn is when it was first seen, not when that was told.
            at_ns: if told.change == Change::New { told.reported.first_seen_ns } else { told.at_ns },
            change: change_name(told.change),
            degree: finding.degree.name(),
            state: told.reported.state.name(),
            count: finding.count,
        };
        if !self.by_key.contains_key(&finding.key) && self.by_key.len() == STORIES {
            let quietest = self.by_key.iter().min_by_key(|(_, story)| story.back().map_or(0, |t| t.at_ns));
            if let Some(key) = quietest.map(|(key, _)| key.clone()) {
                self.by_key.remove(&key);
            }
        }
        let story = self.by_key.entry(finding.key.clone()).or_default();
        if story.len() > TURNS {
            story.remove(1);
        }
        story.push_back(turn);
        story.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::told;
    use super::*;

    #[test]
    fn a_story_keeps_its_beginning_and_is_bounded() {
        let mut stories = Stories::default();
        assert_eq!(stories.tell(&told("leak:1", Change::New, 5))[0].change, "new");
        for i in 0..100 {
            stories.tell(&told("leak:1", Change::Back, 10 + i));
        }
        let story = stories.tell(&told("leak:1", Change::Resolved, 1000));
        assert_eq!(story.len(), TURNS + 1);
        assert_eq!(story[0].change, "new");
        assert_eq!(story.last().unwrap().at_ns, 1000);
        for i in 0..2 * STORIES {
            stories.tell(&told(&format!("k{i}"), Change::New, 2000 + i as u64));
        }
        assert_eq!(stories.by_key.len(), STORIES);
    }
}
