"""Calls a service on a new connection each time, and says what became of each call.

usage: steady.py URL PERIOD_MS

Prints "ok TIME BODY" or "failed TIME WHY" for every call; TIME is when it ended, in seconds since the epoch. Ends
with SIGTERM, after a line "up PID" at its start.
"""

import os
import sys
import time
import urllib.request


def main():
    url, period = sys.argv[1], float(sys.argv[2]) / 1000
    print(f"up {os.getpid()}", flush=True)
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                said = f"ok {time.time():.3f} {answer.read().decode()}"
        except OSError as error:
            said = f"failed {time.time():.3f} {error}"
        print(said, flush=True)
        time.sleep(period)


main()
