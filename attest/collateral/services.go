package collateral

import (
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
)

// folder is where a daemon keeps its cache, below its data folder.
const folder = "collateral"

// Services is the part of a daemon's configuration that says where collateral comes from.
type Services struct {
	// Offline asks nobody: what does not come with the evidence and is not in the cache is missing, and the machine that
	// needs it is refused. Default false.
	Offline bool `yaml:"offline"`
	// KDS, PCS, RIM and OCSP are base URLs of mirrors of AMD's key distribution service, Intel's provisioning
	// certification service (a PCCS), NVIDIA's RIM service and OCSP responder; IntelCRL is where IntelSGXRootCA.der lies.
	// "off" never asks that one. Default: the vendors' own.
	KDS      string `yaml:"kds"`
	PCS      string `yaml:"pcs"`
	IntelCRL string `yaml:"intel_crl"`
	RIM      string `yaml:"rim"`
	OCSP     string `yaml:"ocsp"`
}

// Check names the first field that is no URL.
func (s Services) Check() error {
	for _, f := range []struct{ name, url string }{
		{"kds", s.KDS}, {"pcs", s.PCS}, {"intel_crl", s.IntelCRL}, {"rim", s.RIM}, {"ocsp", s.OCSP},
	} {
		if f.url == "" || f.url == Off {
			continue
		}
		if u, err := url.Parse(f.url); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("%s: want an http or https URL, or off", f.name)
		}
	}
	return nil
}

// Config is that of a store which keeps what it fetches below the data folder.
func (s Services) Config(dataDir string, log *slog.Logger) Config {
	if s.Offline {
		s = Services{Offline: true, KDS: Off, PCS: Off, IntelCRL: Off, RIM: Off, OCSP: Off}
	}
	return Config{
		Dir: filepath.Join(dataDir, folder), KDS: s.KDS, PCS: s.PCS, IntelCRL: s.IntelCRL, RIM: s.RIM, OCSP: s.OCSP, Log: log,
	}
}
