'use strict';

const http = require('node:http');
const os = require('node:os');

const PATIENCE_MS = 2000;

function getJson(url) {
  return new Promise((resolve, reject) => {
    const request = http.get(url, { timeout: PATIENCE_MS, agent: false }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (chunk) => (text += chunk));
      response.on('error', reject);
      response.on('end', () => {
        if (response.statusCode !== 200) return reject(new Error(`status ${response.statusCode}`));
        try {
          resolve(JSON.parse(text));
        } catch (error) {
          reject(error);
        }
      });
    });
    request.on('timeout', () => request.destroy(new Error(`no answer in ${PATIENCE_MS} ms`)));
    request.on('error', reject);
  });
}

// The same id has the same colour everywhere, so that two tasks can be told apart at a glance.
function colourOf(id) {
  let hash = 0;
  for (const character of id) hash = (hash * 31 + character.charCodeAt(0)) >>> 0;
  return `hsl(${hash % 360} 65% 40%)`;
}

function onThisMachine() {
  const task = `${os.hostname().slice(0, 20)}/${process.pid}`;
  return { task, zone: 'this machine', revision: null, colour: colourOf(task) };
}

// Who answers: ECS tells each container by a metadata endpoint of its own.
async function whoAmI() {
  const endpoint = process.env.ECS_CONTAINER_METADATA_URI_V4;
  if (!endpoint) return onThisMachine();
  try {
    const metadata = await getJson(`${endpoint}/task`);
    const task = metadata.TaskARN.split('/').pop().slice(0, 8);
    const revision = metadata.Revision ? `${metadata.Family}:${metadata.Revision}` : null;
    return { task, zone: metadata.AvailabilityZone || 'unknown zone', revision, colour: colourOf(task) };
  } catch (error) {
    // A name on a page is no reason to refuse service.
    console.error(`No task metadata from ${endpoint} (${error.message}); going by this machine's name.`);
    return onThisMachine();
  }
}

module.exports = { colourOf, whoAmI };
