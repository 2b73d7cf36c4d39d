package h1

const (
	// sizeDigitsMax bounds a chunk's size to 4 GiB; servers' chunks are some KiB.
	sizeDigitsMax = 8
	// extensionMax bounds what may follow a chunk's size, bytes. Nobody uses extensions.
	extensionMax = 64
	// excessMax is net/http's bound on framing that carries no data, bytes, so that both end such a stream alike.
	excessMax = 16 << 10
)

type chunkAt uint8

// Where in the framing the next byte belongs.
const (
	chunkSize   chunkAt = iota // first digit of a size
	chunkDigits                // further digits
	chunkExt                   // extension
	chunkSizeLF                // LF that ends the size line
	chunkData
	chunkDataCR // CRLF after the data
	chunkDataLF
	chunkLastCR // the empty line after the last chunk: trailers are refused
	chunkLastLF
	chunkEnd
)

// chunkState follows the chunked coding byte by byte, so that it can stop and go on anywhere.
type chunkState struct {
	at     chunkAt
	digits int
	ext    int
	left   int64 // data bytes of this chunk to come
	excess int64 // see excessMax
}

func (s *chunkState) decode(dst, src []byte) (n, used int, err error) {
	for used < len(src) && s.at != chunkEnd {
		if s.at == chunkData {
			if n == len(dst) {
				return n, used, nil
			}
			k := copy(dst[n:], src[used:min(int64(len(src)), int64(used)+s.left)])
			n, used, s.left = n+k, used+k, s.left-int64(k)
			if s.left == 0 {
				s.at = chunkDataCR
			}
			continue
		}
		if err := s.step(src[used]); err != nil {
			return n, used, err
		}
		used++
	}
	return n, used, nil
}

// step takes one byte of framing.
func (s *chunkState) step(b byte) error {
	switch s.at {
	case chunkSize, chunkDigits:
		return s.sizeByte(b)
	case chunkExt:
		if b == '\r' {
			s.at = chunkSizeLF
			return nil
		}
		if s.ext++; s.ext > extensionMax || b < ' ' && b != '\t' || b >= 0x7f {
			return malformed("chunk extension")
		}
	case chunkSizeLF:
		if b != '\n' {
			return malformed("chunk size line")
		}
		return s.sized()
	case chunkDataCR, chunkLastCR:
		if b != '\r' {
			return malformed("chunk end")
		}
		s.at++ // to the LF of the same pair
	case chunkDataLF, chunkLastLF:
		if b != '\n' {
			return malformed("chunk end")
		}
		if s.at == chunkLastLF {
			s.at = chunkEnd
		} else {
			s.at, s.digits, s.ext = chunkSize, 0, 0
		}
	}
	return nil
}

func (s *chunkState) sizeByte(b byte) error {
	if d := hexDigit(b); d >= 0 && s.digits < sizeDigitsMax {
		s.left = s.left<<4 | d
		s.digits++
		s.at = chunkDigits
		return nil
	}
	switch {
	case s.at == chunkSize:
		return malformed("chunk size")
	case b == '\r':
		s.at = chunkSizeLF
	case b == ';':
		s.at, s.ext = chunkExt, 1
	default:
		return malformed("chunk size")
	}
	return nil
}

// sized is at the end of a size line.
func (s *chunkState) sized() error {
	if s.left == 0 {
		s.at = chunkLastCR
		return nil
	}
	line := s.digits + s.ext // without CRLF; see net/http/internal.chunkedReader.beginChunk
	s.excess = max(0, s.excess+int64(line)+2-16-2*s.left)
	if s.excess > excessMax {
		return malformed("chunks of framing without data")
	}
	s.at = chunkData
	return nil
}

func hexDigit(b byte) int64 {
	switch {
	case '0' <= b && b <= '9':
		return int64(b - '0')
	case 'a' <= b && b <= 'f':
		return int64(b-'a') + 10
	case 'A' <= b && b <= 'F':
		return int64(b-'A') + 10
	}
	return -1
}
