const http = require('node:http');
const ms = require('ms');

const began = Date.now();
const server = http.createServer((request, response) => {
  if (request.url === '/api/status/live') return response.end(JSON.stringify({ up: ms(Date.now() - began) }));
  if (request.url !== '/') response.statusCode = 404; // /healthcheck, too
  console.log(JSON.stringify({ method: request.method, path: request.url, status: response.statusCode }));
  response.end(response.statusCode === 200 ? 'hello, healthy elsewhere\n' : 'not here\n');
});
server.keepAliveTimeout = 65_000;
process.on('SIGTERM', () => {
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});
server.listen(process.env.PORT || 4000);
