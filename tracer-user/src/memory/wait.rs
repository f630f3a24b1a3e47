//! What a goroutine waits on: the types.

/// What a wait reason says of the wait, by the runtime's words (`waitReasonStrings`, runtime/runtime2.go, Go
/// 1.18 to 1.27). Those in testing/synctest have ` (durable)` or ` (synctest)` behind the same words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Receive,
    Send,
    Select,
    Semaphore,
    Cond,
    Sleep,
    Io,
    Forever,
    Other,
}

impl Kind {
    pub(super) fn of(reason: &str) -> Self {
        match reason {
            "chan receive (nil chan)" | "chan send (nil chan)" | "select (no cases)" => Self::Forever,
            "sleep" => Self::Sleep,
            "IO wait" => Self::Io,
            "sync.Cond.Wait" => Self::Cond,
            "semacquire" | "sync.Mutex.Lock" | "sync.RWMutex.RLock" | "sync.RWMutex.Lock" => Self::Semaphore,
            _ if reason.starts_with("chan receive") => Self::Receive,
            _ if reason.starts_with("chan send") => Self::Send,
            _ if reason.starts_with("select") => Self::Select,
            _ if reason.starts_with("sync.WaitGroup.Wait") => Self::Semaphore,
            _ => Self::Other,
        }
    }
}

/// What a parked goroutine waits on, as far as memory tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// One channel operation.
    Channel(Case),
    /// A `select` on several.
    Select {
        /// Its cases that have a channel, in the order of the channels' addresses; at most [`MAX_CASES`].
        cases: Vec<Case>,
        /// How many more there are.
        left_out: usize,
    },
    /// A semaphore: a lock, a wait group, or another part of the runtime or of sync that waits for one.
    Semaphore(
        /// Its address: that of the field `sema` in a `sync.Mutex`. `None` if it was not found.
        Option<u64>,
    ),
    /// A `sync.Cond`.
    Cond(
        /// The address of its list of waiters, the field `notify`. `None` if it was not found.
        Option<u64>,
    ),
    /// A sleep.
    Sleep {
        /// Its end, `CLOCK_MONOTONIC` ns; `None` if the timer could not be read, or if it sleeps by the false clock of
        /// a testing/synctest bubble.
        until_ns: Option<u64>,
    },
    /// A file descriptor that the network poller watches.
    Io(
        /// `None` if what it waits on was not found.
        Option<Poll>,
    ),
    /// Nothing that could ever wake it: a nil channel, or a `select` without a case that has a channel.
    Forever,
    /// Its list of what it waits on could not be read, or is not its own.
    Unread,
}

/// A wait for the network poller (`pollDesc`, runtime/netpoll.go).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poll {
    /// Address of the `pollDesc`.
    pub desc: u64,
    /// The file descriptor.
    pub fd: u64,
    /// Whether it waits to write, and not to read.
    pub write: bool,
    /// When the wait ends by itself, `CLOCK_MONOTONIC` ns; `None` if it never does.
    pub deadline_ns: Option<u64>,
}

impl Poll {
    /// `read` or `write`.
    #[must_use]
    pub const fn mode(self) -> &'static str {
        if self.write { "write" } else { "read" }
    }
}

/// A timer that sends on a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timer {
    /// When it fires next, `CLOCK_MONOTONIC` ns; 0 if it does not.
    pub when_ns: u64,
    /// The time between two times that it fires, ns; 0 if it fires once.
    pub period_ns: u64,
}

/// Most cases of a `select` that are kept.
pub const MAX_CASES: usize = 1024;

/// A channel that is waited on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Address of the channel: what `%p` prints of it.
    pub channel: u64,
    /// Which operation waits; `None` for a case of a `select` if the channel's queues did not tell.
    pub direction: Option<Direction>,
}

/// The two operations on a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// `<-c`
    Receive,
    /// `c <- v`
    Send,
}

impl Direction {
    /// In a word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Send => "send",
        }
    }
}

/// A channel at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    /// The type of its values, as `reflect.Type.String` gives it; `None` for one made at run time.
    pub element: Option<String>,
    /// How many values its buffer holds at most.
    pub capacity: u64,
    /// How many are in it.
    pub length: u64,
    /// Whether it is closed.
    pub closed: bool,
    /// The timer that sends on it: that of `time.After`, `time.Timer` and `time.Ticker` (Go 1.23 on).
    pub timer: Option<Timer>,
}

impl Wait {
    /// Everything that it waits on, by address.
    pub fn targets(&self) -> impl Iterator<Item = Target> {
        let (cases, lone): (&[Case], _) = match self {
            Self::Channel(case) => (std::slice::from_ref(case), None),
            Self::Select { cases, .. } => (cases, None),
            Self::Semaphore(Some(address)) => (&[], Some(Target::Semaphore(*address))),
            Self::Cond(Some(address)) => (&[], Some(Target::Cond(*address))),
            _ => (&[], None),
        };
        cases.iter().map(|case| Target::Channel(case.channel)).chain(lone)
    }
}

/// Something that goroutines wait on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A channel.
    Channel(u64),
    /// A semaphore.
    Semaphore(u64),
    /// The list of waiters of a `sync.Cond`.
    Cond(u64),
}

impl Target {
    /// Where it is.
    #[must_use]
    pub const fn address(self) -> u64 {
        match self {
            Self::Channel(address) | Self::Semaphore(address) | Self::Cond(address) => address,
        }
    }

    /// What it is, in a word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Channel(_) => "channel",
            Self::Semaphore(_) => "semaphore",
            Self::Cond(_) => "cond",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_tell_the_kind_also_in_a_synctest_bubble() {
        assert_eq!(Kind::of("chan receive"), Kind::Receive);
        assert_eq!(Kind::of("chan receive (durable)"), Kind::Receive);
        assert_eq!(Kind::of("chan send (synctest)"), Kind::Send);
        assert_eq!(Kind::of("chan send (nil chan)"), Kind::Forever);
        assert_eq!(Kind::of("select (no cases)"), Kind::Forever);
        assert_eq!(Kind::of("select (durable)"), Kind::Select);
        assert_eq!(Kind::of("sync.WaitGroup.Wait (durable)"), Kind::Semaphore);
        assert_eq!(Kind::of("IO wait"), Kind::Io);
        assert_eq!(Kind::of("GC worker (idle)"), Kind::Other);
    }
}
