// Runs one call of fal's own client through a proxy, and prints what came of it as JSON.
//
//   PROXY_URL=... FAKE_URL=... node client.mjs <scenario>

import { createHash } from "node:crypto";

import { ApiError, ValidationError, fal } from "@fal-ai/client";

const { PROXY_URL, FAKE_URL } = process.env;
const MODEL = "fal-ai/flux/dev";

fal.config({ proxyUrl: { url: PROXY_URL, when: "always" } });

// Lets the fake fal send one more event: nothing comes unless what came before it was seen here.
const advance = () => fetch(`${FAKE_URL}/_fake/advance`, { method: "POST" });

const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");

async function download(url) {
  const response = await fetch(url);
  const bytes = new Uint8Array(await response.arrayBuffer());
  return { type: response.headers.get("content-type"), sha256: sha256(bytes) };
}

async function failure(promise) {
  try {
    return { resolved: await promise };
  } catch (error) {
    return {
      isApiError: error instanceof ApiError,
      isValidationError: error instanceof ValidationError,
      name: error.name,
      status: error.status,
      message: error.message,
      body: error.body,
      requestId: error.requestId,
      fieldErrors: error instanceof ValidationError ? error.fieldErrors : undefined,
      promptErrors: error instanceof ValidationError ? error.getFieldErrors("prompt") : undefined,
    };
  }
}

const scenarios = {
  run: () => fal.run(MODEL, { input: { prompt: "a fox", seed: 7 } }),

  run_get: () => fal.run(MODEL, { method: "get", input: { prompt: "a, b & c [1] |'", seed: 7 } }),

  async subscribe_polling() {
    const updates = [];
    const result = await fal.subscribe(MODEL, {
      input: { prompt: "a fox" },
      logs: true,
      pollInterval: 10,
      onQueueUpdate: (update) => updates.push(update),
    });
    return { result, updates };
  },

  async subscribe_streaming() {
    const updates = [];
    const result = await fal.subscribe(MODEL, {
      input: { prompt: "a fox" },
      mode: "streaming",
      logs: true,
      onQueueUpdate: (update) => {
        updates.push(structuredClone(update));
        advance();
      },
    });
    return { result, updates };
  },

  async queue() {
    const submitted = await fal.queue.submit(MODEL, { input: { prompt: "a fox" }, priority: "low" });
    const requestId = submitted.request_id;
    const early = await failure(fal.queue.result(MODEL, { requestId }));
    const statuses = [];
    do {
      statuses.push(await fal.queue.status(MODEL, { requestId, logs: true }));
    } while (statuses.at(-1).status !== "COMPLETED");
    const result = await fal.queue.result(MODEL, { requestId });
    return { submitted, early, statuses, result };
  },

  async cancel() {
    const { request_id: requestId } = await fal.queue.submit(MODEL, { input: { prompt: "a fox" } });
    await fal.queue.cancel(MODEL, { requestId });
    const again = await failure(fal.queue.cancel(MODEL, { requestId }));
    const result = await failure(fal.queue.result(MODEL, { requestId }));
    return { requestId, again, result };
  },

  async stream() {
    const stream = await fal.stream(MODEL, { input: { prompt: "a fox" } });
    const events = [];
    stream.on("data", (event) => {
      events.push(event);
      advance();
    });
    const last = await stream.done();
    return { events, last, requestId: stream.requestId };
  },

  async stream_error() {
    const stream = await fal.stream(MODEL, { input: {} });
    return failure(stream.done());
  },

  async upload() {
    const bytes = new TextEncoder().encode("a small file");
    const file = new File([bytes], "small file.txt", { type: "text/plain" });
    const url = await fal.storage.upload(file);
    return { url, sent: sha256(bytes), got: await download(url) };
  },

  async upload_in_input() {
    const image = new Blob([new Uint8Array([1, 2, 3])], { type: "image/png" });
    return fal.run(MODEL, { input: { prompt: "a fox", image_url: image } });
  },

  async upload_multipart() {
    // The client goes over to parts above 90 MB.
    const bytes = Buffer.alloc(91 * 1024 * 1024, (_, i) => i).fill("wsgi-fal-proxy");
    const url = await fal.storage.upload(new Blob([bytes], { type: "video/mp4" }));
    return { url, sent: sha256(bytes), got: await download(url) };
  },

  async token() {
    const opened = new Promise((resolve) => {
      globalThis.WebSocket = class {
        constructor(url) {
          resolve(url);
        }
      };
    });
    const connection = fal.realtime.connect(MODEL, { onResult() {}, onError() {} });
    connection.send({ prompt: "a fox" });
    return new URL(await opened).searchParams.get("fal_jwt_token");
  },

  // What every server must be able to do.
  async essence() {
    const { run, stream, subscribe_streaming: subscribe } = scenarios;
    return { run: await run(), stream: await stream(), subscribe: await subscribe() };
  },

  api_error: () => failure(fal.run(MODEL, { input: { prompt: "a fox" } })),

  validation_error: () => failure(fal.run(MODEL, { input: { seed: 1 } })),

  refusal: () => failure(fal.run("https://evilfal.run/x", { input: { prompt: "a fox" } })),
};

console.log(JSON.stringify(await scenarios[process.argv[2]]()));
process.exit(0);
