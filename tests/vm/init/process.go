package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// patience is how long anything is waited for: an emulated machine is slow,
// and what does not come in this time will not come.
const patience = 120 * time.Second

// process is a child whose lines can be awaited.
type process struct {
	command *exec.Cmd
	input   io.WriteCloser
	output  *lines
	errors  *lines
	begun   time.Time
	ended   chan struct{}
}

func start(program string, arguments ...string) (*process, error) {
	p := &process{
		command: exec.Command(program, arguments...),
		output:  newLines(),
		errors:  newLines(),
		begun:   time.Now(),
		ended:   make(chan struct{}),
	}
	var err error
	if p.input, err = p.command.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	problems, err := p.command.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := p.command.Start(); err != nil {
		return nil, err
	}
	var readers sync.WaitGroup
	readers.Add(2)
	go p.output.read(out, &readers)
	go p.errors.read(problems, &readers)
	go func() {
		readers.Wait()
		// How it ended is asked of its state.
		_ = p.command.Wait()
		close(p.ended)
	}()
	return p, nil
}

func (p *process) tell(line string) error {
	_, err := io.WriteString(p.input, line+"\n")
	return err
}

func (p *process) awaitOutput(prefix string) error { return p.output.await(prefix) }
func (p *process) awaitErrors(prefix string) error { return p.errors.await(prefix) }

func (p *process) awaitEnd() error {
	select {
	case <-p.ended:
		return nil
	case <-time.After(patience):
		return fmt.Errorf("it did not end within %v", patience)
	}
}

// kill makes sure that it has ended.
func (p *process) kill() {
	select {
	case <-p.ended:
	default:
		// Gone already is as good.
		_ = p.command.Process.Kill()
		<-p.ended
	}
}

// code is the exit code; nil for one that a signal ended, or that runs.
func (p *process) code() any {
	select {
	case <-p.ended:
	default:
		return nil
	}
	if state := p.command.ProcessState; state != nil && state.Exited() {
		return state.ExitCode()
	}
	return nil
}

// lines of a stream; each is looked at once.
type lines struct {
	mu    sync.Mutex
	all   []string
	seen  int
	ended bool
	news  chan struct{}
}

func newLines() *lines { return &lines{news: make(chan struct{}, 1)} }

func (l *lines) read(from io.Reader, readers *sync.WaitGroup) {
	defer readers.Done()
	in := bufio.NewReader(from)
	for {
		line, err := in.ReadString('\n')
		l.mu.Lock()
		if line != "" {
			l.all = append(l.all, strings.TrimSuffix(line, "\n"))
		}
		l.ended = err != nil
		l.mu.Unlock()
		select {
		case l.news <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

func (l *lines) await(prefix string) error {
	late := time.After(patience)
	for {
		l.mu.Lock()
		for l.seen < len(l.all) {
			line := l.all[l.seen]
			l.seen++
			if strings.HasPrefix(line, prefix) {
				l.mu.Unlock()
				return nil
			}
		}
		ended := l.ended
		l.mu.Unlock()
		if ended {
			return errors.New("its output ended before a line with " + prefix)
		}
		select {
		case <-l.news:
		case <-late:
			return fmt.Errorf("no line with %q within %v", prefix, patience)
		}
	}
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.all, "\n")
}
