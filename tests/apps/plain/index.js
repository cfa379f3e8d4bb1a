'use strict';

const http = require('node:http');

const server = http.createServer((request, response) => {
  if (request.url === '/healthcheck') return response.end('ok\n');
  console.log(`${request.method} ${request.url}`);
  response.setHeader('Content-Type', 'text/plain');
  response.end('hello from plain\n');
});
server.keepAliveTimeout = 65_000;
process.on('SIGTERM', () => {
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});
server.listen(process.env.PORT || 3000);
