//! Trace and span ids.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use opentelemetry::trace::{SpanId, TraceId};

use super::identity::Identity;

/// Hands out ids for one process.
#[derive(Debug)]
pub(super) struct Ids {
    instance: String,
    service: String,
    random: Random,
}

impl Ids {
    pub(super) fn new(identity: Identity) -> Self {
        Self { instance: identity.instance(), service: identity.service_name, random: Random::default() }
    }

    /// The trace of everything about one subject of this process: the same whenever it is told again.
    pub(super) fn trace(&self, kind: &str, key: &str) -> TraceId {
        let mut hash = Fnv::default();
        for part in [&self.service, &self.instance, kind, key] {
            hash.write(part.as_bytes());
            // No part can run into the next: UTF-8 has no 0xff.
            hash.write(&[0xff]);
        }
        TraceId::from_bytes(hash.finish().max(1).to_be_bytes())
    }

    /// A new span.
    pub(super) fn span(&mut self) -> SpanId {
        SpanId::from_bytes(self.random.next().max(1).to_be_bytes())
    }
}

/// FNV-1a with 128 bits and a final mix; stable over releases, unlike the standard library's hasher.
struct Fnv(u128);

impl Default for Fnv {
    fn default() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }
}

impl Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }

    /// FNV's last bytes hardly reach its high bits, which backends shard and sample by.
    const fn finish(&self) -> u128 {
        let (low, high) = (mix(self.0 as u64), mix((self.0 >> 64) as u64));
        ((mix(high ^ low.rotate_left(32)) as u128) << 64) | (mix(low ^ high) as u128)
    }
}

/// The finalizer of splitmix64.
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Numbers that need not be secret, only different from everyone else's: splitmix64 from a random start.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Self(RandomState::new().build_hasher().finish())
    }
}

impl Random {
    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn traces_are_the_subjects_and_spans_are_unique() {
        let identity = Identity { service_name: "shop".to_owned(), pid: 7, ..Identity::default() };
        let other = Identity { pid: 8, ..identity.clone() };
        let (mut a, b) = (Ids::new(identity.clone()), Ids::new(identity));
        assert_eq!(a.trace("finding", "leak:1"), b.trace("finding", "leak:1"));
        assert_ne!(a.trace("finding", "leak:1"), a.trace("finding", "leak:2"));
        assert_ne!(a.trace("finding", "1"), a.trace("cycle", "1"));
        assert_ne!(a.trace("finding", "leak:1"), Ids::new(other).trace("finding", "leak:1"));
        let traces: HashSet<TraceId> = (0..10_000).map(|i| b.trace("cycle", &i.to_string())).collect();
        let spans: HashSet<SpanId> = (0..10_000).map(|_| a.span()).collect();
        assert_eq!((traces.len(), spans.len()), (10_000, 10_000));
    }

    #[test]
    fn trace_ids_do_not_change_with_releases() {
        let identity = Identity {
            service_name: "shop".to_owned(),
            host_name: "h".to_owned(),
            pid: 7,
            ..Identity::default()
        };
        assert_eq!(
            Ids::new(identity).trace("finding", "leak:1").to_string(),
            "70a80c2993c4b279439938277e0e6a23"
        );
    }
}
