"""The outside of a mesh: a name server, and who answers at its addresses, of IPv4 and IPv6.

usage: outside.py ADDRESS NAME=ADDRESS,ADDRESS… -- KIND:PORT…   (KIND: http, https, tls, tcp, udp; for https and tls, $ECHO_PEM is the file of certificate and key)

The name server listens at ADDRESS; names that it is not told of do not exist. Who answers says in JSON that its `name` is
`outside`, or in TLS that it is `outside-tls`, and what it was asked for. Prints "up" once all listen.
"""

import http.server
import ipaddress
import json
import os
import socket
import socketserver
import ssl
import sys
import threading


def told(context=None, **more):
    return json.dumps({"name": "outside-tls" if context else "outside", **more}).encode() + b"\n"


class Http(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = told(self.server.context, path=self.path, headers=[list(pair) for pair in self.headers.items()])
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Line(socketserver.StreamRequestHandler):
    def handle(self):
        if self.rfile.readline():
            self.wfile.write(told(self.server.context))


class Both:
    """Listens at all addresses of both families."""

    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    context = None

    def finish_request(self, request, client_address):
        try:
            if self.context:
                request = self.context.wrap_socket(request, server_side=True)
            super().finish_request(request, client_address)
        except OSError:
            pass
        finally:
            request.close()


class Requests(Both, http.server.ThreadingHTTPServer):
    pass


class Lines(Both, socketserver.ThreadingTCPServer):
    pass


class Datagram(socketserver.BaseRequestHandler):
    def handle(self):
        self.request[1].sendto(told(), self.client_address)


class Datagrams(Both, socketserver.ThreadingUDPServer):
    def finish_request(self, request, client_address):
        socketserver.ThreadingUDPServer.finish_request(self, request, client_address)


def answer(query, names):
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode().lower())
        at += 1 + query[at]
    asked, question = int.from_bytes(query[at + 1 : at + 3], "big"), query[12 : at + 5]
    addresses = names.get(".".join(labels))
    records = b""
    count = 0
    for address in map(ipaddress.ip_address, addresses or ()):
        if asked == (1 if address.version == 4 else 28):
            records += b"\xc0\x0c" + question[-4:] + (60).to_bytes(4, "big")
            records += len(address.packed).to_bytes(2, "big") + address.packed
            count += 1
    code = b"\x81\x80" if addresses else b"\x81\x83"
    return query[:2] + code + b"\0\1" + count.to_bytes(2, "big") + b"\0\0\0\0" + question + records


def serve_names(address, names):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, 53))
    while True:
        query, client = sock.recvfrom(4096)
        sock.sendto(answer(query, names), client)


def main():
    address, *rest = sys.argv[1:]
    split = rest.index("--")
    names = {name: addresses.split(",") for name, addresses in (word.split("=") for word in rest[:split])}
    threading.Thread(target=serve_names, args=(address, names), daemon=True).start()
    for word in rest[split + 1 :]:
        kind, port = word.split(":")
        make = {"http": (Requests, Http), "https": (Requests, Http), "udp": (Datagrams, Datagram)}.get(kind, (Lines, Line))
        server = make[0](("::", int(port)), make[1])
        if kind in ("https", "tls"):
            server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            server.context.load_cert_chain(os.environ["ECHO_PEM"])
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print("up", flush=True)
    threading.Event().wait()


main()
