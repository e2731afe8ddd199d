package postgres

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// fakeBinaries makes a directory of programs that say they are that version.
func fakeBinaries(t *testing.T, dir string, version string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"postgres", "initdb"} {
		script := "#!/bin/sh\necho '" + name + " (PostgreSQL) " + version + "'\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestWhichBinariesAreChosen(t *testing.T) {
	root := t.TempDir()
	in := func(name string) string { return filepath.Join(root, name) }
	fakeBinaries(t, in("lib/9.6/bin"), "9.6.24")
	fakeBinaries(t, in("lib/12/bin"), "12.22")
	fakeBinaries(t, in("lib/15/bin"), "15.10 (Debian 15.10-0+deb12u1)")
	fakeBinaries(t, in("lib/18/bin"), "18beta1")
	fakeBinaries(t, in("other/16"), "16.1")
	fakeBinaries(t, in("old"), "12.22")
	os.Remove(filepath.Join(fakeBinaries(t, in("half"), "17.0"), "initdb"))
	os.MkdirAll(in("links"), 0o755)
	os.Symlink(in("other/16/postgres"), in("links/postgres"))
	places := []string{in("other/*"), in("lib/*/bin")}

	f := func(version int, named, path, dir string, found int) {
		t.Helper()
		got, err := findIn(version, named, path, places, "/nowhere")
		if err != nil || got.Dir != dir || got.Version != found {
			t.Errorf("found %v, %v", got, err)
		}
	}
	f(0, "", "", in("lib/18/bin"), 18)                               // the newest
	f(0, "", in("links")+":/nowhere", in("other/16"), 16)            // the PATH's, beside the real program
	f(0, "", in("old")+":"+in("half"), in("lib/18/bin"), 18)         // not what is too old or not whole
	f(15, "", in("links"), in("lib/15/bin"), 15)                     // for data of that version
	f(0, in("lib/15/bin"), in("links"), in("lib/15/bin"), 15)        // what is named
	f(15, in("lib/18/bin"), in("links"), in("lib/18/bin"), 18)       // even then
	f(0, "", "relative:"+in("lib/15/bin"), in("lib/15/bin"), 15)     // a PATH with nonsense in it
	f(0, "", in("lib/15/bin")+":"+in("links"), in("lib/15/bin"), 15) // the PATH's order

	g := func(version int, named string, words ...string) {
		t.Helper()
		_, err := findIn(version, named, "", places, "/nowhere")
		if err == nil {
			t.Fatal("found")
		}
		for _, word := range words {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%q does not say %q", err, word)
			}
		}
	}
	g(0, "/nowhere", BinVariable, "/nowhere", "no initdb")
	g(0, in("half"), BinVariable, "no initdb")
	g(17, "", "PostgreSQL 17 is not installed")
}

func TestAMachineWithoutPostgreSQLIsToldWhatToType(t *testing.T) {
	f := func(osRelease string, version int, command string) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "os-release")
		if err := os.WriteFile(path, []byte(osRelease), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := findIn(version, "", "", nil, path)
		if err == nil {
			t.Fatal("found")
		}
		sentence := err.Error()
		if !strings.Contains(sentence, "type: ") || !strings.Contains(sentence, command) || strings.Contains(sentence, "\n") {
			t.Errorf("it says %q", sentence)
		}
		if os.Geteuid() != 0 && !strings.Contains(sentence, "sudo") {
			t.Errorf("as a user it says %q", sentence)
		}
	}
	wanted := "PostgreSQL " + strconv.Itoa(VersionMin) + " or newer is not installed"
	f("ID=debian\n", 0, wanted)
	f("ID=debian\n", 0, "create_main_cluster=false")
	f("ID=debian\n", 0, "apt-get install -y --no-install-recommends postgresql")
	f("ID=debian\n", 15, "--no-install-recommends postgresql-15")
	f("NAME=Mint\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", 0, "apt-get install")
	f("ID='rocky'\nID_LIKE='rhel centos fedora'\n", 0, "dnf install -y postgresql-server")
	f("ID=alpine\n", 0, "apk add postgresql")
	f("ID=arch\n", 0, "pacman -S")
	f("ID=opensuse-leap\nID_LIKE=\"suse opensuse\"\n", 0, "zypper install")
	f("ID=plan9\n", 0, "installs the package postgresql")
	f("", 0, "installs the package postgresql")
}
