package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
)

const (
	quarantineName   = "quarantine"
	quarantineSuffix = ".bad"

	// QuarantineBytesMax bounds what is set aside. Damage beyond it is said and counted,
	// but not kept.
	QuarantineBytesMax = 1 << 30
)

// listAside finds what was set aside earlier.
func (j *Journal) listAside() error {
	entries, err := j.fs.ReadDir(j.path(quarantineName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return j.failed("list", quarantineName, err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name, quarantineSuffix) {
			j.aside[e.Name] = e.Bytes
		}
	}
	return nil
}

// setAside copies a damaged region of a segment to a file of its own, says so and
// counts it. The file's name tells where it comes from, so that it is done once however
// often the region is met.
func (j *Journal) setAside(s *segment, f File, r Region) {
	name := fmt.Sprintf("%s@%d%s", s.name(), r.Offset, quarantineSuffix)
	j.mu.Lock()
	_, known := j.aside[name]
	if !known {
		j.aside[name] = r.Bytes
	}
	j.mu.Unlock()
	if known {
		return
	}
	j.sayDamage(s, r)
	if j.Stats().QuarantinedBytes > QuarantineBytesMax {
		j.log.Error().Str("file", name).Msg("journal: the quarantine is full, the damaged bytes are not kept")
		return
	}
	if err := j.copyAside(name, f, r); err != nil {
		j.log.Error().Err(err).Msg("journal: the damaged bytes cannot be copied now, their segment is kept")
		j.mu.Lock()
		s.keep = true
		j.mu.Unlock()
	}
}

// sayDamage says that a segment is not as it was written.
func (j *Journal) sayDamage(s *segment, r Region) {
	j.log.Error().Str("segment", j.path(s.name())).Int64("offset", r.Offset).Int64("bytes", r.Bytes).
		Uint64("records", r.Lost).Msg("journal: DAMAGE: these bytes are not what was written, the records in them are lost; all others are kept")
}

// copyAside copies a region to a file of the quarantine.
func (j *Journal) copyAside(name string, f File, r Region) error {
	if err := j.makeQuarantine(); err != nil {
		return err
	}
	name = filepath.Join(quarantineName, name)
	to, err := j.create(name + newSuffix)
	if err != nil {
		return err
	}
	err = j.failed("copy to", name, copyRegion(to, f, r))
	if err == nil {
		err = j.failed("sync", name, to.Sync())
	}
	_ = to.Close()
	if err == nil {
		err = j.failed("rename", name+newSuffix, j.fs.Rename(j.path(name+newSuffix), j.path(name)))
	}
	if err == nil {
		err = j.failed("sync", quarantineName, j.fs.SyncDir(j.path(quarantineName)))
	}
	return err
}

// copyRegion copies as much of a region as there is.
func copyRegion(to, from File, r Region) error {
	buf := make([]byte, min(r.Bytes, chunkBytes))
	for at := int64(0); at < r.Bytes; {
		n, err := readFull(from, buf[:min(r.Bytes-at, int64(len(buf)))], r.Offset+at)
		if n > 0 {
			if err := writeFull(to, buf[:n], at); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		at += int64(n)
	}
	return nil
}

// moveAside moves a whole segment to the quarantine.
func (j *Journal) moveAside(s *segment) error {
	if err := j.makeQuarantine(); err != nil {
		return err
	}
	name := s.name() + quarantineSuffix
	if err := j.fs.Rename(j.path(s.name()), j.path(filepath.Join(quarantineName, name))); err != nil {
		return j.failed("move to quarantine", s.name(), err)
	}
	j.mu.Lock()
	j.aside[name] = s.size
	j.mu.Unlock()
	return errors.Join(
		j.failed("sync", quarantineName, j.fs.SyncDir(j.path(quarantineName))),
		j.failed("sync the directory of", s.name(), j.fs.SyncDir(j.dir)))
}

func (j *Journal) makeQuarantine() error {
	return j.failed("make", quarantineName, j.fs.MakeDir(j.path(quarantineName)))
}
