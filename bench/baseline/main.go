// Command baseline is the server that one would write without queend: net/http, a
// goroutine per connection, encoding/json, pgxpool, one transaction per request.
// It answers POST /api/v1/push as queend does and stores the same rows in the same
// tables, with the same promises: dedupe, order and dense numbers under the
// partition's row lock, durable before it answers. What differs is the way.
//
// It is as fast as it can be without becoming something else: partition ids are
// cached, statements are prepared, a message is one statement (push.sql), simpler
// than queend's, and a request's statements and its commit are one round trip. It
// is a yardstick and no product: no bounds, no buffer, no migration of its own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := serve(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "baseline:", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context) error {
	host := flag.String("host", "127.0.0.1", "address to listen on")
	port := flag.String("port", "6633", "port to listen on")
	database := flag.String("database-url", os.Getenv("DATABASE_URL"), "where PostgreSQL is, laid out by queend (DATABASE_URL)")
	pool := flag.Int("pool", number(os.Getenv("POOL_SIZE"), 32), "connections to PostgreSQL (POOL_SIZE)")
	flag.Parse()
	s, err := openStore(ctx, *database, *pool)
	if err != nil {
		return err
	}
	defer s.close()
	server := &http.Server{Addr: net.JoinHostPort(*host, *port), Handler: routes(s)}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		stopped <- server.Shutdown(ctx)
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

func number(text string, otherwise int) int {
	if n, err := strconv.Atoi(text); err == nil {
		return n
	}
	return otherwise
}

func routes(s *store) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /api/v1/push", push(s))
	mux.Handle("GET /metrics/prometheus", promhttp.Handler())
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) {
		if err := s.pool.Ping(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	return mux
}
