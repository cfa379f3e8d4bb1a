import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';

interface Line {
  time: string;
  path: string;
  status: number;
}

function answer(request: IncomingMessage, response: ServerResponse): void {
  const path = request.url ?? '/';
  if (path === '/healthcheck') {
    response.end('ok');
    return;
  }
  response.statusCode = path === '/' ? 200 : 404;
  const line: Line = { time: new Date().toISOString(), path, status: response.statusCode };
  console.log(JSON.stringify(line));
  response.end('hello from TypeScript\n');
}

const server = createServer(answer);
server.keepAliveTimeout = 65_000;
process.on('SIGTERM', () => {
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});
server.listen(Number(process.env.PORT ?? 3000));
