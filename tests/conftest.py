"""What holds for the whole test run: Ctrl-C is heard, however the run was started.

A shell that starts a job in the background has it ignore Ctrl-C, and every process below inherits that; CI may do so.
The tests that send it want the behaviour of a terminal.
"""

from __future__ import annotations

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
