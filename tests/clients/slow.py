"""Keeps connections that say nothing, or half of something, and says what became of them.

usage: slow.py KIND HOST PORT CONNECTIONS SECONDS

KIND is one of:
  silence      connections that say nothing
  heads        HTTP/1 requests of which the head goes on for ever, a byte at a time
  blocks       HTTP/2 requests whose header block does not end
  bodies       HTTP/1 requests with a length whose body stops in the middle
  answers      HTTP/1 requests for /big whose answers are not taken
  interim      HTTP/1 requests for /interim, which has interim answers without end and no other
  names        DNS over TCP: silence, beside one query a second for HOST on connections of their own

Prints one JSON object: how many connections are still open, how many had an answer by its status (HTTP/1) or were
ended without a word, and the seconds after which the first and the last of these were. For `names`, how many
queries were answered, and how many were not.
"""

import collections
import json
import resource
import select
import socket
import struct
import sys
import time

import priority

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)


def query(name):
    labels = b"".join(bytes([len(label)]) + label for label in name.encode().split(b"."))
    message = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 1, 1)
    return struct.pack(">H", len(message)) + message


def is_answered(address, name):
    try:
        with socket.create_connection(address, timeout=5) as connection:
            connection.sendall(query(name))
            answer = connection.recv(512)
            return len(answer) > 12 and answer[5] & 15 == 0
    except OSError:
        return False


def main():
    kind, host, port, count, seconds = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
    priority.lowest()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if kind == "names":
        with open("/etc/resolv.conf") as conf:
            server = next(line.split()[1] for line in conf if line.startswith("nameserver"))
        address = (server, port)
    else:
        address = (socket.gethostbyname(host), port)
    fields = b"Host: %s:%d\r\n" % (host.encode(), port)
    first = {
        "silence": b"",
        "names": b"",
        "heads": b"GET / HTTP/1.1\r\n" + fields + b"X-Slow: ",
        "blocks": PREFACE + b"\0\0\x02\x01\0" + struct.pack(">I", 1) + b"\x82\x86",
        "bodies": b"POST / HTTP/1.1\r\n" + fields + b"Content-Length: 1000000\r\n\r\nhalf",
        "answers": b"GET /big HTTP/1.1\r\n" + fields + b"\r\n",
        "interim": b"GET /interim HTTP/1.1\r\n" + fields + b"\r\n",
    }[kind]
    poller, connections = select.poll(), {}
    ends, said, ended = [], collections.Counter(), set()
    for _ in range(count):
        connection = socket.socket()
        # Small, so that an answer that is not taken waits in the mesh.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(5)
        try:
            connection.connect(address)
            connection.send(first)
        except OSError:
            said["refused"] += 1
            continue
        connection.setblocking(False)
        connections[connection.fileno()] = connection
        poller.register(connection, select.POLLERR if kind == "answers" else select.POLLIN)
    print("started", flush=True)
    began = time.monotonic()
    queries, next_byte = collections.Counter(), began + 1
    while time.monotonic() < began + seconds:
        for number, _ in poller.poll(100):
            connection = connections[number]
            try:
                data = connection.recv(1 << 16)
            except OSError:
                data = b""
            if kind == "answers" and data:
                # What came before the connection was ended.
                continue
            if data.startswith(b"HTTP/1.1 ") and data[9:10] != b"1" and number not in ended:
                ends.append(time.monotonic() - began)
                said[data[9:12].decode()] += 1
                ended.add(number)
            elif not data:
                if number not in ended:
                    ends.append(time.monotonic() - began)
                    said["ended"] += 1
                poller.unregister(number)
                connections.pop(number).close()
        if time.monotonic() >= next_byte:
            next_byte += 1
            if kind == "names":
                queries["answered" if is_answered(address, host) else "failed"] += 1
            for connection in connections.values() if kind == "heads" else ():
                try:
                    connection.send(b"v")
                except OSError:
                    pass
    result = {"open": len(connections), "said": said, "queries": queries}
    result["first"] = round(min(ends, default=0), 1)
    result["last"] = round(max(ends, default=0), 1)
    print(json.dumps(result), flush=True)


main()
