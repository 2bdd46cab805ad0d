// SPDX-License-Identifier: BSD-3-Clause

package protocol

// Devices. The disks are told apart by their virtio serial number and the
// ports by their name, never by the order in which the guest finds them.
const (
	RootDisk    = "rpctls-root"
	PayloadDisk = "rpctls-payload"
	OutputPort  = "rpctls.output"  // stdout and stderr of the command, live
	ResultsPort = "rpctls.results" // a tar of ResultsDir, ending with ExitEntry
)

// Places in the guest.
const (
	PayloadDir = "/payload" // what the host put in
	BinDir     = "/payload/bin"
	ResultsDir = "/results" // what the host gets back
	StateDir   = "/.rpctls" // guestinit's own
	InitPath   = StateDir + "/guestinit"
	// MarkerFile exists in a guest only and holds the kernel's key.
	MarkerFile = StateDir + "/kernel"
	// ManifestFile is a Manifest as JSON, the first entry of the payload.
	ManifestFile = StateDir + "/manifest.json"
	// ModuleDir of the initramfs: modules to load, in lexical order.
	ModuleDir = "/modules"
	// ExitEntry is the last entry of the results: an Exit as JSON.
	ExitEntry = ".exit"
)

// The probe for KVM: a guest that is booted with ProbeFlag on its command
// line prints ProbeMarker on its console and powers off.
const (
	ProbeFlag   = "rpctls.probe"
	ProbeMarker = "RPCTLS-PROBE-OK"
)

// SystemdUnit is the target that systemd boots to; the service of the same
// name runs the command.
const SystemdUnit = "rpctls-payload"

// A Manifest tells the guest what to run.
type Manifest struct {
	Kernel  string   // the key, such as "6.12"
	Command []string // searched in PATH, which begins with BinDir
	Env     []string // in addition to the guest's own
	Dir     string   // working directory
	Systemd bool     // systemd is PID 1
	// Serve has the guest boot as its disk says and do what comes through
	// ShellPort until it is turned off. There is no Command then.
	Serve bool
	// Unmask names units that start as their packages want them, which they
	// do not in the image.
	Unmask []string

	// TimeoutSeconds limits the command. It first gets SIGQUIT, so that a
	// Go program shows its goroutines, and then SIGKILL.
	TimeoutSeconds float64
}

// An Exit is how the command ended.
type Exit struct {
	Code     int     // the shell's convention: 128 + number for a signal
	Error    string  // why the command could not be started
	TimedOut bool    // ended by TimeoutSeconds
	Boot     float64 // seconds from power-on to the command's start
	Command  float64 // seconds the command ran
}
