package tinymodel

import (
	"encoding/binary"
	"fmt"
	"math"
)

// GGUF, version 3: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
const (
	ggufVersion = 3
	ggufAlign   = 32 // bytes; the default, so no field names it

	ggufUint32  = 4
	ggufInt32   = 5
	ggufFloat32 = 6
	ggufBool    = 7
	ggufString  = 8
	ggufArray   = 9

	ggmlFloat32 = 0
	ggmlFloat16 = 1
)

// field is one entry of the file's metadata; value is a uint32, float32, bool, string, []string or []int32.
type field struct {
	key   string
	value any
}

// ggufHeader is everything before the weights, padded. Matrices are in half precision, vectors in single.
func ggufHeader(fields []field, params []*param) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32([]byte("GGUF"), ggufVersion)
	b = le.AppendUint64(b, uint64(len(params)))
	b = le.AppendUint64(b, uint64(len(fields)))
	for _, f := range fields {
		b = appendValue(appendString(b, f.key), f.value)
	}
	offset := uint64(0)
	for _, p := range params {
		dims, typ := []int{p.cols, p.rows}, uint32(ggmlFloat16) // fastest dimension first
		if p.rows == 1 {
			dims, typ = dims[:1], ggmlFloat32
		}
		b = le.AppendUint32(appendString(b, p.name), uint32(len(dims)))
		for _, d := range dims {
			b = le.AppendUint64(b, uint64(d))
		}
		b = le.AppendUint32(b, typ)
		b = le.AppendUint64(b, offset)
		size := uint64(len(p.v)) * 2
		if typ == ggmlFloat32 {
			size *= 2
		}
		offset += (size + ggufAlign - 1) / ggufAlign * ggufAlign
	}
	return pad(b)
}

// appendWeights appends the weights behind the header b.
func appendWeights(b []byte, params []*param) []byte {
	for _, p := range params {
		for _, x := range p.v {
			if p.rows == 1 {
				b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
			} else {
				b = binary.LittleEndian.AppendUint16(b, toHalf(x))
			}
		}
		b = pad(b)
	}
	return b
}

func pad(b []byte) []byte {
	return append(b, make([]byte, (ggufAlign-len(b)%ggufAlign)%ggufAlign)...)
}

func appendString(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint64(b, uint64(len(s))), s...)
}

func appendValue(b []byte, value any) []byte {
	le := binary.LittleEndian
	switch v := value.(type) {
	case uint32:
		return le.AppendUint32(le.AppendUint32(b, ggufUint32), v)
	case float32:
		return le.AppendUint32(le.AppendUint32(b, ggufFloat32), math.Float32bits(v))
	case bool:
		b = le.AppendUint32(b, ggufBool)
		if v {
			return append(b, 1)
		}
		return append(b, 0)
	case string:
		return appendString(le.AppendUint32(b, ggufString), v)
	case []string:
		b = le.AppendUint32(le.AppendUint32(b, ggufArray), ggufString)
		b = le.AppendUint64(b, uint64(len(v)))
		for _, s := range v {
			b = appendString(b, s)
		}
		return b
	case []int32:
		b = le.AppendUint32(le.AppendUint32(b, ggufArray), ggufInt32)
		b = le.AppendUint64(b, uint64(len(v)))
		for _, n := range v {
			b = le.AppendUint32(b, uint32(n))
		}
		return b
	}
	panic(fmt.Sprintf("tinymodel: internal error: metadata of type %T", value))
}

// toHalf rounds to IEEE 754 half precision, ties to even.
func toHalf(x float32) uint16 {
	bits := math.Float32bits(x)
	sign := uint16(bits >> 16 & 0x8000)
	exp := int(bits>>23&0xff) - 127 + 15
	frac := bits & 0x7fffff
	switch {
	case exp <= 0: // subnormal, or zero
		if exp < -10 {
			return sign
		}
		frac |= 0x800000
		shift := uint(14 - exp)
		r := frac >> shift
		if frac>>(shift-1)&1 == 1 && (frac&(1<<(shift-1)-1) != 0 || r&1 == 1) {
			r++
		}
		return sign | uint16(r)
	case exp >= 31:
		return sign | 0x7c00
	}
	r := uint32(exp)<<10 | frac>>13
	if frac&0x1fff > 0x1000 || frac&0x1fff == 0x1000 && r&1 == 1 {
		r++
	}
	return sign | uint16(r)
}

// fromHalf is the value of a finite half precision number.
func fromHalf(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	exp, frac := uint32(h>>10&31), uint32(h&0x3ff)
	if exp == 0 {
		v := float32(frac) / (1 << 24)
		if sign != 0 {
			v = -v
		}
		return v
	}
	return math.Float32frombits(sign | (exp+112)<<23 | frac<<13)
}
