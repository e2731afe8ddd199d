package httpparse

// Error says why a request is refused: with which status, and a sentence for the
// client (ASCII, no quotes or backslashes: it may be put into JSON as it is).
// All errors of this package are made once, so refusing allocates nothing and
// errors may be compared by address.
type Error struct {
	Status int
	Reason string
}

// Error is the sentence.
func (e *Error) Error() string { return e.Reason }

func bad(reason string) *Error { return &Error{400, reason} }

// Lines.
var (
	errBareLF     = bad("A line ends with LF without CR.")
	errBareCR     = bad("A CR is not followed by LF.")
	errEmptyLines = bad("There are too many empty lines before the request line.")
)

// The request line.
var (
	errMethod         = bad("The method is not a token.")
	errMethodLong     = &Error{501, "The method is longer than any known one."}
	errConnect        = &Error{501, "CONNECT is for proxies; this is an origin server."}
	errRequestLine    = bad("The request line is not a method, a target and a version with one space between them.")
	errTargetLong     = &Error{414, "The request target is too long."}
	errTargetByte     = bad("The request target contains a space, a control byte or a fragment.")
	errTargetForm     = bad("The request target is neither a path nor an http URI.")
	errTargetAsterisk = bad("The request target * goes with OPTIONS only.")
	errVersion        = bad("The version is not of the form HTTP/1.1.")
	errVersionMajor   = &Error{505, "Only HTTP/1.1 and HTTP/1.0 are spoken here."}
)

// The header section.
var (
	errHeadLong     = &Error{431, "The header section is too large."}
	errFieldsMany   = &Error{431, "There are too many header fields."}
	errFolded       = bad("A field line begins with a space: folded lines are obsolete.")
	errNameEmpty    = bad("A field has no name.")
	errNameByte     = bad("A field name is not a token.")
	errNameSpace    = bad("There is a space in a field name or behind it.")
	errNoColon      = bad("A field line has no colon.")
	errValueByte    = bad("A field value contains a control byte.")
	errHostMissing  = bad("The Host field is missing.")
	errHostRepeated = bad("There is more than one Host field.")
	errHostInvalid  = bad("The host is not a name or an address with an optional port.")
	errExpectation  = &Error{417, "The only expectation that is met here is 100-continue."}
)

// The length of the body.
var (
	errLengthNumber   = bad("Content-Length is not a decimal number.")
	errLengthRepeated = bad("There is more than one Content-Length.")
	errLengthOverflow = bad("Content-Length is larger than any number that can be counted to.")
	errLengthAndCoded = bad("There are both Content-Length and Transfer-Encoding.")
	errCodedBefore11  = bad("Transfer-Encoding does not exist in HTTP/1.0.")
	errCodingList     = bad("Transfer-Encoding is not a list of codings.")
	errCodingOrder    = bad("The chunked coding has to be the last one, once and without parameters.")
	errCodingUnknown  = &Error{501, "The only transfer coding that is understood here is chunked."}
	errBodyLarge      = &Error{413, "The request body is too large."}
)

// Chunks.
var (
	errChunkSize    = bad("A chunk does not begin with its size in hexadecimal digits.")
	errChunkExt     = bad("A chunk extension is malformed.")
	errChunkLong    = bad("The line that begins a chunk is too long.")
	errChunkEnd     = bad("A chunk is not followed by CR LF.")
	errChunkFraming = &Error{413, "The request body consists of too many too small chunks."}
)

// Percent-encoding.
var (
	errPercent = bad("A percent sign is not followed by two hexadecimal digits.")
	errNUL     = bad("The byte NUL is not allowed here.")
)
