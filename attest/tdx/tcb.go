package tdx

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Status is Intel's rating of a TCB (PCS API v4, tcbStatus; the last two are results of the quote verification only).
type Status string

// The statuses.
const (
	StatusUpToDate                             Status = "UpToDate"
	StatusSWHardeningNeeded                    Status = "SWHardeningNeeded"
	StatusConfigurationNeeded                  Status = "ConfigurationNeeded"
	StatusConfigurationAndSWHardeningNeeded    Status = "ConfigurationAndSWHardeningNeeded"
	StatusOutOfDate                            Status = "OutOfDate"
	StatusOutOfDateConfigurationNeeded         Status = "OutOfDateConfigurationNeeded"
	StatusRevoked                              Status = "Revoked"
	StatusTDRelaunchAdvised                    Status = "TDRelaunchAdvised"
	StatusTDRelaunchAdvisedConfigurationNeeded Status = "TDRelaunchAdvisedConfigurationNeeded"
)

// ofComponent tells whether modules and enclaves can have the status.
func (s Status) ofComponent() bool {
	return s == StatusUpToDate || s == StatusOutOfDate || s == StatusRevoked
}

// ofPlatform tells whether a platform's level can have the status.
func (s Status) ofPlatform() bool {
	return s.ofComponent() || s.current() || s == StatusOutOfDateConfigurationNeeded
}

// current tells whether the TCB has all of Intel's updates.
func (s Status) current() bool {
	switch s {
	case StatusUpToDate, StatusSWHardeningNeeded, StatusConfigurationNeeded, StatusConfigurationAndSWHardeningNeeded:
		return true
	}
	return false
}

// outOfDate tells whether an update is missing.
func (s Status) outOfDate() bool {
	return s == StatusOutOfDate || s == StatusOutOfDateConfigurationNeeded
}

// wantsConfiguration tells whether the platform's configuration is at fault.
func (s Status) wantsConfiguration() bool {
	switch s {
	case StatusConfigurationNeeded, StatusConfigurationAndSWHardeningNeeded, StatusOutOfDateConfigurationNeeded:
		return true
	}
	return false
}

// TCB is how current a platform, its TDX module and its quoting enclave are.
type TCB struct {
	Status     Status    // of all together
	Date       time.Time // the earliest of the levels that were reached
	Advisories []string  // Intel's advisories for those levels, sorted

	Launch  Evaluation  // with the TDX module that launched the TD (TEE_TCB_SVN)
	Current *Evaluation // with the module that runs now (TEE_TCB_SVN_2); nil for TD reports 1.0, which don't say
}

// Evaluation is the rating of one set of SVNs.
type Evaluation struct {
	Status   Status // of the three
	Platform Level
	Module   Level // UpToDate without a date for modules of major version 0: the platform's level rates them
	QE       Level
}

// Level is the level of the collateral that a part of the TCB reaches.
type Level struct {
	Status     Status
	Date       time.Time
	Advisories []string
}

func (l *tcbLevel) level() Level { return Level{l.Status, l.Date, l.Advisories} }

// evaluator rates SVNs by verified collateral.
type evaluator struct {
	info     *tcbInfo
	qe       *qeIdentity
	platform *Platform
	qeSVN    uint16
}

