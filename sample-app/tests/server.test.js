'use strict';

const assert = require('node:assert/strict');
const fs = require('node:fs');
const http = require('node:http');
const test = require('node:test');
const { get, startApp, until } = require('./app-process');

const asJson = { headers: { Accept: 'application/json' } };
const TASK_ARN = 'arn:aws:ecs:us-east-1:123456789012:task/cluster/0a1b2c3d4e5f60718293a4b5c6d7e8f9';

async function metadataServer(t, status, body) {
  const server = http.createServer((request, response) => {
    response.statusCode = request.url === '/v4/abc/task' ? status : 404;
    response.end(body);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => server.close());
  return `http://127.0.0.1:${server.address().port}/v4/abc`;
}

test('the page says who answered, where, and with which version', async (t) => {
  const endpoint = await metadataServer(
    t,
    200,
    JSON.stringify({ TaskARN: TASK_ARN, Family: 'shop', Revision: '7', AvailabilityZone: 'us-east-1b' }),
  );
  const app = await startApp(t, { ECS_CONTAINER_METADATA_URI_V4: endpoint, VERSION: '2.0.0-<beta>' });

  const page = await get(`${app.url}/`);
  assert.equal(page.status, 200);
  assert.match(page.headers['content-type'], /^text\/html/);
  for (const text of ['0a1b2c3d', 'us-east-1b', 'shop:7', '2.0.0-&lt;beta&gt;']) {
    assert.ok(page.body.includes(text), text);
  }
  assert.ok(!page.body.includes('123456789012'), 'the account number is nobody’s business');

  const json = JSON.parse((await get(`${app.url}/`, asJson)).body);
  const { ms, colour, ...rest } = json;
  assert.deepEqual(rest, { task: '0a1b2c3d', zone: 'us-east-1b', version: '2.0.0-<beta>', revision: 'shop:7' });
  assert.equal(typeof ms, 'number');
  assert.ok(page.body.includes(colour));
});

test('without ECS it goes by this machine', async (t) => {
  const app = await startApp(t);
  const { task, zone, version, revision } = JSON.parse((await get(`${app.url}/`, asJson)).body);
  assert.ok(task.endsWith(`/${app.pid}`));
  assert.equal(zone, 'this machine');
  assert.equal(version, require('../package.json').version);
  assert.equal(revision, null);
});

test('a metadata endpoint that fails is told, and does not keep the app from serving', async (t) => {
  const endpoint = await metadataServer(t, 500, 'no');
  const app = await startApp(t, { ECS_CONTAINER_METADATA_URI_V4: endpoint });
  assert.equal((await get(`${app.url}/healthcheck`)).status, 200);
  assert.match(app.errors, /No task metadata from .* \(status 500\)/);
});

test('visits counts in memory', async (t) => {
  const app = await startApp(t);
  const answers = [];
  for (let i = 0; i < 3; i += 1) answers.push(JSON.parse((await get(`${app.url}/visits`)).body));
  assert.deepEqual(answers.map(({ visits }) => visits), [1, 2, 3]);
  assert.equal(new Set(answers.map(({ task }) => task)).size, 1);
});

test('one JSON line per request, none for health checks', async (t) => {
  const app = await startApp(t);
  for (const path of ['/', '/healthcheck', '/visits?who=me', '/nowhere', '/healthcheck']) await get(app.url + path);
  await until(() => app.lines.length >= 4, 'the log');
  const [first, ...requests] = app.lines;
  assert.equal(first.event, 'listening');
  assert.deepEqual(
    requests.map(({ method, path, status }) => [method, path, status]),
    [['GET', '/', 200], ['GET', '/visits', 200], ['GET', '/nowhere', 404]],
  );
  for (const { time, ms, task, version } of requests) {
    assert.equal(new Date(time).toISOString(), time);
    assert.ok(ms >= 0);
    assert.equal(task, first.task);
    assert.equal(version, require('../package.json').version);
  }
});

test('connections outlive the 60 s of the load balancer', async (t) => {
  const app = await startApp(t);
  const agent = new http.Agent({ keepAlive: true });
  t.after(() => agent.destroy());
  const { headers } = await get(`${app.url}/healthcheck`, { agent });
  assert.equal(headers['keep-alive'], 'timeout=65');
});

// CPU seconds of a process, all threads, in ticks of 10 ms.
function cpuSeconds(pid) {
  const fields = fs.readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

const needsProc = { skip: !fs.existsSync('/proc/self/stat') && 'CPU of another process is read from /proc' };

test('the work is real CPU, as much as WORK_MS says', needsProc, async (t) => {
  const requests = 20;
  const costs = {};
  for (const work of [0, 10, 40]) {
    const app = await startApp(t, { WORK_MS: String(work) });
    await get(`${app.url}/`);
    const before = cpuSeconds(app.pid);
    for (let i = 0; i < requests; i += 1) await get(`${app.url}/`);
    costs[work] = ((cpuSeconds(app.pid) - before) * 1000) / requests;
  }
  for (const work of [10, 40]) {
    const extra = costs[work] - costs[0];
    assert.ok(extra > 0.8 * work && extra < 1.25 * work + 1, JSON.stringify(costs));
  }
});

test('settings that make no sense end it with a clear line', async (t) => {
  for (const [name, value] of [['PORT', 'http'], ['PORT', '70000'], ['WORK_MS', '-1'], ['WORK_MS', '1.5']]) {
    const app = await startApp(t, { [name]: value });
    assert.deepEqual(await app.exited, { code: 1, signal: null });
    assert.match(app.errors, new RegExp(`${name} must be a whole number .*"${value}"`));
    assert.equal(app.errors.trim().split('\n').length, 1);
  }
});

test('a port in use ends it with a clear line', async (t) => {
  const first = await startApp(t);
  const second = await startApp(t, { PORT: String(first.port) });
  assert.deepEqual(await second.exited, { code: 1, signal: null });
  assert.equal(second.errors.trim(), `Cannot listen on 127.0.0.1:${first.port}: that port is in use`);
});
