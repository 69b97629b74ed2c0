// An expert in plain JavaScript: what followed before will follow again.
//
// Written from docs/openapi.json and tests/contract/vectors alone; Node 18 or later, no packages.
//
//   node javascript_expert.mjs --port 8103 --vocab-size 261 --vocab-fingerprint HEX [--key-file FILE]
//
// Half of its belief is what followed the last token so far in this context, four tenths what stands
// in the context at all, one tenth is spread evenly. Replace `Memory` with your model.

import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { parseArgs } from "node:util";

const { values: options } = parseArgs({
  options: {
    port: { type: "string", default: "8103" },
    "vocab-size": { type: "string", default: "256" },
    "vocab-fingerprint": { type: "string", default: "0".repeat(64) },
    "key-file": { type: "string" },
  },
});
const KEY = options["key-file"] && readFileSync(options["key-file"], "utf8").trim();
const MAX_BODY = 64 << 20;
const CAPABILITIES = {
  kinds: ["topk"],
  max_top_k: Math.min(256, Number(options["vocab-size"])),
  candidates: true,
  vocab_size: Number(options["vocab-size"]),
  vocab_fingerprint: options["vocab-fingerprint"],
  max_context: 4096,
};
const INFO = {
  name: "javascript",
  role: "expert",
  version: "1", // change it whenever answers may change
  capabilities: CAPABILITIES,
  limits: { max_batch: 64, max_batch_tokens: 65536, max_concurrency: 1 },
};

// ---------------------------------------------------------------- the model

/** What was seen so far, and what followed each id. */
class Memory {
  constructor() {
    this.length = 0;
    this.last = undefined;
    this.seen = new Map();
    this.after = new Map(); // id -> { total, counts }
  }

  add(id) {
    if (this.last !== undefined) {
      const after = this.after.get(this.last) ?? { total: 0, counts: new Map() };
      after.total += 1;
      after.counts.set(id, (after.counts.get(id) ?? 0) + 1);
      this.after.set(this.last, after);
    }
    this.seen.set(id, (this.seen.get(id) ?? 0) + 1);
    this.last = id;
    this.length += 1;
  }

  /** Natural log-prob of `id` coming next, of the whole vocabulary, at temperature 1. */
  logprob(id) {
    const after = this.after.get(this.last);
    let mass = 0.1;
    let part = 0.1 / CAPABILITIES.vocab_size;
    if (this.length > 0) {
      mass += 0.4;
      part += (0.4 * (this.seen.get(id) ?? 0)) / this.length;
    }
    if (after !== undefined) {
      mass += 0.5;
      part += (0.5 * (after.counts.get(id) ?? 0)) / after.total;
    }
    return Math.fround(Math.log(part / mass)); // as the receiver reads it
  }

  /** The `k` best ids with their log-probs, best first: those seen, then any others, all alike. */
  best(k) {
    const entries = [...this.seen.keys()].map((id) => [id, this.logprob(id)]);
    entries.sort((a, b) => b[1] - a[1] || a[0] - b[0]);
    for (let id = 0; entries.length < k && id < CAPABILITIES.vocab_size; id += 1) {
      if (!this.seen.has(id)) entries.push([id, this.logprob(id)]);
    }
    return entries.slice(0, k);
  }
}

// ---------------------------------------------------------------- answers

/** A fault of the caller; `field` names what to change. */
class Problem extends Error {
  constructor(status, code, detail, field) {
    super(detail);
    this.body = { type: `urn:preceptor:problem:${code}`, title: code, status, detail, code };
    if (field !== undefined) this.body.errors = [{ field, detail }];
  }
}

function positionsOf(query) {
  const ranges = query.positions ?? [[0, query.response_ids.length]];
  return ranges.flatMap(([start, stop]) => Array.from({ length: stop - start }, (_, i) => start + i));
}

