package asyncdb

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// nobody hears of rows.
type nobody struct{}

func (nobody) Row(int, [][]byte) {}

func (nobody) Tag(int, int64) {}

// BenchmarkPushCut is the fourth stage of a push: PostgreSQL's bytes to messages, and whose
// they are. See BenchmarkPushParse in package httpparse.
func BenchmarkPushCut(b *testing.B) {
	complete := &pgproto3.CommandComplete{CommandTag: []byte("UPDATE 64")}
	rows := []pgproto3.BackendMessage{&pgproto3.BindComplete{}}
	for range 64 {
		rows = append(rows, &pgproto3.DataRow{Values: [][]byte{make([]byte, 8), make([]byte, 16)}})
	}
	for _, c := range []struct {
		name string
		data []byte
		cuts int // deliveries that it comes in
	}{
		{"rows=0", encode(&pgproto3.BindComplete{}, complete, &pgproto3.ReadyForQuery{TxStatus: 'I'}), 1},
		{"rows=64", encode(append(rows, complete, &pgproto3.ReadyForQuery{TxStatus: 'I'})...), 1},
		{"rows=64/cut", encode(append(rows, complete, &pgproto3.ReadyForQuery{TxStatus: 'I'})...), 2},
	} {
		b.Run(c.name, func(b *testing.B) {
			var cut cutter
			var p pipeline
			parsed, piece := []bool{false}, len(c.data)/c.cuts
			b.SetBytes(int64(len(c.data)))
			b.ReportAllocs()
			cut.rest, p.values = make([]byte, 0, 64), make([][]byte, 0, 2)
			p.parsed = make([]bool, 0, 1)
			for b.Loop() {
				p.begin(nobody{}, 0, parsed)
				for from := 0; from < len(c.data); from += piece {
					cut.begin(c.data[from:min(from+piece, len(c.data))])
					for {
						kind, body, err := cut.next()
						if err != nil {
							b.Fatal(err)
						}
						if kind == 0 {
							break
						}
						if _, err := p.frame(kind, body); err != nil {
							b.Fatal(err)
						}
					}
					cut.end()
				}
				if p.busy() {
					b.Fatal("the answer is not whole")
				}
			}
		})
	}
}

// BenchmarkPushLane is all that a lane does for requests of one message that go together,
// from Do to OpDone: gathering, merging, writing, cutting, deciding. No socket is in it.
func BenchmarkPushLane(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprintf("requests=%d", n), func(b *testing.B) {
			push := pushing(b, n)
			push() // what it keeps grows once
			b.ReportAllocs()
			for b.Loop() {
				push()
			}
		})
	}
}
