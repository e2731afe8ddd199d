package queue

// WatchRequest asks what changed that this process did not do itself.
type WatchRequest struct {
}
