package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// portsFree says at once which of the user's ports is taken, by whom, and which flag takes another one: the gateway takes
// them when the chain is up, and that is seconds away. What else is wrong with an address the gateway says.
func portsFree(opts options) error {
	for _, port := range []struct{ addr, flag string }{{opts.listen, "--listen"}, {opts.ops, "--ops"}} {
		l, err := net.Listen("tcp", port.addr)
		if err == nil {
			defer l.Close() // both are held until then: they may be the same
			continue
		}
		if op, ok := errors.AsType[*net.OpError](err); ok && errors.Is(err, syscall.EADDRINUSE) && op.Addr != nil {
			return fmt.Errorf("%s is taken%s: stop that, or choose another address with %s", op.Addr, holder(op.Addr), port.flag)
		}
	}
	return nil
}

// holder is " by process N (name)" for the one that listens on an address's port, as far as /proc tells.
func holder(a net.Addr) string {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return ""
	}
	var inodes []string
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(table)
		if err == nil {
			inodes = append(inodes, listeners(text, tcp.Port)...)
		}
	}
	for _, inode := range inodes {
		if pid := owner(inode); pid != "" {
			name, err := os.ReadFile(filepath.Join("/proc", pid, "comm"))
			if err != nil {
				return " by process " + pid
			}
			return fmt.Sprintf(" by process %s (%s)", pid, bytes.TrimSpace(name))
		}
	}
	return ""
}

// listeners is the inodes of the sockets that listen on port, from a table of /proc/net.
func listeners(table []byte, port int) []string {
	const (
		local, state, inode = 1, 3, 9 // columns
		listening           = "0A"
	)
	var found []string
	for line := range bytes.Lines(table) {
		f := strings.Fields(string(line))
		if len(f) <= inode || f[state] != listening {
			continue
		}
		_, hex, _ := strings.Cut(f[local], ":")
		if p, err := strconv.ParseUint(hex, 16, 16); err == nil && int(p) == port {
			found = append(found, f[inode])
		}
	}
	return found
}

// owner is the process that holds a socket; "" if it is another user's.
func owner(inode string) string {
	files, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return ""
	}
	for _, f := range files {
		if to, err := os.Readlink(f); err == nil && to == "socket:["+inode+"]" {
			return strings.Split(f, "/")[2]
		}
	}
	return ""
}
