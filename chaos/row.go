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
	Soak  bool   // a trial fills the time that it is given
	Run   func(context.Context, *Trial) error
}

// rows are all, in the order of their numbers. Row 25 (clients send what they do not know
// the outcome of again) is part of every load.
func rows() []*Row {
	return []*Row{
		row1(), row2(), row3(), row4(), row5(), row6(), row7(), row8(), row9(), row10(), row11(), row12(), row13(), row14(), row15(), row16(),
		row17(), row18(), row19(), row20(), row21(), row22(), row23(), row24(), row26(), row27(), rowPlant(),
	}
}

func rowOf(id string) *Row {
	all := rows()
	if i := slices.IndexFunc(all, func(r *Row) bool { return r.ID == id }); i >= 0 {
		return all[i]
	}
	return nil
}
