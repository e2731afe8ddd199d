package asyncdb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/queend/queend/pkg/offheap"
)

// cutAll feeds the slices to a fresh cutter and returns what it gave out.
func cutAll(slices ...[]byte) (out []string, err error) {
	var c cutter
	for _, s := range slices {
		c.begin(s)
		for {
			kind, body, err := c.next()
			if err != nil {
				return out, err
			}
			if kind == 0 {
				break
			}
			out = append(out, string(append([]byte{kind}, body...)))
		}
		c.end()
		clear(s) // the delivery is over: what was kept must be a copy
	}
	return out, nil
}

// conversation is what a server may send, of all kinds and sizes.
func conversation() []byte {
	return encode(
		&pgproto3.ParseComplete{}, &pgproto3.BindComplete{},
		&pgproto3.DataRow{Values: [][]byte{[]byte("one"), nil, {}}},
		&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")},
		&pgproto3.NoticeResponse{Severity: "NOTICE", Code: "00000", Message: "hm"},
		&pgproto3.ParameterStatus{Name: "a", Value: "b"},
		refusalOf("ERROR", "23505"),
		&pgproto3.ReadyForQuery{TxStatus: 'I'},
	)
}

func TestMessagesAreCutTheSameHoweverTheyAreSliced(t *testing.T) {
	all := conversation()
	want, err := cutAll(bytes.Clone(all))
	if err != nil || len(want) != 8 {
		t.Fatalf("%q %v", want, err)
	}
	f := func(slices ...[]byte) {
		t.Helper()
		for i := range slices {
			slices[i] = bytes.Clone(slices[i])
		}
		got, err := cutAll(slices...)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %q, %v", got, err)
		}
	}
	for i := range all {
		f(all[:i], all[i:])
		for j := i; j < len(all); j++ {
			f(all[:i], all[i:j], all[j:])
		}
	}
	var single [][]byte
	for i := range all {
		single = append(single, all[i:i+1])
	}
	f(single...)
}

func TestAMessageOfImpossibleLengthIsAnError(t *testing.T) {
	f := func(length uint32, ok bool) {
		t.Helper()
		head := binary.BigEndian.AppendUint32([]byte{'D'}, length)
		_, err := cutAll(bytes.Clone(head))
		if ok != (err == nil) || !ok && !errors.Is(err, errFrameLength) {
			t.Errorf("length %d: %v", length, err)
		}
		_, err = cutAll(bytes.Clone(head[:3]), bytes.Clone(head[3:]))
		if ok != (err == nil) {
			t.Errorf("length %d, cut: %v", length, err)
		}
	}
	f(0, false)
	f(3, false)
	f(4, true)
	f(FrameBytesMaxDefault-1, true)
	f(FrameBytesMaxDefault, false)
	f(math.MaxInt32, false)
	f(math.MaxUint32, false)
}

func TestMemoryForACutMessageGrowsWithWhatArrives(t *testing.T) {
	var c cutter
	c.begin(binary.BigEndian.AppendUint32([]byte{'D'}, FrameBytesMaxDefault-1)) // promises a MiB
	if kind, _, err := c.next(); kind != 0 || err != nil {
		t.Fatal(kind, err)
	}
	c.end()
	if cap(c.rest) > 64 {
		t.Errorf("5 bytes are kept in %d", cap(c.rest))
	}
	body := make([]byte, FrameBytesMaxDefault-5)
	c.begin(body)
	if kind, got, err := c.next(); kind != 'D' || len(got) != FrameBytesMaxDefault-5 || err != nil {
		t.Fatal(kind, len(got), err)
	}
	c.end()
	if cap(c.rest) != 0 {
		t.Errorf("%d bytes are kept for nothing", cap(c.rest))
	}
}

func TestALargeMessageIsGatheredBesideTheHeap(t *testing.T) {
	const size = 3 << 20
	all := binary.BigEndian.AppendUint32([]byte{'D'}, size-1)
	for len(all) < size {
		all = append(all, byte(len(all)), byte(len(all)>>8))
	}
	c := cutter{bytesMax: 2 * size}
	for range 2 {
		for rest := all[:size]; len(rest) > 0; {
			n := min(len(rest), 100_000)
			c.begin(bytes.Clone(rest[:n]))
			kind, body, err := c.next()
			rest = rest[n:]
			if whole := len(rest) == 0; err != nil || whole != (kind == 'D') || whole && !bytes.Equal(body, all[headerBytes:size]) {
				t.Fatalf("%q, %d bytes, %v", kind, len(body), err)
			}
			if size-len(rest) > offheap.RegionBytesMin && !c.region.Holds(c.rest) {
				t.Fatalf("%d bytes are kept in a region of %d", len(c.rest), c.region.Size())
			}
			c.end()
		}
		if c.region != nil || cap(c.rest) != 0 {
			t.Errorf("%d bytes are kept for nothing", cap(c.rest))
		}
	}
}

func TestDataRowIsReadAsPgproto3ReadsIt(t *testing.T) {
	f := func(body string, ok bool) {
		t.Helper()
		_, err := dataRow(nil, []byte(body))
		if (err == nil) != ok {
			t.Errorf("%q: %v", body, err)
		}
	}
	f("\x00\x00", true)
	f("\x00\x01\x00\x00\x00\x02ab", true)
	f("\x00\x01\xff\xff\xff\xff", true)
	f("", false)
	f("\x00", false)
	f("\x00\x01", false)
	f("\x00\x01\x00\x00\x00\x03ab", false)
	f("\x00\x01\xff\xff\xff\xfe", false)
	f("\x00\x01\x7f\xff\xff\xffab", false)
	f("\xff\xff", false)
	f("\x00\x00x", false) // more than it says
}

