// Serves npm oidc-provider on a loopback port together with a control API for tests; knows nothing
// of the library under test.
//
// HARNESS_ROOT    directory whose node_modules holds oidc-provider (it lies outside the repository)
// HARNESS_CONFIG  JSON, see `defaults`
//
// On stdout it prints one JSON line, {"ready": true, "port": N}, and it leaves when stdin closes.

import {
  createHash, createPublicKey, generateKeyPairSync, randomBytes, sign, verify,
} from 'node:crypto';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';

// An ES module is looked up from the file that imports it, and NODE_PATH does not count.
const packageRoot = join(process.env.HARNESS_ROOT, 'node_modules', 'oidc-provider');
const { main } = JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8'));
const { Provider, errors } = await import(pathToFileURL(join(packageRoot, main)));

// Resources that a token can be asked for (RFC 8707). The first is the API at /api/me and what is
// granted when none is asked for; each of the others has an API at /api/ and its last word.
const RESOURCES = ['urn:test:api', 'urn:test:files', 'urn:test:mail'];
const [RESOURCE] = RESOURCES;
// oidc-provider drops offline_access in silence, and with it the refresh token, unless the
// authorization request carries prompt=consent (OpenID Connect Core §11).
const SCOPE = 'openid email profile offline_access';

const defaults = {
  port: 0, // 0 = any free one
  // Settings: they hold for what is issued from now on, and POST /_test/settings changes them.
  access_token_ttl: 3600, // seconds
  refresh_token_ttl: 1209600, // seconds
  rotate_refresh_token: true,
  id_token_ttl: 3600, // seconds
  jwt_access_tokens: true, // false = opaque ones, which userinfo and introspection accept
  // What discovery offers.
  rp_initiated_logout: true,
  backchannel_logout: true,
  pushed_authorization_requests: true,
  require_pushed_authorization_requests: false,
  dpop: true,
  dpop_nonce_required: false, // RFC 9449 §8: each proof needs a nonce of this server
  // Metadata by the names of OpenID Connect Dynamic Client Registration §2.
  clients: [],
};
const { port: wantedPort, clients, ...initialSettings } = {
  ...defaults,
  ...JSON.parse(process.env.HARNESS_CONFIG ?? '{}'),
};

// ---- state that the control API shows and changes

let settings;
let faults;
let stats;
let provider; // made anew when its keys or features change; what it knows is in the adapter
let keys;
// The next two outlive a reset: what was spent stays spent.
const spent = new Set();
const internal = randomBytes(16).toString('hex');

function resetStats() {
  stats = {
    token_calls: {}, // grant type -> outcome ("ok", an error code, "fault") -> number
    refresh_tokens: {}, // SHA-256 of a refresh token -> {presented, spent}
    spent_presented: 0,
    grants_revoked: 0,
    revocation_calls: 0,
    requests: {}, // path -> number, whatever the answer
    faults_fired: 0,
    in_flight: stats?.in_flight ?? 0,
    most_in_flight: stats?.in_flight ?? 0,
  };
}

function resetAll() {
  settings = { ...initialSettings };
  faults = [];
  resetStats();
}

resetAll();

const base64url = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
const fromBase64url = (text) => JSON.parse(Buffer.from(text, 'base64url'));
const hashOf = (token) => createHash('sha256').update(token).digest('hex');

function countTokenCall({ grant_type: grantType = 'unknown', refresh_token: token }, outcome) {
  const outcomes = (stats.token_calls[grantType] ??= {});
  outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
  if (grantType !== 'refresh_token' || !token) return;
  const hash = hashOf(token);
  const seen = (stats.refresh_tokens[hash] ??= { presented: 0, spent: 0 });
  seen.presented += 1;
  // A call that succeeded spent its token itself; any other found it so.
  if (outcome !== 'ok' && spent.has(hash)) {
    seen.spent += 1;
    stats.spent_presented += 1;
  }
}

// ---- the provider

// The bundled adapter forgets after about a thousand entries; this one never does.
const entries = new Map();

