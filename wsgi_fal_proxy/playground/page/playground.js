// The page: reads the form, calls fal with its own client through the proxy, and shows the answer.
//
// Everything from fal is set as text or as an attribute, never as HTML.

import { loadClient } from "./client.js";
import { explain } from "./errors.js";
import { loggedFetch } from "./requests.js";

const LONGEST_TEXT = 300; // characters of a string in the answer's JSON: data URLs are long
const FIELDS = { prompt: "prompt", image_url: "picture" };

const $ = (id) => document.getElementById(id);
const form = $("form");

let fal; // fal's client, when it is loaded
let running; // the call under way, if any: { endpoint, cancelled, stop }
let picture = {}; // the upload: { uploading, url }

// Start

try {
  const settings = await (await fetch("settings.json")).json();
  showWhose(settings.fal);
  ({ fal } = await loadClient(settings.client));
  // Without retries, the page shows an error at once. The client still polls the queue.
  fal.config({ proxyUrl: settings.proxyUrl, fetch: loggedFetch, retry: { maxRetries: 0 } });
  say("Ready");
  disable("run", false);
} catch (error) {
  say("fal's client did not load");
  showProblem({
    source: "this page",
    title: "fal's client could not be loaded",
    detail: error.message,
    advice: "Without the internet, start with --playground-client and a directory in which npm has installed the client.",
  });
}

function showWhose(whose) {
  const fake = whose === "fake";
  $("fal").textContent = fake ? "Fake fal: nothing is billed" : "fal, with the server's key: fal bills each run";
  $("fal").dataset.fal = whose;
  if (fake) {
    $("endpoint-hint").textContent =
      "Any id works here: llm in it writes text, slow takes long, fails refuses, image-to-image needs a picture.";
    for (const id of ["fal-ai/slow", "fal-ai/fails"]) {
      $("endpoints").append(element("option", { value: id }));
    }
  }
}

// One call

form.addEventListener("submit", (event) => {
  event.preventDefault();
  call();
});

form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    call();
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    cancel();
  }
});

$("cancel").addEventListener("click", cancel);

async function call() {
  if (!fal || running) {
    return;
  }
  clear();
  const mode = new FormData(form).get("mode");
  const call = { endpoint: $("endpoint").value.trim(), cancelled: false, stop() {} };
  const more = readMore();
  if (!more || !call.endpoint) {
    if (!call.endpoint) {
      markField("endpoint", "Which model? For example fal-ai/flux/dev.");
    }
    focusFirstInvalid();
    return;
  }
  running = call;
  disable("run", true);
  disable("cancel", false);
  $("progress").removeAttribute("value");
  if (matchMedia("(width < 52rem)").matches) {
    $("result").scrollIntoView(); // on a narrow page, the result is below the form
  }
  const ended = startClock();
  try {
    const answer = await (mode === "queue" ? viaQueue : viaStream)(call, more);
    if (call.cancelled) {
      say("Cancelled");
    } else {
      showAnswer(answer);
      say("Done");
    }
  } catch (error) {
    say(call.cancelled ? "It was too late to cancel" : "It did not work");
    fail(error);
  } finally {
    ended();
    $("progress").value = 0;
    disable("run", false);
    disable("cancel", true);
    running = undefined;
  }
}

function cancel() {
  if (running && !running.cancelled) {
    running.cancelled = true;
    say("Cancelling …");
    disable("cancel", true);
    running.stop();
  }
}

async function inputWith(more) {
  const url = await picture.uploading;
  return { prompt: $("prompt").value, ...(url && { image_url: url }), ...more };
}

async function viaQueue(call, more) {
  const { endpoint } = call;
  say("Sending …");
  const input = await inputWith(more);
  if (call.cancelled) {
    return undefined;
  }
  const { request_id: requestId } = await fal.queue.submit(endpoint, { input });
  if (!call.cancelled) {
    const updates = await fal.queue.streamStatus(endpoint, { requestId, logs: true });
    call.stop = () => updates.abort();
    updates.on("data", showUpdate);
    await updates.done();
  }
  if (call.cancelled) {
    return fal.queue.cancel(endpoint, { requestId });
  }
  return (await fal.queue.result(endpoint, { requestId })).data;
}

async function viaStream(call, more) {
  say("Sending …");
  const input = await inputWith(more);
  if (call.cancelled) {
    return undefined;
  }
  const stream = await fal.stream(call.endpoint, { input });
  call.stop = () => stream.abort();
  if (call.cancelled) {
    stream.abort();
  }
  stream.on("data", (event) => {
    say("Streaming …");
    if (typeof event?.progress === "number") {
      $("progress").value = event.progress;
    }
    showAnswer(event);
  });
  return stream.done();
}

function showUpdate({ status, queue_position: position, logs = [] }) {
  if (status === "IN_QUEUE") {
    say(position ? `In the queue, ${position} ahead` : "Next in the queue");
  } else if (status === "IN_PROGRESS") {
    say("Running …");
  }
  const list = $("logs");
  for (const { message, timestamp } of logs) {
    const time = element("time", { textContent: new Date(timestamp).toLocaleTimeString() });
    const line = element("li");
    line.append(time, message);
    list.append(line);
  }
  list.scrollTop = list.scrollHeight;
}

// The answer

function showAnswer(data) {
  $("json").textContent = JSON.stringify(data, shortened, 2) ?? "null";
  const pictures = [...(data?.images ?? []), data?.image].filter((image) => image?.url);
  const text = data?.output ?? data?.text;
  if (pictures.length) {
    showPictures(pictures);
  } else if (typeof text === "string") {
    $("text").textContent = text;
    $("text").hidden = false;
  } else {
    return;
  }
  $("empty").hidden = true;
}

