// Loads fal's own client, of which npm has no version for browsers: it is CommonJS, file by file.
//
// Each file is run as a module script, so that its names stay its own and its hash is checked
// (Subresource Integrity). The files are run in the order in which they need each other, one at a
// time, with the `module`, `exports` and `require` that CommonJS gives them as globals. No text is
// made into code, so the page's Content-Security-Policy need not allow that.

// The page's policy allows scripts to be named here, and nowhere else (W3C, Trusted Types).
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
  // All are fetched at once, and run one after another.
  files.forEach(preload);
  const loaded = new Map();
  for (const file of files) {
    const exported = await run(file, loaded);
    loaded.set(file.id, exported);
    loaded.set(file.name, exported); // a package's last file is the one that it is named for
  }
  // Functions read their file's `exports` when they are called, too.
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
  // The same module, checked before: a page runs what is at one URL once.
  return file.module ? import(file.url) : module.exports;
}

function find(name, file, loaded) {
  const id = name.startsWith(".") ? new URL(`${name}.js`, `file:///${file.id}`).pathname.slice(1) : name;
  if (!loaded.has(id)) {
    throw new Error(`${file.id} needs ${name}, which settings.json does not name before it.`);
  }
  return loaded.get(id);
}

function runScript({ url, integrity }) {
  const script = document.createElement("script");
  const src = trusted ? trusted.createScriptURL(url) : url;
  Object.assign(script, { type: "module", src, integrity, crossOrigin: "anonymous" });
  return new Promise((resolve, reject) => {
    script.onload = resolve;
    script.onerror = () => reject(new Error(`${url} could not be loaded, or is not what it should be.`));
    document.head.append(script);
  });
}

/** Gives all that the files export, in one object: no two may mean different things by a name. */
function merged(loaded) {
  const all = {};
  for (const [id, exported] of loaded) {
    for (const [name, value] of Object.entries(exported)) {
      if (name in all && all[name] !== value) {
        throw new Error(`${id} exports another ${name} than a file before it.`);
      }
      all[name] = value;
    }
  }
  return Object.freeze(all);
}
