//go:build unix

package tunnel

import (
	"net"
	"syscall"
)

// quiet says that the peer of an idle connection has neither closed it nor sent anything. It costs one system call.
func quiet(c net.Conn) bool {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return true // not a socket
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	calm := false
	err = rc.Read(func(fd uintptr) bool {
		var b [1]byte
		for {
			_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK)
			if err != syscall.EINTR { //nolint:errorlint // bare from the kernel
				calm = err == syscall.EAGAIN //nolint:errorlint // likewise
				return true                  // never wait: sockets of net do not block
			}
		}
	})
	return err == nil && calm
}