/** Refuses what `/v1/info` does not promise, before anything is computed. */
function checkQuery(query) {
  const { vocab_fingerprint, vocab_size, max_top_k, max_context } = CAPABILITIES;
  const prompt = query.prompt.ids;
  if (query.vocab_fingerprint !== vocab_fingerprint) {
    throw new Problem(409, "vocabulary-mismatch", "the vocabularies differ", "vocab_fingerprint");
  }
  if (!prompt?.length) throw new Problem(422, "invalid", "are needed", "prompt.ids");
  const top_k = query.top_k ?? 64;
  if (top_k > max_top_k) throw new Problem(422, "invalid", `${top_k} is over ${max_top_k}`, "top_k");
  const fields = { "prompt.ids": prompt, response_ids: query.response_ids };
  if (query.candidate_ids) fields.candidate_ids = query.candidate_ids.flat();
  for (const [field, ids] of Object.entries(fields)) {
    const outside = ids.find((id) => id >= vocab_size);
    if (outside !== undefined) throw new Problem(422, "invalid", `holds ${outside}`, field);
  }
  const length = prompt.length + query.response_ids.length;
  if (length > max_context) {
    throw new Problem(422, "context-too-long", `${length} tokens are over ${max_context}`, "response_ids");
  }
}

/** Entry t is about response token t: the memory holds the prompt and the tokens before t. */
function answer(query) {
  const memory = new Memory();
  query.prompt.ids.forEach((id) => memory.add(id));
  const asked = positionsOf(query);
  const rows = [];
  let end = 0;
  for (const t of asked) {
    for (; end < t; end += 1) memory.add(query.response_ids[end]);
    const candidates = query.candidate_ids?.[rows.length];
    rows.push({
      best: memory.best(Math.min(query.top_k ?? 64, CAPABILITIES.vocab_size)),
      own: memory.logprob(query.response_ids[t]),
      candidates: candidates?.map((id) => (id < 0 ? null : memory.logprob(id))),
    });
  }
  const reply = {
    kind: "topk",
    token_ids_P: asked.map((t) => query.response_ids[t]),
    mask_P: rows.map(() => true),
    num_entries_P: rows.map((row) => row.best.length),
    ids_PK: rows.map((row) => row.best.map(([id]) => id)),
    logprobs_PK: rows.map((row) => row.best.map(([, logprob]) => logprob)),
    // The tail is computed last, from the log-probs as they are sent.
    tail_P: rows.map((row) => Math.max(0, 1 - row.best.reduce((sum, [, x]) => sum + Math.exp(x), 0))),
    own_logprobs_P: rows.map((row) => row.own),
    own_mask_P: rows.map(() => true),
    vocab_fingerprint: query.vocab_fingerprint,
    expert: INFO.name,
    expert_version: INFO.version,
    used_feedback: [], // this expert reads no feedback, and says so
  };
  if (query.candidate_ids) {
    reply.candidate_logprobs_PC = rows.map((row) => row.candidates);
    reply.candidate_mask_PC = query.candidate_ids.map((row) => row.map((id) => id >= 0));
  }
  return reply;
}

// ---------------------------------------------------------------- reading requests

const CALL_FIELDS = new Set(["queries", "answer_keys"]);
const QUERY_FIELDS = new Set([
  "prompt", "response_ids", "owned", "positions", "feedback", "vocab_fingerprint", "top_k",
  "candidate_ids", "weights", "group_id", "draw", "priority", "timeout_ms", "rollout_id",
  "entropy_P",
]);

function invalid(field, detail) {
  throw new Problem(422, "invalid", detail, field);
}

function checkFields(object, known, path) {
  if (object === null || typeof object !== "object" || Array.isArray(object)) invalid(path, "is no object");
  const unknown = Object.keys(object).find((name) => !known.has(name));
  if (unknown !== undefined) invalid(path === "body" ? unknown : `${path}.${unknown}`, "is not known");
}

const isId = (id) => Number.isInteger(id) && id >= 0;
const isCandidate = (id) => Number.isInteger(id) && id >= -1;

