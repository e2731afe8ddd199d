package main

import (
	"context"
	"slices"
)

// Row is one kind of fault, by the number that it has in the table of goals.
type Row struct {
	ID    string
	Title string // what happens, a few words
	What  string // what a trial does
	Pass  string // what has to be true of it
	Slow  bool   // measures; never in a hurry
	Run   func(context.Context, *Trial) error
}

// rows are all, in the order of their numbers. Row 25 (clients send what they do not know
// the outcome of again) is part of every load.
func rows() []*Row {
	return []*Row{
		row1(), row2(), row4(), row5(), row8(), row9(), row14(), row17(), row19(), row20(), row21(), row22(), row23(),
	}
}

func rowOf(id string) *Row {
	all := rows()
	if i := slices.IndexFunc(all, func(r *Row) bool { return r.ID == id }); i >= 0 {
		return all[i]
	}
	return nil
}
