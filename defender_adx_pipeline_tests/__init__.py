"""Tests, whose folders mirror the package, and the long programs beside them: faults, kills, chaos, simulated days.

Here: what holds for the process of each of them.
"""

import signal

# A shell without job control starts what is in its background with SIGINT ignored. Dagster gives SIGTERM the handler of
# SIGINT around each step, children inherit what is ignored, and then the processes that copy a step's output to the
# terminal are not to be ended: each step takes a minute longer and leaves four of them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
