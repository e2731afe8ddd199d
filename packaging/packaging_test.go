package packaging_test

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestSystemdFindsNoFaultInTheUnit(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is not installed here: the unit was not judged")
	}
	if help, err := exec.Command("systemd-analyze", "--help").Output(); err != nil || !strings.Contains(string(help), "--offline") {
		t.Skip("this systemd-analyze cannot judge a unit that is not installed (it needs version 250): the unit was not judged")
	}
	out, err := exec.Command("sh", "../scripts/verify-unit.sh").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

func TestTheUnitKeepsItsPromises(t *testing.T) {
	unit := read(t, "queend.service")
	f := func(line string) {
		t.Helper()
		if !strings.Contains(unit, "\n"+line+"\n") {
			t.Errorf("there is no line %s", line)
		}
	}
	f("Type=notify")
	f("NotifyAccess=main")
	f("Restart=always")
	f("StartLimitIntervalSec=0")
	f("StateDirectory=queend")
	f("Environment=HOST=127.0.0.1")
	f("ExecStart=/usr/bin/queend")
}

func TestTheExampleSettingsAreSettings(t *testing.T) {
	config := read(t, "../cmd/queend/config.go")
	names := regexp.MustCompile(`(?m)^#?([A-Z][A-Z_]*)=`).FindAllStringSubmatch(read(t, "queend.env"), -1)
	if len(names) < 10 {
		t.Fatalf("only %d settings", len(names))
	}
	for _, name := range names {
		if !regexp.MustCompile(`env:"([A-Z_]+,)*` + name[1] + `[",]`).MatchString(config) {
			t.Errorf("queend reads no %s", name[1])
		}
	}
}
