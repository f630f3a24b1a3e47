package main

import (
	"encoding/json"
	"fmt"
	"os"
)

// mark begins each line of ours: the console has others too.
const mark = "gotrail-vm "

type record map[string]any

func say(r record) {
	text, err := json.Marshal(r)
	if err != nil {
		text = []byte(fmt.Sprintf(`{"type":"failed","check":"","why":%q}`, err))
	}
	// In one write, and on a line of its own whatever the kernel left.
	os.Stdout.WriteString("\n" + mark + string(text) + "\n")
}
