package postgres

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ConnString is how to reach a database through the unix socket, as libpq and pgx
// read it.
func (s *Server) ConnString(database string) string {
	return "host=" + quote(s.sockets) + " port=" + strconv.Itoa(s.port) +
		" user=" + User + " dbname=" + quote(database) + " sslmode=disable"
}

// TCPConnString is how to reach a database through 127.0.0.1, with the password.
// It names no sslmode, so that the caller can add one.
func (s *Server) TCPConnString(database string) string {
	return "host=127.0.0.1 port=" + strconv.Itoa(s.port) + " user=" + User +
		" password=" + quote(s.Password()) + " dbname=" + quote(database)
}

// URL is ConnString as a URI, for DATABASE_URL. In libpq's URIs a plus sign is a
// plus sign; a space is %20 alone.
func (s *Server) URL(database string) string {
	query := url.Values{"host": {s.sockets}, "port": {strconv.Itoa(s.port)}, "sslmode": {"disable"}}
	u := url.URL{Scheme: "postgres", User: url.User(User), Path: "/" + database, RawQuery: strings.ReplaceAll(query.Encode(), "+", "%20")}
	return u.String()
}

// quote quotes a value of a libpq connection string (manual, "Connection Strings").
func quote(value string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value) + "'"
}

// CreateDatabase makes an empty UTF-8 database, unless it is there.
func (s *Server) CreateDatabase(ctx context.Context, name string) error {
	conn, err := pgconn.Connect(ctx, s.ConnString("postgres"))
	if err != nil {
		return fmt.Errorf("cannot reach PostgreSQL to make database %q: %w", name, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	// template0: what somebody put in template1 is not ours.
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()+" TEMPLATE template0 ENCODING 'UTF8'").ReadAll()
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Code == "42P04" { // duplicate_database
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot make database %q: %w", name, err)
	}
	return nil
}

// Password is the superuser's password for TCP.
func (s *Server) Password() string {
	password, err := os.ReadFile(filepath.Join(s.options.Dir, "password"))
	if err != nil {
		panic("BUG: a started server has a password: " + err.Error())
	}
	return strings.TrimSpace(string(password))
}
