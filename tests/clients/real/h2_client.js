// Node's HTTP/2 as a client: of an application of HTTP/2, and of one of HTTP/1.
'use strict';

const assert = require('node:assert/strict');
const http2 = require('node:http2');
const { place, kills, run, eventually, event, read, pattern, ODD_PATH } = require('./cases.js');

const connect = async (service) => {
  const session = http2.connect(`http://${place(service)}`);
  session.on('error', () => {});
  if (!session.remoteSettings.maxFrameSize) await event(session, 'remoteSettings');
  return session;
};

/** The head and the body of an answer. */
const ask = async (session, headers, body) => {
  const stream = session.request(headers, { endStream: body === undefined });
  if (body !== undefined) stream.end(body);
  const [head, content] = await Promise.all([event(stream, 'response'), read(stream)]);
  return { head: Array.isArray(head) ? head[0] : head, body: content };
};
const told = async (session, headers, body) => JSON.parse((await ask(session, headers, body)).body);

/** The code with which a stream ended. */
const reset = (stream) =>
  new Promise((resolve) => {
    stream.on('error', () => {});
    stream.on('close', () => resolve(stream.rstCode));
    stream.resume();
  });

/** One masked frame of text (RFC 6455, section 5.2), and the same as a server sends it. */
const FRAME = Buffer.from([0x81, 0x85, 1, 2, 3, 4, ...[...'hello'].map((c, i) => c.charCodeAt(0) ^ ((i % 4) + 1))]);
const ANSWER = Buffer.from('\x81\x05hello', 'latin1');
const websocket = (path) => ({
  ':method': 'CONNECT',
  ':protocol': 'websocket',
  ':path': path,
  'sec-websocket-version': '13',
});

const ofH2 = {
  'heads are whole': async () => {
    const session = await connect('h2');
    const seen = await ask(session, {
      ':path': '/a',
      'x-latin': 'caf\xe9',
      cookie: ['a=1', 'b=2'],
      'x-large': 'h'.repeat(30_000),
    });
    assert.equal(seen.head['x-latin'], 'caf\xe9');
    assert.deepEqual(seen.head['set-cookie'], ['a=1', 'b=2']);
    const { headers } = JSON.parse(seen.body);
    assert.deepEqual([headers['x-latin'], headers.cookie, headers['x-large'].length], ['caf\xe9', 'a=1; b=2', 30_000]);
  },
  'paths stay as they are': async () => {
    const path = `${ODD_PATH}/caf\xe9\xff`;
    const { headers } = await told(await connect('h2'), { ':path': path });
    assert.equal(headers[':path'], path);
  },
  'no push is allowed': async () => assert.equal((await told(await connect('h2'), {})).push, false),
  'trailers both ways, and large bodies': async () => {
    const session = await connect('h2');
    const body = pattern(3_000_000);
    const stream = session.request({ ':path': '/echo', ':method': 'POST' }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'x-sent': 'at the end' }));
    stream.end(body);
    const trailers = event(stream, 'trailers');
    assert.ok(body.equals(await read(stream)));
    assert.equal((await trailers)[0]['x-seen'], 'at the end');
  },
  'a body is answered while it is sent': async () => {
    const stream = (await connect('h2')).request({ ':path': '/echo', ':method': 'POST' });
    // Pieces may be cut anywhere on the way.
    let heard = '';
    stream.on('data', (piece) => { heard += piece; });
    let sent = '';
    for (const word of ['one', 'two', 'three']) {
      stream.write(word);
      sent += word;
      while (heard.length < sent.length) await event(stream, 'data');
      assert.equal(heard, sent);
    }
    stream.end();
    await event(stream, 'end');
  },
  'interim answers': async () => {
    const stream = (await connect('h2')).request({ ':path': '/hints' });
    const interim = [];
    stream.on('headers', (fields) => interim.push([fields[':status'], fields.link]));
    const body = read(stream);
    assert.equal((await event(stream, 'response'))[0][':status'], 200);
    assert.deepEqual(interim, [[103, '</a.css>; rel=preload'], [102, undefined], [103, '</b.js>; rel=preload']]);
    assert.equal(String(await body), 'after hints');
  },
  "an application's resets keep their codes": async () => {
    const session = await connect('h2');
    for (const code of [1, 2, 8, 11, 0x1234, 0xffffffff]) {
      for (const where of ['nothing', 'head', 'body']) {
        const stream = session.request({ ':path': `/reset?code=${code}&place=${where}` });
        assert.deepEqual([where, await reset(stream)], [where, code]);
      }
    }
  },
  "a client's resets keep their codes": async () => {
    const session = await connect('h2');
    for (const code of [2, 8, 11, 0x1234]) {
      const stream = session.request({ ':path': '/hang', ':method': 'POST' });
      stream.on('error', () => {});
      stream.write('begun');
      await told(session, {});
      stream.close(code);
    }
    await eventually(async () => {
      const seen = await told(session, { ':path': '/resets' });
      for (const code of [2, 8, 11, 0x1234]) assert.ok(seen.includes(code), String(seen));
    });
  },
  'an answer before the body is read': async () => {
    const session = await connect('h2');
    const stream = session.request({ ':path': '/early', ':method': 'POST' });
    stream.on('error', () => {});
    stream.end(pattern(2_000_000));
    assert.equal((await event(stream, 'response'))[0][':status'], 413);
    assert.equal(String(await read(stream)), 'too large');
    assert.equal((await ask(session, {})).head[':status'], 200);
  },
  'answers without a body': async () => {
    const session = await connect('h2');
    for (const code of [204, 304, 404]) {
      const { head, body } = await ask(session, { ':path': `/status?code=${code}` });
      assert.deepEqual([head[':status'], head['x-here'], body.length], [code, 'yes', 0]);
    }
    const { head, body } = await ask(session, { ':method': 'HEAD' });
    assert.deepEqual([head[':status'], body.length], [200, 0]);
  },
  'many requests at once': async () => {
    const session = await connect('h2');
    const all = Array.from({ length: 100 }, (_, i) => told(session, { ':path': `/${i}`, ':method': 'POST' }, 'x'));
    (await Promise.all(all)).forEach(({ headers }, i) => assert.equal(headers[':path'], `/${i}`));
  },
  'pings and new settings': async () => {
    const session = await connect('h2');
    await new Promise((resolve, reject) => session.ping((error) => (error ? reject(error) : resolve())));
    session.settings({ initialWindowSize: 1 << 20, maxHeaderListSize: 65_536 });
    await event(session, 'localSettings');
    assert.equal((await ask(session, {})).head[':status'], 200);
    session.close();
    await event(session, 'close');
  },
  'a WebSocket (RFC 8441)': async () => {
    const session = await connect('h2');
    assert.equal(session.remoteSettings.enableConnectProtocol, true);
    const stream = session.request(websocket('/socket'), { endStream: false });
    assert.equal((await event(stream, 'response'))[0][':status'], 200);
    for (let i = 0; i < 3; i++) {
      stream.write(FRAME);
      assert.ok(FRAME.equals(await event(stream, 'data')));
    }
    stream.end();
    stream.resume();
    await event(stream, 'end');
    const refused = await ask(session, websocket('/elsewhere'), '');
    assert.deepEqual([refused.head[':status'], refused.head['x-why'], String(refused.body)], [403, 'not here', 'no socket']);
  },
};