function createAdapter() {
  const byGrant = new Map();
  const sessionByUid = new Map();

  return (model) => {
    const key = (id) => `${model}:${id}`;
    return {
      async upsert(id, payload) {
        entries.set(key(id), payload);
        if (model === 'Session') sessionByUid.set(payload.uid, id);
        if (!payload.grantId) return;
        if (!byGrant.has(payload.grantId)) byGrant.set(payload.grantId, new Set());
        byGrant.get(payload.grantId).add(key(id));
      },
      async find(id) {
        return entries.get(key(id));
      },
      async findByUid(uid) {
        return entries.get(key(sessionByUid.get(uid)));
      },
      async findByUserCode() {
        return undefined;
      },
      async consume(id) {
        entries.get(key(id)).consumed = Math.floor(Date.now() / 1000);
      },
      async destroy(id) {
        entries.delete(key(id));
      },
      async revokeByGrantId(grantId) {
        for (const member of byGrant.get(grantId) ?? []) {
          if (member.startsWith(`${model}:`)) entries.delete(member);
        }
      },
    };
  };
}

const adapter = createAdapter();
const cookieKey = randomBytes(16).toString('hex');
const nonceSecret = randomBytes(32);

// ---- signing keys: one RS256 and one ES256 sign; those before them verify until forgotten

function newKeys() {
  const pairs = {
    RS256: generateKeyPairSync('rsa', { modulusLength: 2048 }),
    ES256: generateKeyPairSync('ec', { namedCurve: 'P-256' }),
  };
  return Object.entries(pairs).map(([alg, { privateKey, publicKey }]) => {
    const kid = randomBytes(8).toString('hex');
    const jwk = { ...privateKey.export({ format: 'jwk' }), alg, kid, use: 'sig' };
    return { alg, kid, jwk, privateKey, publicKey };
  });
}

// ES256 signatures are the two numbers side by side (RFC 7518 §3.4), which node calls P1363.
const withKey = (key) => ({ key, dsaEncoding: 'ieee-p1363' });

function signJwt({ header = {}, claims }) {
  const { alg = 'RS256' } = header;
  const key = keys.find((candidate) => candidate.alg === alg);
  if (!key) throw new TypeError(`no key for ${alg}`);
  const signed = `${base64url({ alg, kid: key.kid, ...header })}.${base64url(claims)}`;
  const signature = sign('sha256', Buffer.from(signed), withKey(key.privateKey));
  return { jwt: `${signed}.${signature.toString('base64url')}` };
}

function isSignedBy(publicKey, jwt) {
  const [header, payload, signature] = jwt.split('.');
  const signed = Buffer.from(`${header}.${payload}`);
  return verify('sha256', signed, withKey(publicKey), Buffer.from(signature, 'base64url'));
}

