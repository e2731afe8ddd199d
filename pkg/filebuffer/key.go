package filebuffer

import (
	"time"

	"github.com/queend/queend/pkg/filebuffer/journal"
)

// sayKeyEvery is how often it is said that a key is missing.
const sayKeyEvery = time.Minute

// lacksKey stands before the record that comes next, whose key this process does not have,
// until it is told to stop or there is maintenance mode. Nothing is wrong with the record,
// so it is not set aside: whoever starts with the key delivers it. Nor is it passed over: what
// is behind it has its place in the order. Pushes go on, and are held for nobody.
func (d *drainer) lacksKey(rec *journal.Record, err error) {
	b := d.b
	b.stats.KeyMissing.Store(true)
	b.stats.Rate.Store(0)
	d.sayKey(rec, err)
	d.trouble(err.Error())
	for b.ctx.Err() == nil && b.mayDrain() {
		d.sayKey(rec, err)
		b.pause(d.keyDue - b.o.Now())
	}
}

// sayKey says what an operator must know and do, if it is time.
func (d *drainer) sayKey(rec *journal.Record, err error) {
	now := d.b.o.Now()
	if now < d.keyDue {
		return
	}
	d.keyDue = now + sayKeyEvery
	d.b.o.Log.Error().Err(err).Str("dir", d.b.o.Dir).Time("buffered", rec.Time.UTC()).Int64("messages", d.b.stats.Pending.Load()).
		Msg("what waits on disk is encrypted with a key that this process does not have: it is kept, and nothing is delivered; " +
			"start with the QUEEN_ENCRYPTION_KEY that it was buffered with, " +
			"or, to give it up, export it (queend buffer export) and put the directory aside")
}
