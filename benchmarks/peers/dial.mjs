// Preloaded into Node, makes every TLS connection go to the benchmark's upstream. The name that is
// asked for, and that its certificate is checked against, stays what it was.
import tls from "node:tls";

const port = Number(process.env.UPSTREAM_PORT);
const connect = tls.connect;

tls.connect = (options, ...rest) =>
  connect({ ...options, host: "127.0.0.1", port, servername: options.servername ?? options.host }, ...rest);