const ofHttp1 = {
  'an application of HTTP/1: paths, bodies, trailers': async () => {
    const session = await connect('web');
    const seen = await told(session, { ':path': ODD_PATH, ':method': 'POST', cookie: ['a=1', 'b=2'] }, 'body');
    assert.deepEqual([seen.url, seen.length, seen.headers.cookie], [ODD_PATH, 4, 'a=1; b=2']);
    const stream = session.request({ ':path': '/echo', ':method': 'POST' }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'x-sent': 'at the end' }));
    const body = pattern(2_000_000);
    stream.end(body);
    const trailers = event(stream, 'trailers');
    assert.ok(body.equals(await read(stream)));
    assert.equal((await trailers)[0]['x-seen'], 'at the end');
  },
  'an application of HTTP/1: 100 Continue and 103': async () => {
    const session = await connect('web');
    const stream = session.request({ ':path': '/echo', ':method': 'POST', expect: '100-continue' });
    await event(stream, 'continue');
    stream.end('after 100');
    assert.equal(String(await read(stream)), 'after 100');
    const refused = session.request({ ':path': '/refuse', ':method': 'POST', expect: '100-continue' });
    assert.equal((await event(refused, 'response'))[0][':status'], 417);
    refused.close();
    const hints = session.request({ ':path': '/hints' });
    const interim = event(hints, 'headers');
    assert.equal(String(await read(hints)), 'after hints');
    assert.equal((await interim)[0].link, '</a.css>; rel=preload');
  },
  'an application of HTTP/1: WebSockets': async () => {
    const session = await connect('ws-js');
    const stream = session.request(websocket('/'), { endStream: false });
    assert.equal((await event(stream, 'response'))[0][':status'], 200);
    stream.write(FRAME);
    assert.ok(ANSWER.equals(await event(stream, 'data')));
    stream.close();
    for (const status of [401, 403, 404, 200]) {
      const { head } = await ask(session, websocket(`/refuse/${status}`), '');
      assert.equal(head[':status'], status === 200 ? 502 : status);
      if (status === 401) assert.equal(head['www-authenticate'], 'Basic realm="test"');
    }
  },
};

const killing = {
  'a server that dies within an answer': async () => {
    const session = await eventually(() => connect('h2'));
    const stream = session.request({ ':path': '/dying' });
    assert.equal(String(await event(stream, 'data')), 'begun');
    const code = reset(stream);
    const other = session.request({ ':path': '/die', ':method': 'POST' });
    assert.equal((await event(other, 'response'))[0][':status'], 502);
    assert.equal(await code, http2.constants.NGHTTP2_INTERNAL_ERROR);
    // The connection of the client goes on.
    await eventually(async () => assert.equal((await ask(session, {})).head[':status'], 200));
  },
};

run(kills ? killing : { ...ofH2, ...ofHttp1 });
