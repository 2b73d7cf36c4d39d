package main

import (
	"fmt"
	"math"
	"strings"
)

// plot is a line chart.
type plot struct {
	title, x, y string
	top         float64 // the highest y that is shown; 0: as high as the lines
	lines       []line
}

// line is one line of a chart. A strong one is ours.
type line struct {
	name   string
	x, y   []float64
	strong bool
	dashed bool
}

// The chart's measures, pixels.
const (
	plotWidth, plotHeight = 800.0, 400.0
	left, right           = 64.0, 226.0
	above, below          = 40.0, 48.0
	legendStep            = 20.0
)

// palette has colours that can be told apart on white and on black.
func palette() []string {
	return []string{
		"#d1495b", "#e8a33d", "#8e6bbf", "#3a9d5d", "#888888", "#b5651d", "#5f7f95", "#c2649a", "#7a9a01", "#00a3a3", "#2e86ab",
		"#6b4f3a", "#e377c2",
	}
}

// style makes text and axes follow the reader's light or dark mode.
const style = `<style>
text{font:12px system-ui,sans-serif;fill:#333}.t{font-size:14px;font-weight:600}.a{stroke:#888;stroke-width:1;fill:none}
.g{stroke:#888;stroke-opacity:.25;stroke-width:1}.l{fill:none;stroke-width:1.6;stroke-linejoin:round}.s{stroke-width:3.2}
.b{fill:#fff}@media(prefers-color-scheme:dark){text{fill:#ddd}.b{fill:#0d1117}}
</style>`

// svg draws the chart.
func (p *plot) svg() string {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" width="%g" height="%g" role="img" `+
		`aria-label="%s">`, plotWidth, plotHeight, plotWidth, plotHeight, escape(p.title))
	fmt.Fprintf(&b, "\n%s\n<rect class=\"b\" width=\"100%%\" height=\"100%%\"/>\n", style)
	low, high, top := p.bounds()
	w, h := plotWidth-left-right, plotHeight-above-below
	atX := func(x float64) float64 { return left + w*(x-low)/(high-low) }
	atY := func(y float64) float64 { return above + h*(1-min(y, top)/top) }
	fmt.Fprintf(&b, "<text class=\"t\" x=\"%g\" y=\"22\">%s</text>\n", left, escape(p.title))
	for _, y := range ticks(top) {
		fmt.Fprintf(&b, "<path class=\"g\" d=\"M%g %.1fh%g\"/><text x=\"%g\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n",
			left, atY(y), w, left-6, atY(y)+4, number(y))
	}
	step := ticks(high - low)[1]
	for x := step * math.Ceil(low/step); x <= high+step/1000; x += step {
		fmt.Fprintf(&b, "<path class=\"a\" d=\"M%.1f %gv5\"/><text x=\"%.1f\" y=\"%g\" text-anchor=\"middle\">%s</text>\n",
			atX(x), above+h, atX(x), above+h+19, number(x))
	}
	fmt.Fprintf(&b, "<path class=\"a\" d=\"M%g %gv%gh%g\"/>\n", left, above, h, w)
	fmt.Fprintf(&b, "<text x=\"%g\" y=\"%g\" text-anchor=\"middle\">%s</text>\n", left+w/2, plotHeight-10, escape(p.x))
	fmt.Fprintf(&b, "<text transform=\"translate(16 %g) rotate(-90)\" text-anchor=\"middle\">%s</text>\n", above+h/2, escape(p.y))
	fmt.Fprintf(&b, "<clipPath id=\"c\"><rect x=\"%g\" y=\"%g\" width=\"%g\" height=\"%g\"/></clipPath>\n", left, above-2, w, h+2)
	for i, l := range p.lines {
		colour, class, dash := palette()[i%len(palette())], "l", ""
		if l.strong {
			class = "l s"
		}
		if l.dashed {
			dash = ` stroke-dasharray="5 4"`
		}
		var d strings.Builder
		letter := "M"
		for k := range l.x {
			if math.IsNaN(l.y[k]) {
				continue
			}
			y := above + h*(1-min(l.y[k], 3*top)/top) // what is above leaves the frame at its true slope, nearly
			fmt.Fprintf(&d, "%s%.1f %.1f", letter, atX(l.x[k]), y)
			letter = "L"
		}
		fmt.Fprintf(&b, "<path class=\"%s\" stroke=\"%s\"%s clip-path=\"url(#c)\" d=\"%s\"/>\n", class, colour, dash, d.String())
		y := above + 8 + legendStep*float64(i)
		fmt.Fprintf(&b, "<path class=\"%s\" stroke=\"%s\"%s d=\"M%g %gh22\"/><text x=\"%g\" y=\"%g\">%s</text>\n",
			class, colour, dash, plotWidth-right+14, y, plotWidth-right+42, y+4, escape(l.name))
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// bounds are the ends of the axes.
func (p *plot) bounds() (low, high, top float64) {
	low, high, top = math.Inf(1), math.Inf(-1), p.top
	for _, l := range p.lines {
		for i := range l.x {
			low, high = min(low, l.x[i]), max(high, l.x[i])
			if p.top == 0 && !math.IsNaN(l.y[i]) {
				top = max(top, l.y[i]*1.05)
			}
		}
	}
	if top <= 0 {
		top = 1
	}
	if high <= low {
		high = low + 1
	}
	return low, high, top
}

// ticks are round numbers from zero to the top.
func ticks(top float64) (t []float64) {
	step := math.Pow(10, math.Floor(math.Log10(top)))
	for _, part := range []float64{0.1, 0.2, 0.25, 0.5, 1} {
		if top/(step*part) <= 8 {
			step *= part
			break
		}
	}
	for i := 0; float64(i)*step <= top*1.0001; i++ {
		t = append(t, float64(i)*step)
	}
	return t
}

func number(x float64) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.3f", x), "0"), ".")
}

func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;").Replace(s)
}
