package tdx

// Inner parts for the tests outside the package: those use the simulator, which imports this package.

// ReadExtension reads an SGX extension.
func ReadExtension(der []byte) (*Platform, error) {
	p := &Platform{}
	return p, p.readExtension(der)
}

// ReadTCBInfo reads a TCB info.
func ReadTCBInfo(text []byte) error { _, err := parseTCBInfo(text); return err }

// ReadQEIdentity reads a QE identity.
func ReadQEIdentity(text []byte) error { _, err := parseQEIdentity(text); return err }

// Converge and Relaunch are Intel's two joins of statuses.
func Converge(platform Status, components ...Status) Status { return converge(platform, components...) }

// Relaunch joins the status at launch with the current one.
func Relaunch(launch, current Status) Status { return relaunch(launch, current) }

// Evaluate rates a quote by documents that nobody signed.
func Evaluate(q *Quote, tcbInfo, qeIdentity []byte) (*TCB, error) {
	info, err := parseTCBInfo(tcbInfo)
	if err != nil {
		return nil, err
	}
	qe, err := parseQEIdentity(qeIdentity)
	if err != nil {
		return nil, err
	}
	p, err := q.Platform()
	if err != nil {
		return nil, err
	}
	return (&evaluator{info, qe, p, q.qe.svn}).evaluateTCB(&q.TD)
}
