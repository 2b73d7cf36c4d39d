package tunnel

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"time"
)

// serverTLS is the gateway's: any worker may connect that proves to hold the key of its one P-256 leaf. Who it is
// decides Admit.
func serverTLS(id *Identity) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{id.cert},
		NextProtos:             []string{alpn},
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true, // a resumed connection would skip the proof of the key
		// Our records are small events or whole bodies: splitting the first 128 KiB to fit packets costs system calls.
		DynamicRecordSizingDisabled: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			switch {
			case cs.NegotiatedProtocol != alpn:
				return errors.New("protocol not negotiated")
			case len(cs.PeerCertificates) != 1:
				return fmt.Errorf("%d certificates, want one leaf", len(cs.PeerCertificates))
			}
			return checkKey(cs.PeerCertificates[0])
		},
	}
}

// clientTLS is the worker's. With a pin the gateway is who holds that key, whatever its certificate says; without one
// the certificate must be good for the host name.
func clientTLS(id *Identity, name string, pin *ID) *tls.Config {
	leaf := id.cert
	leaf.Certificate = leaf.Certificate[:1]
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		ServerName:                  name,
		NextProtos:                  []string{alpn},
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
		InsecureSkipVerify:          pin != nil, // VerifyConnection checks the pin instead
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &leaf, nil // whichever authorities the gateway may name
		},
		VerifyConnection: func(cs tls.ConnectionState) error {
			if cs.NegotiatedProtocol != alpn {
				return errors.New("protocol not negotiated")
			}
			if pin == nil {
				return nil
			}
			if got := idOf(cs.PeerCertificates[0]); got != *pin {
				return fmt.Errorf("gateway's key is %s, want %s", got, *pin)
			}
			return nil
		},
	}
}

// exporter is a secret of one TLS connection that only its two ends know.
func exporter(c *tls.Conn) ([]byte, error) {
	cs := c.ConnectionState()
	secret, err := cs.ExportKeyingMaterial(exporterLabel, nil, exporterSize)
	if err != nil {
		return nil, fmt.Errorf("exporting key material: %w", err)
	}
	return secret, nil
}

// proof shows that who holds the data connection holds the control connection too: both exporters must be known.
func proof(control, data []byte) string {
	mac := hmac.New(sha256.New, control)
	mac.Write(data)
	return hex.EncodeToString(mac.Sum(nil))
}

func proves(given string, control, data []byte) bool {
	return hmac.Equal([]byte(given), []byte(proof(control, data)))
}

// keepAlive lets the kernel notice within 30 s a peer that is gone from a connection on which nothing is said.
func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}
}
