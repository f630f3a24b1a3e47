// Command oracle says of an ELF file what gotrail has to find out about it: where its
// functions, the runtime's globals and the fields of the runtime's structures are. It
// knows nothing of gotrail; all it says comes from the parsers of Go's own standard
// library.
//
//	oracle FILE < questions
//
// A question is a line `runtime.g sched.sp`: a structure and a path of fields. The
// path `#size` asks for the size of the structure.
package main

import (
	"bufio"
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// answer is what it prints.
type answer struct {
	Machine   string             `json:"machine"`
	Sections  map[string]section `json:"sections"`
	Segments  []segment          `json:"segments"`
	Functions []symbol           `json:"functions"`
	// Globals are the data symbols of the runtime by name.
	Globals map[string]global `json:"globals"`
	// Fields answer the questions that have an answer.
	Fields map[string]field `json:"fields"`
}

type section struct {
	Address uint64 `json:"address"`
	Offset  uint64 `json:"offset"`
	Size    uint64 `json:"size"`
}

type segment struct {
	Address uint64 `json:"address"`
	Offset  uint64 `json:"offset"`
	Size    uint64 `json:"size"`
}

type symbol struct {
	Name    string `json:"name"`
	Address uint64 `json:"address"`
	Size    uint64 `json:"size"`
}

type global struct {
	Address uint64 `json:"address"`
	Size    uint64 `json:"size"`
	Section string `json:"section"`
}

// globals are those of which somebody may want to know.
var globals = map[string]bool{
	"runtime.allgs": true, "runtime.allp": true, "runtime.allm": true, "runtime.sched": true,
	"runtime.gcController": true, "runtime.memstats": true, "runtime.gcphase": true,
	"runtime.waitReasonStrings": true,
	"runtime.work": true, "runtime.mheap_": true, "runtime.gcCPULimiter": true,
	"runtime.startingStackSize": true, "runtime.ncgocall": true, "runtime.finq": true,
	"runtime.finqueued": true, "runtime.finexecuted": true, "runtime.gcCleanups": true,
	"runtime.allfin": true,
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: oracle FILE < questions")
		os.Exit(2)
	}
	a, err := ask(os.Args[1], questions())
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(a)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "oracle:", err)
		os.Exit(1)
	}
}

func questions() []string {
	var list []string
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if line := strings.TrimSpace(in.Text()); line != "" {
			list = append(list, line)
		}
	}
	return list
}

func ask(path string, questions []string) (*answer, error) {
	file, err := elf.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	a := &answer{
		Machine:  strings.TrimPrefix(file.Machine.String(), "EM_"),
		Sections: make(map[string]section),
		Globals:  make(map[string]global),
		Fields:   make(map[string]field),
	}
	for _, s := range file.Sections {
		if s.Flags&elf.SHF_ALLOC != 0 {
			a.Sections[s.Name] = section{s.Addr, s.Offset, s.Size}
		}
	}
	for _, p := range file.Progs {
		if p.Type == elf.PT_LOAD {
			a.Segments = append(a.Segments, segment{p.Vaddr, p.Off, p.Filesz})
		}
	}
	// A stripped file has neither; what is asked about then stays without an answer.
	symbols, err := file.Symbols()
	if err != nil {
		symbols = nil
	}
	for _, s := range symbols {
		switch elf.ST_TYPE(s.Info) {
		case elf.STT_FUNC:
			a.Functions = append(a.Functions, symbol{s.Name, s.Value, s.Size})
		case elf.STT_OBJECT:
			if globals[s.Name] && int(s.Section) < len(file.Sections) {
				a.Globals[s.Name] = global{s.Value, s.Size, file.Sections[s.Section].Name}
			}
		}
	}
	return a, fields(file, questions, a.Fields)
}
