"""Sends requests, well-formed and not, as bytes, and prints one JSON object: what came back for each.

usage: raw_http.py HOST PORT < lines of Python literals of bytes
       raw_http.py --pause SECONDS HOST PORT < ...   (each after its first byte)
       raw_http.py server                            (at $PORT: a lenient server of a few lines)

What comes back is the answer's first line, "reset", "closed", or "nothing" within two seconds.
"""

import ast
import json
import os
import socket
import sys
import threading
import time


def serve():
    """Takes whatever has a word with a slash for a request, as hand-written servers do."""

    def one(connection):
        try:
            while data := connection.recv(65536):
                words = data.decode("latin-1").split()
                path = next((word for word in words if "/" in word), words[0] if words else "")
                print("heard", repr(data), flush=True)
                body = f"served {path}".encode()
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        except OSError:
            pass
        connection.close()

    listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=64)
    while True:
        threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()


def ask(address, data, pause):
    with socket.create_connection(address, timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if pause:
                connection.sendall(data[:1])
                time.sleep(pause)
                data = data[1:]
            connection.sendall(data)
            connection.settimeout(2)
            answer = connection.recv(65536)
        except TimeoutError:
            return "nothing"
        except OSError:
            return "reset"
        return answer.decode("latin-1").splitlines()[0] if answer else "closed"


def main():
    arguments = sys.argv[1:]
    pause = 0
    if arguments[0] == "--pause":
        pause = float(arguments[1])
        arguments = arguments[2:]
    address = (arguments[0], int(arguments[1]))
    requests = [ast.literal_eval(line) for line in sys.stdin if line.strip()]
    print(json.dumps([ask(address, request, pause) for request in requests]), flush=True)


if sys.argv[1] == "server":
    serve()
else:
    main()
