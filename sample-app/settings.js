'use strict';

// Everything the app can be told, read once at the start, so that a wrong value ends it there and not at a visitor.

function wholeNumber(name, fallback, { min, max }) {
  const text = process.env[name] || fallback;
  const value = Number(text);
  if (!Number.isInteger(value) || value < min || value > max) {
    throw new Error(`${name} must be a whole number from ${min} to ${max}, not "${text}"`);
  }
  return value;
}

function readSettings() {
  return {
    port: wholeNumber('PORT', '3000', { min: 0, max: 65535 }),
    host: process.env.HOST || '0.0.0.0',
    workMs: wholeNumber('WORK_MS', '6', { min: 0, max: 60000 }),
    version: process.env.VERSION || require('./package.json').version,
  };
}

module.exports = { readSettings };
