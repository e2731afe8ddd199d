package queue

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

const testKey = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

func testSealer(t testing.TB) *Sealer {
	t.Helper()
	s, err := NewSealer(testKey)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// unseal reads an envelope as Queen does: only the first 12 bytes of iv are the nonce.
func unseal(t testing.TB, envelope []byte) string {
	t.Helper()
	var e map[string]string
	if err := json.Unmarshal(envelope, &e); err != nil || len(e) != 3 {
		t.Fatalf("%s: %v", envelope, err)
	}
	part := func(key string) []byte {
		b, err := base64.StdEncoding.DecodeString(e[key])
		if err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		return b
	}
	key, _ := hex.DecodeString(testKey)
	block, _ := aes.NewCipher(key)
	gcm, _ := cipher.NewGCM(block)
	iv, tag := part("iv"), part("authTag")
	if len(iv) != 16 || len(tag) != 16 {
		t.Fatalf("iv of %d bytes, tag of %d", len(iv), len(tag))
	}
	text, err := gcm.Open(nil, iv[:12], append(part("encrypted"), tag...), nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestAnEnvelopeIsReadAsQueenReadsIt(t *testing.T) {
	s := testSealer(t)
	for _, payload := range []string{`null`, `""`, `{"a": 1}`, strings.Repeat("x", 100_000)} {
		for _, dst := range [][]byte{nil, []byte("before"), make([]byte, 6, 1000)} {
			copy(dst, "before")
			got, err := s.Seal(dst, []byte(payload))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.HasPrefix(got, dst) {
				t.Fatalf("what was there is gone: %.20q", got)
			}
			if text := unseal(t, got[len(dst):]); text != payload {
				t.Errorf("%.40q: read %.40q", payload, text)
			}
		}
	}
	a, _ := s.Seal(nil, []byte("1"))
	b, _ := s.Seal(nil, []byte("1"))
	if bytes.Equal(a, b) {
		t.Error("two envelopes with one nonce")
	}
}

// The envelope of a known key, iv and text, made with OpenSSL's AES-256-GCM under its
// default nonce length.
func TestAKnownEnvelope(t *testing.T) {
	s := testSealer(t)
	s.random = func(b []byte) (int, error) { return copy(b, "abcdefghijklmnop"), nil }
	got, err := s.Seal(nil, []byte(`{"n":1}`))
	if err != nil {
		t.Fatal(err)
	}
	if want := knownEnvelope; string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestKeysThatAreRefused(t *testing.T) {
	for _, key := range []string{"", "00", testKey[:62], testKey + "00", strings.Repeat("g", 64), " " + testKey[1:]} {
		_, err := NewSealer(key)
		if err == nil || key != "" && strings.Contains(err.Error(), key) {
			t.Errorf("%q: %v", key, err)
		}
	}
}

func TestAPayloadThatCannotBeEncryptedFailsItsRequestAlone(t *testing.T) {
	s := testSealer(t)
	broken := false
	s.random = func(b []byte) (int, error) {
		if broken {
			return 0, errors.New("no entropy")
		}
		return len(b), nil
	}
	c, ids, h := &Config{Sealer: s}, NewIDs(wallMs), NewHints(0, 0)
	known(h, "secret", "Default", UUID{1}, true)
	known(h, "open", "Default", UUID{2}, false)
	secret, open := new(Op), new(Op)
	Decode(secret, []byte(`{"items":[{"queue":"open","transactionId":"t"},{"queue":"secret"}]}`), c, ids)
	Decode(open, []byte(`{"items":[{"queue":"open","transactionId":"t"}]}`), c, ids)
	broken = true
	b := NewBatch(c, h)
	b.Add(secret)
	b.Add(open)
	step := b.Step(0)
	if len(step) != 2 {
		t.Fatalf("%v", step)
	}
	b.Tag(1, 1)
	b.StepDone(nil, 0)
	if b.Step(0) != nil || secret.Fault != (Fault{Internal, "cannot encrypt a payload: no entropy"}) || open.Items[0].Status != Queued {
		t.Errorf("%+v %+v", secret.Fault, open.Items[0])
	}
}

// known puts a partition into the hints.
func known(h *Hints, queue, partition string, id UUID, encrypted bool) {
	at := h.get([]byte(queue), []byte(partition))
	at.known, at.id, at.encrypted = true, id, encrypted
}

const knownEnvelope = `{"encrypted":"hBUZfTvSiw==","iv":"YWJjZGVmZ2hpamtsbW5vcA==","authTag":"vBiQphj9WC/oQ50KImJo8g=="}`
