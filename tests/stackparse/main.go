// Command stackparse reads the text of a traceback of all goroutines from its standard
// input, as tools that know nothing of gotrail read it, and prints what it has
// understood as one JSON object.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/DataDog/gostackparse"
)

type answer struct {
	Goroutines int            `json:"goroutines"`
	Frames     int            `json:"frames"`
	Created    int            `json:"created"`
	Ancestors  int            `json:"ancestors"`
	States     map[string]int `json:"states"`
	Errors     []string       `json:"errors"`
}

func main() {
	goroutines, errs := gostackparse.Parse(os.Stdin)
	a := answer{Goroutines: len(goroutines), States: map[string]int{}, Errors: []string{}}
	for _, err := range errs {
		a.Errors = append(a.Errors, err.Error())
	}
	for _, g := range goroutines {
		a.Frames += len(g.Stack)
		a.States[g.State]++
		if g.CreatedBy != nil {
			a.Created++
		}
		if g.Ancestor != nil {
			a.Ancestors++
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(a); err != nil {
		fmt.Fprintln(os.Stderr, "stackparse:", err)
		os.Exit(1)
	}
}
