// Package e2e runs the built binaries as processes on loopback and drives them as apps, operators, engines and
// attackers do. All of it is tests; nothing imports it.
package e2e
