#!/bin/sh
# Whatever the ring of requests (aio.h) is asked to do comes back once, in order and with its own error, for
# any number of workers and any depth, the serial twin among them.

. "$(dirname "$0")/lib.sh"

test_ring() {
	for workers in 0 1 2 4 16; do
		for depth in 1 2 9 64; do
			: >file
			run "${RINGTEST:-$TOOLS/ringtest}" $workers $depth $((workers + depth)) file
			assertEquals "$workers workers, depth $depth: $(cat err)" 0 "$status"
		done
	done
}

. "$shunit"
