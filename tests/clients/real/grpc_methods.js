// The service of the gRPC scripts, without generated code: messages are plain bytes.
'use strict';

const same = (bytes) => bytes;
const method = (name, requestStream, responseStream) => ({
  path: `/test.Peer/${name}`,
  requestStream,
  responseStream,
  requestSerialize: same,
  requestDeserialize: same,
  responseSerialize: same,
  responseDeserialize: same,
});

module.exports = {
  // Answers what was sent, and sends metadata back at both ends.
  Echo: method('Echo', false, false),
  // {messages, code, details, last}: so many messages, then that status.
  Fail: method('Fail', false, true),
  // How many messages and bytes came.
  Count: method('Count', true, false),
  // Answers each message; the server ends itself at `die`.
  Talk: method('Talk', true, true),
  // Never answers; how many of its calls have begun, by Begun, and were given up, by Gone.
  Wait: method('Wait', false, false),
  Begun: method('Begun', false, false),
  Gone: method('Gone', false, false),
  // Resets the stream with this code after one message: by hand, in h2_server.js.
  Reset: method('Reset', false, true),
};
