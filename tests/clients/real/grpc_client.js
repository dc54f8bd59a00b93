// grpc-js as a client of every gRPC server of the mesh.
'use strict';

const assert = require('node:assert/strict');
const grpc = require('@grpc/grpc-js');
const { place, kills, run, eventually, event, pattern } = require('./cases.js');
const methods = require('./grpc_methods.js');

const Client = grpc.makeGenericClientConstructor(methods, 'test.Peer');
const connect = (service) => new Client(place(service), grpc.credentials.createInsecure());
const within = (ms) => ({ deadline: Date.now() + ms });
const SOON = 10_000;

/** A call with one answer: its message, or the error; metadata, and the status. */
const unary = (client, name, message, metadata = new grpc.Metadata(), options = within(SOON)) =>
  new Promise((resolve) => {
    const seen = {};
    const call = client[name](message, metadata, options, (error, answer) => Object.assign(seen, { error, answer }));
    call.on('metadata', (head) => (seen.head = head));
    call.on('status', (status) => resolve(Object.assign(seen, { status })));
  });

/** A stream of answers: its messages, and the status. */
const collect = (call) =>
  new Promise((resolve) => {
    const messages = [];
    call.on('data', (message) => messages.push(message.toString()));
    call.on('error', () => {});
    call.on('status', (status) => resolve({ messages, status }));
  });

const ofServer = (service) => {
  const client = connect(service);
  return {
    'a message is answered, with metadata at both ends': async () => {
      const metadata = new grpc.Metadata();
      metadata.add('x-text', 'one');
      metadata.add('x-text', 'two');
      metadata.add('x-bytes-bin', Buffer.from([0, 255, 10, 13]));
      metadata.add('x-large', 'm'.repeat(6000));
      const { answer, head, status } = await unary(client, 'Echo', Buffer.from('hello'), metadata);
      assert.equal(String(answer), 'hello');
      for (const seen of [head, status.metadata]) {
        assert.deepEqual(seen.get('x-text').join(', '), 'one, two');
        assert.deepEqual(seen.get('x-bytes-bin'), [Buffer.from([0, 255, 10, 13])]);
        assert.equal(seen.get('x-large')[0].length, 6000);
      }
    },
    'large messages': async () => {
      const message = pattern(2_500_000);
      const { answer } = await unary(client, 'Echo', message);
      assert.ok(message.equals(answer));
    },
    'a compressed message': async () => {
      const options = { ...within(SOON) };
      const compressing = new Client(place(service), grpc.credentials.createInsecure(), {
        'grpc.default_compression_algorithm': grpc.compressionAlgorithms.gzip,
      });
      const { answer } = await unary(compressing, 'Echo', Buffer.alloc(100_000), new grpc.Metadata(), options);
      assert.ok(Buffer.alloc(100_000).equals(answer));
    },
    'many calls at once': async () => {
      const calls = Array.from({ length: 100 }, (_, i) => unary(client, 'Echo', Buffer.from(String(i))));
      const answers = await Promise.all(calls);
      answers.forEach(({ answer }, i) => assert.equal(String(answer), String(i)));
    },
    'the status of an application, before and after messages': async () => {
      for (const [messages, code, details] of [
        [0, 9, 'as asked: 100 % ☃'],
        [3, 10, 'later'],
        [0, 16, ''],
        [1, 14, 'the application says so'],
      ]) {
        const wish = Buffer.from(JSON.stringify({ messages, code, details }));
        const seen = await collect(client.Fail(wish, within(SOON)));
        assert.equal(seen.messages.length, messages);
        assert.deepEqual([seen.status.code, seen.status.details], [code, details]);
        assert.deepEqual(seen.status.metadata.get('x-why-bin'), [Buffer.from([0, 1, 254, 255])]);
      }
    },
    'a stream of the client': async () => {
      const answer = await new Promise((resolve, reject) => {
        const call = client.Count(within(SOON), (error, answer) => (error ? reject(error) : resolve(answer)));
        for (let i = 0; i < 100; i++) call.write(Buffer.alloc(10_000));
        call.end();
      });
      assert.equal(String(answer), '100 1000000');
    },
    'a conversation': async () => {
      const call = client.Talk(within(SOON));
      for (const word of ['one', 'two', '']) {
        call.write(Buffer.from(word));
        assert.equal(String(await event(call, 'data')), word);
      }
      call.end();
      call.resume();
      assert.equal((await event(call, 'status')).code, grpc.status.OK);
    },
    'a deadline, and a call that is given up, reach the server': async () => {
      const count = async (method) => Number((await unary(client, method, Buffer.alloc(0))).answer);
      const [begun, gone] = [await count('Begun'), await count('Gone')];
      // The deadline may pass before the server has looked at the call.
      do {
        const { error } = await unary(client, 'Wait', Buffer.alloc(0), new grpc.Metadata(), within(200));
        assert.equal(error.code, grpc.status.DEADLINE_EXCEEDED);
      } while ((await count('Begun')) === begun);
      const begunByThen = await count('Begun');
      const call = client.Wait(Buffer.alloc(0), within(SOON), () => {});
      await eventually(async () => assert.ok((await count('Begun')) > begunByThen));
      call.cancel();
      await eventually(async () => assert.ok((await count('Gone')) >= gone + 2));
    },
    'a method that there is not': async () => {
      const unknown = new (grpc.makeGenericClientConstructor(
        { Nothing: { ...methods.Echo, path: '/test.Peer/Nothing' } },
        'test.Peer',
      ))(place(service), grpc.credentials.createInsecure());
      assert.equal((await unary(unknown, 'Nothing', Buffer.alloc(0))).error.code, grpc.status.UNIMPLEMENTED);
    },
  };
};

/** The codes of HTTP/2 that an application resets with, and what gRPC makes of them. */
const RESETS = { 2: 13, 8: 1, 11: 8, 12: 7 };

const others = {
  "an application's resets keep their codes": async () => {
    const client = connect('h2');
    for (const [code, status] of Object.entries(RESETS)) {
      const seen = await collect(client.Reset(Buffer.from(code), within(SOON)));
      assert.deepEqual([code, seen.messages, seen.status.code], [code, ['one'], status]);
    }
  },
  'nobody is there': async () => {
    const { error } = await unary(connect('nobody'), 'Echo', Buffer.alloc(0));
    assert.equal(error.code, grpc.status.UNAVAILABLE, String(error));
  },
};

const killing = (service) => {
  const client = connect(service);
  const there = () =>
    eventually(async () => assert.equal((await unary(client, 'Echo', Buffer.alloc(0), undefined, within(1000))).error, null));
  return {
    'a server that dies within a stream is unavailable': async () => {
      await there();
      const call = client.Talk(within(SOON));
      call.write(Buffer.from('hello'));
      assert.equal(String(await event(call, 'data')), 'hello');
      call.write(Buffer.from('die'));
      const { status } = await collect(call);
      assert.equal(status.code, grpc.status.UNAVAILABLE, JSON.stringify(status));
    },
    'a server that dies before it answers is unavailable': async () => {
      await there();
      const call = client.Talk(within(SOON));
      call.write(Buffer.from('die'));
      const { status } = await collect(call);
      assert.equal(status.code, grpc.status.UNAVAILABLE, JSON.stringify(status));
    },
    'it is back': there,
  };
};

const cases = kills ? {} : others;
for (const service of ['grpc-js', 'grpc-py']) {
  for (const [name, check] of Object.entries((kills ? killing : ofServer)(service))) {
    cases[`${service}: ${name}`] = check;
  }
}
run(cases);
