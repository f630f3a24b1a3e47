//! Request handlers that ignore their request's end, and waiters of a pool that has run dry.
//!
//! A net/http handler that is still parked although its client has gone does not listen to the request's
//! context. That the client has gone shows in the server itself: while a handler runs, a goroutine
//! (`net/http.(*connReader).backgroundRead`) watches its connection, and ends when the client leaves.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};

use super::finding::{Degree, Finding, Role};
use super::sites::{Context, blocked_frame, counted, duration, is_machinery, readable, short, site};
use crate::binary::{Frame, GoBinary};
use crate::memory::{Pc, Symbolizer};
use crate::model::{Group, GroupKey, Process};

/// Waiters of one pool that are a finding.
const LEAST_WAITERS: u64 = 3;

/// Whether a stack is that of a net/http handler at work, over whatever version of HTTP.
pub(super) fn is_http_handler(frames: &[Frame]) -> bool {
    is_http1_handler(frames) || frames.iter().any(|f| f.function.ends_with("erverConn).runHandler"))
}

/// Whether it is one over HTTP/1, whose connection net/http watches. One of HTTP/2 is not watched that way.
fn is_http1_handler(frames: &[Frame]) -> bool {
    frames.iter().any(is_handler_boundary)
        && frames.iter().any(|f| f.function == "net/http.(*conn).serve")
        && !frames.iter().any(|f| f.function.contains("erverConn)."))
}

/// Whether a function takes something out of a pool, by its name.
fn takes_from_pool(function: &str) -> bool {
    const KNOWN: [&str; 6] = [
        "database/sql.(*DB).conn",
        "golang.org/x/sync/semaphore.(*Weighted).Acquire",
        "github.com/jackc/puddle/v2.(*Pool[",
        "github.com/jackc/pgx/v5/pgxpool.(*Pool).Acquire",
        "github.com/redis/go-redis/v9/internal/pool.(*ConnPool).waitTurn",
        "github.com/gomodule/redigo/redis.(*Pool).",
    ];
    if KNOWN.iter().any(|known| function.starts_with(known)) {
        return true;
    }
    let lower = function.to_ascii_lowercase();
    let Some((receiver, method)) = lower.rsplit_once('.') else { return false };
    let verbs = ["get", "acquire", "take", "borrow", "checkout", "conn", "wait", "lease", "dial", "pop"];
    receiver.contains("pool") && verbs.iter().any(|verb| method.starts_with(verb))
}

struct Stuck<'a> {
    groups: Vec<&'a Group>,
    frames: Vec<Frame>,
    site: Frame,
    members: Vec<(u64, u64)>,
}

pub(super) fn detect(context: &Context<'_>) -> Vec<Finding> {
    let settled = settled(context);
    let mut pools: BTreeMap<String, Stuck<'_>> = BTreeMap::new();
    let mut handlers: BTreeMap<String, Stuck<'_>> = BTreeMap::new();
    for group in context.process.groups.iter() {
        if !context.class(group).is_blocking() {
            continue;
        }
        let frames = context.group_frames(group);
        let Some(blocked) = blocked_frame(&frames).cloned() else { continue };
        let pool = frames
            .iter()
            .take_while(|f| !is_handler_boundary(f))
            .find(|f| takes_from_pool(&f.function))
            .cloned();
        let members = settled.get(&group.key).cloned().unwrap_or_default();
        let (map, site) = match pool {
            Some(pool) => (&mut pools, pool),
            None if is_http1_handler(&frames) => (&mut handlers, blocked),
            None => continue,
        };
        let stuck = map.entry(short(&site)).or_insert_with(|| Stuck {
            groups: Vec::new(),
            frames,
            site,
            members: Vec::new(),
        });
        stuck.groups.push(group);
        stuck.members.extend(members);
    }
    let broken: Vec<Finding> = handlers.into_values().filter_map(|stuck| broken(context, stuck)).collect();
    let holders: Vec<String> = broken
        .iter()
        .filter_map(|finding| {
            let site = finding.sites.first()?;
            let handlers = counted(finding.count, "handler hangs", "handlers hang");
            Some(format!("{handlers} in {} meanwhile: they may hold what the others wait for", site.function))
        })
        .collect();
    let mut findings: Vec<Finding> =
        pools.into_values().filter_map(|stuck| exhausted(context, stuck, &holders)).collect();
    findings.extend(broken);
    findings
}

