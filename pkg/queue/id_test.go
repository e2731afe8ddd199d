package queue

import (
	"bytes"
	"sort"
	"testing"

	"github.com/google/uuid"
)

func TestIDsRiseWhateverTheClockDoes(t *testing.T) {
	ms := int64(1_700_000_000_000)
	g := NewIDs(func() int64 { return ms })
	last := g.Next()
	next := func() {
		t.Helper()
		id := g.Next()
		if bytes.Compare(id[:], last[:]) <= 0 {
			t.Fatalf("%s after %s", id, last)
		}
		u := uuid.UUID(id)
		if u.Version() != 7 || u.Variant() != uuid.RFC4122 || u.String() != id.String() {
			t.Fatalf("%s is no UUIDv7", id)
		}
		last = id
	}
	for range 3 * 4096 { // the clock stands still, the counter carries
		next()
	}
	ms += 2 // the time in the ids is ahead of it
	next()
	ms -= 3_600_000 // and jumps back
	for range 5000 {
		next()
	}
	ms += 2 * 3_600_000
	next()
	if got := int64(last[0])<<40 | int64(last[1])<<32 | int64(last[2])<<24 | int64(last[3])<<16 | int64(last[4])<<8 | int64(last[5]); got != ms {
		t.Errorf("time in the id %d, want %d", got, ms)
	}
	ms = -5 // before 1970
	next()
}

func TestIDsOfTwoGeneratorsDiffer(t *testing.T) {
	still := func() int64 { return 1_700_000_000_000 }
	const n = 50_000
	var all []string
	for range 4 {
		g := NewIDs(still)
		for range n {
			u := g.Next()
			all = append(all, string(u[:]))
		}
	}
	sort.Strings(all)
	for i := 1; i < len(all); i++ {
		if all[i] == all[i-1] {
			t.Fatal("two generators made the same id")
		}
	}
}

func TestUUIDsAreReadAsPostgreSQLReadsThem(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		got := ""
		if u, ok := parseUUID([]byte(text)); ok {
			got = u.String()
		}
		if got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	for _, c := range uuidTexts {
		f(c.text, c.want)
	}
}

// uuidTexts are also put to PostgreSQL itself, in TestPostgreSQLReadsUUIDsAsWeDo.
var uuidTexts = []struct{ text, want string }{
	{"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
	{"A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
	{"{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
	{"a0eebc999c0b4ef8bb6d6bb9bd380a11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
	{"a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
	{"{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
	{"{a0eebc999c0b4ef8bb6d6bb9bd380a11}", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
	{"", ""}, {"{", ""}, {"}", ""}, {"{}", ""}, {"-", ""},
	{"{a0eebc999c0b4ef8bb6d6bb9bd380a11", ""},
	{"a0eebc999c0b4ef8bb6d6bb9bd380a11}", ""},
	{"{{a0eebc999c0b4ef8bb6d6bb9bd380a11}}", ""},
	{"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1", ""},
	{"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a111", ""},
	{"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11-", ""},
	{"-a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", ""},
	{"a0eebc99--9c0b-4ef8-bb6d-6bb9bd380a11", ""},
	{"a0-eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", ""},
	{"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1g", ""},
	{" a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", ""},
	{"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11 ", ""},
}

func BenchmarkID(b *testing.B) {
	g := NewIDs(wallMs)
	b.ReportAllocs()
	for b.Loop() {
		g.Next()
	}
}
