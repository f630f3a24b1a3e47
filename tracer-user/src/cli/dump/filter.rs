//! `--filter`: which goroutines are shown.

use std::time::Duration;

use gotrail::memory::{Goroutine, Status, Symbolizer};
use regex::{Regex, RegexBuilder};

use super::super::failure::{Failure, USAGE};
use super::super::human;
use super::Dump;

/// Conditions: those with the same name are alternatives, those with different names hold together.
#[derive(Debug, Default)]
pub(super) struct Filter {
    states: Vec<String>,
    reasons: Vec<String>,
    functions: Vec<Pattern>,
    expressions: Vec<Regex>,
    labels: Vec<(String, Option<String>)>,
    goids: Vec<u64>,
    ages: Vec<Age>,
}

#[derive(Debug)]
struct Age {
    at_least: bool,
    ns: u64,
}

/// Bytes that a regular expression may take, and what remembers its states while it is matched.
const MAX_REGEX: usize = 1 << 20;

/// A part of a name, where `*` stands for anything and `^` and `$` for its ends.
#[derive(Debug)]
struct Pattern {
    from_start: bool,
    to_end: bool,
    pieces: Vec<String>,
}

impl Pattern {
    fn new(text: &str) -> Self {
        let (from_start, text) = text.strip_prefix('^').map_or((false, text), |rest| (true, rest));
        let (to_end, text) = text.strip_suffix('$').map_or((false, text), |rest| (true, rest));
        Self { from_start, to_end, pieces: text.split('*').map(str::to_owned).collect() }
    }

    fn matches(&self, name: &str) -> bool {
        let Some((last, before)) = self.pieces.split_last() else { return true };
        let mut rest = name;
        for (index, piece) in before.iter().enumerate() {
            rest = if index == 0 && self.from_start {
                match rest.strip_prefix(piece.as_str()) {
                    Some(rest) => rest,
                    None => return false,
                }
            } else {
                match rest.find(piece.as_str()) {
                    Some(at) => &rest[at + piece.len()..],
                    None => return false,
                }
            };
        }
        match (before.is_empty() && self.from_start, self.to_end) {
            (true, true) => rest == last,
            (true, false) => rest.starts_with(last.as_str()),
            (false, true) => rest.ends_with(last.as_str()),
            (false, false) => rest.contains(last.as_str()),
        }
    }
}

impl Filter {
    /// Reads the conditions, each argument one or several with commas between. A regular expression has commas of its
    /// own, so it is the last of its argument.
    pub(super) fn parse(arguments: &[String]) -> Result<Self, Failure> {
        let mut filter = Self::default();
        for argument in arguments {
            let mut rest = Some(argument.as_str());
            while let Some(text) = rest {
                let (condition, behind) = match text.trim_start().strip_prefix("func~") {
                    Some(_) => (text, None),
                    None => text.split_once(',').map_or((text, None), |(one, behind)| (one, Some(behind))),
                };
                filter
                    .add(condition.trim())
                    .map_err(|why| Failure::new(USAGE, format!("--filter {condition}: {why}")))?;
                rest = behind;
            }
        }
        Ok(filter)
    }

