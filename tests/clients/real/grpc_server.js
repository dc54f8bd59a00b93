// grpc-js as a server, at $PORT: what grpc_methods.js says.
'use strict';

const grpc = require('@grpc/grpc-js');
const methods = require('./grpc_methods.js');

let begun = 0;
let gone = 0;

const server = new grpc.Server();
server.addService(methods, {
  Echo(call, answer) {
    const head = new grpc.Metadata();
    const trailer = new grpc.Metadata();
    for (const key of ['x-text', 'x-bytes-bin', 'x-large']) {
      for (const value of call.metadata.get(key)) {
        head.add(key, value);
        trailer.add(key, value);
      }
    }
    call.sendMetadata(head);
    answer(null, call.request, trailer);
  },
  async Fail(call) {
    const { messages, code, details } = JSON.parse(call.request);
    for (let i = 0; i < messages; i++) call.write(Buffer.from(String(i)));
    const metadata = new grpc.Metadata();
    metadata.add('x-why-bin', Buffer.from([0, 1, 254, 255]));
    call.emit('error', { code, details, metadata });
  },
  Count(call, answer) {
    let [messages, bytes] = [0, 0];
    call.on('data', (message) => {
      messages += 1;
      bytes += message.length;
    });
    call.on('end', () => answer(null, Buffer.from(`${messages} ${bytes}`)));
  },
  Talk(call) {
    call.on('data', (message) => {
      if (message.equals(Buffer.from('die'))) process.kill(process.pid, 'SIGKILL');
      call.write(message);
    });
    call.on('end', () => call.end());
  },
  Wait(call) {
    begun += 1;
    if (call.cancelled) gone += 1;
    else call.on('cancelled', () => (gone += 1));
  },
  Begun(call, answer) {
    answer(null, Buffer.from(String(begun)));
  },
  Gone(call, answer) {
    answer(null, Buffer.from(String(gone)));
  },
});
server.bindAsync(`127.0.0.1:${process.env.PORT}`, grpc.ServerCredentials.createInsecure(), (error) => {
  if (error) throw error;
});
