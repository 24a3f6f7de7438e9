// What went wrong, and what to do about it.

import { last } from "./requests.js";

// What to do, by the first word of the reason in `x-fal-proxy-error`.
const REFUSALS = {
  key: "Set FAL_KEY on the server, or start it with --fake.",
  target: "Correct the model's id.",
  body: "Send less, or raise max_body_bytes.",
  upstream: "Check that the server can reach the internet, then run again.",
  connect: "Check that the server can reach the internet, then run again.",
  read: "Run again, or raise the proxy's read_timeout. fal may have done the work and billed it.",
  total: "Run again, or raise the proxy's total_timeout. fal may have done the work and billed it.",
  relay: "Wait until other calls have ended, then run again.",
  host: "Open this page at localhost.",
};

// By fal's status.
const ANSWERS = {
  400: ["fal did not accept the request", "Correct the input, then run again."],
  401: ["fal did not accept the key", "Check that FAL_KEY on the server is a valid key of yours."],
  402: ["fal asks for payment", "Check your balance in fal's dashboard."],
  403: ["fal does not allow this", "Check your balance and the key's permissions in fal's dashboard."],
  404: ["fal does not have this", "Check the model's id."],
  408: ["fal took too long", "Run again."],
  429: ["Too many requests at a time", "Wait a moment, then run again."],
};

/**
 * Explains an error that fal's client threw.
 *
 * @returns {{source: string, title: string, detail?: string, fields?: {field: string,
 *   message: string}[], advice?: string, requestId?: string}}
 */
export function explain(error) {
  const { status, body, message, requestId } = error;
  if (status === undefined || (body === undefined && message === last.broken)) {
    return {
      source: "this page",
      title: "The answer broke off, or there was none",
      detail: message,
      advice: "Check that the server is still running, and read its log. fal may have done the work and billed it.",
    };
  }
  if (last.refusal?.status === status && last.refusal.reason === body?.reason) {
    const { reason } = last.refusal;
    return {
      source: `the proxy: ${status} ${reason}`,
      title: "The proxy did not relay this",
      detail: body.message,
      advice: REFUSALS[reason.split("_")[0]],
    };
  }
  const source = `fal: ${status}`;
  if (error.fieldErrors?.length) {
    return {
      source,
      title: "fal cannot use this input",
      fields: error.fieldErrors.map(({ loc, msg }) => ({ field: String(loc.at(-1)), message: msg })),
      advice: "Correct these fields, then run again.",
      requestId,
    };
  }
  const [title, advice] = ANSWERS[status] ?? ["fal could not do this", "Run again a little later."];
  return { source, title, detail: detailOf(body) ?? message, advice, requestId };
}

function detailOf(body) {
  return typeof body?.detail === "string" ? body.detail : body?.message;
}
