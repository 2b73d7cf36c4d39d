//go:build linux

package main

import (
	"debug/buildinfo"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// machine describes what a run ran on, and what it measured.
type machine struct {
	Time     time.Time `json:"time"`
	CPU      string    `json:"cpu"`
	Cores    int       `json:"cores"`
	MemoryMB int64     `json:"memory_mb"`
	Kernel   string    `json:"kernel"`
	Load     string    `json:"load_before"` // /proc/loadavg: what the machine did before the run
	Go       string    `json:"go"`          // that built the gateway
	Commit   string    `json:"commit"`      // of the gateway; "+dirty" with uncommitted changes
	Nginx    string    `json:"nginx,omitempty"`
}

func describe(bin string) machine {
	m := machine{
		Time: time.Now().UTC().Truncate(time.Second), Cores: runtime.NumCPU(), Go: runtime.Version(), Commit: "unknown",
		CPU: procField("/proc/cpuinfo", "model name"), Kernel: firstLine("/proc/sys/kernel/osrelease"),
		Load: firstLine("/proc/loadavg"),
	}
	if f := strings.Fields(procField("/proc/meminfo", "MemTotal")); len(f) > 0 {
		m.MemoryMB = statInt(f, 0) / 1024
	}
	if info, err := buildinfo.ReadFile(filepath.Join(bin, gatewayBinary)); err == nil {
		m.Go = info.GoVersion
		m.Commit = commit(info)
	}
	if path, err := nginxPath(); err == nil {
		if out, err := exec.Command(path, "-v").CombinedOutput(); err == nil {
			m.Nginx = strings.TrimPrefix(strings.TrimSpace(string(out)), "nginx version: ")
		}
	}
	return m
}

func commit(info *buildinfo.BuildInfo) string {
	text, dirty := "unknown", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			text = s.Value[:min(len(s.Value), 12)]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+dirty"
		}
	}
	return text + dirty
}

func firstLine(path string) string {
	text, _ := os.ReadFile(path) // unreadable: described as nothing
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSpace(line)
}

// procField is the value of the first "name : value" line.
func procField(path, name string) string {
	text, _ := os.ReadFile(path) // unreadable: described as nothing
	for line := range strings.Lines(string(text)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
