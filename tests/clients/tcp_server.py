"""A TCP server of one of three kinds, at $PORT of every address.

usage: tcp_server.py redis|smtp|tls [CERTIFICATE KEY]

redis: the client speaks first (PING, ECHO text). smtp: the server speaks first. tls: HTTP inside of
TLS that the server terminates. Each answers until the client has closed its side, then says goodbye:
a half-closed connection still gets its last line.
"""

import os
import socketserver
import ssl
import sys


class Redis(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            words = line.strip().split(b" ", 1)
            if words[0] == b"PING":
                self.wfile.write(b"+PONG\r\n")
            elif words[0] == b"ECHO":
                self.wfile.write(b"+" + words[1] + b"\r\n")
            else:
                self.wfile.write(b"-ERR unknown command\r\n")
        self.wfile.write(b"+BYE\r\n")


class Smtp(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"220 mail.test ESMTP\r\n")
        for line in self.rfile:
            self.wfile.write(b"250 " + line.strip() + b"\r\n")
        self.wfile.write(b"221 closing\r\n")


class Tls(socketserver.StreamRequestHandler):
    def handle(self):
        while self.rfile.readline().strip():
            pass
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecret")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128
    context = None

    def finish_request(self, request, client_address):
        if self.context:
            request = self.context.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)
        if self.context:
            request.close()


kind = {"redis": Redis, "smtp": Smtp, "tls": Tls}[sys.argv[1]]
server = Server(("127.0.0.1", int(os.environ["PORT"])), kind)
if sys.argv[1] == "tls":
    server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.context.load_cert_chain(sys.argv[2], sys.argv[3])
server.serve_forever()
