package simtee

import (
	"bytes"
	"crypto/sha512"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	"cocoon/attest"
	simnvgpu "cocoon/attest/simtee/nvgpu"
	simsnp "cocoon/attest/simtee/snp"
)

// policyDays is how long a policy for simulated machines holds.
const policyDays = 30

// measurement is the reference value of the simulated release that serves as role, for one register.
func measurement(role attest.Role, register string) [48]byte {
	return sha512.Sum384([]byte("SIMULATED release " + string(role) + " " + register))
}

// rtmr is the name of a run-time register of a trust domain.
func rtmr(n int) string { return fmt.Sprint("RTMR", n) }

// PolicyYAML returns the text of an attest.Policy that admits this vendor's machines, as NewMachine makes them without
// hooks, as simulated; nothing else, and nothing as verified. Whoever opened the vendor gets the same text for all of a
// day of UTC. It holds from the day before until 30 days after that day.
func (v *Vendor) PolicyYAML(now time.Time) []byte {
	day := now.UTC().Truncate(24 * time.Hour)
	var b bytes.Buffer
	from, to := day.AddDate(0, 0, -1), day.AddDate(0, 0, policyDays+1)
	fmt.Fprintf(&b, policyHead, from.Format(time.RFC3339), to.Format(time.RFC3339))
	for _, role := range []attest.Role{attest.Worker, attest.Gateway} {
		fmt.Fprintf(&b, policyRelease, role, measurement(role, "SNP"), measurement(role, "MRTD"))
		for n := range 4 {
			fmt.Fprintf(&b, "        rtmr%d: [%x]\n", n, measurement(role, rtmr(n)))
		}
	}
	b.WriteString("snp:\n  lines:\n")
	for _, line := range lines() {
		t, mitigations := healthy(line)
		fmt.Fprintf(&b, policyLine, line, t.FMC, t.Boot, t.TEE, t.SNP, t.Microcode, mitigations)
	}
	fmt.Fprintf(&b, policyHardware, simsnp.CSPID, evaluation, simnvgpu.Driver, simnvgpu.VBIOS)
	for _, r := range v.SNPRoots() {
		fmt.Fprintf(&b, "    - {line: %s, sha256: %x}\n", r.Line, r.SHA256)
	}
	roots := v.GPURoots()
	for _, root := range []struct {
		name string
		der  []byte
	}{{"tdx", v.TDXRoot().Raw}, {"gpu", roots.Device[0].Raw}, {"rim", roots.RIM[0].Raw}} {
		text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.der}))
		fmt.Fprintf(&b, "  %s: |\n    %s\n", root.name, strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    "))
	}
	return b.Bytes()
}

// The parts of a policy's text, with the verbs for what differs.
const (
	policyHead = `# This policy admits SIMULATED machines of one simulated vendor, for development. They prove nothing.
name: simulated
not_before: %s
not_after: %s
clock_skew: 60s
releases:
`
	policyRelease = `  - name: simulated-%[1]s
    role: %[1]s
    snp:
      - measurement: %[2]x
    tdx:
      - mrtd: %[3]x
`
	policyLine = `    %s:
      min_tcb: {fmc: %d, boot: %d, tee: %d, snp: %d, microcode: %d}
      min_mitigation: %d
`
	policyHardware = `  endorsement_keys: [VCEK, VLEK]
  csps: ["%s"]
  smt: true
tdx:
  statuses: [UpToDate]
  min_tcb_evaluation: %d
gpu:
  architectures: [HOPPER, BLACKWELL]
  min_driver: {GH100: "%[3]s", GB100: "%[3]s"}
  min_vbios: {GH100: "%[4]s", GB100: "%[4]s", LS10: "%[4]s"}
  protected_pcie: true
simulated:
  admit: true
  snp:
`
)
