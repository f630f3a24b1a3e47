//! What has been reported, so that each finding is told when it changes and not otherwise.

use std::collections::BTreeMap;

use super::finding::{Finding, State};

/// A finding with its history.
#[derive(Clone, Debug)]
pub struct Reported {
    /// As of the last look.
    pub finding: Finding,
    /// Whether it still holds.
    pub state: State,
    /// First seen, `CLOCK_MONOTONIC` ns.
    pub first_seen_ns: u64,
    /// Last seen, likewise.
    pub last_seen_ns: u64,
}

/// Why a finding is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    New,
    /// It became surer.
    Degree,
    /// Another place in the source has to do with it.
    Sites,
    /// It came back.
    Back,
    /// It no longer holds.
    Resolved,
}

/// All findings of a process.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    reported: BTreeMap<String, Reported>,
}

/// How long a finding must be absent before it is called resolved.
const RESOLVE_AFTER_NS: u64 = 10_000_000_000;

impl Ledger {
    /// Takes in what one look found; returns the keys of what changed, and how.
    pub fn update(&mut self, findings: Vec<Finding>, now_ns: u64) -> Vec<(String, Change)> {
        let mut changes = Vec::new();
        for finding in findings {
            let key = finding.key.clone();
            match self.reported.get_mut(&key) {
                None => {
                    let reported = Reported {
                        finding,
                        state: State::Active,
                        first_seen_ns: now_ns,
                        last_seen_ns: now_ns,
                    };
                    self.reported.insert(key.clone(), reported);
                    changes.push((key, Change::New));
                }
                Some(reported) => {
                    reported.last_seen_ns = now_ns;
                    if reported.state == State::Resolved {
                        reported.state = State::Active;
                        changes.push((key, Change::Back));
                    } else if finding.degree > reported.finding.degree {
                        changes.push((key, Change::Degree));
                    } else if finding.sites.iter().any(|site| !reported.finding.sites.contains(site)) {
                        changes.push((key, Change::Sites));
                    }
                    // What was once confirmed stays so: a look with less in it does not take evidence back.
                    let degree = finding.degree.max(reported.finding.degree);
                    reported.finding = Finding { degree, ..finding };
                }
            }
        }
        for (key, reported) in &mut self.reported {
            let absent = now_ns.saturating_sub(reported.last_seen_ns) > RESOLVE_AFTER_NS;
            if reported.state == State::Active && absent {
                reported.state = State::Resolved;
                changes.push((key.clone(), Change::Resolved));
            }
        }
        changes
    }

    /// One finding.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Reported> {
        self.reported.get(key)
    }

    /// All of them, by key.
    pub fn iter(&self) -> impl Iterator<Item = &Reported> {
        self.reported.values()
    }

    /// Whether a finding is active.
    #[must_use]
    pub fn is_active(&self, key: &str) -> bool {
        self.reported.get(key).is_some_and(|r| r.state == State::Active)
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::{Degree, Role, SiteRef};
    use super::*;

    fn finding(degree: Degree, count: u64) -> Finding {
        Finding {
            id: "goroutine-leak",
            key: "leak:1".to_owned(),
            title: String::new(),
            degree,
            evidence: Vec::new(),
            goids: Vec::new(),
            count,
            sites: Vec::new(),
            stack: Vec::new(),
            trend: None,
            advice: "",
            disproof: "",
        }
    }

    #[test]
    fn tells_changes_once() {
        let mut ledger = Ledger::default();
        let key = || "leak:1".to_owned();
        assert_eq!(ledger.update(vec![finding(Degree::Suspected, 3)], 1), [(key(), Change::New)]);
        assert_eq!(ledger.update(vec![finding(Degree::Suspected, 4)], 2), []);
        assert_eq!(ledger.update(vec![finding(Degree::Confirmed, 9)], 3), [(key(), Change::Degree)]);
        assert_eq!(ledger.update(vec![finding(Degree::Suspected, 9)], 4), []);
        assert_eq!(ledger.get("leak:1").unwrap().finding.degree, Degree::Confirmed);
        let mut elsewhere = finding(Degree::Confirmed, 9);
        elsewhere.sites.push(SiteRef {
            role: Role::Called,
            function: "f".to_owned(),
            file: "f.go".to_owned(),
            line: 1,
        });
        assert_eq!(ledger.update(vec![elsewhere.clone()], 4), [(key(), Change::Sites)]);
        assert_eq!(ledger.update(vec![elsewhere], 4), []);
        assert_eq!(ledger.update(vec![], 5), []);
        let later = 5 + 2 * RESOLVE_AFTER_NS;
        assert_eq!(ledger.update(vec![], later), [(key(), Change::Resolved)]);
        assert_eq!(ledger.update(vec![], later + 1), []);
        assert_eq!(ledger.update(vec![finding(Degree::Confirmed, 9)], later + 2), [(key(), Change::Back)]);
    }
}
