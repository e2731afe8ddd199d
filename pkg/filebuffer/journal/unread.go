package journal

import (
	"fmt"
	"path/filepath"
	"strings"
)

// unreadSuffix ends the names of empty files in the quarantine, each of which says that
// there is a place in a segment that could not be read. Such a segment is moved to the
// quarantine when it is done, after a restart too, and not removed: the disk may give
// another day what is there.
const unreadSuffix = ".unread" + quarantineSuffix

// PassOver has the reader go on when Next fails because the disk does not give a part of a
// segment: up to that segment's end, what cannot be read is taken for damage. The segment
// is kept in the quarantine as it is, so that nothing is gone for good if the disk gives it
// later; when that cannot be made sure of, Next goes on failing.
func (r *Reader) PassOver() {
	_ = r.Close()
	r.passing = true
}

// holey is the file of the segment as it is read when what cannot be read is passed over.
func (r *Reader) holey() *holey {
	h, _ := r.file.(*holey)
	return h
}

// damaged sets aside a region that holds no frames.
func (r *Reader) damaged(bad Region) error {
	if err := r.holey().unread(); err != nil {
		return r.j.keepUnread(r.seg, bad, err)
	}
	r.j.setAside(r.seg, r.file, bad)
	return nil
}

// keepUnread has a segment kept whole, durably, because of a region that could not be read,
// says so once and counts it.
func (j *Journal) keepUnread(s *segment, r Region, cause error) error {
	name := fmt.Sprintf("%s@%d%s", s.name(), r.Offset, unreadSuffix)
	j.mu.Lock()
	_, known := j.aside[name]
	j.mu.Unlock()
	if !known {
		if err := j.copyAside(name, nil, Region{}); err != nil {
			return err
		}
		j.log.Error().Err(cause).Str("segment", j.path(s.name())).Int64("offset", r.Offset).Int64("bytes", r.Bytes).Uint64("records", r.Lost).
			Str("kept", j.path(filepath.Join(quarantineName, s.name()+quarantineSuffix))).
			Msg("journal: UNREADABLE: the disk does not give these bytes, the records in them are not delivered; all others are, and then the segment is kept in the quarantine")
	}
	j.mu.Lock()
	j.aside[name] = 0
	s.keep = true
	j.mu.Unlock()
	return nil
}

// keepThose has the segments kept of which an earlier process could not read all.
func (j *Journal) keepThose(segs []*segment) {
	unread := map[string]bool{}
	for name := range j.aside {
		if segment, _, ok := strings.Cut(name, "@"); ok && strings.HasSuffix(name, unreadSuffix) {
			unread[segment] = true
		}
	}
	for _, s := range segs {
		// One of that name that was moved already was another one.
		_, moved := j.aside[s.name()+quarantineSuffix]
		s.keep = unread[s.name()] && !moved
	}
}
