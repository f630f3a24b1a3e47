//! Tables that are looked into for each goroutine or each frame.
//!
//! The standard library's hash is made to withstand whoever chooses keys and sees how long a look-up takes. A target
//! chooses addresses but learns neither the seed nor a time from us, so one that costs a tenth will do.

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;

pub(super) type Map<K, V> = HashMap<K, V, RandomState>;
pub(super) type Set<K> = HashSet<K, RandomState>;
