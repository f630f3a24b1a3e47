//! How long to wait before a request is sent again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::ids::Random;

/// The first wait.
const FIRST: Duration = Duration::from_millis(500);
/// The longest wait of our own choice.
const LONGEST: Duration = Duration::from_secs(30);
/// The longest that a backend may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// Waits that double, with jitter: many tracers must not come back at the same moment.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    random: Random,
}

impl Backoff {
    /// The next wait; `asked` is what the backend asked for.
    pub(super) fn next(&mut self, asked: Option<Duration>) -> Duration {
        let doubled = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        // 80 to 120 %.
        let jittered = doubled.mul_f64(0.8 + 0.4 * (self.random.next() >> 11) as f64 / (1_u64 << 53) as f64);
        jittered.max(asked.unwrap_or_default().min(LONGEST_ASKED))
    }

    /// A request succeeded.
    pub(super) const fn reset(&mut self) {
        self.failures = 0;
    }
}

/// The value of a `Retry-After` header: seconds, or a date (RFC 9110, 10.2.3).
pub(super) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let now = now.duration_since(UNIX_EPOCH).ok()?;
    Some(Duration::from_secs(http_date(value)?).saturating_sub(now))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` as seconds since the epoch.
fn http_date(value: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut parts = value.strip_suffix(" GMT")?.split_once(", ")?.1.split(' ');
    let day = parts.next()?.parse::<u64>().ok()?;
    let month = parts.next().and_then(|name| MONTHS.iter().position(|m| *m == name))? as u64 + 1;
    let year = parts.next()?.parse::<u64>().ok().filter(|y| (1970..=9999).contains(y))?;
    let mut clock = parts.next()?.split(':').map(|n| n.parse::<u64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days since the epoch by the civil calendar, with years that begin in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1;
    Some((days.checked_sub(719_468)?) * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound() {
        let mut backoff = Backoff::default();
        for expected in [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0] {
            let wait = backoff.next(None).as_secs_f64();
            assert!((expected * 0.8..=expected * 1.2).contains(&wait), "{wait} for {expected}");
        }
        for _ in 0..100 {
            assert!(backoff.next(None) <= LONGEST.mul_f64(1.2));
        }
        backoff.reset();
        assert!(backoff.next(None) < Duration::from_secs(1));
    }

    #[test]
    fn the_backend_may_ask_for_more_within_reason() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(backoff.next(Some(Duration::from_secs(90_000))), LONGEST_ASKED);
        assert!(backoff.next(Some(Duration::ZERO)) > Duration::from_secs(1));
    }

    #[test]
    fn both_forms_of_retry_after() {
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(http_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(http_date("Thu, 29 Feb 2024 23:59:59 GMT"), Some(1_709_251_199));
        for bad in
            ["", "soon", "Sun, 06 Nov 1994", "Sun, 00 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 25:00:00 GMT"]
        {
            assert_eq!(http_date(bad), None, "{bad}");
        }
        let now = UNIX_EPOCH + Duration::from_secs(784_111_770);
        assert_eq!(retry_after(" 120 ", now), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:30 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("never", now), None);
    }
}
