"""What the scripts of this folder share: where a service is, and how a table of cases is run."""

import os
import signal
import sys
import time
import traceback

# Whether the cases that end servers are asked for, in place of the others.
KILLS = "kill" in sys.argv


def place(name):
    """HOST:PORT of a service: from an argument NAME=HOST:PORT, or as the mesh says it in the environment."""
    for argument in sys.argv:
        if argument.startswith(f"{name}="):
            return argument.removeprefix(f"{name}=")
    prefix = name.upper().replace("-", "_")
    return f"{os.environ[f'{prefix}_SERVICE_HOST']}:{os.environ[f'{prefix}_SERVICE_PORT']}"


def same(seen, expected, what=""):
    assert seen == expected, f"{what}: {seen!r} is not {expected!r}"


def eventually(ask):
    """Asks until it has an answer, 10 s at most: a server that was ended takes a moment to be back."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return ask()
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


# Seconds that a case may take.
PATIENCE = 15


def late(*_):
    raise TimeoutError(f"no end within {PATIENCE} s")


def run(cases):
    """Runs one case after the other, says what became of each, and ends the process."""
    signal.signal(signal.SIGALRM, late)
    failures = 0
    for name, check in cases.items():
        began = time.monotonic()
        signal.alarm(PATIENCE)
        try:
            check()
            print(f"ok {name} ({(time.monotonic() - began) * 1000:.0f} ms)", flush=True)
        except Exception:
            failures += 1
            print(f"FAILED {name}: {traceback.format_exc()}", flush=True)
    # Threads of the libraries hold nobody up.
    os._exit(1 if failures else 0)
