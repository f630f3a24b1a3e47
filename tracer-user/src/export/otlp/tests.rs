//! The exporter against real sockets.

mod delivery;
mod messages;
mod server;

pub(super) use messages::measurement;

use crate::binary::Frame;
use crate::detect::{Change, Degree, Finding, Reported, Role, SiteRef, State};
use crate::model::{CallStack, GcCycle, GcTrigger, Pause, StwReason};

use super::endpoints::Endpoints;
use super::identity::Identity;
use super::item::{Item, Told};

pub(super) fn identity() -> Identity {
    Identity {
        service_name: "shop".to_owned(),
        pid: 4242,
        command: "shop".to_owned(),
        executable: "/srv/shop".to_owned(),
        go_version: "go1.25.3".to_owned(),
        host_name: "host-1".to_owned(),
        container_id: None,
        pod_uid: Some("11111111-2222-3333-4444-555555555555".to_owned()),
        start_unix_secs: 1_700_000_000,
    }
}

pub(super) fn endpoints(base: &str) -> Endpoints {
    Endpoints::new(Some(base), None, None, None).unwrap().unwrap()
}

pub(super) fn frame(function: &str, line: u32) -> Frame {
    Frame {
        function: function.to_owned(),
        file: "/src/shop/main.go".to_owned(),
        line,
        inlined: false,
        offset: 0,
        wrapper: false,
    }
}

pub(super) fn told(key: &str, change: Change, at_ns: u64) -> Told {
    let finding = Finding {
        id: "goroutine-leak",
        key: key.to_owned(),
        title: "goroutine leak: 7 goroutines of main.handle\u{1b}[2J wait for ever".to_owned(),
        degree: Degree::Confirmed,
        evidence: vec!["7 goroutines parked".to_owned(), "5 more in 20 s".to_owned()],
        goids: vec![18, 19],
        count: 7,
        sites: vec![
            SiteRef::new(Role::Created, &frame("main.serve", 10)),
            SiteRef::new(Role::Blocked, &frame("main.handle", 20)),
        ],
        stack: vec![frame("main.handle", 20), frame("main.serve.gowrap1", 10)],
        advice: "close the channel",
        disproof: "they wake up",
        trend: None,
    };
    let state = if change == Change::Resolved { State::Resolved } else { State::Active };
    let reported = Reported { finding, state, first_seen_ns: at_ns, last_seen_ns: at_ns + 1_000 };
    Told { reported, change, at_ns, group: None }
}

pub(super) fn pause(reason: u64, begin_ns: u64, end_ns: u64) -> Item {
    let pause = Pause {
        reason: Some(StwReason::from_number(reason)),
        begin_ns,
        stopped_ns: Some(begin_ns + (end_ns - begin_ns) / 2),
        end_ns,
        goid: Some(7),
        caller: CallStack::default(),
    };
    let caller = (reason == 7).then(|| SiteRef::new(Role::Called, &frame("main.stats", 30)));
    Item::Pause { pause, caller }
}

pub(super) fn cycle(start_ns: u64, end_ns: u64) -> Item {
    Item::Cycle(GcCycle {
        start_ns: Some(start_ns),
        mark_end_ns: Some(end_ns - 1_000),
        end_ns: Some(end_ns),
        trigger: Some(GcTrigger::Forced),
        heap_start: Some(1 << 20),
        heap_marked: Some(1 << 19),
        procs: Some(2),
    })
}
