package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"rsc.io/qr"

	"cocoon/internal/terminal"
)

// quietZone is the light margin that readers of QR codes need, modules.
const quietZone = 4

// showQR draws a text as a QR code, if a person looks at it.
func showQR(out *os.File, text string) error {
	if !terminal.Is(out) {
		return nil
	}
	return drawQR(out, text)
}

// drawQR draws two rows of modules in each line. Dark and light are set, for a reader wants dark on light and terminals have
// either.
func drawQR(out io.Writer, text string) error {
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		return fmt.Errorf("drawing a QR code: %w", err)
	}
	var b strings.Builder
	for y := -quietZone; y < code.Size+quietZone; y += 2 {
		b.WriteString("\x1b[30;107m") // black on bright white
		for x := -quietZone; x < code.Size+quietZone; x++ {
			switch upper, lower := code.Black(x, y), code.Black(x, y+1); {
			case upper && lower:
				b.WriteString("█")
			case upper:
				b.WriteString("▀")
			case lower:
				b.WriteString("▄")
			default:
				b.WriteString(" ")
			}
		}
		b.WriteString("\x1b[0m\n")
	}
	_, err = io.WriteString(out, b.String())
	return err
}
