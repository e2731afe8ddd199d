package queue

import "time"

// A request is one transaction, whole, whatever its size, so a large one gets more
// time than the one deadline that all others have. The rates are those of a slow
// machine that has other things to do.
const (
	AllowanceRowsFree  = 1000    // messages that need no allowance
	AllowanceBytesFree = 1 << 20 // bytes that need none
	AllowanceMax       = 30 * time.Second

	allowanceEachRow  = 200 * time.Microsecond
	allowanceEachByte = 125 * time.Nanosecond // 8 MB/s
)

// Allowance is how much longer than usual so many messages of so many bytes (Op.Cost)
// may take: 0 for all but large requests, at most AllowanceMax.
func Allowance(rows, bytes int) time.Duration {
	allowance := time.Duration(max(rows-AllowanceRowsFree, 0)) * allowanceEachRow
	allowance += time.Duration(max(bytes-AllowanceBytesFree, 0)) * allowanceEachByte
	return min(allowance, AllowanceMax)
}
