"""Talks to the services of tcp_server.py and prints one JSON object of what it saw.

usage: tcp_client.py redis|smtp HOST PORT [ROUNDS]
       tcp_client.py tls HOST PORT CA SERVER-NAME

"connect" has the seconds from the call of connect() to the first byte of the server's first answer.
"""

import json
import socket
import ssl
import sys
import time


def converse(kind, host, port):
    began = time.monotonic()
    connection = socket.create_connection((host, port), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    reader = connection.makefile("rb")
    lines = []
    if kind == "redis":
        connection.sendall(b"PING\r\n")
    lines.append(reader.readline())
    first = time.monotonic() - began
    if kind == "redis":
        connection.sendall(b"ECHO hello\r\n")
    else:
        connection.sendall(b"EHLO client\r\n")
    lines.append(reader.readline())
    connection.shutdown(socket.SHUT_WR)
    lines.append(reader.readline())
    rest = reader.read()
    connection.close()
    return first, [line.decode().strip() for line in lines], len(rest)


def tls(host, port, ca, name):
    context = ssl.create_default_context(cafile=ca)
    began = time.monotonic()
    with socket.create_connection((host, port), timeout=10) as raw:
        with context.wrap_socket(raw, server_hostname=name) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while chunk := connection.recv(4096):
                answer += chunk
    return {"seconds": time.monotonic() - began, "answer": answer.decode()}


def main():
    kind, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if kind == "tls":
        print(json.dumps(tls(host, port, sys.argv[4], sys.argv[5])), flush=True)
        return
    rounds = [converse(kind, host, port) for _ in range(int(sys.argv[4]) if len(sys.argv) > 4 else 1)]
    seconds = sorted(first for first, _, _ in rounds)
    print(
        json.dumps(
            {
                "lines": rounds[0][1],
                "same": all(r[1] == rounds[0][1] and r[2] == 0 for r in rounds),
                "first": rounds[0][0],
                "median": seconds[len(seconds) // 2],
                "worst": seconds[-1],
            }
        ),
        flush=True,
    )


main()