const escapeHtml = (text) => String(text).replace(
  /[&<>"']/g,
  (character) => `&#${character.charCodeAt(0)};`,
);

// No font, script or image: a browser that may only reach loopback draws it at once.
const page = (title, body) => `<!doctype html><html lang="en"><meta charset="utf-8">`
  + `<title>${escapeHtml(title)}</title><h1>${escapeHtml(title)}</h1>${body}</html>`;

function findAccount(_ctx, sub) {
  const name = sub.charAt(0).toUpperCase() + sub.slice(1);
  return {
    accountId: sub,
    claims: () => ({ sub, email: `${sub}@example.test`, email_verified: true, name }),
  };
}

function loopbackFetch(url, options) {
  // Without the dispatcher that refuses loopback: back-channel logout has nowhere else to go here.
  const { dispatcher: _guard, ...rest } = options;
  if (!['127.0.0.1', 'localhost', '[::1]'].includes(new URL(url).hostname)) {
    throw new TypeError('this provider sends to loopback only');
  }
  return fetch(url, rest);
}

const configuration = () => ({
  adapter,
  // Not the 15 seconds of the default, which keep a token good past its end.
  clockTolerance: 0,
  findAccount,
  jwks: { keys: keys.map(({ jwk }) => jwk) },
  cookies: { keys: [cookieKey] },
  scopes: SCOPE.split(' '),
  claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name'] },
  // The default policy would not rotate for a fresh confidential client.
  rotateRefreshToken: () => settings.rotate_refresh_token,
  interactions: { url: (_ctx, interaction) => `/interaction/${interaction.uid}` },
  // A JWT access token is not stored, so this claim is how the API finds its grant.
  extraTokenClaims: (_ctx, token) => ({ grant_id: token.grantId }),
  renderError(ctx, out) {
    ctx.type = 'html';
    ctx.body = page('Error', `<pre>${escapeHtml(JSON.stringify(out))}</pre>`);
  },
  fetch: loopbackFetch,
  ttl: {
    AccessToken: () => settings.access_token_ttl,
    RefreshToken: () => settings.refresh_token_ttl,
    AuthorizationCode: 60,
    IdToken: () => settings.id_token_ttl,
    Interaction: 3600,
    Grant: 1209600,
    Session: 1209600,
  },
  features: {
    devInteractions: { enabled: false },
    introspection: { enabled: true },
    revocation: { enabled: true },
    userinfo: { enabled: true },
    pushedAuthorizationRequests: {
      enabled: settings.pushed_authorization_requests,
      requirePushedAuthorizationRequests: settings.require_pushed_authorization_requests,
    },
    dPoP: {
      enabled: settings.dpop,
      nonceSecret,
      requireNonce: () => settings.dpop_nonce_required,
    },
    backchannelLogout: { enabled: settings.backchannel_logout },
    rpInitiatedLogout: {
      enabled: settings.rp_initiated_logout,
      logoutSource(ctx, form) {
        const button = '<button form="op.logoutForm" name="logout" value="yes">Sign out</button>';
        ctx.body = page('Sign out?', form + button);
      },
      postLogoutSuccessSource(ctx) {
        ctx.body = page('Signed out', '');
      },
    },
    resourceIndicators: {
      enabled: true,
      // `oneOf` are those of the grant, when a token request names none.
      defaultResource: (_ctx, _client, oneOf) => (
        oneOf ? oneOf[0] : (settings.jwt_access_tokens ? RESOURCE : undefined)
      ),
      // A refresh request without `resource` gets a token for the granted one again.
      useGrantedResource: () => true,
      getResourceServerInfo(_ctx, indicator) {
        if (!RESOURCES.includes(indicator)) throw new errors.InvalidTarget();
        return { scope: SCOPE, audience: indicator, accessTokenFormat: 'jwt' };
      },
    },
  },
});

async function grantEverything(grant, scope, resources) {
  grant.addOIDCScope(scope);
  for (const resource of resources) grant.addResourceScope(resource, scope);
  return grant.save();
}

// ---- faults around /token

async function bodyOf(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

function takeFault(where) {
  const index = faults.findIndex((fault) => fault.where === where);
  if (index < 0) return undefined;
  const fault = faults[index];
  fault.times -= 1;
  if (fault.times <= 0) faults.splice(index, 1);
  stats.faults_fired += 1;
  return fault;
}

function hangUp(ctx) {
  ctx.respond = false;
  ctx.req.socket.destroy();
}

function sendHalf(ctx, text) {
  ctx.respond = false;
  const whole = Buffer.from(text);
  ctx.res.writeHead(200, {
    'content-type': 'application/json; charset=utf-8',
    'content-length': whole.length,
  });
  ctx.res.write(whole.subarray(0, whole.length / 2), () => ctx.req.socket.destroy());
}

function answerWith(ctx, { status = 502, body = '', headers = {} }) {
  ctx.status = status;
  ctx.remove('content-type'); // koa then tells it from the body: JSON, HTML or text
  ctx.body = body;
  ctx.set(headers);
}

async function apply(fault, ctx) {
  switch (fault.kind) {
    case 'drop':
      return hangUp(ctx);
    case 'truncate':
      return sendHalf(ctx, JSON.stringify(ctx.body ?? { access_token: 'never issued' }));
    case 'status':
      return answerWith(ctx, fault);
    default:
      return sleep(fault.ms ?? 1000);
  }
}

function outcomeOf(ctx) {
  return ctx.status < 400 ? 'ok' : ctx.body?.error ?? String(ctx.status);
}

async function tokenWithFaults(ctx, next) {
  const before = takeFault('before');
  if (before && before.kind !== 'delay') {
    countTokenCall(Object.fromEntries(new URLSearchParams(await bodyOf(ctx.req))), 'fault');
    return apply(before, ctx);
  }
  if (before) await apply(before, ctx);
  await next();
  countTokenCall(ctx.oidc?.params ?? {}, outcomeOf(ctx));
  const after = takeFault('after');
  return after && apply(after, ctx);
}

async function watchToken(ctx, next) {
  stats.requests[ctx.path] = (stats.requests[ctx.path] ?? 0) + 1;
  if (ctx.path === '/token/revocation') stats.revocation_calls += 1;
  if (ctx.path !== '/token' || ctx.get('x-test-internal') === internal) return next();
  stats.in_flight += 1;
  stats.most_in_flight = Math.max(stats.most_in_flight, stats.in_flight);
  try {
    return await tokenWithFaults(ctx, next);
  } finally {
    stats.in_flight -= 1;
  }
}

// ---- is this access token alive?

function claimsOfJwt(token) {
  if (!keys.some(({ publicKey }) => isSignedBy(publicKey, token))) return undefined;
  const claims = fromBase64url(token.split('.')[1]);
  return claims.iss === provider.issuer && RESOURCES.includes(claims.aud) ? claims : undefined;
}

async function claimsOfOpaque(token) {
  const found = await provider.AccessToken.find(token);
  return found && {
    sub: found.accountId,
    exp: found.exp,
    client_id: found.clientId,
    scope: found.scope,
    grant_id: found.grantId,
    ...(found.jkt && { cnf: { jkt: found.jkt } }),
  };
}

// Stricter than an API that only checks a signature: a token of a revoked grant is dead at once.
async function aliveClaims(token) {
  const claims = token.split('.').length === 3
    ? claimsOfJwt(token)
    : await claimsOfOpaque(token);
  if (!claims || claims.exp <= Date.now() / 1000) return undefined;
  return await provider.Grant.find(claims.grant_id) ? claims : undefined;
}

// ---- plain handlers: sign-in page, resource, control API

function send(response, status, body, headers = {}) {
  const json = typeof body !== 'string';
  response.writeHead(status, {
    'content-type': json ? 'application/json' : 'text/html; charset=utf-8',
    'cache-control': 'no-store',
    ...headers,
  });
  response.end(json ? JSON.stringify(body) : body);
}

function signInPage({ params, session, uid }) {
  const login = escapeHtml(session?.accountId ?? params.login_hint ?? '');
  return page('Sign in', `<form method="post"><input name="login" value="${login}" required>`
    + `<button>Sign in to ${escapeHtml(params.client_id)}</button></form>`
    + `<a href="/interaction/${uid}?refuse">Refuse</a>`);
}

async function signIn(request, response, { params }) {
  const login = new URLSearchParams(await bodyOf(request)).get('login');
  if (!login) return send(response, 400, page('A login is needed', ''));
  const grant = new provider.Grant({ accountId: login, clientId: params.client_id });
  const resources = params.resource ? [params.resource].flat() : [];
  const grantId = await grantEverything(grant, params.scope, resources);
  return provider.interactionFinished(
    request,
    response,
    { login: { accountId: login }, consent: { grantId } },
    { mergeWithLastSubmission: false },
  );
}

async function interaction(request, response, url) {
  const details = await provider.interactionDetails(request, response);
  if (request.method === 'POST') return signIn(request, response, details);
  if (!url.searchParams.has('refuse')) return send(response, 200, signInPage(details));
  return provider.interactionFinished(request, response, {
    error: 'access_denied',
    error_description: 'the person refused',
  });
}

const sha256 = (text) => createHash('sha256').update(text).digest('base64url');

// RFC 7638 §3.2: the required members of an EC key, in the order of the alphabet.
const thumbprint = ({ crv, kty, x, y }) => sha256(JSON.stringify({ crv, kty, x, y }));

// A proof of possession at the API (RFC 9449 §7.1), by a P-256 key. Replays are let through.
function isProofOf(proof, request, token, { jkt }) {
  const [{ alg, jwk, typ }, claims] = proof.split('.').slice(0, 2).map(fromBase64url);
  const url = new URL(claims.htu);
  return typ === 'dpop+jwt' && alg === 'ES256' && thumbprint(jwk) === jkt
    && claims.htm === request.method && url.origin === provider.issuer
    && url.pathname === new URL(request.url, provider.issuer).pathname
    && Math.abs(claims.iat - Date.now() / 1000) < 60 && claims.ath === sha256(token)
    && isSignedBy(createPublicKey({ key: jwk, format: 'jwk' }), proof);
}

function maySend(request, scheme, token, { cnf }) {
  if (!cnf?.jkt) return scheme === 'bearer';
  if (scheme !== 'dpop' || !request.headers.dpop) return false;
  try {
    return isProofOf(request.headers.dpop, request, token, cnf);
  } catch {
    return false; // no JWT, no key, no URL: whatever it is, it is no proof
  }
}

async function resource(request, response, audience) {
  const [, scheme = '', token = ''] = (
    /^(Bearer|DPoP) (.+)$/i.exec(request.headers.authorization ?? '') ?? []
  );
  const claims = await aliveClaims(token);
  // An opaque token has no audience and is good at the first API alone.
  const here = claims && (claims.aud ?? RESOURCE) === audience;
  if (here && maySend(request, scheme.toLowerCase(), token, claims)) {
    return send(response, 200, claims);
  }
  const challenge = token ? 'Bearer error="invalid_token"' : 'Bearer';
  return send(response, 401, { error: 'invalid_token' }, { 'www-authenticate': challenge });
}

// A sign-in without a browser: the code is written as the authorization endpoint would have, and
// exchanged at the real token endpoint, past faults and statistics. `resource` may be several;
// `form` and `headers` go to the token endpoint: a client assertion, a DPoP proof.
async function newSession({
  login = 'ada', client_id: clientId, scope = SCOPE, nonce, sid, resource: asked, form, headers,
}) {
  const client = await provider.Client.find(clientId);
  if (!client) throw new TypeError(`no client ${clientId}`);
  const resources = [asked ?? (settings.jwt_access_tokens ? RESOURCE : [])].flat();
  const grant = new provider.Grant({ accountId: login, clientId });
  const code = new provider.AuthorizationCode({
    accountId: login,
    authTime: Math.floor(Date.now() / 1000),
    ...(client.requireAuthTime && { claims: { id_token: { auth_time: { essential: true } } } }),
    client,
    expiresWithSession: false,
    grantId: await grantEverything(grant, scope, resources),
    gty: 'authorization_code',
    nonce,
    redirectUri: client.redirectUris[0],
    resource: resources.length > 1 ? resources : resources[0],
    scope,
    sid,
  });
  return exchange(client, await code.save(), form, headers);
}

async function exchange(client, code, extraForm = {}, extraHeaders = {}) {
  const form = new URLSearchParams({
    grant_type: 'authorization_code', code, redirect_uri: client.redirectUris[0], ...extraForm,
  });
  const headers = { ...extraHeaders, 'x-test-internal': internal };
  if (client.clientAuthMethod === 'client_secret_basic') {
    const [id, secret] = [client.clientId, client.clientSecret].map(encodeURIComponent);
    headers.authorization = `Basic ${Buffer.from(`${id}:${secret}`).toString('base64')}`;
  } else {
    form.set('client_id', client.clientId);
    if (client.clientSecret) form.set('client_secret', client.clientSecret);
  }
  const answer = await fetch(`${provider.issuer}/token`, { method: 'POST', body: form, headers });
  const body = await answer.json();
  if (!answer.ok) throw new TypeError(`the code was refused: ${JSON.stringify(body)}`);
  return body;
}

// ---- the provider's own side of signing out

async function backchannelLogout({ client_id: clientId, login = 'ada', sid }) {
  const client = await provider.Client.find(clientId);
  if (!client?.backchannelLogoutUri) throw new TypeError(`no backchannel_logout_uri: ${clientId}`);
  await client.backchannelLogout(login, sid);
  return {};
}

// As an administrator would: every browser session of the person ends, every client is told.
async function endSessions({ login = 'ada' }) {
  const told = {};
  const ids = [...entries].filter(([key, { accountId }]) => (
    key.startsWith('Session:') && accountId === login
  )).map(([key]) => key.slice('Session:'.length));
  for (const id of ids) {
    const session = await provider.Session.find(id);
    for (const clientId of Object.keys(session.authorizations ?? {})) {
      const client = await provider.Client.find(clientId);
      if (!client?.backchannelLogoutUri) continue;
      const call = { client_id: clientId, login, sid: session.sidFor(clientId) };
      told[clientId] = await backchannelLogout(call).then(() => 'ok', ({ message }) => message);
    }
    await session.destroy();
  }
  return { sessions: ids.length, told };
}

// Clients live in the adapter, so that a test can add one or change it while the server runs.
async function putClient(metadata) {
  const known = await provider.Client.adapter.find(metadata.client_id);
  const merged = {
    grant_types: ['authorization_code', 'refresh_token'],
    scope: SCOPE,
    ...known,
    ...metadata,
  };
  await provider.Client.validate(merged);
  await provider.Client.adapter.upsert(merged.client_id, merged);
  return merged;
}

function addFault({ where, kind, times = 1, ...rest }) {
  if (!['before', 'after'].includes(where)) throw new TypeError(`no fault ${where} the work`);
  if (!['drop', 'truncate', 'delay', 'status'].includes(kind)) throw new TypeError(`no ${kind}`);
  faults.push({ where, kind, times, ...rest });
  return faults;
}

function changeSettings(changes) {
  for (const name of Object.keys(changes)) {
    if (!(name in settings)) throw new TypeError(`no setting ${name}`);
  }
  Object.assign(settings, changes);
  makeProvider();
  return settings;
}

// The old keys are published beside the new ones, unless they are to be forgotten.
function rotateKeys({ forget = false }) {
  keys = [...newKeys(), ...(forget ? [] : keys)];
  makeProvider();
  return { kids: keys.map(({ kid }) => kid) };
}

const control = {
  'GET /_test/stats': () => stats,
  'DELETE /_test/stats': () => {
    resetStats();
    return stats;
  },
  'POST /_test/faults': (body) => addFault(body),
  'DELETE /_test/faults': () => {
    faults = [];
    return faults;
  },
  'POST /_test/settings': (body) => changeSettings(body),
  'POST /_test/reset': () => {
    resetAll();
    makeProvider();
    return {};
  },
  'POST /_test/rotate-keys': rotateKeys,
  'POST /_test/sign': signJwt,
  'POST /_test/backchannel-logout': backchannelLogout,
  'POST /_test/end-sessions': endSessions,
  'POST /_test/clients': putClient,
  'POST /_test/session': newSession,
  'POST /_test/token-alive': async ({ access_token: token }) => (
    { alive: await aliveClaims(token) !== undefined }
  ),
};

async function controlCall(handler, provider, request, response) {
  const text = await bodyOf(request);
  try {
    send(response, 200, await handler(JSON.parse(text || '{}')));
  } catch (error) {
    send(response, 400, { error: error.error_description ?? error.message });
  }
}

const apis = Object.fromEntries(RESOURCES.map((name) => (
  [name === RESOURCE ? '/api/me' : `/api/${name.split(':').at(-1)}`, name]
)));

async function route(request, response) {
  const url = new URL(request.url, provider.issuer);
  const handler = control[`${request.method} ${url.pathname}`];
  if (handler) return controlCall(handler, provider, request, response);
  if (url.pathname.startsWith('/_test/')) return send(response, 404, { error: 'no such control' });
  if (url.pathname in apis) return resource(request, response, apis[url.pathname]);
  if (url.pathname.startsWith('/interaction/')) {
    return interaction(request, response, url);
  }
  return provider.callback()(request, response);
}

// ---- start

const server = http.createServer();
server.keepAliveTimeout = 60_000; // an idle connection is not closed under a client mid-test
await new Promise((resolve, reject) => {
  server.once('error', reject).listen(wantedPort, '127.0.0.1', resolve);
});
const { port } = server.address();

function makeProvider() {
  provider = new Provider(`http://127.0.0.1:${port}`, configuration());
  provider.use(watchToken);
  provider.on('refresh_token.consumed', (token) => spent.add(hashOf(token.jti)));
  provider.on('grant.revoked', () => {
    stats.grants_revoked += 1;
  });
  provider.on('server_error', (_ctx, error) => console.error(error));
  provider.on('backchannel.error', (_ctx, error) => console.error(error));
}

keys = newKeys();
makeProvider();
for (const client of clients) await putClient(client);

server.on('request', (request, response) => {
  route(request, response).catch((error) => {
    console.error(error);
    if (response.headersSent) response.destroy();
    else send(response, error.statusCode ?? 500, page('Error', escapeHtml(error.message)));
  });
});
process.stdin.resume().on('end', () => process.exit(0)).on('error', () => process.exit(0));
console.log(JSON.stringify({ ready: true, port }));
