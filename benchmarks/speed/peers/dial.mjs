// Preloaded into Node, connects every TLS connection to the benchmark's upstream. The server name,
// which the certificate is checked against, stays the same.
import tls from "node:tls";

const port = Number(process.env.UPSTREAM_PORT);
const connect = tls.connect;

tls.connect = (options, ...rest) =>
  connect({ ...options, host: "127.0.0.1", port, servername: options.servername ?? options.host }, ...rest);
