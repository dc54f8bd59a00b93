// The npm package ws as a client of every WebSocket server of the mesh.
'use strict';

const assert = require('node:assert/strict');
const WebSocket = require('ws');
const { place, kills, run, eventually, event, pattern } = require('./cases.js');

const open = async (service, path = '/', protocols = [], options = {}) => {
  const socket = new WebSocket(`ws://${place(service)}${path}`, protocols, { maxPayload: 64 << 20, ...options });
  socket.first = event(socket, 'message');
  socket.first.catch(() => {});
  await event(socket, 'open');
  return socket;
};
const ask = async (socket, message, options) => {
  socket.send(message, options);
  return event(socket, 'message');
};

const ofServer = (service) => ({
  'messages of text and bytes, small and large': async () => {
    for (const perMessageDeflate of [true, false]) {
      const socket = await open(service, '/', [], { perMessageDeflate });
      assert.equal(socket.extensions.startsWith('permessage-deflate'), perMessageDeflate);
      assert.deepEqual(await ask(socket, 'hällo'), [Buffer.from('hällo'), false]);
      for (const length of [0, 125, 126, 65_536, 1_500_000]) {
        const [message, binary] = await ask(socket, pattern(length));
        assert.ok(binary && message.equals(pattern(length)), `${length} bytes`);
      }
      socket.terminate();
    }
  },
  'fragments, pings, subprotocols': async () => {
    const socket = await open(service, '/', ['one', 'two']);
    assert.equal(socket.protocol, 'two');
    for (const piece of ['a', 'b']) socket.send(piece, { fin: false });
    socket.ping('are you there');
    assert.equal(String(await event(socket, 'pong')), 'are you there');
    assert.equal(String((await ask(socket, 'c', { fin: true }))[0]), 'abc');
    socket.terminate();
  },
  'a server that speaks first': async () => {
    const socket = await open(service, '/greet');
    assert.equal(String((await socket.first)[0]), 'welcome');
    socket.terminate();
  },
  'close codes both ways': async () => {
    const socket = await open(service);
    socket.send('close 4001');
    const [code, reason] = await event(socket, 'close');
    assert.deepEqual([code, String(reason)], [4001, 'as asked']);
    const other = await open(service);
    other.close(4002, 'enough');
    assert.equal((await event(other, 'close'))[0], 4002);
    // The application hears of it when the connection has ended, which this side does not wait for.
    await eventually(async () => {
      const asking = await open(service);
      const closes = JSON.parse((await ask(asking, 'closes'))[0]);
      asking.terminate();
      assert.ok(closes.includes('4002 enough'), String(closes));
    });
  },
  'a refused one has its status and body': async () => {
    for (const status of [401, 403, 503]) {
      const socket = new WebSocket(`ws://${place(service)}/refuse/${status}`);
      const [, answer] = await event(socket, 'unexpected-response');
      let body = '';
      for await (const piece of answer) body += piece;
      assert.deepEqual([answer.statusCode, body], [status, 'refused']);
      assert.equal(answer.headers['tulle-reason'], undefined);
      if (status === 401) assert.equal(answer.headers['www-authenticate'], 'Basic realm="test"');
    }
  },
});

const killing = (service) => ({
  'a server that dies ends it': async () => {
    const socket = await eventually(() => open(service));
    socket.send('die');
    assert.equal((await event(socket, 'close'))[0], 1006);
  },
});

const cases = {};
if (!kills) {
  cases['nobody is there'] = async () => {
    const socket = new WebSocket(`ws://${place('nobody')}/`);
    const [, answer] = await event(socket, 'unexpected-response');
    assert.deepEqual([answer.statusCode, answer.headers['tulle-reason']], [503, 'no-endpoints']);
  };
}
for (const service of ['ws-js', 'ws-py']) {
  for (const [name, check] of Object.entries((kills ? killing : ofServer)(service))) cases[`${service}: ${name}`] = check;
}
run(cases);
