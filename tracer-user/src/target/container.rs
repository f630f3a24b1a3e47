//! From a cgroup path to the container and pod that it belongs to.

use std::fs;

/// Container and pod of a process, as far as its cgroup path tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// Container id, 64 hexadecimal digits.
    pub id: Option<String>,
    /// Kubernetes pod UID, with dashes.
    pub pod_uid: Option<String>,
}

/// The container of a process; empty if it runs in none, or is gone.
#[must_use]
pub fn container_of(pid: u32) -> Container {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).map(|text| parse(&text)).unwrap_or_default()
}

pub(super) fn parse(cgroups: &str) -> Container {
    let mut container = Container::default();
    for component in
        cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).flat_map(|path| path.split('/'))
    {
        let bare = component.strip_suffix(".scope").or(component.strip_suffix(".slice")).unwrap_or(component);
        let last = bare.rsplit(['-', ':']).next().unwrap_or(bare);
        if last.len() == 64 && last.bytes().all(|b| b.is_ascii_hexdigit()) {
            container.id = Some(last.to_owned());
        } else if let Some(at) = bare.rfind("pod") {
            // systemd driver: kubepods-burstable-pod1234_5678…; cgroupfs driver: pod1234-5678-…
            let uid = bare.get(at + 3..).unwrap_or_default().replace('_', "-");
            if uid.len() >= 32 && uid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') {
                container.pod_uid = Some(uid);
            }
        }
    }
    container
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn knows_the_usual_paths() {
        let systemd = format!(
            "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod11111111_2222_3333_4444_555555555555.slice/cri-containerd-{ID}.scope\n"
        );
        let found = parse(&systemd);
        assert_eq!(found.id.as_deref(), Some(ID));
        assert_eq!(found.pod_uid.as_deref(), Some("11111111-2222-3333-4444-555555555555"));

        let cgroupfs =
            format!("3:cpu,cpuacct:/kubepods/besteffort/pod11111111-2222-3333-4444-555555555555/{ID}\n");
        assert_eq!(parse(&cgroupfs), found);

        assert_eq!(parse(&format!("0::/system.slice/docker-{ID}.scope\n")).id.as_deref(), Some(ID));
        assert_eq!(parse("0::/user.slice/user-0.slice/session-1.scope\n"), Container::default());
    }
}
