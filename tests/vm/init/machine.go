package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// mountAll mounts what gotrail looks at; what a kernel has not is named, as it
// may not be needed.
func mountAll() []string {
	problems := []string{}
	for _, m := range []struct{ kind, place string }{
		{"proc", "/proc"},
		{"sysfs", "/sys"},
		{"devtmpfs", "/dev"},
		{"tmpfs", "/tmp"},
		{"cgroup2", "/sys/fs/cgroup"},
		{"bpf", "/sys/fs/bpf"},
		{"debugfs", "/sys/kernel/debug"},
		{"tracefs", "/sys/kernel/tracing"},
	} {
		err := os.MkdirAll(m.place, 0o755)
		if err == nil {
			err = syscall.Mount(m.kind, m.place, m.kind, 0, "")
		}
		// The kernel may have mounted devtmpfs itself.
		if err != nil && err != syscall.EBUSY {
			problems = append(problems, fmt.Sprintf("%s: %v", m.kind, err))
		}
	}
	// Nothing but an emergency may come between the lines of ours: the console
	// is theirs too.
	if err := os.WriteFile("/proc/sys/kernel/printk", []byte("1 4 1 7\n"), 0); err != nil {
		problems = append(problems, fmt.Sprintf("printk: %v", err))
	}
	if err := loopbackUp(); err != nil {
		problems = append(problems, fmt.Sprintf("loopback: %v", err))
	}
	return problems
}

// complaints are the kernel's own errors, and warnings with a stack, such as
// our programs and probes may have brought about.
func complaints() []string {
	lines := []string{}
	fd, err := syscall.Open("/dev/kmsg", syscall.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return append(lines, err.Error())
	}
	defer syscall.Close(fd)
	buf := make([]byte, 8192)
	for {
		n, err := syscall.Read(fd, buf)
		if err == syscall.EPIPE {
			continue // overwritten meanwhile: the next is the oldest that is left
		}
		if err != nil || n <= 0 {
			return lines
		}
		head, text, found := bytes.Cut(buf[:n], []byte(";"))
		priority, _, _ := strings.Cut(string(head), ",")
		level, err := strconv.Atoi(priority)
		line, _, _ := strings.Cut(string(text), "\n")
		warning := strings.Contains(line, "WARNING:") || strings.Contains(line, "BUG:")
		if found && err == nil && (level&7 <= 3 || warning) {
			lines = append(lines, line)
		}
	}
}
