package api

import "testing"

func TestAQueryIsReadAsQueenReadsItButByWholeKeys(t *testing.T) {
	w := newWorld()
	ask := func(query string, read func(Exchange)) {
		t.Helper()
		w.router.routes["/read"] = &route{handlers: map[string]func(Exchange, Params){
			"GET": func(x Exchange, _ Params) { read(x); x.Reply(200, nil, nil, false) }}}
		if x := w.send(t, "GET", "/read?"+query, ""); x.status != 200 {
			t.Errorf("%s: %d %s", query, x.status, x.body)
		}
	}
	text := func(query, name, want string, there bool) {
		t.Helper()
		ask(query, func(x Exchange) {
			if value, found := queryText(x, name); string(value) != want || found != there {
				t.Errorf("%s: %s is %q %v", query, name, value, found)
			}
		})
	}
	text("a=b", "a", "b", true)
	text("a=b&a=c", "a", "b", true)
	text("a", "a", "", true)
	text("a=", "a", "", true)
	text("", "a", "", false)
	text("&&", "", "", false)
	text("mya=1", "a", "", false)
	text("x=a=1", "a", "", false)
	text("a=b=c", "a", "b=c", true)
	text("q=a+b%2B%26&r=%C3%A4", "q", "a b+&", true)
	text("q=a+b%2B%26&r=%C3%A4", "r", "ä", true)
	text("%61=1", "a", "1", true)

	number := func(query string, want int) {
		t.Helper()
		ask(query, func(x Exchange) {
			if n := queryInt(x, "n", 7); n != want {
				t.Errorf("%s: %d, want %d", query, n, want)
			}
		})
	}
	number("n=10", 10)
	number("n=10abc", 10)
	number("n=%31%30", 10)
	number("n=-5", -5)
	number("n=0", 0)
	number("n=1.9", 1)
	number("n=+5", 7) // a plus sign is a space
	number("n=%2B5", 5)
	number("n=--5", 7)
	number("n=5-5", 5)
	number("n=abc", 7)
	number("n=", 7)
	number("m=1", 7)
	number("min=1", 7)
	number("n=2147483647", 2147483647)
	number("n=2147483648", 7)
	number("n=99999999999999999999999", 7)

	yes := func(query string, want bool) {
		t.Helper()
		ask(query, func(x Exchange) {
			if queryBool(x, "b") != want {
				t.Errorf("%s: not %v", query, want)
			}
		})
	}
	yes("b=true", true)
	yes("b=1", true)
	yes("b=TRUE", false)
	yes("b=true1", false)
	yes("b", false)
	yes("bb=true", false)
	yes("", false)
}

func TestAQueryThatIsNoTextIsRefused(t *testing.T) {
	w := newWorld()
	for _, query := range []string{"a=%", "a=%zz", "%4", "a=%00", "a=%ff", "a=\xff", "a=%C3&b=%A4"} {
		if x := w.send(t, "GET", "/livez?"+query, ""); x.status != 400 {
			t.Errorf("%s: %d", query, x.status)
		}
	}
}
