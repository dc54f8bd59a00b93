// Node's HTTP/2 as a server, at $PORT. Paths say what it does.
'use strict';

const http2 = require('node:http2');
const { read } = require('./cases.js');

// With what codes clients have reset.
const resets = [];

const server = http2.createServer({ settings: { enableConnectProtocol: true } });

/** Sends a head and `body`, and resets the stream in place of its end. */
const breakOff = (stream, head, body, code) => {
  stream.on('wantTrailers', () => stream.close(code));
  stream.respond(head, { waitForTrailers: true });
  stream.end(body);
};

const paths = {
  /** Sends the body back as it comes, and the trailers after it. */
  '/echo': (stream) => {
    let trailers = {};
    stream.on('trailers', (fields) => (trailers = { 'x-seen': fields['x-sent'] ?? 'none' }));
    stream.respond({ ':status': 200, trailer: 'x-seen' }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers(trailers));
    stream.pipe(stream);
  },
  '/hints': (stream) => {
    stream.additionalHeaders({ ':status': 103, link: '</a.css>; rel=preload' });
    stream.additionalHeaders({ ':status': 102 });
    stream.additionalHeaders({ ':status': 103, link: '</b.js>; rel=preload' });
    stream.respond({ ':status': 200 });
    stream.end('after hints');
  },
  /** Resets with ?code, at its ?place: before the head, after it, or within the body. */
  '/reset': (stream, query) => {
    const code = Number(query.get('code'));
    const place = query.get('place');
    if (place === 'nothing') return stream.close(code);
    breakOff(stream, { ':status': 200 }, place === 'body' ? 'begun' : '', code);
  },
  /** Answers before it has read anything, and takes no more. */
  '/early': (stream) => {
    stream.respond({ ':status': 413 });
    stream.end('too large');
  },
  '/status': (stream, query) => {
    stream.respond({ ':status': Number(query.get('code')), 'x-here': 'yes' }, { endStream: true });
  },
  /** Never answers; with what it was reset, by /resets. */
  '/hang': (stream) => {
    stream.on('error', () => {});
    stream.on('close', () => resets.push(stream.rstCode));
  },
  '/resets': (stream) => {
    stream.respond({ ':status': 200 });
    stream.end(JSON.stringify(resets));
  },
  '/die': () => process.kill(process.pid, 'SIGKILL'),
  '/dying': (stream) => {
    stream.respond({ ':status': 200 });
    stream.write('begun');
  },
  '/test.Peer/Reset': async (stream) => {
    const code = Number(String(await read(stream)).slice(5));
    breakOff(stream, { ':status': 200, 'content-type': 'application/grpc' }, '\0\0\0\0\x03one', code);
  },
};

/** What the server saw. */
const tell = async (stream, headers) => {
  const body = await read(stream);
  const seen = { headers, length: body.length, push: stream.pushAllowed };
  stream.respond({ ':status': 200, 'x-latin': 'caf\xe9', 'set-cookie': ['a=1', 'b=2'] });
  stream.end(headers[':method'] === 'HEAD' ? undefined : JSON.stringify(seen));
};

/** Extended CONNECT (RFC 8441): sends back what comes, or refuses. */
const connect = (stream, headers) => {
  if (headers[':path'] !== '/socket') {
    stream.respond({ ':status': 403, 'x-why': 'not here' });
    return stream.end('no socket');
  }
  stream.respond({ ':status': 200, 'sec-websocket-protocol': headers['sec-websocket-protocol'] ?? '' });
  stream.pipe(stream);
};

server.on('stream', (stream, headers) => {
  stream.on('error', () => {});
  if (headers.expect === '100-continue') stream.additionalHeaders({ ':status': 100 });
  if (headers[':method'] === 'CONNECT') return connect(stream, headers);
  const url = new URL(headers[':path'], 'http://h2');
  (paths[url.pathname] ?? tell)(stream, paths[url.pathname] ? url.searchParams : headers);
});
server.on('sessionError', () => {});
server.listen(process.env.PORT, '127.0.0.1');
