//! Taking probes off, from whatever thread.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracer_ebpf::{TIER_T1, TIER_T3};

use super::endings::Endings;
use super::keeper::{Held, Leases};
use super::switching::Switching;

/// The links of a session by tier; whoever holds a clone can take the probes off.
#[derive(Clone, Debug, Default)]
pub struct Detacher {
    links: Arc<Mutex<Vec<(u32, Held)>>>,
    leases: Option<Leases>,
    closed: Arc<AtomicBool>,
    /// Bits of tiers that somebody else took off.
    killed: Arc<AtomicU32>,
    /// When somebody began to close it, and how long that took.
    closing: Arc<(OnceLock<Instant>, OnceLock<Duration>)>,
    switching: Option<Switching>,
    /// What goes with the probes.
    endings: Arc<Mutex<Option<Endings>>>,
}

impl Detacher {
    /// Of these links, by tier, and what is had by lease.
    pub(super) fn new(links: Vec<(u32, Held)>, leases: Option<Leases>, switching: Switching) -> Self {
        Self { links: Arc::new(Mutex::new(links)), leases, switching: Some(switching), ..Self::default() }
    }

    /// Takes these off with the probes, when that is for good.
    pub fn take_along(&self, endings: Endings) {
        let mut along = self.endings.lock().unwrap_or_else(PoisonError::into_inner);
        if self.closed.load(Ordering::Acquire) {
            endings.close();
        }
        *along = Some(endings);
    }

    /// What is had by lease.
    pub(super) const fn leases(&self) -> Option<&Leases> {
        self.leases.as_ref()
    }

    /// Takes off the probes of some tiers, the links in parallel since the kernel takes tens of milliseconds
    /// for each. Returns once they are gone.
    pub fn detach(&self, tiers: u32) {
        self.take_off(tiers);
        // Of the others it is known by another way whose stretches end.
        self.take_killed(tiers & !TIER_T1 & if self.is_closed() { 0 } else { u32::MAX });
    }

    /// The same; returns the tiers of which there were any.
    pub(super) fn take_off(&self, tiers: u32) -> u32 {
        if let Some(switching) = self.switching.as_ref().filter(|_| tiers & TIER_T3 != 0) {
            switching.end();
        }
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let (gone, kept) = std::mem::take(&mut *links).into_iter().partition(|(tier, _)| tier & tiers != 0);
        *links = kept;
        let gone: Vec<(u32, Held)> = gone;
        // The lock is held meanwhile: who comes second waits until the probes are really gone.
        let taken = gone.iter().fold(0, |sum, (tier, _)| sum | tier);
        std::thread::scope(|scope| {
            for (tier, link) in gone {
                scope.spawn(move || {
                    if link.end() {
                        self.killed.fetch_or(tier, Ordering::AcqRel);
                    }
                });
            }
        });
        taken
    }

    /// Those of these tiers of which it was found when they were taken off that somebody had done that before, by killing who
    /// held them; once.
    pub(super) fn take_killed(&self, tiers: u32) -> u32 {
        self.killed.fetch_and(!tiers, Ordering::AcqRel) & tiers
    }

    /// The tiers of which probes have gone since somebody killed the process that held them. `None` while
    /// others are being taken off: it is not known then.
    pub(super) fn ended(&self) -> Option<u32> {
        let links = self.links.try_lock().ok()?;
        Some(links.iter().filter(|(_, link)| link.has_ended()).fold(0, |sum, (tier, _)| sum | tier))
    }

    /// Takes a link in; `false` if the probes were taken off for good meanwhile, which is not overruled.
    pub(super) fn add(&self, tier: u32, link: Held) -> bool {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if self.closed.load(Ordering::Acquire) {
            drop(links);
            drop(link);
            return false;
        }
        links.push((tier, link));
        true
    }

    /// Takes off all probes for good: none is put back. Returns how long that took, whoever did it.
    pub fn close(&self) -> Duration {
        let (begun, took) = &*self.closing;
        let begun = begun.get_or_init(Instant::now);
        self.closed.store(true, Ordering::Release);
        if let Some(switching) = &self.switching {
            switching.close();
        }
        std::thread::scope(|scope| {
            if let Some(leases) = &self.leases {
                scope.spawn(|| leases.close());
            }
            let endings = self.endings.lock().unwrap_or_else(PoisonError::into_inner).clone();
            scope.spawn(move || endings.iter().for_each(Endings::close));
            self.detach(u32::MAX);
        });
        *took.get_or_init(|| begun.elapsed())
    }

    /// Whether the probes were taken off for good, or are being.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The tiers that are on.
    #[must_use]
    pub fn tiers(&self) -> u32 {
        let held = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let leased = self.leases.as_ref().map_or(0, Leases::on);
        held.iter().fold(leased, |sum, (tier, _)| sum | tier)
    }
}
