"""Takes connections and never reads a byte from them.

usage: deaf_server.py PORT
"""

import socket
import sys

listener = socket.socket()
# As little as the kernel lets wait on their way here.
listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen(512)
connections = []
while True:
    connections.append(listener.accept()[0])
