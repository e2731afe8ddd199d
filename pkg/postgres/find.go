package postgres

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// VersionMin is the oldest major version of PostgreSQL that queend works with.
const VersionMin = 13

// BinVariable names the directory of the binaries in the environment, for a
// machine where they are somewhere else, or to choose among several.
const BinVariable = "QUEEND_POSTGRES_BIN"

// Binaries is a directory that holds initdb and postgres.
type Binaries struct {
	Dir     string
	Version int // major
}

// usualPlaces are where packages put the binaries, beside the PATH: Debian,
// Red Hat, PostgreSQL's own packages, a build from source, Homebrew, Postgres.app.
var usualPlaces = []string{
	"/usr/lib/postgresql/*/bin", "/usr/lib/postgresql*/bin", "/usr/libexec/postgresql*", "/usr/pgsql-*/bin",
	"/usr/local/pgsql/bin", "/opt/postgresql*/bin", "/opt/homebrew/opt/postgresql@*/bin",
	"/usr/local/opt/postgresql@*/bin", "/Applications/Postgres.app/Contents/Versions/*/bin",
}

// Find looks for PostgreSQL's binaries, version VersionMin or newer: where
// QUEEND_POSTGRES_BIN says, or else on the PATH, or else the newest in the places
// where packages put them. None: an error of one sentence with the command to type.
func Find() (Binaries, error) { return findVersion(0) }

// findVersion is Find for a data directory of that major version; 0: any.
func findVersion(version int) (Binaries, error) {
	return findIn(version, os.Getenv(BinVariable), os.Getenv("PATH"), usualPlaces, "/etc/os-release")
}

func findIn(version int, named, path string, places []string, osRelease string) (Binaries, error) {
	if named != "" {
		found, err := versionOf(named)
		if err != nil {
			return Binaries{}, fmt.Errorf("%s is %q: %w", BinVariable, named, err)
		}
		return Binaries{named, found}, nil
	}
	var found []Binaries
	look := func(dir string) {
		if v, err := versionOf(dir); err == nil && v >= VersionMin && (version == 0 || v == version) {
			found = append(found, Binaries{dir, v})
		}
	}
	for _, dir := range filepath.SplitList(path) {
		// What is on the PATH is often a link to one program; the others are beside
		// the program itself.
		if real, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres")); err == nil {
			look(filepath.Dir(real))
		}
		if len(found) > 0 {
			return found[0], nil
		}
	}
	for _, place := range places {
		dirs, _ := filepath.Glob(place)
		for _, dir := range dirs {
			look(dir)
		}
	}
	if len(found) == 0 {
		return Binaries{}, notFound(version, osRelease)
	}
	return slices.MaxFunc(found, func(a, b Binaries) int { return cmp.Compare(a.Version, b.Version) }), nil
}

var versionPattern = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// versionOf asks the binaries in a directory for their major version.
func versionOf(dir string) (int, error) {
	if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil {
		return 0, fmt.Errorf("there is no initdb: %w", err)
	}
	out, err := exec.Command(filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return 0, fmt.Errorf("cannot ask postgres for its version: %w", err)
	}
	match := versionPattern.FindSubmatch(out)
	if match == nil {
		return 0, fmt.Errorf("cannot read a version from %q", strings.TrimSpace(string(out)))
	}
	version, err := strconv.Atoi(string(match[1]))
	if err != nil {
		return 0, err
	}
	return version, nil
}

// notFound is the sentence for a machine without PostgreSQL.
func notFound(version int, osRelease string) error {
	wanted := fmt.Sprintf("%d or newer", VersionMin)
	if version != 0 {
		wanted = strconv.Itoa(version)
	}
	command := installCommand(osRelease, version)
	if os.Geteuid() != 0 && !strings.HasPrefix(command, "brew ") {
		command = "sudo sh -c '" + command + "'"
	}
	return errors.New("PostgreSQL " + wanted + " is not installed (or name its directory of binaries in " + BinVariable + "); type: " + command)
}

// installCommand is what root types on this distribution. On Debian it first says
// that no server is to be started on 5432: queend wants only the binaries.
func installCommand(osRelease string, version int) string {
	for _, id := range distribution(osRelease) {
		switch id {
		case "debian", "ubuntu":
			name := "postgresql"
			if version != 0 {
				name += "-" + strconv.Itoa(version)
			}
			return "mkdir -p /etc/postgresql-common/createcluster.d && echo create_main_cluster=false > /etc/postgresql-common/createcluster.d/queend.conf && apt-get update && apt-get install -y --no-install-recommends " + name
		case "fedora", "rhel", "centos":
			return "dnf install -y postgresql-server"
		case "alpine":
			return "apk add postgresql"
		case "arch":
			return "pacman -S --noconfirm postgresql"
		case "suse", "opensuse":
			return "zypper install -y postgresql-server"
		case "darwin":
			return "brew install postgresql"
		}
	}
	return "the command that installs the package postgresql on this system"
}

// distribution reads ID and ID_LIKE of os-release(5), most specific first.
func distribution(osRelease string) []string {
	file, err := os.Open(osRelease)
	if err != nil {
		if _, err := os.Stat("/System/Library"); err == nil {
			return []string{"darwin"}
		}
		return nil
	}
	defer file.Close()
	var id, like string
	for lines := bufio.NewScanner(file); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), "=")
		value = strings.Trim(value, `"'`)
		switch name {
		case "ID":
			id = value
		case "ID_LIKE":
			like = value
		}
	}
	return append([]string{id}, strings.Fields(like)...)
}
