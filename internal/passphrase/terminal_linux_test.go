package passphrase_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"cocoon/internal/passphrase"
)

// openTerminal makes a terminal: its far side, where a person sits, and the program's.
func openTerminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("no terminals here:", err)
	}
	t.Cleanup(func() { person.Close() })
	unlocked, number := int32(0), int32(0)
	for request, at := range map[uintptr]*int32{syscall.TIOCSPTLCK: &unlocked, syscall.TIOCGPTN: &number} {
		if _, _, no := syscall.Syscall(syscall.SYS_IOCTL, person.Fd(), request, uintptr(unsafe.Pointer(at))); no != 0 {
			t.Fatal(no)
		}
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return person, program
}

// typist waits for each prompt and types an answer; what the terminal showed is in the channel when it was closed.
func typist(t *testing.T, person *os.File, answers ...string) <-chan string {
	t.Helper()
	shown := make(chan string, 1)
	go func() {
		var all strings.Builder
		defer func() { shown <- all.String() }()
		buf := make([]byte, 100)
		for prompts := 0; ; {
			n, err := person.Read(buf)
			if err != nil {
				return
			}
			all.Write(buf[:n])
			for ; strings.Count(all.String(), ": ") > prompts; prompts++ {
				if prompts == len(answers) {
					return
				}
				// The prompt was written before the echo was turned off: a person is slower than that.
				for echo(person) {
				}
				if _, err := person.WriteString(answers[prompts] + "\n"); err != nil {
					return
				}
			}
		}
	}()
	return shown
}

// echo tells whether the terminal shows what is typed.
func echo(f *os.File) bool {
	var state syscall.Termios
	_, _, no := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), syscall.TCGETS, uintptr(unsafe.Pointer(&state)))
	return no == 0 && state.Lflag&syscall.ECHO != 0
}

func TestTerminal(t *testing.T) {
	for name, c := range map[string]struct {
		answers []string
		want    error
	}{
		"the same": {[]string{"hunter2 ü", "hunter2 ü"}, nil}, "another": {[]string{"hunter2", "hunter3"}, passphrase.ErrDiffer},
		"nothing": {[]string{""}, passphrase.ErrEmpty},
	} {
		t.Run(name, func(t *testing.T) {
			person, program := openTerminal(t)
			shown := typist(t, person, c.answers...)
			got, err := passphrase.Source{In: program, Out: program}.New("the key")
			if !errors.Is(err, c.want) || err == nil && string(got) != c.answers[0] {
				t.Errorf("%q, %v", got, err)
			}
			if !echo(program) {
				t.Error("the terminal shows nothing any more")
			}
			program.Close()
			if text := <-shown; strings.Contains(text, "hunter") || !strings.Contains(text, "passphrase of the key: ") {
				t.Errorf("shown: %q", text)
			}
		})
	}
}
