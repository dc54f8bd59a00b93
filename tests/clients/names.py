"""Looks a name up and calls it, at a rate, and says what went wrong when.

names.py NAME PORT EXPECTED RATE SECONDS: every other question comes from a port out of a few that all clients use.
names.py outside NAMESERVER SECONDS: a process that must get no answer at all.
Prints one line of JSON at the end; times are seconds since the epoch.
"""

import json
import random
import socket
import sys
import time

PORTS = range(46000, 46100)


def question(name):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    number = random.randrange(1 << 16).to_bytes(2, "big")
    return number + b"\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"


def from_shared_port():
    while True:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.bind(("0.0.0.0", random.choice(PORTS)))
            return sock
        except OSError:
            sock.close()


def ask(server, name, patience):
    """The last address of the answer; None where there is none in it."""
    with from_shared_port() as sock:
        sock.settimeout(patience)
        sock.connect((server, 53))
        sent = question(name)
        sock.send(sent)
        answer = sock.recv(512)
        if answer[:2] != sent[:2] or answer[3] & 15 or not answer[7]:
            return None
        return socket.inet_ntoa(answer[-4:] if len(answer) == len(sent) + 16 else answer[len(sent) + 12:][:4])


def call(address, port):
    with socket.create_connection((address, port), 5) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n")
        answer = b""
        while chunk := sock.recv(65536):
            answer += chunk
        return answer


def outside(server, seconds):
    asked, wrong = 0, []
    end = time.time() + seconds
    while time.time() < end:
        asked += 1
        try:
            ask(server, "c", 0.05)
            wrong.append(time.time())
        except OSError:
            pass
        time.sleep(0.02)
    return {"asked": asked, "wrong": wrong, "lookups": [], "calls": []}


def inside(name, port, expected, rate, seconds):
    known = None
    asked, wrong, lookups, calls = 0, [], [], []
    with open("/etc/resolv.conf") as file:
        server = next(line.split()[1] for line in file if line.startswith("nameserver"))
    start = time.time()
    while (now := time.time()) < start + seconds:
        asked += 1
        try:
            if asked % 2 or known is None:
                address = socket.getaddrinfo(name, port, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]
            else:
                address = ask(server, name, 4)
        except OSError as error:
            # When it was asked: what is lost with a node that dies fails when patience ends.
            lookups.append((now, str(error)))
        else:
            known = known or address
            if address != known:
                wrong.append((time.time(), f"{address}, not {known}"))
            else:
                try:
                    answer = call(address, port)
                    if b" 200 " not in answer.split(b"\r\n")[0]:
                        calls.append((now, answer[:200].decode(errors="replace")))
                    elif expected.encode() not in answer:
                        wrong.append((time.time(), answer[-200:].decode(errors="replace")))
                except OSError as error:
                    calls.append((now, str(error)))
        time.sleep(max(0, now + 1 / rate - time.time()))
    return {"asked": asked, "wrong": wrong, "lookups": lookups, "calls": calls}


if sys.argv[1] == "outside":
    result = outside(sys.argv[2], float(sys.argv[3]))
else:
    result = inside(sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4]), float(sys.argv[5]))
print(json.dumps(result), flush=True)
