"""Answers requests of HTTP/1.1 with 200, but for those for /hang: never; those for /interim have interim answers
without end and no other, and /big is 16 MiB long.

usage: hanging_server.py PORT
"""

import asyncio
import sys

ANSWER = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 13\r\n\r\n{"name": "c"}'

INTERIM = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
BIG = 16 << 20


async def serve(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2] if b": " in line)
            if b"chunked" in fields.get(b"transfer-encoding", b""):
                while (await reader.readuntil(b"\r\n")) != b"0\r\n":
                    pass
                while (await reader.readuntil(b"\r\n")) != b"\r\n":
                    pass
            else:
                await reader.readexactly(int(fields.get(b"content-length", b"0")))
            path = head.split(b" ", 2)[1]
            if path == b"/hang":
                await reader.read(-1)
                break
            while path == b"/interim":
                writer.write(INTERIM)
                await writer.drain()
                await asyncio.sleep(0.2)
            if path == b"/big":
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % BIG)
                for _ in range(BIG >> 16):
                    writer.write(bytes(1 << 16))
                    await writer.drain()
                continue
            writer.write(ANSWER)
            await writer.drain()
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
        pass
    writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), limit=1 << 20, backlog=4096)
    await server.serve_forever()


asyncio.run(main())
