package httpparse

import "testing"

func TestFieldFindsTheFirstOfAName(t *testing.T) {
	buf := []byte("GET / HTTP/1.1\r\nHost: h\r\nAuthorization: \t Bearer a:b \r\nempty:\r\nspaces:  \t\r\n" +
		"X-A: 1\r\nx-a: 2\r\nX-AB: 3\r\nX_A: 4\r\nA~: 5\r\n\r\n")
	var p Parser
	if event, _, err := p.Next(buf); event != Complete {
		t.Fatal(event, err)
	}
	f := func(name, want string) {
		t.Helper()
		got := p.Request.Field(name)
		if got == nil || string(got) != want || len(got) != cap(got) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	f("Host", "h")
	f("Authorization", "Bearer a:b")
	f("authorization", "Bearer a:b")
	f("AUTHORIZATION", "Bearer a:b")
	f("Empty", "")
	f("Spaces", "")
	f("X-A", "1")
	f("x-ab", "3")
	f("x_a", "4")
	for _, name := range []string{"", "X", "X-ABC", "Bearer a", "Host:", "hos", "h", "A^"} {
		if got := p.Request.Field(name); got != nil {
			t.Errorf("%q: %q", name, got)
		}
	}
	if got := new(Request).Field("Host"); got != nil {
		t.Errorf("an empty request: %q", got)
	}
}

func TestARequestIsSeenBeforeItsBody(t *testing.T) {
	var p Parser
	head := "HEAD /a?b HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nX: y\r\nContent-Length: 5\r\n\r\n"
	f := func(buf string, want Event) {
		t.Helper()
		event, n, err := p.Next([]byte(buf))
		if event != want {
			t.Fatalf("%q: %v %d %v", buf, event, n, err)
		}
	}
	f(head[:40], NeedMore)
	f(head, HeadDone)
	r := &p.Request
	if string(r.Method) != "HEAD" || !r.IsHead || string(r.Path) != "/a" || string(r.Query) != "b" || !r.ExpectContinue ||
		r.ContentLength != 5 || len(r.Body) != 0 || string(r.Field("x")) != "y" {
		t.Errorf("%+v", r)
	}
	f(head+"h", NeedMore)
	f(head+"hello", Complete)
	if string(r.Body) != "hello" || r.ContentLength != 5 {
		t.Errorf("%+v", r)
	}
	f("GET", NeedMore)
	f("GET / HTTP/1.1\r\nHost: h\r\n\r\n", Complete)
	if r.IsHead || r.ExpectContinue || r.ContentLength != 0 || len(r.Body) != 0 || r.Field("X") != nil {
		t.Errorf("something is left of the request before: %+v", r)
	}
	f(chunkedHead+"1\r\n", HeadDone)
	if r.ContentLength != -1 {
		t.Errorf("%+v", r)
	}
	f(chunkedHead+"1\r\na\r\n", NeedMore)
	f(chunkedHead+"1\r\na\r\n0\r\n\r\n", Complete)
	if r.ContentLength != -1 || string(r.Body) != "a" {
		t.Errorf("%+v", r)
	}
}

func TestARefusalHoldsWhatWasUnderstood(t *testing.T) {
	f := func(input string, method, target, path string, isHead bool) {
		t.Helper()
		var p Parser
		event, n, err := p.Next([]byte(input))
		r := &p.Request
		if event != Failed || n != 0 || err == nil || string(r.Method) != method || string(r.Target) != target || string(r.Path) != path || r.IsHead != isHead {
			t.Errorf("%q: %v %v, %q %q %q", input, event, err, r.Method, r.Target, r.Path)
		}
		for _, buf := range []string{input, "GET / HTTP/1.1\r\nHost: h\r\n\r\n", ""} {
			again, n, same := p.Next([]byte(buf))
			if again != Failed || n != 0 || same != err || p.Request.Method != nil {
				t.Errorf("%q: it does not stay refused: %v %v", input, again, same)
			}
		}
		p.Reset(nil)
		if event, _, err := p.Next([]byte("GET / HTTP/1.1\r\nHost: h\r\n\r\n")); event != Complete {
			t.Errorf("%q: it does not recover: %v %v", input, event, err)
		}
	}
	f("?", "", "", "", false)
	f("HEAD\r\n", "", "", "", false)
	f("HEAD /\r\n", "HEAD", "", "", true)
	f("HEAD /a? HTTP/2.0\r\n", "HEAD", "", "", true)
	f("HEAD /a# HTTP/1.1\r\n", "HEAD", "/a#", "", true)
	f("HEAD /a?b HTTP/1.1\r\n\r\n", "HEAD", "/a?b", "/a", true)
	f("POST http://h HTTP/1.1\r\nHost: h\r\nExpect: x\r\n\r\n", "POST", "http://h", "/", false)
	f(chunkedHead+"x\r\n", "POST", "/c", "/c", false)
}

func TestARequestIsStartedByItsFirstByte(t *testing.T) {
	var p Parser
	f := func(buf string, want bool) {
		t.Helper()
		p.Next([]byte(buf))
		if p.Started() != want {
			t.Errorf("%q: started is %v", buf, !want)
		}
	}
	f("", false)
	f("\r", false)
	f("\r\n", false)
	f("\r\nG", true)
	f("\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", false)
	f("\r\n", false)
	f("\r\n"+chunkedHead, true)
}

func TestAShrunkenBufferIsABug(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("accepted")
		}
	}()
	var p Parser
	p.Next([]byte("GET / HTTP/1.1\r\n"))
	p.Next([]byte("GET / HTTP/1.1\r"))
}

func TestEventsHaveNames(t *testing.T) {
	for event, want := range map[Event]string{NeedMore: "NeedMore", HeadDone: "HeadDone", Complete: "Complete", Failed: "Failed"} {
		if event.String() != want {
			t.Errorf("%d is %v", event, event)
		}
	}
}
