package load

import (
	"context"
	"fmt"
	"net"
	"time"
)

// Client is one kept-alive connection whose user waits for each answer: for
// conversations, where the next request depends on what was heard. One goroutine
// at a time.
type Client struct {
	Addr string // for the Host field

	nc net.Conn
	in []byte
}

// answerMax bounds the wait for one answer; a long poll must end before.
const answerMax = 3 * time.Minute

// Dial connects to addr.
func Dial(ctx context.Context, addr string) (*Client, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &Client{Addr: addr, nc: nc}, nil
}

// Close closes the connection; it may be called by another goroutine, to end a wait.
func (c *Client) Close() { _ = c.nc.Close() }

// Send sends a whole request.
func (c *Client) Send(request []byte) error {
	_, err := c.nc.Write(request)
	return err
}

// Hear waits for the next answer. Its body is valid until the next call.
func (c *Client) Hear() (status int, body []byte, err error) {
	if err := c.nc.SetReadDeadline(time.Now().Add(answerMax)); err != nil {
		return 0, nil, err
	}
	if c.in == nil {
		c.in = make([]byte, 0, readBytes)
	}
	for c.in = c.in[:0]; ; {
		if cap(c.in)-len(c.in) < readBytes/2 {
			c.in = append(make([]byte, 0, 2*cap(c.in)), c.in...)
		}
		n, err := c.nc.Read(c.in[len(c.in):cap(c.in)])
		if err != nil {
			return 0, nil, err
		}
		c.in = c.in[:len(c.in)+n]
		a, whole, err := cutAnswer(c.in)
		switch {
		case err != nil:
			return 0, nil, err
		case whole == 0:
		case whole < len(c.in):
			return 0, nil, fmt.Errorf("an answer that nobody asked for: %.40q", c.in[whole:])
		default:
			return a.status, a.body, nil
		}
	}
}

// Do sends a request and waits for its answer, which must be a success.
func (c *Client) Do(request []byte) (body []byte, err error) {
	if err := c.Send(request); err != nil {
		return nil, err
	}
	status, body, err := c.Hear()
	if err == nil && status/100 != 2 {
		err = fmt.Errorf("the server answered %d: %.200s", status, body)
	}
	return body, err
}
