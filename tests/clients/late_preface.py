"""Servers that speak HTTP/2 first, and clients that are late.

usage: late_preface.py server                    (at $PORT: SETTINGS when it accepts, like gRPC's servers)
       late_preface.py client HOST PORT COUNT    (prints one JSON object)
       late_preface.py grpc HOST PORT COUNT      (gRPC through a relay that holds the first bytes back)

"opaque" counts connections on which the server's own bytes came back: its SETTINGS are empty, the mesh's are not.
"""

import json
import os
import socket
import sys
import threading
import time

SETTINGS = b"\0\0\0\4\0\0\0\0\0"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DELAYS = (0, 0.001, 0.002, 0.005, 0.03, 0.1)


def serve():
    def one(connection):
        try:
            connection.sendall(SETTINGS)
            while connection.recv(4096):
                pass
        except OSError:
            pass
        connection.close()

    listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=128)
    while True:
        threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()


def read(connection, length):
    received = b""
    while len(received) < length and (part := connection.recv(length - len(received))):
        received += part
    return received


def client(address, count):
    opaque = failed = 0
    for i in range(count):
        with socket.create_connection(address, timeout=10) as connection:
            time.sleep(DELAYS[i % len(DELAYS)])
            if i % 3 == 2:
                # In pieces.
                for byte in PREFACE[:12]:
                    connection.sendall(bytes([byte]))
                connection.sendall(PREFACE[12:] + SETTINGS)
            else:
                connection.sendall(PREFACE + SETTINGS)
            answer = read(connection, 9)
            opaque += answer == SETTINGS
            failed += answer[3:5] != b"\4\0"
    return {"channels": count, "opaque": opaque, "failed": failed}


def relay(address, delay):
    """A local port whose connections reach `address` at once, and whose bytes do after `delay`."""
    listener = socket.create_server(("127.0.0.1", 0))

    def copy(reader, writer):
        try:
            while data := reader.recv(65536):
                writer.sendall(data)
            writer.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def accept():
        while True:
            near = listener.accept()[0]
            far = socket.create_connection(address)
            threading.Thread(target=copy, args=(far, near), daemon=True).start()
            time.sleep(delay)
            threading.Thread(target=copy, args=(near, far), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def grpc_client(address, count):
    import grpc

    answers = 0
    for i in range(count):
        port = relay(address, DELAYS[i % len(DELAYS)])
        with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)]) as channel:
            answers += channel.unary_unary("/test.Echo/Unary")(b"hello", timeout=10) == b"HELLO"
    return {"channels": count, "answers": answers}


if sys.argv[1] == "server":
    serve()
else:
    run = {"client": client, "grpc": grpc_client}[sys.argv[1]]
    print(json.dumps(run((sys.argv[2], int(sys.argv[3])), int(sys.argv[4]))), flush=True)
