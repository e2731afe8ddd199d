package proxy

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"
)

// neverHangs bounds what a test waits for. It is not a measurement.
const neverHangs = 2 * time.Minute

func message(kind byte, body string) []byte {
	b := binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body)))
	return append(b, body...)
}

// talk is a client and a server with a proxy between them.
func talk(t *testing.T) (p *Proxy, client, server net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	if p, err = New(func() (net.Conn, error) { return net.Dial("tcp", listener.Addr().String()) }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	if client, err = net.DialTCP("tcp", nil, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: p.Port()}); err != nil {
		t.Fatal(err)
	}
	if server, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{client, server} {
		_ = c.SetDeadline(time.Now().Add(neverHangs))
		t.Cleanup(func() { c.Close() })
	}
	return p, client, server
}

func TestACutIsWhereItWasAskedFor(t *testing.T) {
	startup := binary.BigEndian.AppendUint32(nil, 12)
	startup = append(startup, "\x00\x03\x00\x00user"...)
	sent := bytes.Join([][]byte{startup, message('P', "parse"), message('B', ""), message('E', "execute"), message('S', "")}, nil)
	f := func(c Cut, arrives int) {
		t.Helper()
		for piece := 1; piece <= len(sent); piece += 6 { // however the bytes come
			p, client, server := talk(t)
			fired := p.Arm(c, rand.New(rand.NewPCG(1, 1)))
			for b := sent; len(b) > 0; b = b[min(piece, len(b)):] {
				if _, err := client.Write(b[:min(piece, len(b))]); err != nil {
					break // it is cut already
				}
			}
			got, _ := io.ReadAll(server)
			if len(got) > arrives || !c.Reset && len(got) != arrives || !bytes.HasPrefix(sent, got) {
				t.Errorf("%v, in pieces of %d: %d bytes arrived, not %d", c, piece, len(got), arrives)
			}
			<-fired
			client.Close()
		}
	}
	f(Cut{ToServer, 0, 0, false}, 0)
	f(Cut{ToServer, 0, 3, false}, 3)
	f(Cut{ToServer, 1, 0, false}, 12)
	f(Cut{ToServer, 1, 1, false}, 13)
	f(Cut{ToServer, 2, 0, false}, 22)
	f(Cut{ToServer, 3, 4, false}, 31)
	f(Cut{ToServer, 1, 0, true}, 12)
}

func TestACutOfAnswersLeavesQuestionsAlone(t *testing.T) {
	p, client, server := talk(t)
	fired := p.Arm(Cut{ToClient, 1, 2, false}, rand.New(rand.NewPCG(1, 1)))
	question := binary.BigEndian.AppendUint32(nil, 8)
	question = append(question, "ask?"...)
	if _, err := client.Write(question); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(server, make([]byte, len(question))); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Write(append(message('1', ""), message('C', "done")...)); err != nil {
		t.Fatal(err)
	}
	got, _ := io.ReadAll(client)
	if want := append(message('1', ""), "C\x00"...); !bytes.Equal(got, want) {
		t.Errorf("%q arrived, not %q", got, want)
	}
	<-fired
}

func TestWhatIsHeldArrivesLater(t *testing.T) {
	p, client, server := talk(t)
	p.Hold(true)
	if _, err := client.Write([]byte("later")); err != nil {
		t.Fatal(err)
	}
	_ = server.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, _ := server.Read(make([]byte, 5)); n > 0 {
		t.Error("it arrived")
	}
	_ = server.SetReadDeadline(time.Now().Add(neverHangs))
	p.Hold(false)
	if _, err := io.ReadFull(server, make([]byte, 5)); err != nil {
		t.Error(err)
	}
}
