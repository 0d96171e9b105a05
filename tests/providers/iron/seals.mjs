// Seals and unseals with the real packages: a line of JSON asks, a line of JSON answers, in order.
//
//   {"do": "seal",   "with": PACKAGE, "data": …, "password": "…" | {"1": "…"}, "ttl": seconds}
//   {"do": "unseal", "with": PACKAGE, "text": "…", "password": …}
//   {"do": "save",   "with": PACKAGE, "data": …, "password": …, "options": {…}, "cookie": "…",
//    "writing": a password for writing alone}
//   {"do": "read",   "with": PACKAGE, "password": …, "options": {…}, "cookie": "…"}
//
// PACKAGE is "iron-session-8", "iron-session-9" or "@hapi/iron". The answer is {"ok": …}, or
// {"refused": MESSAGE}. iron-session answers an empty object for a seal it refuses.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';
import path from 'node:path';

const root = process.env.HARNESS_ROOT;
const require = createRequire(path.join(root, 'package.json'));
const entry = (name, file) => import(pathToFileURL(path.join(root, 'node_modules', name, file)));

const sessions = {
  'iron-session-8': await entry('iron-session-8', 'dist/index.js'),
  'iron-session-9': await entry('iron-session-9', 'dist/index.js'),
};
const iron = require('@hapi/iron');

function mapOf(password) {
  return typeof password === 'string' ? { 1: password } : password;
}

async function sealedByIron({ data, password, ttl }) {
  const map = mapOf(password);
  const id = String(Math.max(...Object.keys(map).map(Number)));
  return iron.seal(data, { id, secret: map[id] }, { ...iron.defaults, ttl: ttl * 1000 });
}

// A request and a response, as far as iron-session looks at them.
function exchange(cookie) {
  const headers = new Headers();
  return [new Request('http://127.0.0.1/', { headers: { cookie } }), { headers }, headers];
}

const work = {
  seal: (task) => {
    const session = sessions[task.with];
    return session ? session.sealData(task.data, task) : sealedByIron(task);
  },
  unseal: (task) => {
    const session = sessions[task.with];
    if (session) return session.unsealData(task.text, task);
    return iron.unseal(task.text.split('~')[0], mapOf(task.password), iron.defaults);
  },
  save: async (task) => {
    const [request, response, headers] = exchange(task.cookie);
    const options = { ...task.options, password: task.password };
    const session = await sessions[task.with].getIronSession(request, response, options);
    if (task.writing) session.updateConfig({ ...task.options, password: task.writing });
    for (const key of Object.keys(session)) delete session[key];
    await Object.assign(session, task.data).save();
    return headers.getSetCookie();
  },
  read: async (task) => {
    const [request, response] = exchange(task.cookie);
    const options = { ...task.options, password: task.password };
    return { ...(await sessions[task.with].getIronSession(request, response, options)) };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const task = JSON.parse(line);
  let answer;
  try {
    answer = { ok: await work[task.do](task) };
  } catch (error) {
    answer = { refused: error.message };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
