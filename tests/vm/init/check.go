package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// gotrail is the program under test.
const gotrail = "/bin/gotrail"

// run does the steps of a check; the program's own words and its end are told
// last, whatever became of the steps.
func (c check) run() error {
	var target, attach *process
	if c.Program != "" {
		var err error
		if target, err = start(c.Program, c.Arguments...); err != nil {
			return err
		}
		defer target.kill()
		if err := target.awaitOutput("ready"); err != nil {
			c.tell("target", target)
			return err
		}
	}
	defer func() {
		if attach != nil {
			attach.kill()
		}
	}()
	failed := ""
	for i, s := range c.Steps {
		begun := time.Now()
		err := c.step(s, target, &attach)
		if err != nil {
			failed = fmt.Sprintf("step %d (%s %s): %v", i, s.Do, s.Name, err)
			break
		}
		if s.Do == "await" || s.Do == "attach" {
			say(record{"type": "done", "check": c.Name, "step": s.Do, "seconds": time.Since(begun).Seconds()})
		}
	}
	if failed != "" && attach != nil {
		attach.kill()
		c.tell("attach", attach)
		attach = nil
	}
	if target != nil {
		if failed == "" {
			if err := target.awaitEnd(); err != nil {
				failed = fmt.Sprintf("the program's end: %v", err)
			}
		}
		target.kill()
		c.tell("target", target)
	}
	if failed != "" {
		return fmt.Errorf("%s", failed)
	}
	return nil
}

func (c check) step(s step, target *process, attach **process) error {
	pid := ""
	if target != nil {
		pid = strconv.Itoa(target.command.Process.Pid)
	}
	arguments := make([]string, len(s.Arguments))
	for i, argument := range s.Arguments {
		arguments[i] = strings.ReplaceAll(argument, "PID", pid)
	}
	switch s.Do {
	case "gotrail":
		p, err := start(gotrail, arguments...)
		if err != nil {
			return err
		}
		defer p.kill()
		err = p.awaitEnd()
		c.tell(s.Name, p)
		return err
	case "attach":
		p, err := start(gotrail, arguments...)
		if err != nil {
			return err
		}
		*attach = p
		if s.Line != "" {
			return p.awaitErrors(s.Line)
		}
		return p.awaitErrors("attached")
	case "tell":
		return target.tell(s.Line)
	case "await":
		return target.awaitOutput(s.Line)
	case "stop", "finish":
		p := *attach
		if p == nil {
			return fmt.Errorf("nothing is attached")
		}
		if s.Do == "stop" {
			if err := p.command.Process.Signal(os.Interrupt); err != nil {
				return err
			}
		}
		if err := p.awaitEnd(); err != nil {
			return err
		}
		c.tell("attach", p)
		*attach = nil
		return nil
	default:
		return fmt.Errorf("no such step")
	}
}

// tell writes down what a process said and how it ended.
func (c check) tell(what string, p *process) {
	say(record{
		"type":    "process",
		"check":   c.Name,
		"name":    what,
		"pid":     p.command.Process.Pid,
		"code":    p.code(),
		"output":  p.output.text(),
		"errors":  p.errors.text(),
		"seconds": time.Since(p.begun).Seconds(),
	})
}
