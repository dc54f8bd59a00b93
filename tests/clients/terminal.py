"""Runs a command on a terminal of its own, and closes the terminal when it gets SIGUSR1.

usage: [TERMINAL_COLUMNS=N] terminal.py COMMAND [ARGUMENT...]

Prints what the command writes, and at last "ended STATUS": its exit code, or minus the number of a signal.
"""

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios


def main():
    child, terminal = pty.fork()
    if child == 0:
        columns = int(os.environ.get("TERMINAL_COLUMNS", "0"))
        if columns:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        os.execvp(sys.argv[1], sys.argv[1:])
    closed = False
    text = ""

    def close(*_):
        nonlocal closed
        if not closed:
            closed = True
            os.close(terminal)

    signal.signal(signal.SIGUSR1, close)
    while not closed:
        try:
            if select.select([terminal], [], [], 0.1)[0]:
                text = os.read(terminal, 4096).decode(errors="replace")
                sys.stdout.write(text)
                sys.stdout.flush()
        except OSError:
            break
    _, status = os.waitpid(child, 0)
    # The terminal may have been closed within a line.
    if text and not text.endswith("\n"):
        print()
    print(f"ended {os.waitstatus_to_exitcode(status)}", flush=True)


main()
