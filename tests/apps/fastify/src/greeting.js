export const greeting = (version) => `hello from Fastify on Node.js ${version}`;
