"""Copies standard input to a file, 64 KiB at a time, with pauses: a reader that is slower than who writes.

usage: slow_reader.py FILE
"""

import os
import sys
import time


def main():
    # More than pipe and printer hold has to wait for this.
    time.sleep(2)
    with open(sys.argv[1], "wb", buffering=0) as file:
        while data := os.read(0, 65536):
            file.write(data)
            time.sleep(0.02)


main()
