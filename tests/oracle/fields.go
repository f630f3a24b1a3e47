package main

import (
	"debug/dwarf"
	"debug/elf"
	"strings"
)

// field is where a path leads to.
type field struct {
	Offset  int64 `json:"offset"`
	Pointer bool  `json:"pointer"`
}

// sizePath asks for the structure itself.
const sizePath = "#size"

// fields answers the questions by the file's DWARF.
func fields(file *elf.File, questions []string, answers map[string]field) error {
	if len(questions) == 0 || (file.Section(".debug_info") == nil && file.Section(".zdebug_info") == nil) {
		return nil
	}
	data, err := file.DWARF()
	if err != nil {
		return err
	}
	wanted := make(map[string]bool)
	for _, q := range questions {
		structure, _, _ := strings.Cut(q, " ")
		wanted[structure] = true
	}
	structures, err := find(data, wanted)
	if err != nil {
		return err
	}
	for _, q := range questions {
		structure, path, _ := strings.Cut(q, " ")
		s := structures[structure]
		if s == nil {
			continue
		}
		if path == sizePath {
			answers[q] = field{Offset: s.ByteSize}
		} else if f, found := follow(s, strings.Split(path, ".")); found {
			answers[q] = f
		}
	}
	return nil
}

// find reads the structures of these names.
func find(data *dwarf.Data, wanted map[string]bool) (map[string]*dwarf.StructType, error) {
	found := make(map[string]*dwarf.StructType)
	reader := data.Reader()
	for {
		entry, err := reader.Next()
		if err != nil {
			return nil, err
		}
		if entry == nil {
			return found, nil
		}
		// Types of packages stand at the top of their unit.
		if entry.Tag != dwarf.TagCompileUnit {
			reader.SkipChildren()
		}
		name, _ := entry.Val(dwarf.AttrName).(string)
		if entry.Tag != dwarf.TagStructType || !wanted[name] {
			continue
		}
		t, err := data.Type(entry.Offset)
		if err != nil {
			return nil, err
		}
		if s, ok := t.(*dwarf.StructType); ok && !s.Incomplete {
			found[name] = s
		}
	}
}

// follow walks from field to field.
func follow(s *dwarf.StructType, path []string) (field, bool) {
	var at field
	for i, name := range path {
		var next *dwarf.StructField
		for _, f := range s.Field {
			if f.Name == name {
				next = f
			}
		}
		if next == nil {
			return field{}, false
		}
		at.Offset += next.ByteOffset
		kind := bare(next.Type)
		_, at.Pointer = kind.(*dwarf.PtrType)
		if inner, ok := kind.(*dwarf.StructType); ok {
			s = inner
		} else if i+1 < len(path) {
			return field{}, false
		}
	}
	return at, true
}

// bare is a type without the names that it was given.
func bare(t dwarf.Type) dwarf.Type {
	for {
		named, ok := t.(*dwarf.TypedefType)
		if !ok {
			return t
		}
		t = named.Type
	}
}
