// Command init is the first and only program of a virtual machine that gotrail
// is tried in. It follows /plan.json and writes what happened to the console,
// one JSON object in each line that begins with the mark. It judges nothing:
// who reads the console does (tests/suite/vm.rs).
//
// The machine is switched off at the end, however it came about.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"syscall"
)

type plan struct {
	Checks []check `json:"checks"`
}

// check is one program under watch, and what is done meanwhile.
type check struct {
	Name string `json:"name"`
	// Program may be empty: then there are only commands.
	Program   string   `json:"program"`
	Arguments []string `json:"arguments"`
	Steps     []step   `json:"steps"`
}

type step struct {
	// Do is gotrail (run to its end), attach, tell, await, stop or finish (wait
	// until it ends by itself).
	Do   string `json:"do"`
	Name string `json:"name"`
	// Arguments of gotrail; PID stands for that of the program.
	Arguments []string `json:"arguments"`
	// Line to tell, or the begin of the one to await.
	Line string `json:"line"`
}

func main() {
	defer powerOff()
	problems := mountAll()
	say(record{"type": "boot", "machine": runtime.GOARCH, "kernel": release(), "problems": problems})
	if err := follow("/plan.json"); err != nil {
		say(record{"type": "failed", "check": "", "why": err.Error()})
	}
	say(record{"type": "kernel", "lines": complaints()})
	say(record{"type": "end"})
}

func follow(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var p plan
	if err := json.Unmarshal(text, &p); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	names := make([]string, len(p.Checks))
	for i, c := range p.Checks {
		names[i] = c.Name
	}
	say(record{"type": "plan", "checks": names})
	for _, c := range p.Checks {
		if err := c.run(); err != nil {
			say(record{"type": "failed", "check": c.Name, "why": err.Error()})
		}
	}
	return nil
}

func release() string {
	text, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return err.Error()
	}
	return string(text[:len(text)-1])
}

func powerOff() {
	if r := recover(); r != nil {
		say(record{"type": "failed", "check": "", "why": fmt.Sprint(r)})
	}
	syscall.Sync()
	syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
}
