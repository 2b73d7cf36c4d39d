package tdx_test

import (
	"testing"

	"cocoon/attest/tdx"
)

// Intel's join of a platform's status with those of its components (convergeTcbStatuses).
func TestConverge(t *testing.T) {
	const (
		utd = tdx.StatusUpToDate
		ood = tdx.StatusOutOfDate
		rev = tdx.StatusRevoked
	)
	for _, x := range []struct{ platform, module, qe, want tdx.Status }{
		{utd, utd, utd, utd},
		{utd, ood, utd, ood},
		{utd, utd, ood, ood},
		{utd, ood, ood, ood},
		{utd, rev, utd, rev},
		{utd, utd, rev, rev},
		{utd, ood, rev, rev},
		{"SWHardeningNeeded", utd, utd, "SWHardeningNeeded"},
		{"SWHardeningNeeded", ood, utd, ood},
		{"ConfigurationNeeded", utd, utd, "ConfigurationNeeded"},
		{"ConfigurationNeeded", utd, ood, "OutOfDateConfigurationNeeded"},
		{"ConfigurationAndSWHardeningNeeded", ood, utd, "OutOfDateConfigurationNeeded"},
		{"ConfigurationAndSWHardeningNeeded", utd, utd, "ConfigurationAndSWHardeningNeeded"},
		{ood, utd, utd, ood},
		{ood, ood, ood, ood},
		{ood, rev, utd, rev},
		{"OutOfDateConfigurationNeeded", ood, utd, "OutOfDateConfigurationNeeded"},
		{rev, utd, utd, rev},
		{rev, ood, ood, rev},
	} {
		if got := tdx.Converge(x.platform, x.module, x.qe); got != x.want {
			t.Errorf("platform %s, module %s, QE %s: got %s, want %s", x.platform, x.module, x.qe, got, x.want)
		}
	}
}

// Intel's checkForRelaunch, and the one place where we differ.
func TestRelaunch(t *testing.T) {
	all := []tdx.Status{
		"UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded", "OutOfDate",
		"OutOfDateConfigurationNeeded", "Revoked",
	}
	const relaunch, configuration = tdx.StatusTDRelaunchAdvised, tdx.StatusTDRelaunchAdvisedConfigurationNeeded
	exceptions := map[[2]tdx.Status]tdx.Status{
		{"OutOfDate", "UpToDate"}:                          relaunch,
		{"OutOfDate", "SWHardeningNeeded"}:                 relaunch,
		{"OutOfDate", "ConfigurationNeeded"}:               configuration,
		{"OutOfDate", "ConfigurationAndSWHardeningNeeded"}: configuration,
	}
	for _, current := range all[:4] {
		exceptions[[2]tdx.Status{"OutOfDateConfigurationNeeded", current}] = configuration
		for _, now := range all[4:6] { // ours: a module that is outdated now counts, whatever launched the TD
			exceptions[[2]tdx.Status{current, now}] = now
		}
	}
	for _, launch := range all {
		for _, current := range all {
			want, ok := exceptions[[2]tdx.Status{launch, current}]
			switch {
			case launch == "Revoked" || current == "Revoked":
				want = "Revoked"
			case !ok:
				want = launch
			}
			if got := tdx.Relaunch(launch, current); got != want {
				t.Errorf("launched %s, now %s: got %s, want %s", launch, current, got, want)
			}
		}
	}
}

func TestAttributes(t *testing.T) {
	for _, x := range []struct {
		a    tdx.Attributes
		text string
	}{
		{0, "none"},
		{1, "DEBUG"},
		{1 << 28, "SEPT_VE_DISABLE"},
		{1<<29 | 1<<30 | 1<<31 | 1<<63, "MIGRATABLE|PKS|KL|PERFMON"},
		{1<<1 | 1<<28 | 1<<27, "SEPT_VE_DISABLE|0x8000002"},
	} {
		if got := x.a.String(); got != x.text {
			t.Errorf("%#x: got %s, want %s", uint64(x.a), got, x.text)
		}
	}
	a := tdx.Attributes(1<<7 | 1<<29 | 1<<62)
	if !a.UnderDebug() || !a.Migratable() || a.SEPTVEDisable() || a.PKS() || a.KL() || a.Perfmon() || a.Unknown() != 1<<62 {
		t.Errorf("%s is read wrongly; unknown %#x", a, uint64(a.Unknown()))
	}
	if tdx.Attributes(1<<28|1<<30|1<<31|1<<63).UnderDebug() || !tdx.AttrPerfmon.Perfmon() || !tdx.AttrKL.KL() {
		t.Error("attributes that are no debugging count as such")
	}
}

func TestIntelRoot(t *testing.T) {
	root, err := tdx.IntelRoot()
	if err != nil {
		t.Fatal(err)
	}
	if err := root.CheckSignatureFrom(root); err != nil || root.Subject.CommonName != "Intel SGX Root CA" {
		t.Errorf("got %s, %v", root.Subject, err)
	}
}
