// Package nvgpu verifies NVIDIA confidential-computing evidence offline: SPDM measurement reports of Hopper and
// Blackwell GPUs and LS10 NVSwitches, against pinned vendor roots, reference integrity manifests (RIMs) and OCSP
// responses.
//
// It answers one question: did a genuine device, in the state that NVIDIA signed reference values for, sign this
// nonce? Everything that the answer rests on is a check that can fail; what a caller chose to leave out is listed in
// Claims.Skipped. Whether the claims are good enough (driver floor, architectures, number of devices) is for a policy
// to say. Nothing here opens a file or a connection, and the time is the caller's.
//
// A report says nothing about the virtual machine that its device is attached to: evidence can be relayed from another
// machine. Bind the nonce to the CPU's evidence, and let measured guest code check the device.
//
// Sources: DMTF DSP0274 (SPDM) 1.1, sections on GET_MEASUREMENTS and MEASUREMENTS; NVIDIA's "Attestation"
// documentation at docs.nvidia.com/attestation and the reference verifiers NVIDIA/nvtrust and NVIDIA/attestation-sdk
// (opaque data fields, RIM identifiers, the NVDEC0 rule); ISO/IEC 19770-2 and the TCG RIM information model (RIMs);
// W3C XML Signature 1.1 and Canonical XML 1.1; RFC 6960 (OCSP); RFC 5280 (certificates); TCG DICE Attestation
// Architecture (FWID).
package nvgpu
