// Many requests at an application of HTTP/2 that takes few at a time.
// server PORT STREAMS: answers after 20 ms, and takes so many streams a connection.
// client HOST PORT CONNECTIONS STREAMS REQUESTS: keeps so many streams of each connection busy; prints "started"
// with its first request, and what came.
'use strict';
const http2 = require('http2');

function serve(port, streams) {
  const server = http2.createServer({ settings: { maxConcurrentStreams: streams } });
  server.on('stream', (stream) => {
    stream.on('error', () => {});
    setTimeout(() => {
      if (stream.destroyed) return;
      stream.respond({ ':status': 200 });
      stream.end('ok');
    }, 20);
  });
  server.on('sessionError', () => {});
  server.listen(port, '127.0.0.1');
}

function ask(authority, connections, streams, requests) {
  const statuses = {};
  const begun = Date.now();
  let [sent, answered] = [0, 0];
  const sessions = [];
  const count = (what) => {
    statuses[what] = (statuses[what] || 0) + 1;
    answered += 1;
    if (answered === requests) {
      console.log(JSON.stringify({ seconds: (Date.now() - begun) / 1000, statuses }));
      sessions.forEach((session) => session.destroy());
      process.exit(0);
    }
  };
  const next = (session) => {
    if (sent === requests) return;
    sent += 1;
    const stream = session.request({ ':path': '/' });
    let what = 'failed';
    stream.on('response', (head) => { what = head[':status']; });
    stream.on('error', () => {});
    stream.on('close', () => { count(what); next(session); });
    stream.resume();
  };
  for (let i = 0; i < connections; i += 1) {
    const session = http2.connect(`http://${authority}`);
    session.on('error', () => {});
    sessions.push(session);
    session.once('remoteSettings', () => {
      if (i === 0) console.log('started');
      for (let stream = 0; stream < streams; stream += 1) next(session);
    });
  }
}

const [role, ...rest] = process.argv.slice(2);
if (role === 'server') {
  serve(...rest.map(Number));
} else {
  const [host, port, ...numbers] = rest;
  ask(`${host}:${port}`, ...numbers.map(Number));
}
