'use strict';

const assert = require('node:assert/strict');
const { once } = require('node:events');
const fs = require('node:fs');
const http = require('node:http');
const net = require('node:net');
const test = require('node:test');
const { get, startApp, until } = require('./app-process');

const clean = { code: 0, signal: null };

// Sends raw text; `received` grows, `closed` settles when the app ends the connection.
async function connection(t, app, text) {
  const socket = net.connect(app.port, '127.0.0.1');
  t.after(() => socket.destroy());
  const state = { socket, received: '' };
  socket.setEncoding('utf8').on('data', (chunk) => (state.received += chunk));
  state.closed = once(socket, 'close');
  await once(socket, 'connect');
  await new Promise((resolve) => socket.write(text, resolve));
  return state;
}

// Hundredths of a second of CPU time that the app has used. Only Linux tells: elsewhere real ones stand for them.
function cpuTicks(app) {
  if (process.platform !== 'linux') return Date.now() / 10;
  const [, fields] = fs.readFileSync(`/proc/${app.pid}/stat`, 'utf8').split(') ');
  const [user, system] = fields.split(' ').slice(11, 13);
  return Number(user) + Number(system);
}

const refused = (app) => get(`${app.url}/healthcheck`).then(() => false, (error) => error.code === 'ECONNREFUSED');

test('SIGTERM: a request being worked on is answered, then exit 0', async (t) => {
  const app = await startApp(t, { WORK_MS: '600' });
  const before = cpuTicks(app);
  const answer = get(`${app.url}/`);
  await until(() => cpuTicks(app) > before + 9, 'the app to be at work');
  app.child.kill('SIGTERM');
  assert.equal((await answer).status, 200);
  assert.deepEqual(await app.exited, clean);
});

test('SIGTERM: a request half received is answered, new connections are refused', async (t) => {
  const app = await startApp(t);
  const half = await connection(t, app, 'GET /visits HTTP/1.1\r\nHost: app\r\n');
  await get(`${app.url}/healthcheck`); // the app has read what came before this
  app.child.kill('SIGTERM');
  let gone = false;
  const poll = (async () => {
    while (!gone) gone = await refused(app);
  })();
  await until(() => gone, 'new connections to be refused');
  await poll;
  assert.equal(app.child.exitCode, null, 'it waits for the request under way');
  half.socket.write('\r\n');
  await half.closed;
  assert.match(half.received, /^HTTP\/1\.1 200 OK\r\n/);
  assert.match(half.received, /\r\nConnection: close\r\n/);
  assert.deepEqual(await app.exited, clean);
});

test('SIGTERM: every request that had arrived is answered', async (t) => {
  const app = await startApp(t);
  const agent = new http.Agent({ keepAlive: true, maxSockets: 20 });
  t.after(() => agent.destroy());
  const some = () => Promise.all(Array.from({ length: 20 }, () => get(`${app.url}/`, { agent })));
  await some();
  const answers = some();
  await until(() => app.lines.length > 21, 'the first of them to be served');
  app.child.kill('SIGTERM');
  for (const { status } of await answers) assert.equal(status, 200);
  assert.deepEqual(await app.exited, clean);
});

test('SIGTERM: idle connections do not hold it up', async (t) => {
  const app = await startApp(t);
  const idle = await connection(t, app, 'GET /healthcheck HTTP/1.1\r\nHost: app\r\n\r\n');
  await until(() => idle.received.endsWith('ok\n'), 'the answer');
  const started = Date.now();
  app.child.kill('SIGTERM');
  assert.deepEqual(await app.exited, clean);
  assert.ok(Date.now() - started < 5000);
  await idle.closed;
});
