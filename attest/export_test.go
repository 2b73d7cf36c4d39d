package attest

import (
	"time"

	"cocoon/attest/opinion"
)

// For tests.
var (
	Guarded = guarded
	Words   = words
	Parts   = version
)

// CheckNames are all names of checks, in order.
func CheckNames() []string {
	return []string{
		namePolicyWindow, nameForm, nameNonce, nameCPU, nameRoot, nameRevocation, nameOpinion,
		nameLine, nameSigner, nameReportVersion, nameTCBCurrent, nameTCBReported, nameTCBCommitted, nameTCBLaunch,
		nameMitigation, nameProvisional, nameTCBStatus, nameTCBEvaluation, nameTCBDate, nameAdvisories, nameMRSEAM,
		nameDebug, nameMigration, nameVMPL, nameAttributes, nameSMT, namePolicyBits, namePlatform, nameChipID, nameXFAM,
		nameServiceTD, nameMeasurement, nameReportData,
		nameGPUs, nameGPURoot, nameGPUArch, nameGPUDriver, nameGPUVBIOS, nameGPUFWID, nameGPUOCSP, nameGPUCC, nameGPUDebug,
		nameGPUCount, nameDistinct, namePPCIE, nameTopology, nameChipsDeny, nameChipsAllow,
		nameKeyset, nameKeysetRole, nameKeysetID, nameKeysetWindow, nameKeysetTLS, nameWorkersDeny, nameWorkersAllow,
		nameFreshness,
	}
}

// OpinionCheck is the check that another verifier's opinion makes.
func OpinionCheck(ask func() opinion.Opinion) Check {
	a := newAppraisal(nil, Worker, time.Time{})
	a.opinion(ask)
	return a.facts[0]
}
