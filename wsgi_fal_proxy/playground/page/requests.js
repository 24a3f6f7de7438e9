// The list of requests: a `fetch` for fal's client that shows each request and its outcome.

const MOST_ROWS = 200;
const list = document.getElementById("requests");

/** The proxy's last own answer, and the last transfer that broke off: for errors.js. */
export const last = { refusal: undefined, broken: undefined };

/** Calls `fetch`, and shows the request in the list. */
export async function loggedFetch(url, init = {}) {
  const row = addRow(init.method ?? "GET", new Headers(init.headers).get("x-fal-target-url"), url);
  init.signal?.addEventListener("abort", () => row.end("cancelled", "stopped"), { once: true });
  let response;
  try {
    response = await fetch(url, init);
  } catch (error) {
    throw noted(error, init, row);
  }
  const reason = response.headers.get("x-fal-proxy-error");
  if (reason) {
    last.refusal = { reason, status: response.status };
    row.end(`${response.status} proxy`, "bad");
    return response;
  }
  const outcome = [String(response.status), response.ok ? "good" : "bad"];
  if (!response.ok || !response.headers.get("content-type")?.startsWith("text/event-stream")) {
    row.end(...outcome);
    return response;
  }
  row.head(...outcome);
  const { status, statusText, headers } = response;
  return new Response(watched(response.body, init, row, outcome), { status, statusText, headers });
}

/** Passes a stream on piece by piece, and shows its end. */
function watched(body, init, row, outcome) {
  const reader = body.getReader();
  return new ReadableStream({
    async pull(controller) {
      try {
        const { done, value } = await reader.read();
        if (done) {
          row.end(...outcome);
          controller.close();
        } else {
          controller.enqueue(value);
        }
      } catch (error) {
        controller.error(noted(error, init, row));
      }
    },
    cancel: (why) => reader.cancel(why),
  });
}

function noted(error, init, row) {
  if (!init.signal?.aborted) {
    last.broken = error.message;
    row.end("broken off", "bad");
  }
  return error;
}

function addRow(method, target, url) {
  const begun = performance.now();
  const row = list.insertRow();
  const [what, status, time] = [row.insertCell(), row.insertCell(), row.insertCell()];
  // On a narrow page, CSS removes the table layout and with it these roles.
  row.role = "row";
  for (const cell of row.cells) {
    cell.role = "cell";
  }
  const name = document.createElement("span");
  name.className = "method";
  name.textContent = `${method} `;
  // Requests without a target do not go through the proxy: files.
  what.append(name, target ? target.replace("https://", "") : `${new URL(url, document.baseURI).host}, directly`);
  const outcome = status.appendChild(document.createElement("span"));
  outcome.className = "outcome";
  outcome.textContent = "…";
  time.textContent = "…";
  while (list.rows.length > MOST_ROWS) {
    list.deleteRow(0);
  }
  const head = (text, kind) => {
    outcome.textContent = text;
    outcome.dataset.outcome = kind;
  };
  let ended = false;
  return {
    head,
    end(text, kind) {
      if (!ended) {
        ended = true;
        head(text, kind);
        time.textContent = `${Math.round(performance.now() - begun)} ms`;
      }
    },
  };
}
