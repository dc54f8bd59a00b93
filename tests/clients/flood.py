"""Takes as much of a proxy as it lets one client take, holds it for a while, and goes.

usage: flood.py heads HOST PORT CONNECTIONS SECONDS     HTTP/2 requests of many indexed fields, without an end
       flood.py requests HOST PORT CONNECTIONS SECONDS  950 HTTP/2 requests on each connection
       flood.py bodies HOST PORT CONNECTIONS SECONDS    HTTP/1 requests with bodies that begin and do not end
       flood.py ahead HOST PORT CONNECTIONS SECONDS     HTTP/1 requests sent ahead of the first one's answer
       flood.py idle HOST PORT CONNECTIONS SECONDS      connections that say nothing

Prints one JSON object: connections that were opened, refused and ended by the other side, bytes sent, and
for HTTP/2 how many answers came by status and how many streams were reset.
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

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, RST_STREAM, SETTINGS, GOAWAY, WINDOW_UPDATE = 1, 3, 4, 7, 8
STREAMS = 950
FIELDS = 240
BODY = 256 << 10
AHEAD = 54 << 10


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name, value, indexed=True):
    assert len(name) < 127 and len(value) < 127
    return bytes([0x40 if indexed else 0, len(name)]) + name + bytes([len(value)]) + value


class Client:
    def __init__(self, kind, address):
        self.kind, self.unread = kind, b""
        self.sent, self.ended = 0, False
        self.statuses, self.resets = collections.Counter(), 0
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.refused = self.socket.connect_ex(address) not in (0, 115)
        host = b"%s:%d" % (address[0].encode(), address[1])
        self.out = getattr(self, kind)(host)

    def idle(self, host):
        return iter(())

    def bodies(self, host):
        yield b"POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 1000000000\r\n\r\n" % host
        for _ in range(BODY >> 14):
            yield bytes(1 << 14)

    def ahead(self, host):
        request = b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % host
        yield request + request * (AHEAD // len(request))

    def http2(self, host, method, fields, flags):
        yield PREFACE + frame(SETTINGS, 0, 0)
        pseudo = bytes([method, 0x86, 0x84]) + bytes([0x01, len(host)]) + host
        for stream in range(1, 2 * STREAMS, 2):
            first = literal(b"x-flood", b"v" * 60) if fields and stream == 1 else b""
            yield frame(HEADERS, flags, stream, pseudo + first + bytes([0xBE]) * fields)

    def heads(self, host):
        return self.http2(host, 0x83, FIELDS, 0x4)

    def requests(self, host):
        return self.http2(host, 0x82, 0, 0x5)

    def write(self):
        """Sends what there is to send; whether there is more."""
        for piece in self.out:
            while piece:
                try:
                    count = self.socket.send(piece)
                except BlockingIOError:
                    self.out = chain(piece, self.out)
                    return True
                except OSError:
                    self.ended = True
                    return False
                self.sent += count
                piece = piece[count:]
        return False

    def read(self):
        try:
            data = self.socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.ended = True
            return
        if self.kind not in ("heads", "requests"):
            self.statuses[data[9:12].decode(errors="replace")] += data.startswith(b"HTTP/1.1 ")
            return
        self.unread += data
        while len(self.unread) >= 9:
            length = struct.unpack(">I", b"\0" + self.unread[:3])[0]
            if len(self.unread) < 9 + length:
                return
            kind, payload = self.unread[3], self.unread[9 : 9 + length]
            self.unread = self.unread[9 + length :]
            if kind == HEADERS:
                # The mesh's own answers begin with the status as an index or as a literal.
                self.statuses["200" if payload[:1] == b"\x88" else "other"] += 1
            elif kind == RST_STREAM:
                self.resets += 1
            elif kind == GOAWAY:
                self.statuses["goaway"] += 1


def chain(piece, rest):
    yield piece
    yield from rest


def main():
    kind, address = sys.argv[1], (sys.argv[2], int(sys.argv[3]))
    count, seconds = int(sys.argv[4]), float(sys.argv[5])
    priority.lowest()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    address = (socket.gethostbyname(address[0]), address[1])
    end = time.monotonic() + seconds
    poller, clients = select.epoll(), {}
    ended = []
    waiting = count
    print("started", flush=True)
    while time.monotonic() < end:
        for _ in range(min(waiting, 200)):
            client = Client(kind, address)
            waiting -= 1
            if client.refused:
                ended.append(client)
                client.socket.close()
                continue
            clients[client.socket.fileno()] = client
            poller.register(client.socket, select.EPOLLIN | select.EPOLLOUT)
        for number, events in poller.poll(0.05):
            client = clients[number]
            if events & select.EPOLLIN or events & (select.EPOLLHUP | select.EPOLLERR):
                client.read()
            if not client.ended and events & select.EPOLLOUT and not client.write():
                poller.modify(number, select.EPOLLIN)
            if client.ended:
                poller.unregister(number)
                client.socket.close()
                ended.append(clients.pop(number))
    statuses = collections.Counter()
    everybody = [*clients.values(), *ended]
    for client in everybody:
        statuses.update(client.statuses)
    result = {
        "open": len(clients),
        "ended": len(ended),
        "sent": sum(client.sent for client in everybody),
        "statuses": {status: number for status, number in statuses.items() if number},
        "resets": sum(client.resets for client in everybody),
    }
    print(json.dumps(result), flush=True)


main()
