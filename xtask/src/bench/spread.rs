//! Several measurements of the same.

use serde_json::{Value, json};

/// What was measured again and again.
#[derive(Clone, Debug, Default)]
pub(super) struct Spread(Vec<f64>);

impl Spread {
    pub(super) fn add(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    pub(super) fn least(&self) -> Option<f64> {
        self.0.first().copied()
    }

    pub(super) fn most(&self) -> Option<f64> {
        self.0.last().copied()
    }

    /// The one in the middle, or the mean of the two that are.
    pub(super) fn median(&self) -> Option<f64> {
        let (low, high) = (self.0.get(self.0.len().checked_sub(1)? / 2)?, self.0.get(self.0.len() / 2)?);
        Some(f64::midpoint(*low, *high))
    }

    /// `**median** (least to most)`, for tables; nothing where nothing was measured.
    pub(super) fn range(&self, text: impl Fn(f64) -> String) -> String {
        match (self.least(), self.median(), self.most()) {
            (Some(least), Some(median), Some(most)) => {
                format!("**{}** ({} to {})", text(median), text(least), text(most))
            }
            _ => String::new(),
        }
    }

    pub(super) fn json(&self) -> Value {
        json!({ "median": self.median(), "least": self.least(), "most": self.most(), "times": self.count() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle_whatever_the_order() {
        let mut spread = Spread::default();
        assert_eq!(spread.median(), None);
        for value in [5.0, 1.0, 9.0] {
            spread.add(value);
        }
        assert_eq!((spread.least(), spread.median(), spread.most()), (Some(1.0), Some(5.0), Some(9.0)));
        assert_eq!(spread.range(|value| format!("{value:.0}")), "**5** (1 to 9)");
        spread.add(7.0);
        assert_eq!(spread.median(), Some(6.0));
    }
}
