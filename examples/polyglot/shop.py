"""Asks all the others, again and again.

It finds them as in Kubernetes: by name and port, or by <NAME>_SERVICE_HOST and <NAME>_SERVICE_PORT.
The variables make it work where the mesh cannot answer for names (explicit capture).
"""

import http.client
import json
import os
import signal
import socket
import sys
import time


def place(name, port):
    """Where a service is."""
    variable = name.upper().replace("-", "_")
    host = os.environ.get(f"{variable}_SERVICE_HOST", name)
    return host, int(os.environ.get(f"{variable}_SERVICE_PORT", port))


def get(name, port, path):
    connection = http.client.HTTPConnection(*place(name, port), timeout=5)
    try:
        connection.request("GET", path, headers={"host": f"{name}:{port}"})
        response = connection.getresponse()
        body = response.read().decode()
        if response.status != 200:
            raise RuntimeError(f"{name}{path}: {response.status} {body}")
        return body
    finally:
        connection.close()


def quote():
    with socket.create_connection(place("quotes", 9103), timeout=5) as connection:
        lines = connection.makefile("rw", newline="\n")
        first = lines.readline().strip()
        lines.write("thanks\n")
        lines.flush()
        if lines.readline() != "you said: thanks\n":
            raise RuntimeError("quotes: no echo")
        return first


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
while True:
    began = time.monotonic()
    try:
        greeting = get("greetings", 9102, "/?name=guest").strip()
        price = json.loads(get("prices", 9101, "/tea"))["price"]
        took = (time.monotonic() - began) * 1000
        print(f"{greeting} Tea is {price:.2f}. “{quote()}”   {took:.1f}ms", flush=True)
    except (OSError, RuntimeError) as error:
        print(f"failed: {error}", flush=True)
    time.sleep(0.5)
