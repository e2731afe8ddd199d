package load

import (
	"fmt"
	"net"
	"net/url"
	"strings"
)

// Target is a server: where it listens, and what stands before the paths of its API.
type Target struct {
	Addr   string // host:port
	Host   string // the Host field; empty: Addr
	Prefix string // "" or "/queen"
}

// ParseTarget reads a base URL: http://host:port/prefix.
func ParseTarget(base string) (t Target, err error) {
	u, err := url.Parse(base)
	switch {
	case err != nil:
		return t, fmt.Errorf("cannot read the URL: %w", err)
	case u.Scheme != "http" || u.Hostname() == "" || u.RawQuery != "" || u.User != nil:
		return t, fmt.Errorf("%q is not http://host:port, which is all that the generator speaks", base)
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	return Target{Addr: net.JoinHostPort(u.Hostname(), port), Host: u.Host, Prefix: strings.TrimSuffix(u.EscapedPath(), "/")}, nil
}

func (t Target) host() string {
	if t.Host == "" {
		return t.Addr
	}
	return t.Host
}

// get is a whole request without a body.
func (t Target) get(path string) []byte {
	return fmt.Appendf(nil, "GET %s%s HTTP/1.1\r\nHost: %s\r\n\r\n", t.Prefix, path, t.host())
}
