'use strict';

const ENTITIES = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };
const escape = (text) => String(text).replace(/[&<>"]/g, (character) => ENTITIES[character]);

// All but the time the work took is known at the start: only that is put in per request.
function pageFor({ task, zone, revision, colour }, version) {
  const [before, after] = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Task ${escape(task)}</title>
<style>
body{margin:0;min-height:100vh;display:grid;place-items:center;background:${colour}}
main{background:#fff;color:#222;padding:2.5rem 3rem;border-radius:1rem;box-shadow:0 1rem 3rem #0005}
main{font:18px/1.5 system-ui,sans-serif}
h1{margin:0;font:600 2.6rem ui-monospace,monospace;color:${colour}}
p{margin:.25rem 0}small{color:#666}a{color:inherit}
</style>
<main>
<p>You were answered by task</p>
<h1>${escape(task)}</h1>
<p>in <b>${escape(zone)}</b>, version <b>${escape(version)}</b>${revision ? ` of <b>${escape(revision)}</b>` : ''}</p>
<p><small>It worked @@ ms for you. Reload, and another task may answer. <a href="/visits">Count your visits</a></small></p>
</main>
</html>
`.split('@@');
  return (milliseconds) => before + milliseconds + after;
}

module.exports = { pageFor };
