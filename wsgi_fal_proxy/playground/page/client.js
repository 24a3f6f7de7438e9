// Loads fal's own client. npm has no version for browsers: the client is CommonJS, in many files.
//
// Each file runs as a module script, so that its names stay private and the browser checks its hash
// (Subresource Integrity). The files run one at a time, each after the files that it needs. CommonJS's
// `module`, `exports` and `require` are globals while a file runs. No text is evaluated as code, so the
// page's Content-Security-Policy need not allow that.

// The page's policy allows script URLs only from here (W3C, Trusted Types).
const trusted = globalThis.trustedTypes?.createPolicy("fal-client", { createScriptURL: (url) => url });

/**
 * @param {{base: string, versioned: boolean, packages: object[]}} client as in settings.json
 * @returns {Promise<object>} what @fal-ai/client exports
 */
export async function loadClient({ base, versioned, packages }) {
  const files = packages.flatMap(({ name, version, files }) =>
    files.map(({ path, integrity, module = false }) => ({
      name,
      id: `${name}/${path}`,
      url: new URL(`${name}${versioned ? `@${version}` : ""}/${path}`, new URL(base, document.baseURI)).href,
      integrity,
      module,
    })),
  );
  // The browser fetches all files at once. They run one after another.
  files.forEach(preload);
  const loaded = new Map();
  for (const file of files) {
    const exported = await run(file, loaded);
    loaded.set(file.id, exported);
    loaded.set(file.name, exported); // by its package's name, too: the package's last file stays
  }
  // Functions of the files also read `exports` later, when they are called.
  globalThis.exports = merged(loaded);
  return loaded.get(files.at(-1).name);
}

function preload({ url, integrity }) {
  const link = document.createElement("link");
  Object.assign(link, { rel: "modulepreload", href: url, integrity, crossOrigin: "anonymous" });
  document.head.append(link);
}

async function run(file, loaded) {
  const module = { exports: {} };
  Object.assign(globalThis, { module, exports: module.exports, require: (name) => find(name, file, loaded) });
  try {
    await runScript(file);
  } finally {
    delete globalThis.module;
    delete globalThis.require;
  }
  // This is the module that has run, and whose hash was checked: a page loads a URL once.
  return file.module ? import(file.url) : module.exports;
}

function find(name, file, loaded) {
  const id = name.startsWith(".") ? new URL(`${name}.js`, `file:///${file.id}`).pathname.slice(1) : name;
  if (!loaded.has(id)) {
    throw new Error(`${file.id} needs ${name}, but settings.json does not list it before that file.`);
  }
  return loaded.get(id);
}

function runScript({ url, integrity }) {
  const script = document.createElement("script");
  const src = trusted ? trusted.createScriptURL(url) : url;
  Object.assign(script, { type: "module", src, integrity, crossOrigin: "anonymous" });
  return new Promise((resolve, reject) => {
    script.onload = resolve;
    script.onerror = () => reject(new Error(`${url} could not be loaded, or its hash is wrong.`));
    document.head.append(script);
  });
}

/** Returns one object with all exports. Two files must not export different values by one name. */
function merged(loaded) {
  const all = {};
  for (const [id, exported] of loaded) {
    for (const [name, value] of Object.entries(exported)) {
      if (name in all && all[name] !== value) {
        throw new Error(`${id} exports a different ${name} than an earlier file.`);
      }
      all[name] = value;
    }
  }
  return Object.freeze(all);
}
