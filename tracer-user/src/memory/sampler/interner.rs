//! Each different thing once, by number, within bounds.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

/// There is none.
pub const NONE: u32 = 0;
/// There is one, but too many others were known already, or it could not be read.
pub const LEFT_OUT: u32 = 1;
/// The first number of a thing that is known.
const FIRST: u32 = 2;

/// Numbers for things that are equal.
pub(super) struct Interner<T> {
    numbers: HashMap<Arc<T>, u32>,
    things: Vec<Arc<T>>,
    /// Things, and weight of all together, at most.
    most: usize,
    most_weight: usize,
    weight: usize,
    left_out: u64,
}

impl<T: Eq + Hash> Interner<T> {
    pub(super) fn new(most: usize, most_weight: usize) -> Self {
        Self { numbers: HashMap::new(), things: Vec::new(), most, most_weight, weight: 0, left_out: 0 }
    }

    /// The number of a thing that weighs so much.
    pub(super) fn number(&mut self, thing: T, weight: usize) -> u32 {
        if let Some(known) = self.numbers.get(&thing) {
            return *known;
        }
        if self.things.len() >= self.most || self.weight.saturating_add(weight) > self.most_weight {
            self.left_out += 1;
            return LEFT_OUT;
        }
        self.weight += weight;
        let thing = Arc::new(thing);
        // `most` is far below what a u32 holds.
        let number = self.things.len() as u32 + FIRST;
        self.things.push(Arc::clone(&thing));
        self.numbers.insert(thing, number);
        number
    }

    pub(super) fn get(&self, number: u32) -> Option<&Arc<T>> {
        self.things.get(number.checked_sub(FIRST)? as usize)
    }

    /// How often there was no number to give.
    pub(super) const fn left_out(&self) -> u64 {
        self.left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_things_have_one_number_and_what_is_too_much_is_counted() {
        let mut interner = Interner::new(3, 10);
        let a = interner.number("a", 4);
        assert_eq!((interner.number("b", 4), interner.number("a", 4)), (a + 1, a));
        assert_eq!((interner.number("heavy", 4), interner.number("light", 2)), (LEFT_OUT, a + 2));
        assert_eq!((interner.number("fourth", 0), interner.left_out()), (LEFT_OUT, 2));
        assert_eq!(interner.get(a + 1).map(|thing| **thing), Some("b"));
        assert!(interner.get(NONE).is_none() && interner.get(LEFT_OUT).is_none());
    }
}