func TestTagRows(t *testing.T) {
	f := func(tag string, n int64, ok bool) {
		t.Helper()
		got, err := tagRows([]byte(tag))
		if got != n || (err == nil) != ok {
			t.Errorf("%q: %d, %v", tag, got, err)
		}
	}
	f("INSERT 0 12\x00", 12, true)
	f("SELECT 1\x00", 1, true)
	f("UPDATE 0\x00", 0, true)
	f("BEGIN\x00", 0, true)
	f("\x00", 0, true)
	f("7\x00", 0, true)
	f("", 0, false)
	f("SELECT 1", 0, false)
	f("SELECT 99999999999999999999\x00", 0, false)
}

func TestPgproto3ReadsWhatWeWrite(t *testing.T) {
	var b []byte
	b = appendParse(b, "SELECT $1")
	b = appendBind(b, "", [][]byte{[]byte("x"), nil, {}})
	b = appendExecute(b)
	b = appendBind(b, "push_insert", nil)
	b = appendExecute(b)
	b = appendSync(b)
	b = appendTerminate(b)
	backend := pgproto3.NewBackend(bytes.NewReader(b), nil)
	f := func(want string) {
		t.Helper()
		m, err := backend.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%T %+v", m, m); got != want {
			t.Errorf("got %s", got)
		}
	}
	f("*pgproto3.Parse &{Name: Query:SELECT $1 ParameterOIDs:[]}")
	f("*pgproto3.Bind &{DestinationPortal: PreparedStatement: ParameterFormatCodes:[1] Parameters:[[120] [] []] ResultFormatCodes:[1]}")
	f("*pgproto3.Execute &{Portal: MaxRows:0}")
	f("*pgproto3.Bind &{DestinationPortal: PreparedStatement:push_insert ParameterFormatCodes:[1] Parameters:[] ResultFormatCodes:[1]}")
	f("*pgproto3.Execute &{Portal: MaxRows:0}")
	f("*pgproto3.Sync &{}")
	f("*pgproto3.Terminate &{}")

	var m pgproto3.Bind
	if err := m.Decode(appendBind(nil, "", [][]byte{nil, {}})[headerBytes:]); err != nil || m.Parameters[0] != nil || m.Parameters[1] == nil {
		t.Errorf("NULL and empty are mixed up: %v %v", m.Parameters, err)
	}
}

// FuzzFrames slices arbitrary bytes arbitrarily and compares with pgproto3, as far as
// that reads: what it gives out we give out, byte for byte, and nothing panics. Tolerated
// differences: pgproto3 refuses kinds that it does not know, and takes a DataRow with
// bytes behind the last value.
func FuzzFrames(f *testing.F) {
	f.Add(conversation(), uint64(1))
	f.Add([]byte{'D', 0, 0, 0, 3}, uint64(2))
	f.Add([]byte{'E', 0, 0, 0, 9, 'S', 'x', 0, 'C', 0}, uint64(3))
	f.Fuzz(func(t *testing.T, all []byte, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 0))
		var parts [][]byte
		for rest := bytes.Clone(all); len(rest) > 0; {
			n := 1 + random.IntN(len(rest))
			parts, rest = append(parts, rest[:n:n]), rest[n:]
		}
		got, err := cutAll(parts...)
		total := 0
		for _, m := range got {
			total += headerBytes - 1 + len(m)
		}
		if total > len(all) {
			t.Fatalf("%d bytes came of %d", total, len(all))
		}
		if err != nil && !errors.Is(err, errFrameLength) {
			t.Fatal(err)
		}
		frontend := pgproto3.NewFrontend(bytes.NewReader(all), nil)
		frontend.SetMaxBodyLen(FrameBytesMaxDefault - 5) // or it makes room for what a header promises
		for i := 0; ; i++ {
			m, theirErr := frontend.Receive()
			if theirErr != nil {
				break // and we may have gone on
			}
			if i >= len(got) {
				// Only a message that is too long for us, or one before it.
				if err == nil {
					t.Fatalf("pgproto3 reads %T behind our %d messages", m, len(got))
				}
				break
			}
			kind, body := got[i][0], []byte(got[i][1:])
			switch m := m.(type) {
			case *pgproto3.DataRow:
				values, err := dataRow(nil, body)
				if err != nil {
					break // bytes behind the last value
				}
				if kind != kindDataRow || len(values) != len(m.Values) {
					t.Fatalf("%q: %d values and not %d", kind, len(values), len(m.Values))
				}
				for j := range values {
					if !bytes.Equal(values[j], m.Values[j]) || (values[j] == nil) != (m.Values[j] == nil) {
						t.Fatalf("value %d is %q and not %q", j, values[j], m.Values[j])
					}
				}
			case *pgproto3.CommandComplete:
				if kind != kindComplete {
					t.Fatalf("%q", kind)
				}
				_, _ = tagRows(body)
			case *pgproto3.ErrorResponse:
				e, _, err := decodeError(body)
				if kind != kindError || err != nil || e.Code != m.Code {
					t.Fatalf("%q %v %v", kind, e, err)
				}
			}
		}
		for _, m := range got {
			_, _ = dataRow(nil, []byte(m[1:]))
			_, _ = tagRows([]byte(m[1:]))
			_, _, _ = decodeError([]byte(m[1:]))
		}
		c := cutter{}
		c.begin(bytes.Clone(all))
		for {
			if kind, _, err := c.next(); kind == 0 || err != nil {
				break
			}
		}
		c.end()
		if c.region == nil && cap(c.rest) > 2*len(all)+64 {
			t.Fatalf("%d bytes are kept of %d", cap(c.rest), len(all))
		}
	})
}
