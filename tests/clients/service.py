"""Serves HTTP and says which process it is; a service whose life can be followed.

usage: service.py PORT [deaf] [daemon] [everywhere]

Answers every GET with its process id. Prints "up PID" once it listens, and "SIGTERM" when it gets that; then it
ends, or goes on (`deaf`). `daemon` has it start a child in a session of its own that does nothing but print
"daemon PID", and "daemon SIGTERM" when it gets that. `everywhere`: it listens at all addresses, and not on loopback alone.
"""

import http.server
import os
import signal
import socket
import sys
import threading
import time


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = str(os.getpid()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def say(text):
    # At once: two processes write here.
    os.write(1, f"{text}\n".encode())


def daemon():
    os.setsid()

    def stop(*_):
        say("daemon SIGTERM")
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    say(f"daemon {os.getpid()}")
    while True:
        time.sleep(1)


def main():
    wishes = sys.argv[2:]
    if "daemon" in wishes and os.fork() == 0:
        if os.fork() == 0:
            daemon()
        os._exit(0)
    address = "127.0.0.1"
    if "everywhere" in wishes:
        address, http.server.ThreadingHTTPServer.address_family = "::", socket.AF_INET6
    server = http.server.ThreadingHTTPServer((address, int(sys.argv[1])), Handler)

    def stop(*_):
        say("SIGTERM")
        if "deaf" not in wishes:
            threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    say(f"up {os.getpid()}")
    server.serve_forever(poll_interval=0.02)
    say("bye")


main()
