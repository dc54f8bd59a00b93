"""A quote for everybody who connects: plain TCP, and the server speaks first."""

import os
import signal
import socketserver
import threading

QUOTE = b"Simplicity is prerequisite for reliability.\n"


class Quotes(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(QUOTE)
        for line in self.rfile:
            self.wfile.write(b"you said: " + line)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


server = Server(("127.0.0.1", int(os.environ["PORT"])), Quotes)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
print("quotes are here", flush=True)
server.serve_forever()
