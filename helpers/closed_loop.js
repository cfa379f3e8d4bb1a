'use strict';

// node closed_loop.js <host> <port> <connections> <seconds>: as many GET / as an HTTP/1.1 server answers to so many
// connections, each of which asks again when it has its answer. Prints {"answered": N, "failed": N, "seconds": S}.
// Bare sockets, so that the one who asks costs less than the one who answers.

const net = require('node:net');

const [host, port, connections, seconds] = process.argv.slice(2);
const REQUEST = `GET / HTTP/1.1\r\nHost: ${host}:${port}\r\nAccept: text/html\r\n\r\n`;
const LENGTH = /^content-length: *(\d+)\r$/im;
let answered = 0;
let failed = 0;
let over = false;

function connect() {
  const socket = net.connect(Number(port), host);
  let begun = Buffer.alloc(0);
  let missing = 0; // bytes of the body
  socket.setNoDelay(true);
  socket.on('connect', () => socket.write(REQUEST));
  socket.on('error', () => {});
  socket.on('close', () => {
    if (over) return;
    failed += 1;
    setTimeout(connect, 100);
  });
  socket.on('data', (data) => {
    if (missing === 0) {
      begun = begun.length ? Buffer.concat([begun, data]) : data;
      const end = begun.indexOf('\r\n\r\n');
      if (end < 0) return;
      const head = begun.latin1Slice(0, end + 2);
      const length = LENGTH.exec(head);
      if (!length || !head.startsWith('HTTP/1.1 200')) {
        socket.destroy();
        return;
      }
      missing = Number(length[1]) - (begun.length - end - 4);
      begun = Buffer.alloc(0);
    } else {
      missing -= data.length;
    }
    if (missing > 0) return;
    missing = 0;
    answered += 1;
    if (!over) socket.write(REQUEST);
  });
}

for (let number = 0; number < Number(connections); number += 1) connect();
const began = performance.now();
setTimeout(() => {
  over = true;
  const took = (performance.now() - began) / 1000;
  process.stdout.write(`${JSON.stringify({ answered, failed, seconds: took })}\n`, () => process.exit(0));
}, Number(seconds) * 1000);