    fn add(&mut self, condition: &str) -> Result<(), String> {
        if let Some(age) = condition.strip_prefix("age") {
            let (at_least, text) = match (age.strip_prefix(">="), age.strip_prefix('<')) {
                (Some(text), _) => (true, text),
                (None, Some(text)) => (false, text),
                (None, None) => return Err("write age>=30s or age<5m".to_owned()),
            };
            let ns = super::super::args::time(text).map(|age: Duration| age.as_nanos())?;
            self.ages.push(Age { at_least, ns: u64::try_from(ns).unwrap_or(u64::MAX) });
            return Ok(());
        }
        if let Some(expression) = condition.strip_prefix("func~") {
            let expression = RegexBuilder::new(expression)
                .size_limit(MAX_REGEX)
                .dfa_size_limit(MAX_REGEX)
                .build()
                .map_err(|why| format!("{why}; func= takes a part of a name as it is, and * for anything"))?;
            self.expressions.push(expression);
            return Ok(());
        }
        let (name, value) = condition
            .split_once('=')
            .filter(|(_, value)| !value.is_empty())
            .ok_or_else(|| format!("{KNOWN}, each with a value"))?;
        match name {
            "state" => self.states.push(value.to_owned()),
            "reason" => self.reasons.push(value.to_owned()),
            "func" => self.functions.push(Pattern::new(value)),
            "label" => self.labels.push(match value.split_once(':') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (value.to_owned(), None),
            }),
            "goid" => self.goids.push(value.parse().map_err(|_| "an id is a whole number".to_owned())?),
            _ => return Err(format!("there is no such condition; there are {KNOWN}")),
        }
        Ok(())
    }

    /// Refuses states that no goroutine can have, given the reasons to wait of the process's Go.
    pub(super) fn check_states(&self, reasons: &[String]) -> Result<(), Failure> {
        let names: Vec<&str> = Status::KNOWN.iter().map(|status| status.name()).collect();
        let known = |state: &String| {
            let state = state.strip_suffix(LEAKED).unwrap_or(state);
            names.contains(&state) || reasons.iter().any(|reason| reason == state)
        };
        match self.states.iter().find(|state| !known(state)) {
            None => Ok(()),
            Some(state) => Err(Failure::new(
                USAGE,
                format!(
                    "--filter state={state}: no goroutine has this state; there are {}, and the reasons to wait: {} (reason= takes a part of one)",
                    names.join(", "),
                    human::reasons(reasons)
                ),
            )),
        }
    }

    /// Whether it asks for an age, which not every goroutine has.
    pub(super) fn asks_for_age(&self) -> bool {
        !self.ages.is_empty()
    }

    /// Whether labels have to be read for it.
    pub(super) fn needs_labels(&self) -> bool {
        !self.labels.is_empty()
    }

    /// Whether stacks have to be read for it.
    pub(super) fn needs_stacks(&self) -> bool {
        !self.functions.is_empty()
    }

    /// Whether a goroutine is to be shown.
    pub(super) fn holds(&self, dump: &Dump<'_>, g: &Goroutine, symbolizer: &mut Symbolizer) -> bool {
        let state = dump.state(g);
        any(&self.goids, |goid| *goid == g.goid)
            && any(&self.states, |wanted| {
                let is_leaked = g.status == Status::Leaked;
                let bare = wanted.strip_suffix(LEAKED).filter(|_| is_leaked).unwrap_or(wanted);
                wanted == g.status.name() || bare == state
            })
            && any(&self.reasons, |part| {
                g.status.is_parked() && dump.runtime.wait_reason(g.wait_reason).contains(part.as_str())
            })
            && self.ages.iter().all(|age| {
                // An age that is not known is neither.
                dump.age(g).is_some_and(|ns| (ns >= age.ns) == age.at_least)
            })
            && any(&self.labels, |(key, value)| has_label(dump, g, key, value.as_deref()))
            && self.is_on_stack(dump, g, symbolizer)
    }

    /// Whether one of the functions that are asked for is on its stack.
    fn is_on_stack(&self, dump: &Dump<'_>, g: &Goroutine, symbolizer: &mut Symbolizer) -> bool {
        let is_wanted = |name: &str| {
            self.functions.iter().any(|wanted| wanted.matches(name))
                || self.expressions.iter().any(|wanted| wanted.is_match(name))
        };
        self.functions.is_empty() && self.expressions.is_empty()
            || g.stack.pcs.iter().any(|pc| {
                let frames = symbolizer.frames(dump.runtime.binary(), *pc);
                frames.iter().any(|frame| is_wanted(&frame.function))
            })
    }
}

/// Behind the reason to wait in the head of a goroutine that Go has found leaked.
const LEAKED: &str = " (leaked)";

const KNOWN: &str =
    "state=, reason=, func=PART, func~REGEX, label=KEY or label=KEY:VALUE, goid=, age>= and age<";

/// No alternatives are no condition.
fn any<T>(alternatives: &[T], holds: impl Fn(&T) -> bool) -> bool {
    alternatives.is_empty() || alternatives.iter().any(holds)
}

fn has_label(dump: &Dump<'_>, g: &Goroutine, key: &str, value: Option<&str>) -> bool {
    dump.details.labels.get(&g.goid).and_then(Option::as_ref).is_some_and(|labels| {
        labels.pairs.iter().any(|(k, v)| k == key && value.is_none_or(|value| v == value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_by_parts() {
        let holds = |pattern: &str, name: &str| Pattern::new(pattern).matches(name);
        let name = "net/http.(*conn).serve";
        for pattern in
            ["conn", "net/http.(*conn)", "^net", "serve$", "^net*serve$", "^net*", "*", "", "(*conn)"]
        {
            assert!(holds(pattern, name), "{pattern}");
        }
        for pattern in ["Conn", "^http", "conn$", "^net*conn$", "serve*conn", "^serve$"] {
            assert!(!holds(pattern, name), "{pattern}");
        }
    }

    #[test]
    fn conditions_are_read_or_refused_with_the_list() {
        let parse = |text: &str| Filter::parse(&[text.to_owned()]);
        let filter = parse("state=waiting,reason=chan receive (nil chan), func=main.,age>=1m30s").unwrap();
        assert_eq!(filter.states, ["waiting"]);
        assert_eq!(filter.reasons, ["chan receive (nil chan)"]);
        assert_eq!((filter.ages[0].ns, filter.ages[0].at_least), (90_000_000_000, true));
        let filter = parse(r"state=waiting,func~^main\.(a|b){1,2}$").unwrap();
        assert_eq!(filter.states, ["waiting"]);
        assert!(filter.expressions[0].is_match("main.ab") && !filter.expressions[0].is_match("main.abc"));
        assert!(
            parse(r"func~net/http\.\(\*conn\)\.serve").unwrap().expressions[0]
                .is_match("net/http.(*conn).serve")
        );
        assert!(parse("func~a{1000}{1000}{1000}").unwrap_err().message.contains("size limit"));
        for wrong in
            ["", "state", "state=", "age=3", "age>=x", "goid=a", "colour=red", "func~(", "func~a, func~("]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse("colour=red").unwrap_err().message.contains("reason="));
    }
}
