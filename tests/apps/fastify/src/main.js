import Fastify from 'fastify';
import { greeting } from './greeting.js';

const app = Fastify({ logger: true, keepAliveTimeout: 65_000 });
app.get('/', async () => ({ greeting: greeting(process.version) }));
app.get('/healthcheck', { logLevel: 'silent' }, async () => 'ok');
process.once('SIGTERM', () => app.close());
await app.listen({ port: Number(process.env.PORT ?? 8080), host: process.env.HOST ?? '0.0.0.0' });
