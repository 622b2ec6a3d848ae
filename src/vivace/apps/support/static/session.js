// Who is signed in, and requests in their name. The access token is renewed when it has expired, once for all tabs.
// Knows the API's ways, and no page.

import { browserStorage, tryTo } from "./storage.js";

/** Why a request came to nothing: the API's `code`, or `unreachable`; `retryAfterS` is how long it asks to wait, or null. */
export class ApiError extends Error {
  constructor(code, detail = "", retryAfterS = null) {
    super(detail || code);
    this.code = code;
    this.detail = detail;
    this.retryAfterS = retryAfterS;
  }
}

/**
 * The session that the browser keeps under `name`. `account()` is null when nobody is signed in; `ended()` is called when a session
 * cannot be renewed any more.
 */
export function openSession(name, ended = () => {}) {
  const storage = browserStorage();
  const key = `vivace.support.${name}`;
  let renewing = null;

  const read = () => parse(storage.getItem(key));
  const keep = (tokens) => tryTo(() => storage.setItem(key, JSON.stringify(tokens)));
  const forget = () => storage.removeItem(key);

  /** The response, whatever its body. Throws `ApiError`, or what `signal` was aborted with. */
  async function open(path, { method = "GET", headers = {}, body, signal } = {}) {
    const tokens = read();
    const signed = tokens ? { ...headers, authorization: `Bearer ${tokens.access_token}` } : headers;
    try {
      return await send(path, { method, headers: signed, body, signal });
    } catch (error) {
      if (error.code !== "signed_out" || !tokens) throw error;
      if (!(await renew(tokens))) {
        ended();
        throw error;
      }
      const { access_token: access } = read();
      return send(path, { method, headers: { ...headers, authorization: `Bearer ${access}` }, body, signal });
    }
  }

  /** Whether there are new tokens, of this tab or of another. */
  function renew(stale) {
    renewing ??= underLock(key, () => renewOnce(stale)).finally(() => { renewing = null; });
    return renewing;
  }

  async function renewOnce(stale) {
    const now = read();
    if (!now) return false;
    if (now.access_token !== stale.access_token) return true;
    try {
      keep(await readJson(await send("/api/sessions/refresh", asJson("POST", { refresh_token: now.refresh_token }))));
      return true;
    } catch (error) {
      if (error.code !== "signed_out") throw error;
      forget();
      return false;
    }
  }

  /** What the API answers, as JSON; null when it is nothing. */
  async function request(method, path, value) {
    return readJson(await open(path, value === undefined ? { method } : asJson(method, value)));
  }

  /** Signs in, up or on as a guest: any request that is answered with tokens. */
  async function begin(path, value, method = "POST") {
    const tokens = await request(method, path, value);
    keep(tokens);
    return tokens.account;
  }

  /** Signs in as somebody, whoever is signed in here now. */
  async function signIn(value) {
    const tokens = await readJson(await send("/api/sessions", asJson("POST", value)));
    keep(tokens);
    return tokens.account;
  }

  async function end() {
    await request("DELETE", "/api/sessions/current").catch(() => {}); // what counts is that it is forgotten here
    forget();
  }

  /** Changes one's own account, here and there. */
  async function change(values) {
    const account = await request("PATCH", "/api/me", values);
    keep({ ...read(), account });
    return account;
  }

  return { key, account: () => read()?.account ?? null, open, request, begin, signIn, change, end, forget, forgets: storage.forgets === true };
}

const asJson = (method, value) => ({ method, headers: { "content-type": "application/json" }, body: JSON.stringify(value) });

/** One at a time among all tabs, where the browser has locks. */
function underLock(name, work) {
  return navigator.locks ? navigator.locks.request(name, work) : work();
}

function parse(entry) {
  try {
    const tokens = JSON.parse(entry);
    return typeof tokens?.access_token === "string" && typeof tokens.account?.id === "string" ? tokens : null;
  } catch {
    return null;
  }
}

async function readJson(response) {
  return response.status === 204 ? null : response.json();
}

async function send(path, options) {
  let response;
  try {
    response = await fetch(path, { ...options, redirect: "error" });
  } catch {
    if (options.signal?.aborted) throw options.signal.reason;
    throw new ApiError("unreachable");
  }
  if (response.ok) return response;
  const { error } = (await response.json().catch(() => null)) ?? {};
  const wait = Number.parseFloat(response.headers.get("retry-after") ?? "");
  throw new ApiError(String(error?.code ?? "internal"), String(error?.message ?? "").slice(0, 500), wait >= 0 ? wait : null);
}
