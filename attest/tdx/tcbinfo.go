package tdx

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// What Intel calls the documents that TDX needs (PCS API v4, "TCB Info in TDX" and "Enclave Identity").
const (
	tcbInfoID         = "TDX"
	tcbInfoVersion    = 3
	qeIdentityID      = "TD_QE"
	qeIdentityVersion = 2
)

// tcbInfo is the TCB info of a platform model, version 3.
type tcbInfo struct {
	ID         string           `json:"id"`
	Version    int              `json:"version"`
	IssueDate  time.Time        `json:"issueDate"`
	NextUpdate time.Time        `json:"nextUpdate"`
	FMSPC      hexText          `json:"fmspc"`
	PCEID      hexText          `json:"pceId"`
	TCBType    *int             `json:"tcbType"`
	Evaluation int              `json:"tcbEvaluationDataNumber"`
	Module     *moduleIdentity  `json:"tdxModule"`
	Modules    []moduleIdentity `json:"tdxModuleIdentities"`
	Levels     []tcbLevel       `json:"tcbLevels"`
}

// moduleIdentity describes the TDX modules of one major version; tdxModule, without ID and levels, those of version 0.
type moduleIdentity struct {
	ID         string     `json:"id"`
	MRSigner   hexText    `json:"mrsigner"`
	Attributes hexText    `json:"attributes"`
	Mask       hexText    `json:"attributesMask"`
	Levels     []tcbLevel `json:"tcbLevels"`
}

// qeIdentity describes Intel's quoting enclave for TDs, version 2.
type qeIdentity struct {
	ID             string     `json:"id"`
	Version        int        `json:"version"`
	IssueDate      time.Time  `json:"issueDate"`
	NextUpdate     time.Time  `json:"nextUpdate"`
	Evaluation     int        `json:"tcbEvaluationDataNumber"`
	MiscSelect     hexText    `json:"miscselect"`
	MiscSelectMask hexText    `json:"miscselectMask"`
	Attributes     hexText    `json:"attributes"`
	AttributesMask hexText    `json:"attributesMask"`
	MRSigner       hexText    `json:"mrsigner"`
	ProdID         *uint16    `json:"isvprodid"`
	Levels         []tcbLevel `json:"tcbLevels"`
}

// tcbLevel is one level of a platform (components and PCESVN) or of an enclave or module (ISVSVN). Levels come best
// first.
type tcbLevel struct {
	TCB struct {
		SGX    []component `json:"sgxtcbcomponents"`
		TDX    []component `json:"tdxtcbcomponents"`
		PCESVN *uint16     `json:"pcesvn"`
		ISVSVN *uint16     `json:"isvsvn"`
	} `json:"tcb"`
	Date       time.Time `json:"tcbDate"`
	Status     Status    `json:"tcbStatus"`
	Advisories []string  `json:"advisoryIDs"`
}

type component struct {
	SVN *uint8 `json:"svn"`
}

// hexText is bytes that JSON has as hexadecimal digits, of either case: Intel uses both.
type hexText []byte

// UnmarshalText reads hexadecimal digits.
func (h *hexText) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// parseTCBInfo reads the text of a TCB info and checks that all that the evaluation uses is there.
func parseTCBInfo(text []byte) (*tcbInfo, error) {
	t := &tcbInfo{}
	if err := json.Unmarshal(text, t); err != nil {
		return nil, err
	}
	switch {
	case t.ID != tcbInfoID || t.Version != tcbInfoVersion:
		return nil, fmt.Errorf("document is %s version %d, want %s version %d", trim(t.ID), t.Version, tcbInfoID,
			tcbInfoVersion)
	case t.TCBType == nil || *t.TCBType != 0:
		return nil, errors.New("tcbType is not 0: it says how to compare CPUSVNs")
	case len(t.FMSPC) != 6 || len(t.PCEID) != 2:
		return nil, errors.New("FMSPC or PCE ID has the wrong size")
	case t.Module == nil:
		return nil, errors.New("tdxModule is missing")
	case len(t.Levels) == 0:
		return nil, errors.New("tcbLevels is empty")
	}
	if err := t.Module.check(); err != nil {
		return nil, fmt.Errorf("reading tdxModule: %w", err)
	}
	for i := range t.Modules {
		m := &t.Modules[i]
		if err := errors.Join(m.check(), checkLevels(m.Levels)); err != nil {
			return nil, fmt.Errorf("reading TDX module identity %s: %w", trim(m.ID), err)
		}
	}
	for i := range t.Levels {
		if err := t.Levels[i].checkPlatform(); err != nil {
			return nil, fmt.Errorf("reading TCB level %d: %w", i+1, err)
		}
	}
	return t, nil
}

// parseQEIdentity is parseTCBInfo for the QE identity.
func parseQEIdentity(text []byte) (*qeIdentity, error) {
	q := &qeIdentity{}
	if err := json.Unmarshal(text, q); err != nil {
		return nil, err
	}
	switch {
	case q.ID != qeIdentityID || q.Version != qeIdentityVersion:
		return nil, fmt.Errorf("document is %s version %d, want %s version %d", trim(q.ID), q.Version, qeIdentityID,
			qeIdentityVersion)
	case len(q.MiscSelect) != 4 || len(q.MiscSelectMask) != 4 || len(q.Attributes) != 16 || len(q.AttributesMask) != 16:
		return nil, errors.New("MISCSELECT, ATTRIBUTES or a mask has the wrong size")
	case len(q.MRSigner) != 32 || q.ProdID == nil:
		return nil, errors.New("MRSIGNER or ISVPRODID is missing")
	}
	return q, checkLevels(q.Levels)
}

func (m *moduleIdentity) check() error {
	if len(m.MRSigner) != 48 || len(m.Attributes) != 8 || len(m.Mask) != 8 {
		return errors.New("MRSIGNER, ATTRIBUTES or mask has the wrong size")
	}
	return nil
}

// checkLevels checks the levels of a module or an enclave.
func checkLevels(levels []tcbLevel) error {
	if len(levels) == 0 {
		return errors.New("tcbLevels is empty")
	}
	for i, l := range levels {
		switch {
		case l.TCB.ISVSVN == nil || l.Date.IsZero():
			return fmt.Errorf("level %d has no SVN or date", i+1)
		case !l.Status.ofComponent():
			return fmt.Errorf("level %d has status %s", i+1, trim(string(l.Status)))
		}
	}
	return nil
}

// checkPlatform checks one level of a platform.
func (l *tcbLevel) checkPlatform() error {
	bare := func(c component) bool { return c.SVN == nil }
	switch {
	case len(l.TCB.SGX) != 16 || len(l.TCB.TDX) != 16 || slices.ContainsFunc(l.TCB.SGX, bare) ||
		slices.ContainsFunc(l.TCB.TDX, bare):
		return errors.New("it has other than 16 components with an SVN each")
	case l.TCB.PCESVN == nil || l.Date.IsZero():
		return errors.New("it has no PCESVN or date")
	case !l.Status.ofPlatform():
		return fmt.Errorf("it has status %s", trim(string(l.Status)))
	}
	return nil
}