fn is_handler_boundary(frame: &Frame) -> bool {
    frame.function == "net/http.HandlerFunc.ServeHTTP" || frame.function == "net/http.serverHandler.ServeHTTP"
}

/// Goroutines that have not moved for the threshold, by group: when they parked, and who.
fn settled(context: &Context<'_>) -> HashMap<GroupKey, Vec<(u64, u64)>> {
    let limit = context.now_ns.saturating_sub(context.thresholds.stuck_ns);
    let mut settled: HashMap<GroupKey, Vec<(u64, u64)>> = HashMap::new();
    for (goid, tracked) in context.process.goroutines.iter() {
        let Some(seen) = &tracked.last else { continue };
        if seen.park.is_some() && seen.parked_since_ns <= limit {
            let key = GroupKey { gopc: tracked.gopc, wait_reason: seen.wait_reason, stack: seen.stack };
            settled.entry(key).or_default().push((seen.parked_since_ns, goid));
        }
    }
    settled
}

/// Goroutines whose connection net/http watches: the client was there at the last snapshot.
#[must_use]
pub fn watched_connections(
    process: &Process,
    binary: &GoBinary,
    symbolizer: &RefCell<Symbolizer>,
) -> HashSet<u64> {
    let mut symbolizer = symbolizer.borrow_mut();
    let mut watchers: HashMap<u64, bool> = HashMap::new();
    let mut watched = HashSet::new();
    for (_, tracked) in process.goroutines.iter() {
        let is_watcher = *watchers.entry(tracked.gopc).or_insert_with(|| {
            symbolizer
                .innermost(binary, Pc { address: tracked.gopc, exact: false })
                .is_some_and(|f| f.function == "net/http.(*connReader).startBackgroundRead")
        });
        if is_watcher {
            watched.insert(tracked.parent);
        }
    }
    watched
}

fn broken(context: &Context<'_>, mut stuck: Stuck<'_>) -> Option<Finding> {
    let (_, now) = context.process.observed?;
    let watched_ns = |goid: u64| context.process.goroutines.get(goid).map_or(0, |t| t.watched_ns);
    stuck.members.retain(|(_, goid)| watched_ns(*goid) < now);
    stuck.members.sort_unstable();
    let (oldest, _) = *stuck.members.first()?;
    let count = stuck.members.len() as u64;
    // The client was there while the handler was parked already, and is not any more.
    let left = stuck.members.iter().filter(|(since, goid)| watched_ns(*goid) >= *since).count() as u64;
    // Without that, all that is known is that nothing watches the connection: so it is with a request whose
    // body was not read, and with a hijacked connection.
    if left == 0 {
        return None;
    }
    let handler = handler_frame(&stuck.frames);
    let words = context.wait_reason(stuck.groups.first()?.key.wait_reason);
    let age = context.now_ns.saturating_sub(oldest);
    let long = age >= 3 * context.thresholds.stuck_ns / 2;
    let degree = if left >= 2 && long { Degree::Confirmed } else { Degree::Suspected };
    let mut evidence = vec![format!(
        "{} parked in \"{words}\" at {} without moving, the longest for {}",
        counted(count, "net/http handler", "net/http handlers"),
        short(&stuck.site),
        duration(age)
    )];
    evidence.push(format!(
        "{} seen to lose the client while parked there: the request's context is cancelled then, and the handler waits on regardless",
        counted(left, "of them was", "of them were")
    ));
    if left < count {
        evidence.push(format!(
            "nothing watches the {} of the others any more, as net/http does while a client is there: they hang since before they were watched, or have not read their request's body",
            if count - left == 1 { "connection" } else { "connections" }
        ));
    }
    Some(Finding {
        id: "context-broken",
        key: format!("context-broken:{}", short(&stuck.site)),
        title: format!(
            "{} at {} after the client left: {} does not follow its request's context",
            counted(count, "request handler hangs", "request handlers hang"),
            short(&stuck.site),
            handler.map_or("the handler", |f| f.function.as_str())
        ),
        degree,
        evidence,
        goids: stuck.members.iter().map(|(_, goid)| *goid).take(16).collect(),
        count,
        sites: [site(Role::Blocked, Some(&stuck.site)), site(Role::Called, handler)]
            .into_iter()
            .flatten()
            .collect(),
        stack: readable(stuck.frames),
        trend: None,
        advice: "pass r.Context() (with a deadline) all the way to the blocking call, in place of context.Background() or none, and select on its Done channel there",
        disproof: "the handlers end by themselves, or they have not read their request's body (then nothing watches their connection)",
    })
}

