'use strict';

const { spawn } = require('node:child_process');
const { once } = require('node:events');
const http = require('node:http');
const path = require('node:path');

const SERVER = path.join(__dirname, '..', 'server.js');

// The app as a process of its own, on a free port of loopback; `lines` are its log lines so far, parsed.
async function startApp(t, environment = {}) {
  const child = spawn(process.execPath, [SERVER], {
    env: { PATH: process.env.PATH, HOST: '127.0.0.1', PORT: '0', ...environment },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  t.after(() => child.kill('SIGKILL'));
  const exited = once(child, 'close').then(([code, signal]) => ({ code, signal }));
  const app = { child, exited, lines: [], errors: '', pid: child.pid };
  child.stderr.on('data', (chunk) => (app.errors += chunk));

  let rest = '';
  let listening;
  const started = new Promise((resolve) => (listening = resolve));
  child.stdout.setEncoding('utf8').on('data', (chunk) => {
    const parts = (rest + chunk).split('\n');
    rest = parts.pop();
    for (const part of parts) {
      const line = JSON.parse(part);
      app.lines.push(line);
      if (line.event === 'listening') listening(line);
    }
  });
  const first = await Promise.race([started, exited]);
  if (first.event) {
    app.port = first.port;
    app.url = `http://127.0.0.1:${first.port}`;
  }
  return app;
}

function get(url, options = {}) {
  return new Promise((resolve, reject) => {
    const request = http.get(url, options, (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (chunk) => (body += chunk));
      response.on('end', () => resolve({ status: response.statusCode, headers: response.headers, body }));
    });
    request.on('error', reject);
  });
}

async function until(condition, what) {
  const deadline = Date.now() + 10_000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`waited 10 s for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

module.exports = { get, startApp, until };
