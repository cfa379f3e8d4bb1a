'use strict';

const crypto = require('node:crypto');
const http = require('node:http');
const express = require('express');
const { whoAmI } = require('./identity');
const { pageFor } = require('./page');
const { readSettings } = require('./settings');

// A page costs `milliseconds` of CPU time, by this process's own account: as much on a slow machine as on a fast one, and
// no more when neighbours slow down the core. PBKDF2 is a native call, in pieces of a tenth of a millisecond or so.
// Synchronous, so that it holds up the event loop as rendering and parsing do.
function doWork(milliseconds) {
  const started = process.cpuUsage();
  const used = () => {
    const { user, system } = process.cpuUsage(started);
    return (user + system) / 1000;
  };
  while (used() < milliseconds) crypto.pbkdf2Sync('visitor', 'page', 400, 32, 'sha256');
}

const round = (milliseconds) => Math.round(milliseconds * 10) / 10;

function logRequests(task, version) {
  return (request, response, next) => {
    if (request.path === '/healthcheck') return next();
    const started = performance.now();
    const { method, path } = request;
    response.on('finish', () => {
      const line = {
        time: new Date().toISOString(),
        method,
        path,
        status: response.statusCode,
        ms: round(performance.now() - started),
        task,
        version,
      };
      process.stdout.write(`${JSON.stringify(line)}\n`);
    });
    next();
  };
}

function createApp(identity, { workMs, version }) {
  const { task, zone, revision, colour } = identity;
  const page = pageFor(identity, version);
  const app = express();
  app.disable('x-powered-by');
  app.disable('etag'); // no two pages are alike: a hash of each would be CPU for nothing
  app.use(logRequests(task, version));

  app.get('/', (request, response) => {
    const started = performance.now();
    doWork(workMs);
    const ms = round(performance.now() - started);
    response.set('Cache-Control', 'no-store');
    if (request.accepts('html', 'json') === 'json') {
      response.json({ task, zone, version, revision, colour, ms });
    } else {
      response.type('html').send(page(ms));
    }
  });

  app.get('/healthcheck', (request, response) => {
    response.type('text').send('ok\n');
  });

  // Kept in this process's memory on purpose: with two tasks there are two counts.
  let visits = 0;
  app.get('/visits', (request, response) => {
    visits += 1;
    response.set('Cache-Control', 'no-store').json({ visits, task });
  });

  return app;
}

function drainOnSigterm(server) {
  let draining = false;
  server.on('request', (request, response) => {
    if (draining) response.setHeader('Connection', 'close');
    response.on('finish', () => {
      if (draining) setImmediate(() => server.closeIdleConnections());
    });
  });
  process.on('SIGTERM', () => {
    draining = true;
    // One turn of the event loop later: what had arrived before the signal is answered before idle connections close.
    setImmediate(() => server.close(() => process.exit(0)));
  });
}

async function main() {
  const settings = readSettings();
  const server = http.createServer();
  // Longer than the load balancer's idle timeout of 60 s, so that it is never the app that closes first (a 502).
  server.keepAliveTimeout = 65_000;
  server.headersTimeout = 70_000;
  drainOnSigterm(server);
  const identity = await whoAmI();
  server.on('request', createApp(identity, settings));
  server.once('error', (error) => {
    const reason = error.code === 'EADDRINUSE' ? 'that port is in use' : error.message;
    console.error(`Cannot listen on ${settings.host}:${settings.port}: ${reason}`);
    process.exit(1);
  });
  server.listen(settings.port, settings.host, () => {
    const { address, port } = server.address();
    const line = { time: new Date().toISOString(), event: 'listening', address, port, task: identity.task };
    process.stdout.write(`${JSON.stringify(line)}\n`);
  });
}

main().catch((error) => {
  console.error(`Cannot start: ${error.message}`);
  process.exit(1);
});
