// Node's HTTP/1 client, and undici (which is Node's fetch), of an application of HTTP/1.
'use strict';

const assert = require('node:assert/strict');
const http = require('node:http');
const net = require('node:net');
const undici = require('undici');
const { place, kills, run, eventually, event, read, pattern, ODD_PATH } = require('./cases.js');

const [hostname, port] = place('web').split(':');
const web = `http://${place('web')}`;
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });

/** A request that is begun. */
const begin = (path, options = {}) => http.request({ hostname, port, path, agent, ...options });
/** Its end: the answer and its body. */
const answer = async (request) => {
  const response = await event(request, 'response');
  return { response, body: await read(response) };
};
const ask = (path, options, body) => {
  const request = begin(path, options);
  request.end(body);
  return answer(request);
};
const told = async (...all) => JSON.parse((await ask(...all)).body);

const cases = {
  'paths stay as they are': async () => {
    assert.equal((await told(ODD_PATH)).url, ODD_PATH);
    const client = new undici.Client(web);
    const { body } = await client.request({ path: ODD_PATH, method: 'GET' });
    assert.equal((await body.json()).url, ODD_PATH);
    await client.close();
    assert.equal((await told('*', { method: 'OPTIONS' })).url, '*');
  },
  'names of headers keep their case and order, and the answer its reason': async () => {
    const sent = ['X-CaSe', 'a', 'x-OTHER', 'b', 'X-case', 'caf\xe9', 'Host', 'web'];
    const { rawHeaders } = await told('/', { headers: sent });
    const own = (list) => list.filter((_, i) => /^x-/i.test(list[i - (i % 2)]));
    assert.deepEqual(own(rawHeaders), sent.slice(0, 6));
    const { response } = await ask('/case');
    assert.deepEqual(own(response.rawHeaders), sent.slice(0, 6));
    assert.equal(response.statusMessage, 'Fine Enough');
  },
  '100 Continue comes from the application': async () => {
    const request = begin('/echo', { method: 'POST', headers: { expect: '100-continue' } });
    request.flushHeaders();
    const seen = answer(request);
    await event(request, 'continue');
    request.end('after 100');
    assert.equal(String((await seen).body), 'after 100');
  },
  '417 reaches a client that waits': async () => {
    const request = begin('/refuse', { method: 'POST', headers: { expect: '100-continue', 'content-length': 5 } });
    let continued = false;
    request.on('continue', () => (continued = true));
    request.flushHeaders();
    const { response, body } = await answer(request);
    assert.deepEqual([response.statusCode, String(body), continued], [417, 'refused', false]);
    assert.equal(response.headers['x-why'], 'too much');
    request.destroy();
  },
  'a client that stops waiting for 100 is read': async () => {
    const request = begin('/silent', { method: 'POST', headers: { expect: '100-continue' } });
    request.flushHeaders();
    await new Promise((resolve) => setTimeout(resolve, 100));
    request.end('unasked');
    assert.equal(JSON.parse((await answer(request)).body).length, 7);
  },
  'interim answers': async () => {
    const request = begin('/hints');
    const interim = [];
    request.on('information', ({ statusCode, headers }) => interim.push([statusCode, headers.link]));
    request.end();
    const { body } = await answer(request);
    assert.deepEqual(interim, [[103, '</a.css>; rel=preload'], [102, undefined]]);
    assert.equal(String(body), 'after hints');
  },
  'trailers both ways, and large bodies in chunks': async () => {
    // Who does not say so gets none (RFC 9110, section 10.1.4).
    const headers = { trailer: 'x-sent', te: 'trailers', connection: 'te' };
    const request = begin('/echo', { method: 'POST', headers });
    const body = pattern(3_000_000);
    for (let at = 0; at < body.length; at += 1_000_000) request.write(body.subarray(at, at + 1_000_000));
    request.addTrailers({ 'x-sent': 'at the end' });
    request.end();
    const seen = await answer(request);
    assert.ok(body.equals(seen.body));
    assert.equal(seen.response.trailers['x-seen'], 'at the end');
  },
  'a body is answered while it is sent': async () => {
    const request = begin('/echo', { method: 'POST' });
    request.flushHeaders();
    const response = await event(request, 'response');
    for (const word of ['one', 'two', 'three']) {
      request.write(word);
      assert.equal(String(await event(response, 'data')), word);
    }
    request.end();
    response.resume();
    await event(response, 'end');
  },
  'answers without a body, on one connection': async () => {
    const sockets = new Set();
    for (const code of [204, 304, 404, 204]) {
      const { response, body } = await ask(`/status?code=${code}`);
      assert.deepEqual([response.statusCode, response.headers['x-here'], body.length], [code, 'yes', 0]);
      sockets.add(response.socket?.localPort ?? response.req.socket.localPort);
    }
    const { response, body } = await ask('/', { method: 'HEAD' });
    assert.deepEqual([response.statusCode, body.length], [200, 0]);
    assert.equal(sockets.size, 1);
  },
  'a body that ends with its connection': async () => {
    assert.equal(String((await ask('/until-close')).body), 'until the end');
  },
  'an answer before the body is read': async () => {
    const { response, body } = await ask('/early', { method: 'POST' }, pattern(2_000_000));
    assert.deepEqual([response.statusCode, String(body)], [413, 'too large']);
  },
  'a client that closes its side has its answer': async () => {
    const socket = net.connect({ host: hostname, port, allowHalfOpen: true });
    socket.end('GET /late HTTP/1.1\r\nHost: web\r\n\r\n');
    const text = String(await read(socket));
    assert.match(text, /^HTTP\/1\.1 200 OK\r\n/);
    assert.match(text, /"url":"\/late"/);
  },
  'undici: requests ahead of answers, uploads, fetch': async () => {
    const client = new undici.Client(web, { pipelining: 10 });
    const all = Array.from({ length: 50 }, (_, i) => client.request({ path: `/${i}`, method: 'GET' }));
    for (const [i, { body }] of (await Promise.all(all)).entries()) assert.equal((await body.json()).url, `/${i}`);
    await client.close();
    const upload = async function* () {
      for (let i = 0; i < 100; i++) yield Buffer.alloc(10_000);
    };
    const sent = await fetch(`${web}/?é`, { method: 'POST', body: upload(), duplex: 'half' });
    const { length, url, headers } = await sent.json();
    assert.deepEqual([length, url, headers['transfer-encoding']], [1_000_000, '/?%C3%A9', 'chunked']);
    const form = new FormData();
    form.set('file', new Blob([pattern(100_000)]), 'a "b".txt');
    assert.equal((await fetch(web, { method: 'PUT', body: form })).status, 200);
  },
  'a request that is given up': async () => {
    const controller = new AbortController();
    const begun = await fetch(`${web}/dying`, { signal: controller.signal });
    await begun.body.getReader().read();
    controller.abort();
    assert.equal((await told('/after')).url, '/after');
  },
};

const killing = {
  'a server that dies within an answer': async () => {
    await eventually(() => told('/'));
    const response = await event(begin('/dying', { agent: undefined }).end(), 'response');
    assert.equal(String(await event(response, 'data')), 'begun');
    response.resume();
    const broken = event(response, 'error').then((error) => error.code);
    const other = await ask('/die', { method: 'POST', agent: undefined });
    assert.deepEqual([other.response.statusCode, other.response.headers['tulle-reason']], [502, 'connection-lost']);
    assert.equal(await broken, 'ECONNRESET');
    await eventually(() => told('/'));
  },
};

run(kills ? killing : cases);
