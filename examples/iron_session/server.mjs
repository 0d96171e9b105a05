// The front end: plain node with the real iron-session, and ideal-auth's payload in its cookie.
//
// `signedIn`, `login` and `freshUser` do what ideal-auth's user(), login() and its guide on token
// refresh do. What begins with /api/ goes to the FastAPI back end, as with `rewrites` in Next.js;
// the browser's cookie goes along, and so do the cookies that come back.
import { createHash, randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import { getIronSession } from 'iron-session';

const env = process.env;
const { EXAMPLE_PROVIDER: provider, EXAMPLE_BACK_END: backEnd, EXAMPLE_FRONT_END: here } = env;
const week = 7 * 24 * 60 * 60;
// With ideal-auth, list 'sid', 'gen' and 'kept' among the sessionFields: they are FastAPI's.
const fields = ['email', 'name', 'accessToken', 'refreshToken', 'expiresAt', 'sid', 'gen', 'kept'];
const cookieOptions = { secure: false, maxAge: week }; // plain http on loopback
const options = { cookieName: 'ideal_session', password: env.EXAMPLE_SECRET, ttl: week, chunk: true, cookieOptions };
const attempts = { ...options, cookieName: 'node_attempt', ttl: 600, cookieOptions: { secure: false, maxAge: 600 } };
const seconds = () => Math.floor(Date.now() / 1000);
const s256 = (text) => createHash('sha256').update(text).digest();

// -- the session ----------------------------------------------------------------------------------

function signedIn({ uid, exp, data }) {
  return uid && data && exp > seconds() ? { ...data, id: uid } : null;
}

async function login(session, user) {
  const iat = seconds();
  const data = Object.fromEntries(fields.filter((name) => name in user).map((name) => [name, user[name]]));
  Object.assign(session, { uid: String(user.id), iat, exp: iat + week, ttl: week, data });
  await session.save();
}

async function token(parameters) {
  const credentials = Buffer.from(`example:${env.EXAMPLE_CLIENT_SECRET}`).toString('base64');
  const answer = await fetch(`${provider}/token`, {
    method: 'POST',
    headers: { authorization: `Basic ${credentials}` },
    body: new URLSearchParams(parameters),
  });
  // Only a refusal says that the grant is dead; an outage or a limit signs nobody out.
  if (answer.status === 400 || answer.status === 401) return null;
  if (!answer.ok) throw new Error('the authorization server is not available');
  const { access_token, refresh_token, expires_in } = await answer.json();
  return { accessToken: access_token, refreshToken: refresh_token, expiresAt: seconds() + expires_in };
}

// Requests of this process that come with one refresh token wait for one call. A FastAPI that
// refreshes in that same moment knows nothing of it: see docs/how-to/moving-from-iron-session.md.
const underWay = new Map();

function refreshed(refreshToken) {
  if (!underWay.has(refreshToken)) {
    const call = token({ grant_type: 'refresh_token', refresh_token: refreshToken });
    underWay.set(refreshToken, call.finally(() => underWay.delete(refreshToken)));
  }
  return underWay.get(refreshToken);
}

async function freshUser(session) {
  const user = signedIn(session);
  if (!user || user.expiresAt > seconds() + Number(env.EXAMPLE_BUFFER)) return user;
  const tokens = await refreshed(user.refreshToken);
  if (!tokens) {
    session.destroy();
    return null;
  }
  await login(session, { ...user, ...tokens });
  return { ...user, ...tokens };
}

// -- routes ---------------------------------------------------------------------------------------

const page = `<!doctype html><html lang="en"><meta charset="utf-8"><title>One session</title>
<meta name="viewport" content="width=device-width">
<h1>One session, two servers</h1>
<p>Sign in at <a href="/login">Node</a> or at <a href="${backEnd}/login">FastAPI</a>.</p>
<pre id="node">Node: …</pre><pre id="python">FastAPI: …</pre>
<form method="post" action="/logout"><button>Sign out at Node</button></form>
<form method="post" action="${backEnd}/logout"><button>Sign out at FastAPI</button></form>
<script type="module">
  const show = async (id, path) => {
    const answer = await fetch(path);
    document.getElementById(id).textContent = id + ': ' + (answer.ok ? await answer.text() : 'signed out');
  };
  for (;;) { // one after the other: two refreshes at once would be one too many
    await show('node', '/me');
    await show('python', '/api/me');
    await new Promise((done) => setTimeout(done, 1000));
  }
</script></html>`;

const routes = {
  'GET /': (req, res) => res.setHeader('content-type', 'text/html; charset=utf-8').end(page),

  'GET /me': async (req, res) => {
    const user = await freshUser(await getIronSession(req, res, options));
    if (!user) return json(res, 401, { detail: 'Not signed in' });
    const told = s256(user.accessToken).toString('hex').slice(0, 8);
    return json(res, 200, { side: 'node', id: user.id, name: user.name, token: told });
  },

  'GET /login': async (req, res) => {
    const attempt = await getIronSession(req, res, attempts);
    attempt.state = randomBytes(16).toString('base64url');
    attempt.verifier = randomBytes(48).toString('base64url');
    await attempt.save();
    const query = new URLSearchParams({
      response_type: 'code',
      client_id: 'example',
      redirect_uri: `${here}/callback`,
      scope: 'openid',
      state: attempt.state,
      code_challenge: s256(attempt.verifier).toString('base64url'),
      code_challenge_method: 'S256',
    });
    redirect(res, `${provider}/authorize?${query}`);
  },

  'GET /callback': async (req, res, url) => {
    const attempt = await getIronSession(req, res, attempts);
    const { state, verifier } = attempt;
    attempt.destroy();
    if (!state || url.searchParams.get('state') !== state) return json(res, 400, { detail: 'Unknown attempt' });
    const tokens = await token({
      grant_type: 'authorization_code',
      code: url.searchParams.get('code') ?? '',
      redirect_uri: `${here}/callback`,
      code_verifier: verifier,
    });
    if (!tokens) return json(res, 400, { detail: 'The sign-in was not completed' });
    const claims = await fetch(`${provider}/userinfo`, { headers: { authorization: `Bearer ${tokens.accessToken}` } });
    const { sub, email, name } = await claims.json();
    await login(await getIronSession(req, res, options), { id: sub, email, name, ...tokens });
    return redirect(res, '/');
  },

  'POST /logout': async (req, res) => {
    if (req.headers.origin !== here) return json(res, 403, { detail: 'From another origin' });
    (await getIronSession(req, res, options)).destroy();
    return redirect(res, '/');
  },
};

async function forwarded(req, res, url) {
  const answer = await fetch(`${backEnd}${url.pathname}${url.search}`, {
    headers: { cookie: req.headers.cookie ?? '' },
    redirect: 'manual',
  });
  const cookies = answer.headers.getSetCookie();
  if (cookies.length) res.setHeader('set-cookie', cookies);
  res.setHeader('cache-control', 'no-store');
  res.writeHead(answer.status, { 'content-type': answer.headers.get('content-type') ?? 'text/plain' });
  res.end(Buffer.from(await answer.arrayBuffer()));
}

function json(res, status, body) {
  res.setHeader('cache-control', 'no-store');
  res.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
}

function redirect(res, location) {
  res.writeHead(303, { location }).end();
}

const server = createServer(async (req, res) => {
  if (!URL.canParse(req.url, here)) return json(res, 404, { detail: 'Not found' });
  const url = new URL(req.url, here);
  const api = req.method === 'GET' && url.pathname.startsWith('/api/');
  const route = api ? forwarded : routes[`${req.method} ${url.pathname}`];
  try {
    await (route ? route(req, res, url) : json(res, 404, { detail: 'Not found' }));
  } catch (error) {
    console.error(error.name); // its text may hold a token
    if (!res.headersSent) json(res, 502, { detail: 'Try again' });
  }
});

process.stdin.resume().on('end', () => process.exit()); // with whoever started it
server.listen(Number(new URL(here).port), '127.0.0.1');