fn exhausted(context: &Context<'_>, mut stuck: Stuck<'_>, holders: &[String]) -> Option<Finding> {
    stuck.members.sort_unstable();
    let (oldest, _) = *stuck.members.first()?;
    let count = stuck.members.len() as u64;
    // Who leaves the queue got through, or gave up: the pool is slow then, not dry.
    let from = context.now_ns.saturating_sub(context.thresholds.stuck_ns);
    let left: u64 = stuck
        .groups
        .iter()
        .flat_map(|g| &g.samples)
        .filter(|sample| sample.at_ns >= from)
        .map(|sample| sample.left)
        .sum();
    if count < LEAST_WAITERS || left != 0 {
        return None;
    }
    let age = context.now_ns.saturating_sub(oldest);
    let words = context.wait_reason(stuck.groups.first()?.key.wait_reason);
    let caller = stuck
        .frames
        .iter()
        .skip_while(|f| f.function != stuck.site.function)
        .find(|f| f.function != stuck.site.function && !is_machinery(&f.function))
        .cloned();
    let mut evidence = vec![format!(
        "{count} goroutines have waited in {} (\"{words}\", {}) for at least {}, the longest for {}; in that time nobody left the queue",
        stuck.site.function,
        short(&stuck.site),
        duration(context.thresholds.stuck_ns),
        duration(age)
    )];
    evidence.extend(holders.iter().cloned());
    let degree =
        if age >= 3 * context.thresholds.stuck_ns / 2 { Degree::Confirmed } else { Degree::Suspected };
    Some(Finding {
        id: "pool-exhausted",
        key: format!("pool-exhausted:{}", short(&stuck.site)),
        title: format!(
            "pool exhausted: {count} goroutines wait for a free entry in {} at {}",
            stuck.site.function,
            short(&stuck.site)
        ),
        degree,
        evidence,
        goids: stuck.members.iter().map(|(_, goid)| *goid).take(16).collect(),
        count,
        sites: [site(Role::Blocked, Some(&stuck.site)), site(Role::Called, caller.as_ref())]
            .into_iter()
            .flatten()
            .collect(),
        stack: readable(stuck.frames),
        trend: None,
        advice: "find who holds the entries and never gives them back (the stuck handlers above, a missing Close or Put on an error path), and give the wait a deadline",
        disproof: "the waiters get through by themselves",
    })
}

/// Whether the compiler made this frame: a method value (`-fm`) or a wrapper.
fn is_generated(frame: &Frame) -> bool {
    frame.wrapper || frame.function.ends_with("-fm") || frame.file == "<autogenerated>"
}

/// The function of the program that serves the request: the outermost that is not net/http's.
fn handler_frame(frames: &[Frame]) -> Option<&Frame> {
    frames
        .iter()
        .take_while(|f| !is_handler_boundary(f))
        .filter(|f| !is_machinery(&f.function) && !f.function.starts_with("net/http.") && !is_generated(f))
        .last()
}

#[cfg(test)]
mod tests {
    use super::takes_from_pool;

    #[test]
    fn pools_by_name() {
        assert!(takes_from_pool("main.(*ConnPool).Get"));
        assert!(takes_from_pool("database/sql.(*DB).conn"));
        assert!(takes_from_pool("example.com/x/pool.(*Pool).Acquire"));
        assert!(!takes_from_pool("main.(*ConnPool).Put"));
        assert!(!takes_from_pool("main.(*WorkerPool).run"));
        assert!(!takes_from_pool("main.getOrder"));
    }
}