/** Structure that the whole call must have; each fault names its field. */
function checkShape(query, path) {
  checkFields(query, QUERY_FIELDS, path);
  const { prompt, response_ids: response, positions, candidate_ids: candidates, top_k } = query;
  if (prompt === null || typeof prompt !== "object") invalid(`${path}.prompt`, "is no object");
  if (prompt.ids != null && !(Array.isArray(prompt.ids) && prompt.ids.every(isId))) {
    invalid(`${path}.prompt.ids`, "are no token ids");
  }
  if (!Array.isArray(response) || response.length === 0 || !response.every(isId)) {
    invalid(`${path}.response_ids`, "are no token ids, at least one");
  }
  if (typeof query.vocab_fingerprint !== "string") invalid(`${path}.vocab_fingerprint`, "is missing");
  if (top_k != null && !(Number.isInteger(top_k) && top_k >= 1)) invalid(`${path}.top_k`, "is below 1");
  if (positions != null) checkPositions(positions, response.length, `${path}.positions`);
  if (candidates != null) {
    const rows = positionsOf(query).length;
    if (!Array.isArray(candidates) || candidates.length !== rows) {
      invalid(`${path}.candidate_ids`, `has not ${rows} rows`);
    }
    if (!candidates.every((row) => Array.isArray(row) && row.every(isCandidate))) {
      invalid(`${path}.candidate_ids`, "are no token ids");
    }
  }
}

function checkPositions(positions, length, path) {
  let end = 0;
  if (!Array.isArray(positions) || positions.length === 0) invalid(path, "is empty");
  for (const range of positions) {
    const [start, stop] = Array.isArray(range) ? range : [];
    if (!(isId(start) && isId(stop) && end <= start && start < stop && stop <= length)) {
      invalid(path, "are no ascending ranges of the response");
    }
    end = stop;
  }
}

function logprobs(body) {
  let call;
  try {
    call = JSON.parse(body);
  } catch (error) {
    throw new Problem(400, "malformed-frame", `the body is not JSON: ${error.message}`, "body");
  }
  checkFields(call, CALL_FIELDS, "body");
  if (!Array.isArray(call.queries)) invalid("queries", "is no list");
  if (call.queries.length > INFO.limits.max_batch) {
    invalid("queries", `${call.queries.length} queries are over the limit of ${INFO.limits.max_batch} per call`);
  }
  call.queries.forEach((query, i) => checkShape(query, `queries[${i}]`));
  return { results: call.queries.map(result) };
}

/** A query's own fault is a problem in its result; the others are answered. */
function result(query) {
  try {
    checkQuery(query);
    return { answer: answer(query) };
  } catch (error) {
    if (error instanceof Problem) return { problem: error.body };
    throw error;
  }
}

// ---------------------------------------------------------------- HTTP

const ROUTES = {
  "/livez": { GET: () => ({ state: "live" }) },
  "/readyz": { GET: () => ({ state: "ready" }) },
  "/v1/info": { GET: () => INFO },
  "/v1/logprobs": { POST: logprobs },
};

async function readBody(request) {
  const chunks = [];
  let size = 0;
  for await (const chunk of request) {
    size += chunk.length;
    if (size > MAX_BODY) throw new Problem(413, "too-large", `the body is over ${MAX_BODY} bytes`, "body");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

async function reply(request) {
  const path = new URL(request.url, "http://expert").pathname;
  const methods = ROUTES[path];
  if (methods === undefined) throw new Problem(404, "not-found", `no route ${path}`);
  if (KEY && path.startsWith("/v1/") && request.headers.authorization !== `Bearer ${KEY}`) {
    throw new Problem(401, "unauthorised", "send `Authorization: Bearer KEY`", "authorization");
  }
  const handler = methods[request.method];
  if (handler === undefined) {
    throw new Problem(405, "method-not-allowed", `${path} takes ${Object.keys(methods)}`);
  }
  const body = await readBody(request);
  const type = (request.headers["content-type"] ?? "application/json").split(";")[0].trim();
  if (request.method === "POST" && type.toLowerCase() !== "application/json") {
    throw new Problem(415, "unsupported-media-type", `${type} is not application/json`, "content-type");
  }
  return handler(body);
}

function send(response, status, type, body) {
  const bytes = Buffer.from(JSON.stringify(body));
  response.writeHead(status, { "content-type": type, "content-length": bytes.length });
  response.end(bytes);
}

const server = createServer(async (request, response) => {
  try {
    send(response, 200, "application/json", await reply(request));
  } catch (error) {
    // What went wrong inside is for the log, not for the wire.
    if (!(error instanceof Problem)) console.error(error);
    const known = error instanceof Problem ? error : new Problem(500, "error", "the service failed");
    send(response, known.body.status, "application/problem+json", known.body);
  }
});

server.listen(Number(options.port), "127.0.0.1", () => {
  console.log(`listening on ${server.address().port}`);
});
process.on("SIGTERM", () => server.close(() => process.exit(0)));
