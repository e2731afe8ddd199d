// Package postgrestest gives tests a real PostgreSQL: one server per test
// process, started when it is first asked for, and a fresh database per test; or
// a server of a test's own, to be stopped, killed and paused.
//
// Nothing is left behind, whether the tests end, time out or are killed: the
// servers' supervisors (package postgres) stop them and remove their
// directories. No TestMain is needed, and no goroutine runs for a server, so
// goleak has nothing to ignore.
//
// The servers live in /tmp, or in QUEEND_TEST_DIR: a short path that everybody may
// pass, since root's PostgreSQL runs as another user.
//
// A machine without PostgreSQL fails the test with the command to type. It does
// not skip: a room whose tests did not run is not tested.
package postgrestest

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/queend/queend/pkg/postgres"
)

// hang is how long a server may take before a test gives up: only a guard, far
// above what a loaded machine needs.
const hang = 5 * time.Minute

// fast are the settings of the shared server, which no test crashes: no waiting
// for the disk.
var fast = map[string]string{"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "max_connections": "200", "shared_buffers": "64MB"}

var shared struct {
	once   sync.Once
	server *postgres.Server
	err    error
}

// Shared is the server of this test process. It commits without fsync. Do not
// stop it; use Own for that.
func Shared(t testing.TB) *postgres.Server {
	t.Helper()
	shared.once.Do(func() {
		shared.server, shared.err = start(postgres.Options{Settings: fast})
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.server
}

// Database makes an empty database on the shared server and returns its
// connection string. It is dropped when the test ends, whoever is connected.
func Database(t testing.TB) string {
	t.Helper()
	server := Shared(t)
	connString, name := DatabaseOn(t, server)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), hang)
		defer cancel()
		conn, err := pgconn.Connect(ctx, server.ConnString("postgres"))
		if err != nil {
			t.Errorf("cannot drop the test's database: %v", err)
			return
		}
		defer conn.Close(ctx)
		// Nobody comes back while it is dropped. FORCE gives those who are connected
		// five seconds to go, which a busy machine may not keep: then again.
		_, err = conn.Exec(ctx, "ALTER DATABASE "+name+" ALLOW_CONNECTIONS false").ReadAll()
		for err == nil {
			_, err = conn.Exec(ctx, "DROP DATABASE "+name+" WITH (FORCE)").ReadAll()
			var refused *pgconn.PgError
			if !errors.As(err, &refused) || refused.Code != "55006" { // object_in_use
				break
			}
			err = ctx.Err()
		}
		var refused *pgconn.PgError
		if errors.As(err, &refused) && refused.Code == "3D000" { // invalid_catalog_name: the test dropped it
			err = nil
		}
		if err != nil {
			t.Errorf("cannot drop the test's database: %v", err)
		}
	})
	return connString
}

var databases atomic.Int64

// DatabaseOn makes an empty database on a server of the test's own and returns
// its connection string and its name, which needs no quoting.
func DatabaseOn(t testing.TB, server *postgres.Server) (connString, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	defer cancel()
	name = fmt.Sprintf("test_%d", databases.Add(1))
	if err := server.CreateDatabase(ctx, name); err != nil {
		t.Fatal(err)
	}
	return server.ConnString(name), name
}

// Own starts a server for this test alone, to be stopped, killed, paused and
// restarted. It is as durable as a real one (fsync on) unless settings say
// otherwise. It ends with the test.
func Own(t testing.TB, settings map[string]string) *postgres.Server {
	t.Helper()
	return OwnWith(t, postgres.Options{Settings: settings})
}

// OwnTCP is Own with a port on 127.0.0.1 as well, for proxies and TLS.
func OwnTCP(t testing.TB, settings map[string]string) *postgres.Server {
	t.Helper()
	return OwnWith(t, postgres.Options{Settings: settings, TCP: true})
}

// OwnTLS is OwnTCP with TLS switched on (not required), by a certificate for
// 127.0.0.1 and localhost. It returns the path of the authority's certificate,
// for sslmode=verify-full sslrootcert=….
func OwnTLS(t testing.TB, settings map[string]string) (server *postgres.Server, rootCert string) {
	t.Helper()
	root, cert, key := certificates(t)
	rootCert = filepath.Join(t.TempDir(), "root.crt")
	if err := os.WriteFile(rootCert, root, 0o600); err != nil {
		t.Fatal(err)
	}
	// Relative paths start at the data directory (manual, "SSL").
	all := map[string]string{"ssl": "on", "ssl_cert_file": "../server.crt", "ssl_key_file": "../server.key"}
	maps.Copy(all, settings)
	return OwnWith(t, postgres.Options{Settings: all, TCP: true, Files: map[string][]byte{"server.crt": cert, "server.key": key}}), rootCert
}

// OwnWith is Own with every option; Dir may be empty.
func OwnWith(t testing.TB, o postgres.Options) *postgres.Server {
	t.Helper()
	server, err := start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(server.LogPath())
			t.Logf("PostgreSQL's log:\n%s", log)
		}
		// A test may leave it paused.
		_ = server.Resume()
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(server.Dir()); err != nil {
			t.Error(err)
		}
	})
	return server
}

func start(o postgres.Options) (*postgres.Server, error) {
	if o.Dir == "" {
		// Not t.TempDir(): its path may be too long for a socket, and root's is
		// closed to the user that PostgreSQL runs as.
		dir, err := os.MkdirTemp(cmp.Or(os.Getenv("QUEEND_TEST_DIR"), "/tmp"), "queend-test-postgres-")
		if err != nil {
			return nil, err
		}
		o.Dir = dir
	}
	o.Throwaway = true
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	defer cancel()
	server, err := postgres.Start(ctx, o)
	if err != nil {
		os.RemoveAll(o.Dir)
	}
	return server, err
}

// certificates makes an authority and a certificate of its for 127.0.0.1.
func certificates(t testing.TB) (root, cert, key []byte) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	encode := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "queend test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, authority, authority, rootKey.Public(), rootKey)
	check(err)
	serverKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	server := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "localhost"},
		NotBefore: authority.NotBefore, NotAfter: authority.NotAfter,
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	certDER, err := x509.CreateCertificate(rand.Reader, server, authority, serverKey.Public(), rootKey)
	check(err)
	keyDER, err := x509.MarshalECPrivateKey(serverKey)
	check(err)
	return encode("CERTIFICATE", rootDER), encode("CERTIFICATE", certDER), encode("EC PRIVATE KEY", keyDER)
}
