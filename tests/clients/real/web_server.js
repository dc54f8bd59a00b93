// Node's HTTP/1 as a server, at $PORT. Paths say what it does.
'use strict';

const http = require('node:http');
const { read } = require('./cases.js');

/** What the server saw. */
const tell = async (request, answer) => {
  const { method, url, headers, rawHeaders, trailers, httpVersion } = request;
  const length = (await read(request)).length;
  answer.end(JSON.stringify({ method, url, headers, rawHeaders, trailers, httpVersion, length }));
};

const paths = {
  /** Sends the body back as it comes, and the trailers after it. */
  '/echo': (request, answer) => {
    answer.writeHead(200, { trailer: 'x-seen' });
    answer.flushHeaders();
    request.on('data', (piece) => answer.write(piece) || (request.pause(), answer.once('drain', () => request.resume())));
    request.on('end', () => {
      answer.addTrailers({ 'x-seen': request.trailers['x-sent'] ?? 'none' });
      answer.end();
    });
  },
  '/hints': (request, answer) => {
    answer.writeEarlyHints({ link: '</a.css>; rel=preload' });
    answer.writeProcessing();
    answer.end('after hints');
  },
  /** Fields as they are written, several of a name, and a reason phrase. */
  '/case': (request, answer) => {
    answer.sendDate = false;
    answer.writeHead(200, 'Fine Enough', ['X-CaSe', 'a', 'x-OTHER', 'b', 'X-case', 'caf\xe9']);
    answer.end();
  },
  '/status': (request, answer, query) => {
    answer.writeHead(Number(query.get('code')), { 'x-here': 'yes' });
    answer.end();
  },
  /** A body that ends with its connection. */
  '/until-close': (request, answer) => {
    answer.useChunkedEncodingByDefault = false;
    answer.shouldKeepAlive = false;
    answer.write('until ');
    answer.end('the end');
  },
  /** Answers before it has read anything. */
  '/early': (request, answer) => {
    answer.writeHead(413);
    answer.end('too large');
  },
  /** Takes a moment: the client has closed its side meanwhile. */
  '/late': (request, answer) => void setTimeout(() => tell(request, answer).catch(() => {}), 300),
  '/dying': (request, answer) => answer.write('begun'),
  '/die': () => process.kill(process.pid, 'SIGKILL'),
};

const serve = (request, answer) => {
  request.on('error', () => {});
  const url = new URL(request.url.replace(/^[^/]/, '/$&'), 'http://web');
  // What a client gives up is no trouble of the server's.
  Promise.resolve((paths[url.pathname] ?? tell)(request, answer, url.searchParams)).catch(() => {});
};

const server = http.createServer({ keepAliveTimeout: 60_000 }, serve);
server.on('checkContinue', (request, answer) => {
  if (request.url === '/refuse') {
    answer.writeHead(417, { 'x-why': 'too much' });
    return answer.end('refused');
  }
  if (request.url !== '/silent') answer.writeContinue();
  serve(request, answer);
});
server.listen(process.env.PORT, '127.0.0.1');
