// fal's own proxy on Hono, as its README shows it.
import { createRouteHandler } from "@fal-ai/server-proxy/hono";
import { createAdaptorServer } from "@hono/node-server";
import { Hono } from "hono";

const app = new Hono();
const handler = createRouteHandler();
app.all("/api/fal/proxy", handler);
createAdaptorServer({ fetch: app.fetch }).listen(Number(process.env.PORT), "127.0.0.1", 2048);
