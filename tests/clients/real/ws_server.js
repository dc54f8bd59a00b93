// The npm package ws as a server, at $PORT: sends back what comes.
'use strict';

const http = require('node:http');
const { WebSocketServer } = require('ws');

const sockets = new WebSocketServer({
  noServer: true,
  perMessageDeflate: { threshold: 0 },
  maxPayload: 64 << 20,
  handleProtocols: (offered) => (offered.has('two') ? 'two' : false),
});
// With what codes clients have closed.
const closes = [];

sockets.on('connection', (socket, request) => {
  socket.on('error', () => {});
  socket.on('close', (code, reason) => closes.push(`${code} ${reason}`));
  if (request.url === '/greet') socket.send('welcome');
  socket.on('message', (message, binary) => {
    const text = binary ? '' : String(message);
    if (text === 'die') process.kill(process.pid, 'SIGKILL');
    if (text === 'closes') return socket.send(JSON.stringify(closes));
    if (text.startsWith('close ')) return socket.close(Number(text.slice(6)), 'as asked');
    socket.send(message, { binary });
  });
});

const server = http.createServer((_, answer) => answer.end('no socket'));
server.on('upgrade', (request, socket, head) => {
  socket.on('error', () => {});
  const refused = request.url.match(/^\/refuse\/(\d+)$/);
  if (refused) {
    const why = refused[1] === '401' ? 'WWW-Authenticate: Basic realm="test"\r\n' : '';
    return socket.end(`HTTP/1.1 ${refused[1]} Refused\r\n${why}Content-Length: 7\r\nConnection: close\r\n\r\nrefused`);
  }
  sockets.handleUpgrade(request, socket, head, (opened) => sockets.emit('connection', opened, request));
});
server.listen(process.env.PORT, '127.0.0.1');
