//! What a process's file descriptors are: sockets with their addresses, pipes, files.
//!
//! By `/proc/PID/fd` and `/proc/PID/net`, which shows the process's own network namespace.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _};

use procfs::net::{TcpNetEntries, UdpNetEntries, UnixNetEntries};
use procfs::{FromRead as _, FromReadSI as _, current_system_info};

/// Bytes of one of the kernel's lists of sockets that are read: those of a few hundred thousand sockets.
const MOST: u64 = 64 << 20;

/// What a file descriptor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// `tcp`, `tcp6`, `udp`, `udp6`, `unix`, `socket` (of another family), `pipe`, `file`, or the kernel's name of what
    /// has no file: `eventfd`, `inotify`.
    pub kind: String,
    /// The socket's own address: for `unix` its path. Of a file its path.
    pub local: Option<String>,
    /// The socket's peer; `None` if it has none, or the kernel does not tell.
    pub remote: Option<String>,
    /// The state of a TCP socket, by the kernel's word in lower case: `established`, `listen`, `close_wait`.
    pub state: Option<String>,
}

/// The file descriptors of one process.
#[derive(Debug)]
pub struct Descriptors {
    pid: u32,
    /// By inode; read when the first socket is asked for.
    sockets: Option<HashMap<u64, Descriptor>>,
}

impl Descriptors {
    /// Those of a process; nothing is read yet.
    #[must_use]
    pub const fn of(pid: u32) -> Self {
        Self { pid, sockets: None }
    }

    /// What a descriptor is; `None` if it is not open, or must not be looked at.
    pub fn find(&mut self, fd: u64) -> Option<Descriptor> {
        let link = fs::read_link(format!("/proc/{}/fd/{fd}", self.pid)).ok()?;
        let link = link.to_string_lossy();
        let plain = |kind: &str, local: Option<&str>| Descriptor {
            kind: kind.to_owned(),
            local: local.map(str::to_owned),
            remote: None,
            state: None,
        };
        if let Some(inode) = inode(&link, "socket:[") {
            let pid = self.pid;
            let known = self.sockets.get_or_insert_with(|| sockets(pid));
            return Some(known.get(&inode).cloned().unwrap_or_else(|| plain("socket", None)));
        }
        Some(match link.strip_prefix("anon_inode:") {
            Some(name) => plain(name.trim_matches(['[', ']']), None),
            None if link.starts_with("pipe:[") => plain("pipe", Some(&link)),
            None => plain("file", Some(&link)),
        })
    }
}

/// The number in `socket:[12345]`.
fn inode(link: &str, prefix: &str) -> Option<u64> {
    link.strip_prefix(prefix)?.strip_suffix(']')?.parse().ok()
}

/// One of the kernel's lists; `None` where it has none, for example without IPv6.
fn list(pid: u32, name: &str) -> Option<io::Take<File>> {
    File::open(format!("/proc/{pid}/net/{name}")).map(|file| file.take(MOST)).ok()
}

/// All sockets of a process's network namespace, by inode.
fn sockets(pid: u32) -> HashMap<u64, Descriptor> {
    let mut found = HashMap::new();
    let address = |address: std::net::SocketAddr| {
        // The kernel gives zeroes where there is none.
        (address.port() != 0 || !address.ip().is_unspecified()).then(|| address.to_string())
    };
    for kind in ["tcp", "tcp6"] {
        let Some(TcpNetEntries(entries)) =
            list(pid, kind).and_then(|file| TcpNetEntries::from_read(file, current_system_info()).ok())
        else {
            continue;
        };
        for entry in entries {
            let descriptor = Descriptor {
                kind: kind.to_owned(),
                local: address(entry.local_address),
                remote: address(entry.remote_address),
                state: Some(lower(&format!("{:?}", entry.state))),
            };
            found.insert(entry.inode, descriptor);
        }
    }
    for kind in ["udp", "udp6"] {
        let Some(UdpNetEntries(entries)) =
            list(pid, kind).and_then(|file| UdpNetEntries::from_read(file, current_system_info()).ok())
        else {
            continue;
        };
        for entry in entries {
            let descriptor = Descriptor {
                kind: kind.to_owned(),
                local: address(entry.local_address),
                remote: address(entry.remote_address),
                state: None,
            };
            found.insert(entry.inode, descriptor);
        }
    }
    if let Some(UnixNetEntries(entries)) =
        list(pid, "unix").and_then(|file| UnixNetEntries::from_read(file).ok())
    {
        for entry in entries {
            let descriptor = Descriptor {
                kind: "unix".to_owned(),
                local: entry.path.map(|path| path.to_string_lossy().into_owned()),
                remote: None,
                state: None,
            };
            found.insert(entry.inode, descriptor);
        }
    }
    // Sockets that belong to no file any more have no number.
    found.remove(&0);
    found
}

/// `CloseWait` as `close_wait`.
fn lower(name: &str) -> String {
    let mut out = String::new();
    for (index, c) in name.chars().enumerate() {
        if c.is_ascii_uppercase() && index != 0 {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn our_own_descriptors_are_what_they_are() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (pair, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let file = File::open("/proc/self/status").unwrap();
        let mut descriptors = Descriptors::of(std::process::id());
        let mut find = |fd: i32| descriptors.find(u64::try_from(fd).unwrap()).unwrap();

        let found = find(client.as_raw_fd());
        assert_eq!((found.kind.as_str(), found.state.as_deref()), ("tcp", Some("established")));
        assert_eq!(found.local, Some(client.local_addr().unwrap().to_string()));
        assert_eq!(found.remote, Some(client.peer_addr().unwrap().to_string()));
        let found = find(listener.as_raw_fd());
        assert_eq!((found.state.as_deref(), found.remote), (Some("listen"), None));
        assert_eq!(find(pair.as_raw_fd()).kind, "unix");
        assert_eq!(find(file.as_raw_fd()).kind, "file");
        assert_eq!(descriptors.find(1 << 20), None);
    }

    #[test]
    fn states_are_told_as_the_kernel_names_them() {
        assert_eq!(lower("CloseWait"), "close_wait");
        assert_eq!(inode("socket:[42]", "socket:["), Some(42));
        assert_eq!(inode("socket:[x]", "socket:["), None);
    }
}