// evaluateTCB rates a TD by Intel's algorithm: "Intel TDX DCAP Quoting Library API", quote verification, steps
// 4.1.2.5.19 and .20, as Intel's Quote Verification Library does it (tdxEvaluateTCB, checkForRelaunch). A TD that was
// launched by an outdated module which has been updated under it since is not simply OutOfDate: it should be
// relaunched. We are stricter where the module that runs now is the worse of the two: Intel reports the launch's
// status, we the current one's.
func (e *evaluator) evaluateTCB(td *TD) (*TCB, error) {
	launch, err := e.evaluate(td.TEETCBSVN)
	if err != nil {
		return nil, err
	}
	t := &TCB{Status: launch.Status, Launch: *launch}
	all := []Level{launch.Platform, launch.Module, launch.QE}
	if td.V15 {
		if t.Current, err = e.evaluate(td.TEETCBSVN2); err != nil {
			return nil, err
		}
		t.Status = relaunch(launch.Status, t.Current.Status)
		all = append(all, t.Current.Platform, t.Current.Module, t.Current.QE)
	}
	for _, l := range all {
		if !l.Date.IsZero() && (t.Date.IsZero() || l.Date.Before(t.Date)) {
			t.Date = l.Date
		}
		t.Advisories = append(t.Advisories, l.Advisories...)
	}
	slices.Sort(t.Advisories)
	t.Advisories = slices.Compact(t.Advisories)
	if t.Status == StatusRevoked {
		return nil, refuse(CheckTCBStatus, describe(t), "no part revoked", nil)
	}
	return t, nil
}

// relaunch joins the statuses at launch and now.
func relaunch(launch, current Status) Status {
	switch {
	case launch == StatusRevoked || current == StatusRevoked:
		return StatusRevoked
	case launch.outOfDate() && current.current():
		if launch.wantsConfiguration() || current.wantsConfiguration() {
			return StatusTDRelaunchAdvisedConfigurationNeeded
		}
		return StatusTDRelaunchAdvised
	case launch.current() && current.outOfDate():
		return current
	}
	return launch
}

// evaluate rates one set of the TDX module's SVNs together with the platform's and the QE's.
func (e *evaluator) evaluate(svn SVNs) (*Evaluation, error) {
	var r Evaluation
	var err error
	if r.Platform, err = e.platformLevel(svn); err != nil {
		return nil, err
	}
	if r.Module, err = e.moduleLevel(svn); err != nil {
		return nil, err
	}
	if r.QE, err = isvLevel(e.qe.Levels, e.qeSVN, "the quoting enclave's"); err != nil {
		return nil, err
	}
	r.Status = converge(r.Platform.Status, r.Module.Status, r.QE.Status)
	return &r, nil
}

// converge joins a platform's status with those of components: an outdated component makes a current platform outdated,
// a revoked one revokes it.
func converge(platform Status, components ...Status) Status {
	s := platform
	if slices.Contains(components, StatusOutOfDate) && platform.current() {
		s = StatusOutOfDate
		if platform.wantsConfiguration() {
			s = StatusOutOfDateConfigurationNeeded
		}
	}
	if slices.Contains(components, StatusRevoked) {
		s = StatusRevoked
	}
	return s
}

// platformLevel finds the first level that CPUSVN, PCESVN and the TDX SVNs all reach. From major version 1 on a
// module's own SVN and version, the first two, are rated by its identity instead.
func (e *evaluator) platformLevel(svn SVNs) (Level, error) {
	from := 0
	if svn[1] > 0 {
		from = 2
	}
	for i := range e.info.Levels {
		l := &e.info.Levels[i]
		if reaches(e.platform.CPUSVN, l.TCB.SGX, 0) && e.platform.PCESVN >= *l.TCB.PCESVN &&
			reaches(svn, l.TCB.TDX, from) {
			return l.level(), nil
		}
	}
	got := fmt.Sprintf("CPUSVN %s, PCESVN %d, TEE_TCB_SVN %s", e.platform.CPUSVN, e.platform.PCESVN, svn)
	want := fmt.Sprintf("one of the %d levels of TCB info %x", len(e.info.Levels), []byte(e.info.FMSPC))
	return Level{}, refuse(CheckTCBLevel, got, want, nil)
}

// reaches tells whether each SVN from the given one on is as high as the level's.
func reaches(have SVNs, level []component, from int) bool {
	for i := from; i < len(have); i++ {
		if have[i] < *level[i].SVN {
			return false
		}
	}
	return true
}

func (e *evaluator) moduleLevel(svn SVNs) (Level, error) {
	if svn[1] == 0 {
		return Level{Status: StatusUpToDate}, nil
	}
	m, err := e.info.module(svn)
	if err != nil {
		return Level{}, err
	}
	return isvLevel(m.Levels, uint16(svn[0]), "TDX module "+m.ID+"'s")
}