function showPictures(pictures) {
  const frame = $("pictures");
  frame.classList.toggle("four", pictures.length > 2);
  while (frame.children.length > pictures.length) {
    frame.lastElementChild.remove();
  }
  pictures.forEach(({ url, width, height }, index) => {
    // Reuse an element: a new one would be empty for a moment.
    const link = frame.children[index] ?? frame.appendChild(pictureLink());
    link.href = url;
    const image = link.firstElementChild;
    const size = width && height ? `, ${width} × ${height}` : "";
    image.alt = `Picture ${index + 1} of ${pictures.length}${size}: ${$("prompt").value}`;
    image.src = url;
  });
}

function pictureLink() {
  const link = element("a", { target: "_blank", rel: "noreferrer" });
  link.append(element("img"));
  return link;
}

function shortened(_, value) {
  if (typeof value === "string" && value.length > LONGEST_TEXT) {
    return `${value.slice(0, LONGEST_TEXT)}… (${value.length} characters)`;
  }
  return value;
}

// Errors

function fail(error) {
  const problem = explain(error);
  for (const { field, message } of problem.fields ?? []) {
    markField(FIELDS[field] ?? "fields", FIELDS[field] ? message : `${field}: ${message}`);
  }
  showProblem(problem);
  focusFirstInvalid();
}

function showProblem({ source, title, detail = "", fields = [], advice = "", requestId }) {
  $("problem-source").textContent = `From ${source}`;
  $("problem-title").textContent = title;
  $("problem-detail").textContent = detail;
  $("problem-fields").replaceChildren(
    ...fields.map(({ field, message }) => element("li", { textContent: `${field}: ${message}` })),
  );
  $("problem-advice").textContent = advice;
  $("problem-id").textContent = requestId ? `fal's request id: ${requestId}` : "";
  for (const id of ["empty", "text"]) {
    $(id).hidden = true;
  }
  $("pictures").replaceChildren();
  $("problem").hidden = false;
}

function markField(id, message) {
  const error = $(`${id}-error`);
  error.textContent = error.textContent ? `${error.textContent} ${message}` : message;
  $(id).setAttribute("aria-invalid", "true");
  if (id === "fields") {
    $("more").open = true;
  }
}

function focusFirstInvalid() {
  form.querySelector('[aria-invalid="true"]')?.focus();
}

function readMore() {
  const text = $("fields").value.trim() || "{}";
  try {
    const more = JSON.parse(text);
    if (more && typeof more === "object" && !Array.isArray(more)) {
      return more;
    }
    markField("fields", 'This must be a JSON object, such as {"seed": 7}.');
  } catch (error) {
    markField("fields", `This is not JSON: ${error.message}`);
  }
  return undefined;
}

// The picture to start from

$("picture").addEventListener("change", () => upload($("picture").files[0]));
$("remove").addEventListener("click", () => {
  removePicture();
  $("picture").focus();
});

for (const name of ["dragover", "dragleave", "drop"]) {
  $("drop").addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragover");
    const file = name === "drop" && event.dataTransfer.files[0];
    if (file) {
      $("picture").files = event.dataTransfer.files;
      upload(file);
    }
  });
}

async function upload(file) {
  const state = $("picture-state");
  forgetPicture();
  if (!file || !fal) {
    return;
  }
  clearField("picture");
  const preview = element("img", { src: URL.createObjectURL(file), alt: "" });
  preview.addEventListener("load", () => URL.revokeObjectURL(preview.src));
  $("thumbnail").append(preview);
  $("remove").disabled = false;
  state.textContent = `Uploading ${file.name} …`;
  const mine = { uploading: fal.storage.upload(file) };
  picture = mine;
  try {
    await mine.uploading;
    if (picture === mine) {
      state.textContent = `Uploaded: ${file.name}`;
    }
  } catch (error) {
    if (picture === mine) {
      const { title, detail, advice } = explain(error);
      removePicture();
      markField("picture", [`${title}.`, detail, advice].filter(Boolean).join(" "));
    }
  }
}

function removePicture() {
  $("picture").value = "";
  forgetPicture();
}

function forgetPicture() {
  picture = {};
  $("thumbnail").replaceChildren();
  $("picture-state").textContent = "Sent as image_url.";
  $("remove").disabled = true;
}

// Small things

function say(text) {
  // Only on a change, so that a screen reader does not repeat the text.
  if ($("status").textContent !== text) {
    $("status").textContent = text;
  }
}

function disable(id, disabled) {
  // Not the attribute `disabled`, which would take the focus away from keyboard users.
  $(id).setAttribute("aria-disabled", String(disabled));
}

function clear() {
  for (const id of ["endpoint", "prompt", "picture", "fields"]) {
    clearField(id);
  }
  $("problem").hidden = true;
  $("text").hidden = true;
  $("empty").hidden = false;
  $("pictures").replaceChildren();
  $("logs").replaceChildren();
  $("json").textContent = "null";
}

function clearField(id) {
  $(`${id}-error`).textContent = "";
  $(id).removeAttribute("aria-invalid");
}

function startClock() {
  const begun = performance.now();
  const tick = () => {
    $("elapsed").textContent = `${((performance.now() - begun) / 1000).toFixed(1)} s`;
  };
  tick();
  const timer = setInterval(tick, 100);
  return () => {
    clearInterval(timer);
    tick();
  };
}

function element(name, properties = {}) {
  return Object.assign(document.createElement(name), properties);
}
