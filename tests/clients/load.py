"""Sends requests at a fixed rate over keep-alive connections and prints what became of each.

usage: load.py URL[,URL...] RATE SECONDS [CONNECTIONS [BYTES]]

Several URLs, of one host, are asked in turn. With BYTES each is a POST with a body so long.

Prints one JSON object: counts by status, counts by the answering service's name, every failure with
its time (seconds since the epoch) and cause, and how long answers took: "latencies" has p50, p99 and
max in milliseconds, from the moment that a request was sent; "each" has the same for each URL. A line "started" comes first, once every
connection has had its first answer.
"""

import collections
import http.client
import json
import os
import sys
import threading
import time
import urllib.parse


def main():
    urls = [urllib.parse.urlsplit(url) for url in sys.argv[1].split(",")]
    rate, seconds = float(sys.argv[2]), float(sys.argv[3])
    connections = int(sys.argv[4]) if len(sys.argv) > 4 else 10
    body = bytes(int(sys.argv[5])) if len(sys.argv) > 5 else None
    proxy = os.environ.get("HTTP_PROXY")
    proxy = urllib.parse.urlsplit(proxy) if proxy else None
    statuses, names, failures = collections.Counter(), collections.Counter(), []
    latencies = [[] for _ in urls]
    lock = threading.Lock()
    ready = threading.Barrier(connections + 1)

    def connect():
        where = proxy or urls[0]
        return http.client.HTTPConnection(where.hostname, where.port or 80, timeout=10)

    def request(connection, url):
        target = url.geturl() if proxy else (url.path or "/")
        connection.request("POST" if body else "GET", target, body, {"Host": url.netloc})
        answer = connection.getresponse()
        return answer.status, answer.getheader("tulle-reason"), answer.read()

    def worker(index):
        connection = connect()
        request(connection, urls[0])
        ready.wait()
        start = time.monotonic() + index / rate
        for i in range(int(rate * seconds / connections)):
            delay = start + i * connections / rate - time.monotonic()
            if delay > 0:
                time.sleep(delay)
            which = (i + index) % len(urls)
            began, sent = time.time(), time.monotonic()
            try:
                status, reason, answer = request(connection, urls[which])
            except Exception as error:
                connection.close()
                connection = connect()
                status, reason, answer = 0, repr(error), b""
            took = (time.monotonic() - sent) * 1000
            try:
                name = json.loads(answer).get("name")
            except (ValueError, AttributeError):
                name = None
            with lock:
                latencies[which].append(took)
                statuses[status] += 1
                names[str(name)] += 1
                if status != 200:
                    failures.append({"began": began, "ended": time.time(), "status": status, "reason": reason})

    threads = [threading.Thread(target=worker, args=(i,)) for i in range(connections)]
    for thread in threads:
        thread.start()
    ready.wait()
    print("started", flush=True)
    for thread in threads:
        thread.join()
    result = {
        "statuses": statuses,
        "names": names,
        "failures": failures,
        "latencies": summary([took for of in latencies for took in of]),
        "each": [summary(of) for of in latencies],
    }
    print(json.dumps(result), flush=True)


def summary(latencies):
    ordered = sorted(latencies) or [0.0]
    at = lambda share: round(ordered[min(int(len(ordered) * share), len(ordered) - 1)], 3)
    return {"p50": at(0.5), "p99": at(0.99), "max": at(1)}


main()
