"""The PyPI package websockets as a server, at $PORT: sends back what comes."""

import asyncio
import http
import json
import os
import signal

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

# With what codes clients have closed.
closes = []


async def converse(socket):
    if socket.request.path == "/greet":
        await socket.send("welcome")
    try:
        async for message in socket:
            if message == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            elif message == "closes":
                await socket.send(json.dumps(closes))
            elif isinstance(message, str) and message.startswith("close "):
                await socket.close(int(message[6:]), "as asked")
            else:
                await socket.send(message)
    except ConnectionClosed:
        pass
    closes.append(f"{socket.close_code} {socket.close_reason}")


def refuse(connection, request):
    if not request.path.startswith("/refuse/"):
        return None
    answer = connection.respond(http.HTTPStatus(int(request.path[8:])), "refused")
    if answer.status_code == 401:
        answer.headers["WWW-Authenticate"] = 'Basic realm="test"'
    return answer


async def main():
    def chosen(_, offered):
        return "two" if "two" in offered else None

    options = {"process_request": refuse, "select_subprotocol": chosen, "max_size": 64 << 20}
    async with serve(converse, "127.0.0.1", int(os.environ["PORT"]), **options):
        await asyncio.get_running_loop().create_future()


asyncio.run(main())
