package attest

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"cocoon/attest/snp"
	"cocoon/attest/tdx"
)

// otherSoftware is what a release says of a measurement that isn't one of its own.
const otherSoftware = "is other software"

// judgeMeasurement looks for the release that runs. match says what is wrong with one; "" if nothing is.
func (a *appraisal) judgeMeasurement(got string, match func(*Release) string) {
	check := Check{
		Name: nameMeasurement, Outcome: Fail, Got: got,
		Want: fmt.Sprintf("one of %s, for a %s", plural(len(a.p.Releases), "release"), a.r.Role),
	}
	for i := range a.p.Releases {
		r := &a.p.Releases[i]
		end := r.NotAfter
		if end.IsZero() {
			end = a.p.NotAfter
		}
		why := match(r)
		switch {
		case why == otherSoftware:
			continue
		case why != "":
		case r.Role != a.r.Role:
			why = "is for a " + string(r.Role)
		case !a.now.Before(end):
			why = "ended " + stamp(end)
		case check.Outcome == Fail || end.After(check.Until):
			check.Outcome, check.Until, check.Got = Pass, end, fmt.Sprintf("%s, %s", r.Name, got)
			a.r.Release = r.Name
		}
		if check.Outcome == Fail { // the nearest, if none matches
			check.Got = fmt.Sprintf("%s, but this %s", r.Name, why)
		}
	}
	a.put(check)
}

// matchSNP says what of a report doesn't match any of the release's reference values; "" if one does.
func (r *Release) matchSNP(c *snp.Claims) string {
	why := otherSoftware
	for i := range r.SNP {
		ref := &r.SNP[i]
		if !holds(ref.Measurement, c.Measurement[:]) {
			continue
		}
		switch {
		case !holds(ref.HostData, c.HostData[:]):
			why = fmt.Sprintf("has host data %x", c.HostData)
		case !holds(ref.IDKeyDigest, c.IDKeyDigest[:]):
			why = fmt.Sprintf("has ID key %x", c.IDKeyDigest)
		case !holds(ref.AuthorKeyDigest, c.AuthorKeyDigest[:]):
			why = fmt.Sprintf("has author key %x", c.AuthorKeyDigest)
		case c.GuestSVN < ref.MinGuestSVN:
			why = fmt.Sprintf("has guest SVN %d, least %d", c.GuestSVN, ref.MinGuestSVN)
		default:
			return ""
		}
	}
	return why
}

// matchTDX says what of a domain doesn't match any of the release's reference values; "" if one does.
func (r *Release) matchTDX(td *tdx.TD) string {
	why := otherSoftware
	for i := range r.TDX {
		ref := &r.TDX[i]
		if !holds(ref.MRTD, td.MRTD[:]) {
			continue
		}
		if why = ref.differs(td); why == "" {
			return ""
		}
	}
	return why
}

func (v *TDXReference) differs(td *tdx.TD) string {
	for n, values := range v.rtmrs() {
		if !slices.Contains(values, td.RTMR[n].String()) {
			return fmt.Sprintf("has RTMR%d %s", n, td.RTMR[n])
		}
	}
	switch {
	case !holds(v.MRConfigID, td.MRConfigID[:]):
		return "has MRCONFIGID " + td.MRConfigID.String()
	case !holds(v.MROwner, td.MROwner[:]):
		return "has MROWNER " + td.MROwner.String()
	case !holds(v.MROwnerConfig, td.MROwnerConfig[:]):
		return "has MROWNERCONFIG " + td.MROwnerConfig.String()
	}
	return ""
}

// holds compares a reference value, which stands for zeros if it is empty.
func holds(want string, have []byte) bool {
	if want == "" {
		want = strings.Repeat("00", len(have))
	}
	return hex.EncodeToString(have) == want
}
