package queue

import (
	"strings"
	"testing"
)

func TestWhatWasSealedIsOpened(t *testing.T) {
	s := testSealer(t)
	for _, payload := range []string{`null`, `""`, `{"a": 1}`, `[1,2,3]`, `"` + strings.Repeat("x", 100_000) + `"`} {
		envelope, err := s.Seal(nil, []byte(payload))
		if err != nil {
			t.Fatal(err)
		}
		kept := string(envelope)
		for _, dst := range [][]byte{nil, []byte("before"), append(make([]byte, 0, 1000), "before"...)} {
			got, ok := s.Open(dst, envelope)
			if !ok || string(got) != string(dst)+payload || string(envelope) != kept {
				t.Errorf("%.60s: %v %.60q", payload, ok, got)
			}
		}
	}
}

func TestAnEnvelopeIsKnownByItsShape(t *testing.T) {
	s := testSealer(t)
	sealed, err := s.Seal(nil, []byte(`{"a":1}`))
	if err != nil {
		t.Fatal(err)
	}
	e, ok := readEnvelope(sealed)
	if !ok {
		t.Fatalf("%s is no envelope", sealed)
	}
	text, iv, tag := string(e.text), string(e.iv), string(e.tag)
	other := func(at int, s string) string { // one byte differs
		c := byte('A')
		if s[at] == c {
			c = 'B'
		}
		return s[:at] + string(c) + s[at+1:]
	}
	f := func(payload string, want bool) {
		t.Helper()
		got, ok := s.Open([]byte("x"), []byte(payload))
		if ok != want || ok && string(got) != `x{"a":1}` || !ok && string(got) != "x" {
			t.Errorf("%s: %v %q", payload, ok, got)
		}
	}
	f(`{"encrypted":"`+text+`","iv":"`+iv+`","authTag":"`+tag+`"}`, true)
	f(`{"iv": "`+iv+`", "authTag": "`+tag+`", "encrypted": "`+text+`"}`, true) // as jsonb writes it
	f(" {\n\"iv\" :\t\""+iv+`" , "authTag":"`+tag+`","encrypted":"`+text+`" } `, true)
	f(`{"more":{"iv":[1]},"iv":"`+iv+`","authTag":"`+tag+`","encrypted":"`+text+`","n":1}`, true)
	f(`{"iv":"`+strings.ReplaceAll(iv, "/", `\/`)+`","authTag":"`+strings.ReplaceAll(tag, "/", `\/`)+`","encrypted":"`+text+`"}`, true)
	f(`{"iv":"x","iv":"`+iv+`","authTag":"`+tag+`","encrypted":"`+text+`"}`, true) // the last one counts
	// The four bytes that are stored and are not part of the nonce do not matter.
	f(`{"encrypted":"`+text+`","iv":"`+other(18, iv)+`","authTag":"`+tag+`"}`, true)

	f(`{"encrypted":"`+text+`","iv":"`+iv+`"}`, false)
	f(`{"encrypted":"`+text+`","authTag":"`+tag+`"}`, false)
	f(`{"iv":"`+iv+`","authTag":"`+tag+`"}`, false)
	f(`{"encrypted":"`+text+`","iv":"`+iv+`","authTag":1}`, false)
	f(`{"encrypted":"`+text+`","iv":null,"authTag":"`+tag+`"}`, false)
	f(`{"encrypted":"`+other(0, text)+`","iv":"`+iv+`","authTag":"`+tag+`"}`, false)
	f(`{"encrypted":"`+text+`","iv":"`+other(0, iv)+`","authTag":"`+tag+`"}`, false)
	f(`{"encrypted":"`+text+`","iv":"`+iv+`","authTag":"`+other(0, tag)+`"}`, false)
	f(`{"encrypted":"`+text+`","iv":"AAAAAAAAAAAAAAAA","authTag":"`+tag+`"}`, false) // 12 bytes
	f(`{"encrypted":"`+text+`","iv":"`+iv+`","authTag":"AAAA"}`, false)
	f(`{"encrypted":"*","iv":"`+iv+`","authTag":"`+tag+`"}`, false)
	f(`{"encrypted":"`+text+`","iv":"","authTag":""}`, false)
	f(`{"encrypted":"","iv":"`+iv+`","authTag":"`+tag+`"}`, false)
	f(`{"encrypted":"`+text+`","iv":"`+iv+`","authTag":"`+strings.Repeat("A", 1000)+`"}`, false)
	f(`{"encrypted":"`+text+`","iv":"`+iv+`","authTag":"`+tag+`"`, false)
	f(`["authTag"]`, false)
	f(`"\"authTag\""`, false)
	f(`{"x":"authTag"}`, false)
	f(`{"authTag"`, false)
	f(``, false)
	f(`null`, false)
	f(`{}`, false)

	// Another key, and none.
	stranger, err := NewSealer(strings.Repeat("11", 32))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := stranger.Open(nil, sealed); ok {
		t.Error("opened with another key")
	}
	if _, ok := (*Sealer)(nil).Open(nil, sealed); ok {
		t.Error("opened without a key")
	}
	// What is inside must be JSON: it becomes part of an answer.
	broken, err := s.Seal(nil, []byte(`{"a":`))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Open(nil, broken); ok {
		t.Error("opened what is no JSON")
	}
}
