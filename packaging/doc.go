// Package packaging holds no code: it is the folder of what a package of queend
// installs beside the program. Its tests have systemd judge the unit, and hold the
// example of the settings against the program's own list.
package packaging
