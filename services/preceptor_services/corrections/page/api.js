// The corrections API of this gateway, with one person's key.

/** The server refused; `detail` is its own words. */
export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `the server said ${status}`);
    this.status = status;
    this.code = problem.code;
  }
}

/** The server did not answer. */
export class Away extends Error {
  constructor() {
    super("The server does not answer.");
  }
}

const TIMEOUT_MS = 30_000;

export function connect(key, onUnauthorised) {
  const base = new URL("../v1/corrections/", document.baseURI);

  async function call(method, path, body) {
    const headers = { authorization: `Bearer ${key}`, accept: "application/json" };
    if (body !== undefined) headers["content-type"] = "application/json";
    let response;
    try {
      response = await fetch(new URL(path, base), {
        method,
        headers,
        body: body === undefined ? undefined : JSON.stringify(body),
        signal: AbortSignal.timeout(TIMEOUT_MS),
        // The key in the header is the only credential; no cookie is ever sent.
        credentials: "omit",
        cache: "no-store",
      });
    } catch {
      throw new Away();
    }
    if (response.ok) return response.status === 204 ? null : response.json();
    const problem = await response.json().catch(() => ({}));
    if (response.status === 401) onUnauthorised();
    if (response.status >= 500) throw Object.assign(new Away(), { message: problem.detail || "The server failed." });
    throw new Refused(response.status, problem);
  }

  return {
    get: (path, query = {}) => call("GET", `${path}${asQuery(query)}`),
    post: (path, body) => call("POST", path, body),
    put: (path, body) => call("PUT", path, body),
    drop: (path) => call("DELETE", path),
  };
}

function asQuery(query) {
  const kept = Object.entries(query).filter(([, value]) => value !== "" && value != null);
  return kept.length ? `?${new URLSearchParams(kept)}` : "";
}

/** One segment of a path. */
export const segment = encodeURIComponent;
