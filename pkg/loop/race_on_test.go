//go:build race

package loop

// underRace: the race detector allocates, and slows everything down.
const underRace = true
