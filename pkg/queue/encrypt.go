package queue

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
)

// Sealer encrypts payloads at rest: AES-256-GCM without additional data, in the
// envelope that Queen writes and reads:
//
//	{"encrypted":"<ciphertext>","iv":"<16 random bytes>","authTag":"<16 bytes>"}
//
// with padded standard base64. The trap: 16 bytes are stored as iv, but only the first
// 12 are the nonce. Whoever reads must do the same, so this cannot be changed.
//
// Any goroutine may use it.
type Sealer struct {
	gcm    cipher.AEAD
	random func([]byte) (int, error)
}

const (
	ivBytes    = 16
	nonceBytes = 12
	tagBytes   = 16
)

// NewSealer returns a Sealer for a key of 64 hexadecimal digits (32 bytes).
func NewSealer(hexKey string) (*Sealer, error) {
	key, err := hex.DecodeString(hexKey)
	if err != nil || len(key) != 32 {
		// The key itself is in no message.
		return nil, errors.New("the encryption key must be 64 hexadecimal digits (32 bytes)")
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("cannot use the encryption key: %w", err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("cannot use the encryption key: %w", err)
	}
	return &Sealer{gcm: gcm, random: rand.Read}, nil
}

// Seal appends the envelope of payload to dst.
func (s *Sealer) Seal(dst, payload []byte) ([]byte, error) {
	var iv [ivBytes]byte
	if _, err := s.random(iv[:]); err != nil {
		return dst, fmt.Errorf("cannot encrypt a payload: %w", err)
	}
	// The ciphertext is made behind the room that its base64 needs, in the same
	// memory: what stays is the text, what lies behind it is of no use any more.
	b64 := base64.StdEncoding
	room := b64.EncodedLen(len(payload))
	dst = append(dst, `{"encrypted":"`...)
	from := len(dst)
	dst = slices.Grow(dst, room+len(payload)+tagBytes+96)
	sealed := s.gcm.Seal(dst[from+room:from+room], iv[:nonceBytes], payload, nil)
	text, tag := sealed[:len(payload)], [tagBytes]byte(sealed[len(payload):])
	dst = b64.AppendEncode(dst, text)
	dst = append(dst, `","iv":"`...)
	dst = b64.AppendEncode(dst, iv[:])
	dst = append(dst, `","authTag":"`...)
	dst = b64.AppendEncode(dst, tag[:])
	return append(dst, `"}`...), nil
}