// module finds the identity of a module's major version.
func (t *tcbInfo) module(svn SVNs) (*moduleIdentity, error) {
	if svn[1] == 0 {
		return t.Module, nil
	}
	id := fmt.Sprintf("TDX_%02x", svn[1])
	var known []string
	for i := range t.Modules {
		if strings.EqualFold(t.Modules[i].ID, id) {
			return &t.Modules[i], nil
		}
		known = append(known, t.Modules[i].ID)
	}
	return nil, refuse(CheckModule, id, fmt.Sprintf("one of the TCB info's, %q", known), nil)
}

func isvLevel(levels []tcbLevel, svn uint16, whose string) (Level, error) {
	for i := range levels {
		if svn >= *levels[i].TCB.ISVSVN {
			return levels[i].level(), nil
		}
	}
	return Level{}, refuse(CheckTCBLevel, fmt.Sprintf("%s SVN %d", whose, svn),
		fmt.Sprintf("at least %d", *levels[len(levels)-1].TCB.ISVSVN), nil)
}

// checkModule checks the TDX module against its identity (step 4.1.2.5.12): signed by Intel, no attribute set. Intel
// requires zero attributes whatever the mask.
func (t *tcbInfo) checkModule(td *TD) error {
	m, err := t.module(td.TEETCBSVN)
	if err != nil {
		return err
	}
	if !bytes.Equal(m.MRSigner, td.MRSignerSEAM[:]) {
		return refuse(CheckModule, "MRSIGNERSEAM "+td.MRSignerSEAM.String(), fmt.Sprintf("%x", []byte(m.MRSigner)), nil)
	}
	if td.SEAMAttributes != 0 || !zero(m.Attributes) {
		return refuse(CheckModule, fmt.Sprintf("SEAMATTRIBUTES %#x", td.SEAMAttributes),
			fmt.Sprintf("zero, and the identity's %x", []byte(m.Attributes)), nil)
	}
	return nil
}

// check checks the quoting enclave against its identity (steps 4.1.2.9.5 to .8).
func (q *qeIdentity) check(e *enclaveReport) error {
	if !masked(e.miscSelect, q.MiscSelect, q.MiscSelectMask) {
		return refuse(CheckQE, fmt.Sprintf("MISCSELECT %x", e.miscSelect),
			fmt.Sprintf("%x under mask %x", []byte(q.MiscSelect), []byte(q.MiscSelectMask)), nil)
	}
	if !masked(e.attributes, q.Attributes, q.AttributesMask) {
		return refuse(CheckQE, fmt.Sprintf("ATTRIBUTES %x", e.attributes),
			fmt.Sprintf("%x under mask %x", []byte(q.Attributes), []byte(q.AttributesMask)), nil)
	}
	if !bytes.Equal(e.mrSigner[:], q.MRSigner) {
		return refuse(CheckQE, fmt.Sprintf("MRSIGNER %x", e.mrSigner), fmt.Sprintf("%x", []byte(q.MRSigner)), nil)
	}
	if e.prodID != *q.ProdID {
		return refuse(CheckQE, fmt.Sprintf("ISVPRODID %d", e.prodID), fmt.Sprint(*q.ProdID), nil)
	}
	return nil
}

// masked tells whether have has want's bits where mask has ones.
func masked(have, want, mask []byte) bool {
	for i := range have {
		if have[i]&mask[i] != want[i] {
			return false
		}
	}
	return true
}

// describe says what each part's status is.
func describe(t *TCB) string {
	say := func(e *Evaluation) string {
		return fmt.Sprintf("platform %s, module %s, QE %s", e.Platform.Status, e.Module.Status, e.QE.Status)
	}
	text := string(t.Status) + " (" + say(&t.Launch)
	if t.Current != nil {
		text += "; now " + say(t.Current)
	}
	return text + ")"
}
