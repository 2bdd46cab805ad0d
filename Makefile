# SPDX-License-Identifier: BSD-3-Clause
#
# make demo    a real NFS mount over mutual TLS in a VM, with the proof of it
# make test    everything CI runs: unit tests, linters, scenarios on real kernels
# make bench   rpctls, tlshd and the limit side by side, ktls beside crypto/tls: writes docs/benchmarks.md
# make build   the daemons and rpctlsctl, static, in bin/
# make packages   deb, rpm and tar for amd64 and arm64, in dist/

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
export PATH := $(CURDIR)/.tools/go/bin:$(PATH)
# Debian's Go does not fetch the version that go.mod asks for unless told to.
export GOTOOLCHAIN := auto

.PHONY: build packages demo bench test unit lint images scenarios soak bulk fuzz setup clean

build: setup
	CGO_ENABLED=0 go build -trimpath -buildvcs=auto -o bin/ ./cmd/...

# VERSION= and SOURCE_DATE_EPOCH= replace what is made from the commit. Parts that
# are not there yet are an error; PACKAGES=-incomplete leaves them out.
packages: setup
	go run ./packaging/build -version '$(VERSION)' $(PACKAGES)

demo: setup
	go run ./integration/cmd/demo

# About a quarter of an hour; the machine should do nothing else meanwhile.
bench: setup
	go run ./integration/cmd/bench

# The guests' images wait for the network while the linters wait for the processor.
test: setup
	$(MAKE) -j2 lint images
	$(MAKE) unit scenarios

images: setup
	go run ./integration/cmd/vmrun -prepare

unit: setup
	go test -race -count=1 -timeout 20m ./...
	go test -race -count=1 -timeout 10m -tags guest -run '^TestCases$$/^user$$' ./integration/ktls

lint: setup
	@fmt=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); test -z "$$fmt" || { echo "not gofmt-clean: $$fmt"; exit 1; }
	go mod verify
	go vet ./... && go vet -tags guest ./... && go vet -tags vm ./...
	go run $(STATICCHECK) ./... && go run $(STATICCHECK) -tags guest ./integration/... && go run $(STATICCHECK) -tags vm ./integration/...

# The scenario table in VMs, once for each kernel, and the packages' story. What
# hardly depends on the kernel is done on one of them; WHOLE=-whole does all on both.
scenarios: setup
	go test -tags vm -count=1 -timeout 85m -v -run 'TestKernels|TestPackages' ./integration $(WHOLE)

# Faults under load for so long, on both kernels. RPCTLS_SEED=N repeats an order.
SOAK ?= 1h
soak: setup
	RPCTLS_SOAK=$(SOAK) go test -tags vm -count=1 -timeout 0 -v -run 'TestKernels//scenario$$' ./integration -guest.run 'TestScenarios/faults$$'

# So many MiB each way over kernel TLS, with every peer, cipher and version, on both
# kernels: what "scenarios" does with little.
BULK ?= 64
bulk: setup
	RPCTLS_KTLS_BULK=$(BULK) go test -tags vm -count=1 -timeout 0 -v -run 'TestKernels/^(6\.12|7\.2)$$/^ktls$$' ./integration -guest.run TestBulk

# Longer fuzzing than the seeds that "unit" replays.
FUZZTIME ?= 1m
fuzz: setup
	@for p in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
		for f in $$(grep -rhoE '^func Fuzz[A-Za-z0-9]+' $$p/*_test.go | cut -d' ' -f2); do \
			echo "$$p $$f"; go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$p || exit 1; \
		done; \
	done

setup:
	@sh tools/setup.sh

clean:
	rm -rf bin dist .tools
