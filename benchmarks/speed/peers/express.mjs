// fal's own proxy on Express, as its README shows it.
import { createHandler, route } from "@fal-ai/server-proxy/express";
import express from "express";

const app = express();
app.use(express.json({ limit: "32mb" }));
app.all(route, createHandler());
app.listen(Number(process.env.PORT), "127.0.0.1", 2048);
