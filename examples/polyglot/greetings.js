// Greetings over HTTP, with nothing but Node's standard library.
const http = require("node:http");

const server = http.createServer((request, response) => {
  if (request.url === "/healthz") return response.end("ok\n");
  const name = new URL(request.url, "http://greetings").searchParams.get("name") ?? "you";
  response.setHeader("content-type", "text/plain; charset=utf-8");
  response.end(`Hello, ${name}!\n`);
});

server.listen(Number(process.env.PORT), "127.0.0.1", () => console.log("greetings are here"));
process.on("SIGTERM", () => server.close(() => process.exit(0)));
